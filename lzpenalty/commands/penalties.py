"""Penalties by name, ours and those that others ship, so that all are rows of one table.

none                     the model as it is
paper gentle reasoning   presets of :mod:`lzpenalty.presets`
repetition=1.1           transformers' repetition penalty, which sees the prompt as well
ngram=6                  transformers' no_repeat_ngram_size: no sequence of so many tokens twice, the prompt included
dry=0.8,1.75,2           DRY: multiplier, base, allowed length
dry-breakers=0.8,1.75,2  the same, and a match ends at a line's end, a colon, a quotation mark, an asterisk
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessor, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from lzpenalty import LZOptions, dry_penalize_
from lzpenalty.hf import LZPenaltyLogitsProcessor
from lzpenalty.presets import PRESETS, resolve

__all__ = ["BREAKERS", "Penalty", "lz", "named"]

BREAKERS = ("\n", ":", '"', "*")  # what ends a match in the implementations that first had DRY


class DRYLogitsProcessor(LogitsProcessor):
    """:func:`lzpenalty.dry_penalize_` on what was generated."""

    def __init__(self, prompt_length: int, **options):
        self.prompt_length, self.options = prompt_length, options

    def __call__(self, input_ids, scores):
        return dry_penalize_(scores.clone(), input_ids, starts=self.prompt_length, **self.options)


@dataclass(frozen=True)
class Penalty:
    """What to call it, and how to make its processors for answers that begin after so many tokens. Of ours also the options
    of each processor: with them a whole text is read at once."""

    name: str
    processors: Callable[[int], list[LogitsProcessor]] = field(compare=False)
    options: tuple[LZOptions, ...] = ()


def lz(name: str, *options: LZOptions | Mapping[str, Any]) -> Penalty:
    """Ours, with options of :func:`lzpenalty.lz_penalize_`; those that are not given are the paper's. Several add up."""
    whole = tuple(given if isinstance(given, LZOptions) else LZOptions(**given) for given in options)
    active = [given for given in whole if given.context]

    def processors(prompt_length: int) -> list[LogitsProcessor]:
        return [LZPenaltyLogitsProcessor(given, prompt_length=prompt_length) for given in active]

    return Penalty(name, processors, whole)


def _numbers(name: str, given: str, kinds: tuple[type, ...]) -> list:
    parts = given.split(",")
    try:
        if len(parts) == len(kinds):
            return [kind(part) for kind, part in zip(kinds, parts, strict=True)]
    except ValueError:
        pass
    wanted = ",".join(kind.__name__ for kind in kinds)
    raise ValueError(f"{name}: expected {name}={wanted}, got {name}={given}")


def _dry(name: str, given: str, breakers: list[int]) -> Penalty:
    multiplier, base, allowed = _numbers(name, given, (float, float, int))
    options = {"multiplier": multiplier, "base": base, "allowed_length": allowed, "sequence_breakers": breakers}
    dry_penalize_(torch.zeros(1, 2), torch.zeros(1, 0, dtype=torch.int64), **options)  # raises for numbers that are none
    return Penalty(f"{name}={given}", lambda prompt_length: [DRYLogitsProcessor(prompt_length, **options)])


def named(name: str, tokenizer=None) -> Penalty:
    """The penalty of a name of the list above.

    Raises
    ------
    ValueError
        For a name that is none, and for one that needs a tokenizer where there is none or it knows no end of thinking.
    """
    kind, _, given = name.partition("=")
    if name in PRESETS:
        return lz(name, resolve(name, {}, tokenizer))
    if name == "none":
        return lz(name, {"strength": 0.0})
    if kind == "repetition":
        (penalty,) = _numbers(kind, given, (float,))
        RepetitionPenaltyLogitsProcessor(penalty)
        return Penalty(name, lambda prompt_length: [RepetitionPenaltyLogitsProcessor(penalty)])
    if kind == "ngram":
        (size,) = _numbers(kind, given, (int,))
        NoRepeatNGramLogitsProcessor(size)
        return Penalty(name, lambda prompt_length: [NoRepeatNGramLogitsProcessor(size)])
    if kind == "dry":
        return _dry(kind, given, [])
    if kind == "dry-breakers":
        if tokenizer is None:
            raise ValueError(f"{name}: expected a tokenizer, which says what the breakers are, got None")
        return _dry(kind, given, [tokenizer.encode(f"a{sign}", add_special_tokens=False)[-1] for sign in BREAKERS])
    known = ", ".join(["none", *PRESETS, "repetition=1.1", "ngram=6", "dry=0.8,1.75,2", "dry-breakers=0.8,1.75,2"])
    raise ValueError(f"expected one of {known}, got {name!r}")
