"""How repetitive answers are: exact and approximate loops, repeated 4-grams, and units that say the same in other words."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from lzpenalty.analysis import find_loops, seq_rep

__all__ = ["circles", "circling", "describe", "ends_in_loop", "units"]

LOOP = 64  # tokens: a longer stretch that stands three times over is called a loop
CIRCLE = {"min_repeats": 3, "tolerance": 0.25, "max_period": 100}  # of an approximate loop
CIRCLE_TOKENS = 48
LIKE = 0.75  # difflib's ratio from which two units are like one another
UNIT = 8  # characters of a unit at least; shorter ones are brackets, numbers and signs
_UNIT = re.compile(r"[^\n]+?(?:[.!?]+(?=\s)|(?=\n)|$)")


def _loops(tokens: Sequence[int]) -> np.ndarray:
    loops = find_loops(tokens, min_repeats=3)
    return loops[loops["length"] > LOOP]


def ends_in_loop(tokens: Sequence[int]) -> bool:
    """Whether its last tokens, more than LOOP of them, are the same ones three times or more."""
    loops = _loops(tokens)
    return bool((loops["start"] + loops["length"] == len(tokens)).any())


def circles(tokens: Sequence[int]) -> bool:
    """Whether it holds an approximate loop."""
    return bool((find_loops(tokens, **CIRCLE)["length"] >= CIRCLE_TOKENS).any())


def units(text: str) -> list[tuple[int, int]]:
    """(start, end) of each line, and within lines of each sentence, of at least UNIT characters without spaces around it."""
    found = []
    for match in _UNIT.finditer(text):
        part = match.group()
        start = match.start() + len(part) - len(part.lstrip())
        end = match.start() + len(part.rstrip())
        if end - start >= UNIT:
            found.append((start, end))
    return found


def _like(one: str, other: str) -> bool:
    matcher = SequenceMatcher(None, other, one, autojunk=False)
    return matcher.real_quick_ratio() >= LIKE and matcher.quick_ratio() >= LIKE and matcher.ratio() >= LIKE


def circling(tokens: Sequence[int], pieces: Sequence[str]) -> np.ndarray:
    """Which tokens say what was said before at least twice: they stand in a unit that is like an earlier one that was itself
    like an earlier one, or in an exact loop of more than LOOP tokens.

    Parameters
    ----------
    tokens, pieces : [T]
        The answer, and what text each token brings.

    Returns
    -------
    bool ndarray [T]
    """
    text = "".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    flags = np.zeros(len(pieces), np.bool_)
    seen: list[tuple[str, bool]] = []  # each unit, and whether an earlier one is like it
    for start, end in units(text):
        unit = text[start:end]
        like = [again for earlier, again in seen if _like(earlier, unit)]
        seen.append((unit, bool(like)))
        if any(like):  # a token belongs to the unit that its last character stands in
            flags[np.searchsorted(ends, start, "right") : np.searchsorted(ends, end, "left") + 1] = True
    for loop in _loops(tokens):
        flags[loop["start"] : loop["start"] + loop["length"]] = True
    return flags


def describe(answers: Sequence[Sequence[int]], decode, limit: int) -> dict:
    """All of these of some answers.

    Parameters
    ----------
    answers
        Their tokens, without the end of text.
    decode
        The text of a list of ids.
    limit : int
        Tokens of an answer at most.
    """
    flags = [circling(answer, [decode([token]) for token in answer]) for answer in answers]
    return {
        "answers": len(answers),
        "loops": sum(map(ends_in_loop, answers)),
        "approximate_loops": sum(map(circles, answers)),
        "seq_rep_4": float(np.mean([seq_rep(answer) for answer in answers])),
        "near_duplicates": float(sum(map(np.sum, flags)) / max(1, sum(map(len, answers)))),
        "tokens": float(np.mean([len(answer) for answer in answers])),
        "cut": sum(len(answer) >= limit for answer in answers),
    }
