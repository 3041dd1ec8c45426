"""Options of the LZ penalty by name: where to begin.

    paper      the published method: every repetition pays, always. Ends loops soonest; costs ordinary text most.
    gentle     nothing happens before a string of tokens stands for the third time.
    reasoning  gentle; and in a section of thinking that circles it acts sooner, and helps the model to close it.

"gentle" and "reasoning" may get other values in another release; "paper" is what it is. Options that are given along with a
name win.
"""

from collections.abc import Mapping
from typing import Any

from lzpenalty._core import LZOptions

__all__ = ["PRESETS", "THINKING", "TOOLS", "resolve", "thinking_ids", "tool_ids"]

_PAPER = LZOptions()  # strength, window, buffer and cost are the paper's; what it doesn't have is off
_GENTLE = LZOptions(
    strength=0.3,  # twice the paper's: it acts in loops only, where a stubborn one outweighs the paper's
    min_match=2,  # a token alone is no repetition; what goes on with one is
    gate=(20, 28),  # tables, code and refrains hold strings of up to 20 tokens three times and more; a loop goes beyond
    release_rate=2.0,  # a closer that is e^10 times less likely than the next token comes after about 5
    release_after=24,  # in the middle of the gate: the penalty has begun to act, and has not sufficed
)
_REASONING = LZOptions(**_GENTLE.keywords() | {
    "section_gate": (12, 20),  # thoughts are read by nobody, and circle with a number or a word that changes
    "release_after": 16,  # in the middle of that
})  # fmt: skip
PRESETS: dict[str, LZOptions] = {
    "paper": _PAPER,
    "gentle": _GENTLE,
    "reasoning": _REASONING,  # and `release`, `open`, `skip` and `resume`, which are ids: resolve() finds them
}

# What opens and what closes a section, by families of models.
THINKING = (
    ("<think>", "</think>"),  # DeepSeek-R1 and its distillates, Qwen3, QwQ, GLM, Nemotron, SmolLM3, Kimi K2, MiniMax, ...
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<|channel|>analysis<|message|>", "<|end|>"),  # gpt-oss
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker, LightThinker
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
)
TOOLS = (
    ("<tool_call>", "</tool_call>"),  # Qwen, Hermes, GLM, SmolLM3, ...
    ("<|tool_call_begin|>", "<|tool_call_end|>"),  # Kimi K2
    ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),  # DeepSeek
    ("<|tool_call>", "<tool_call|>"),  # Gemma 4
    ("<|START_ACTION|>", "<|END_ACTION|>"),  # Command
    ("<seed:tool_call>", "</seed:tool_call>"),  # Seed-OSS
    ("<minimax:tool_call>", "</minimax:tool_call>"),  # MiniMax M2
    ("[TOOL_CALLS]", "</s>"),  # Mistral: to the end of the message
    ("<|python_tag|>", "<|eom_id|>"),  # Llama 3
    ("<|python_tag|>", "<|eot_id|>"),
)
# Models that begin to think without a tag, such as DeepSeek-R1, have a template that knows the closing one alone.
_UNOPENED = "<think>", "</think>"


def _ids(tokenizer, tag: str) -> list[int] | None:
    """Of a tag that a tokenizer has a token for, or that stands in its chat template; else None."""
    ids = [int(i) for i in tokenizer.encode(tag, add_special_tokens=False)]
    if tokenizer.decode(ids).strip() != tag:  # it has no name for it
        return None
    return ids if len(ids) == 1 or (tag in _template(tokenizer) and len(ids) <= 8) else None


def _template(tokenizer) -> str:
    template = getattr(tokenizer, "chat_template", None)
    return template if isinstance(template, str) else ""


def _pairs(tokenizer, tags) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of what opens and of what closes, of the pairs that a tokenizer knows whole."""
    pairs = [(_ids(tokenizer, open), _ids(tokenizer, close)) for open, close in tags]
    known = [(open, close) for open, close in pairs if open and close]
    return [open for open, _ in known], [close for _, close in known]


def thinking_ids(tokenizer) -> dict[str, list[list[int]]]:
    """The tags of THINKING that a tokenizer knows: it has a token for them, or they stand in its chat template.

    Parameters
    ----------
    tokenizer
        transformers' or mlx-lm's, or anything with `encode(text, add_special_tokens=False)`, `decode(ids)` and, if there is
        one, the string `chat_template`.

    Returns
    -------
    dict
        `open` and `release`, lists of sequences of ids, as options take them; `release` alone of a model that begins to
        think without a tag; nothing if no tag is known. A tag without a token of its own is the ids that its text alone is
        encoded as; in another context the model may write it as others.

    Raises
    ------
    TypeError
        For what is no tokenizer, such as its name.
    """
    if not (callable(getattr(tokenizer, "encode", None)) and callable(getattr(tokenizer, "decode", None))):
        raise TypeError(f"tokenizer: expected an object with encode and decode, got {type(tokenizer).__name__}")
    opening, closing = _pairs(tokenizer, THINKING)
    open, close = (tag in _template(tokenizer) for tag in _UNOPENED)
    if not open and (close or not opening) and (ids := _ids(tokenizer, _UNOPENED[1])):
        return {"release": [ids]}
    return {"open": opening, "release": closing} if opening else {}


def tool_ids(tokenizer) -> dict[str, list[list[int]]]:
    """The tags of TOOLS that a tokenizer knows, as `skip` and `resume`: nothing is penalised in a call of a tool. Parameters
    and what is known are those of :func:`thinking_ids`."""
    opening, closing = _pairs(tokenizer, TOOLS)
    return {"skip": opening, "resume": closing} if opening else {}


def resolve(preset: str, given: Mapping[str, Any], tokenizer=None, options: LZOptions | None = None) -> LZOptions:
    """The options that are given and not None, and the preset's others.

    Parameters
    ----------
    preset : {'paper', 'gentle', 'reasoning'}
    given : mapping
        Options by name. Without `release`, "reasoning" takes the tokenizer's :func:`thinking_ids` and :func:`tool_ids`.
    tokenizer : optional
        As for :func:`thinking_ids`.
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
    if preset == "reasoning" and "release" not in given:
        if tokenizer is None:
            raise ValueError(
                "preset: expected tokenizer=, the model's, with 'reasoning', or release=, the ids that end a thinking "
                "section; got neither"
            )
        given = thinking_ids(tokenizer) | tool_ids(tokenizer) | given
        if "release" not in given:
            tags = " ".join(close for _, close in THINKING)
            raise ValueError(f"tokenizer: expected one that knows any of {tags}, or release=ids; it knows none")
    return LZOptions(**PRESETS[preset].keywords() | given)
