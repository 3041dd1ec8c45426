"""Options of the LZ penalty by name: where to begin.

    paper      the published method: every repetition pays, always. Ends loops soonest; costs ordinary text most.
    gentle     nothing happens before a string of tokens stands for the third time.
    reasoning  gentle, and a model that circles inside its thinking section is helped to close it.

"gentle" and "reasoning" may get other values in another release; "paper" is what it is. Options that are given along with a
name win.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["CLOSE_TAGS", "PRESETS", "close_ids", "resolve"]

_PAPER = {
    "strength": 0.15,  # nats a bit, the paper's alpha
    "window": 512,  # the paper's
    "buffer": 32,  # the paper's
    "cost": "lzss",  # the coder that the paper describes
    "min_match": 1,
    "min_count": 1,
    "escalation": 0.0,
    "horizon": 0,
    "neutral": None,
    "gate": None,
    "release": None,
    "release_rate": 2.0,  # nats a token: a closer that is e^10 times less likely than the next token comes after about 5
    "release_after": 24,  # in the middle of the gentle gate: the penalty has begun to act, and has not sufficed
    "reset": None,
    "until": None,
}
_GENTLE = _PAPER | {
    "strength": 0.3,  # twice the paper's: it acts in loops only, where a stubborn one outweighs the paper's
    "min_match": 2,  # a token alone is no repetition; what goes on with one is
    "gate": (20, 28),  # tables, code and refrains hold strings of up to 20 tokens three times and more; a loop goes beyond
}
PRESETS: dict[str, dict[str, Any]] = {
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
    """
    template = getattr(tokenizer, "chat_template", None)
    found = []
    for tag in CLOSE_TAGS:
        ids = [int(i) for i in tokenizer.encode(tag, add_special_tokens=False)]
        if tokenizer.decode(ids).strip() != tag:  # it has no name for it
            continue
        if len(ids) == 1 or (isinstance(template, str) and tag in template and len(ids) <= 8):
            found.append(ids)
    return found


def resolve(preset: str, given: Mapping[str, Any], tokenizer=None) -> dict[str, Any]:
    """All options of :func:`lzpenalty.lz_penalize_` but `starts`: those that are given and not None, the preset's others.

    Parameters
    ----------
    preset : {'paper', 'gentle', 'reasoning'}
    given : mapping
        Options by name. Without `release`, "reasoning" takes the tokenizer's :func:`close_ids`; without `reset`, what it
        releases.
    tokenizer : optional
        As for :func:`close_ids`.

    Raises
    ------
    ValueError
        For an unknown preset, and for "reasoning" if there is nothing to release.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(map(repr, PRESETS))}, got {preset!r}")
    given = {name: value for name, value in given.items() if value is not None}
    options = PRESETS[preset] | given
    if preset != "reasoning":
        return options
    if options["release"] is None:
        if tokenizer is None:
            raise ValueError("preset: expected release, the ids that end a thinking section, with 'reasoning', got None")
        options["release"] = close_ids(tokenizer)
        if not options["release"]:
            raise ValueError(
                f"tokenizer: expected one that knows any of {' '.join(CLOSE_TAGS)}, or release=ids; it knows none"
            )
    if options["reset"] is None:
        options["reset"] = options["release"]
    return options
