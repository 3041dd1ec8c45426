"""The measures of answers against what their definitions say, word for word."""

import re
from difflib import SequenceMatcher

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lzpenalty.commands import measures

tokens = st.lists(st.integers(0, 3), max_size=40)


def looped(start, unit, turns):
    return start + (unit * turns if unit else [])


@given(st.lists(st.integers(0, 2), max_size=20), st.lists(st.integers(3, 9), max_size=40), st.integers(1, 8))
def test_an_answer_ends_in_a_loop_if_a_period_says_so(start, unit, turns):
    answer = looped(start, unit, turns)
    wanted = False
    for period in range(1, len(answer) // 3 + 1):
        length = period  # of the longest end of the answer with that period
        while length < len(answer) and answer[-length - 1] == answer[-length - 1 + period]:
            length += 1
        wanted |= length >= 3 * period and length > 64
    assert measures.ends_in_loop(answer) == wanted


def test_a_loop_has_more_than_64_tokens():
    assert not measures.ends_in_loop([1, 2] * 32)
    assert measures.ends_in_loop([1, 2] * 32 + [1])
    assert not measures.ends_in_loop([1, 2] * 40 + [3])
    assert not measures.ends_in_loop([*range(40)] * 2) and measures.ends_in_loop([*range(40)] * 3)


def test_circles_may_differ_a_little():
    turns = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10 + turn] for turn in range(6)]
    assert measures.circles(sum(turns, [])) and not measures.ends_in_loop(sum(turns, []))
    assert not measures.circles(sum(turns[:3], []))  # 30 tokens
    assert not measures.circles([*range(200)])


def by_hand(ids, pieces):
    """Of each character what unit it is in, of each unit whether an earlier one is like it, and so on."""
    text = "".join(pieces)
    spans = []
    for line in re.finditer("[^\n]+", text):
        start = line.start()
        for at in range(line.start(), line.end()):
            last = at + 1 == line.end()
            stop = text[at] in ".!?" and (last or text[at + 1].isspace()) and at > start
            if last or stop:
                spans.append((start, at + 1))
                start = at + 1
    units = []
    for start, end in spans:
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if end - start >= 8:
            units.append((start, end))
    like, flagged = [], np.zeros(len(text), bool)
    for i, (start, end) in enumerate(units):
        earlier = [
            j
            for j in range(i)
            if SequenceMatcher(None, text[slice(*units[j])], text[start:end], autojunk=False).ratio() >= 0.75
        ]
        like.append(bool(earlier))
        if any(like[j] for j in earlier):
            flagged[start:end] = True
    found, at = [], 0
    for piece in pieces:
        found.append(bool(flagged[at : at + len(piece)].any()))
        at += len(piece)
    return found


SAID = (
    "one more thing. ",
    "one more thong. ",
    "no",
    " 12.5 ",
    "Really? ",
    "\n",
    "the cat sat here\n",
    "a cat sat there\n",
    "...!",
)


@given(st.lists(st.sampled_from(SAID), max_size=14))
def test_what_circles_is_what_the_definition_says(said):
    pieces = [piece for part in said for piece in re.findall("[^ ]+ ?| ", part)]
    found = measures.circling([*range(len(pieces))], pieces)  # no token twice, so no exact loop
    assert found.tolist() == by_hand(range(len(pieces)), pieces)


def test_the_third_time_counts_and_exact_loops_do():
    pieces = ["The cat sat here.\n", "The dog ran off again.\n", "The cat sat there.\n", "The cat sat here.\n"]
    assert measures.circling([*range(4)], pieces).tolist() == [False, False, False, True]
    ids = [*range(5, 15), *[1, 2] * 40]
    assert measures.circling(ids, ["x"] * len(ids)).tolist() == [False] * 10 + [True] * 80
    assert measures.circling([], []).tolist() == []


def test_describe():
    answers = [[1, 2] * 40, [*range(30)], []]
    found = measures.describe(answers, lambda ids: f"w{ids[0]} ", 80)
    grams = [len(row) - 3 if len(row) > 3 else 0 for row in answers]
    distinct = [len({tuple(row[i : i + 4]) for i in range(count)}) for row, count in zip(answers, grams, strict=True)]
    shares = [1 - some / count if count else 0 for some, count in zip(distinct, grams, strict=True)]
    assert found == {
        "answers": 3,
        "loops": 1,
        "approximate_loops": 1,
        "seq_rep_4": sum(shares) / 3,
        "near_duplicates": 80 / 110,
        "tokens": 110 / 3,
        "cut": 1,
    }
