"""Options of the LZ penalty by name: where to begin.

    paper      the published method: every repetition pays, always. Ends loops soonest; costs ordinary text most.
    gentle     nothing happens before a string of tokens stands for the third time.
    reasoning  gentle, and a model that circles inside its thinking section is helped to close it.

"gentle" and "reasoning" may get other values in another release; "paper" is what it is. Options that are given along with a
name win.
"""

from collections.abc import Mapping
from typing import Any

from lzpenalty._core import LZOptions

__all__ = ["CLOSE_TAGS", "PRESETS", "close_ids", "resolve"]

_PAPER = LZOptions()  # strength, window, buffer and cost are the paper's; what it doesn't have is off
_GENTLE = LZOptions(
    strength=0.3,  # twice the paper's: it acts in loops only, where a stubborn one outweighs the paper's
    min_match=2,  # a token alone is no repetition; what goes on with one is
    gate=(20, 28),  # tables, code and refrains hold strings of up to 20 tokens three times and more; a loop goes beyond
    release_rate=2.0,  # a closer that is e^10 times less likely than the next token comes after about 5
    release_after=24,  # in the middle of the gate: the penalty has begun to act, and has not sufficed
)
PRESETS: dict[str, LZOptions] = {
    "paper": _PAPER,
    "gentle": _GENTLE,
    "reasoning": _GENTLE,  # and `release` and `reset`, which are ids: resolve() finds them
}

# What ends a thinking section, by families of models.
CLOSE_TAGS = (
    "</think>",  # DeepSeek-R1 and its distillates, Qwen3, QwQ, GLM, Nemotron, SmolLM3, ...
    "[/THINK]",  # Magistral
    "</seed:think>",  # Seed-OSS
    "<|END_THINKING|>",  # Command A Reasoning
    "◁/think▷",  # Kimi
    "</thought>",  # EXAONE Deep
    "<|end_of_thought|>",  # OpenThinker, LightThinker
    "</thinking>",
    "</reasoning>",
)


def close_ids(tokenizer) -> list[list[int]]:
    """The ids of each of CLOSE_TAGS that a tokenizer has a token for, or that stands in its chat template.

    Parameters
    ----------
    tokenizer
        transformers' or mlx-lm's, or anything with `encode(text, add_special_tokens=False)`, `decode(ids)` and, if there is
        one, the string `chat_template`.

    Returns
    -------
    list of list of int
        As `release` and `reset` take them. A tag without a token of its own is the ids that its text alone is encoded as; in
        another context the model may write it as others.

    Raises
    ------
    TypeError
        For what is no tokenizer, such as its name.
    """
    if not (callable(getattr(tokenizer, "encode", None)) and callable(getattr(tokenizer, "decode", None))):
        raise TypeError(f"tokenizer: expected an object with encode and decode, got {type(tokenizer).__name__}")
    template = getattr(tokenizer, "chat_template", None)
    found = []
    for tag in CLOSE_TAGS:
        ids = [int(i) for i in tokenizer.encode(tag, add_special_tokens=False)]
        if tokenizer.decode(ids).strip() != tag:  # it has no name for it
            continue
        if len(ids) == 1 or (isinstance(template, str) and tag in template and len(ids) <= 8):
            found.append(ids)
    return found


def resolve(preset: str, given: Mapping[str, Any], tokenizer=None, options: LZOptions | None = None) -> LZOptions:
    """The options that are given and not None, and the preset's others.

    Parameters
    ----------
    preset : {'paper', 'gentle', 'reasoning'}
    given : mapping
        Options by name. Without `release`, "reasoning" takes the tokenizer's :func:`close_ids`; without `reset`, what it
        releases.
    tokenizer : optional
        As for :func:`close_ids`.
    options : LZOptions, optional
        In the place of a preset's.

    Raises
    ------
    TypeError, ValueError
        For an unknown preset, for one along with options, for "reasoning" if there is nothing to release, and for options
        that are refused.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(map(repr, PRESETS))}, got {preset!r}")
    given = {name: value for name, value in given.items() if value is not None}
    if options is not None:
        if preset != "paper":
            raise ValueError(f"preset: expected none along with options, got {preset!r}")
        if not isinstance(options, LZOptions):
            raise TypeError(f"options: expected LZOptions or None, got {type(options).__name__}")
        return LZOptions(**options.keywords() | given) if given else options
    if preset == "reasoning":
        if "release" not in given:
            if tokenizer is None:
                raise ValueError(
                    "preset: expected tokenizer=, the model's, with 'reasoning', or release=, the ids that end a thinking "
                    "section; got neither"
                )
            given["release"] = close_ids(tokenizer)
            if not given["release"]:
                raise ValueError(
                    f"tokenizer: expected one that knows any of {' '.join(CLOSE_TAGS)}, or release=ids; it knows none"
                )
        if "reset" not in given:
            given["reset"] = LZOptions(release=given["release"]).release
            given["release"] = given["reset"]
    return LZOptions(**PRESETS[preset].keywords() | given)
