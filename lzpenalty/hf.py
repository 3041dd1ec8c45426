"""Hugging Face transformers: the LZ penalty as a logits processor, a hard stop for loops, a cache that forgets.

    with RPCCache(model) as cache:
        model.generate(**inputs, do_sample=False, logits_processor=[LZPenaltyLogitsProcessor()], past_key_values=cache)

Works with transformers >= 4.56: greedy decoding, sampling, beam search, left-padded batches and assisted decoding.
"""

import inspect

import numpy as np
import torch
from transformers import GenerationMixin, LogitsProcessor, StoppingCriteria

from lzpenalty._core import lz_penalize_, repetition_period
from lzpenalty.cache.rpc import RPCCache
from lzpenalty.engines.adaptor import callers, check_prompt_length

__all__ = ["LZPenaltyLogitsProcessor", "RPCCache", "RepetitionStoppingCriteria"]

_GENERATE = inspect.unwrap(GenerationMixin.generate).__code__


def _prompt_length(owner: object) -> int:
    """The prompt's length in the `generate` call that is running `owner`; 0 outside of any.

    Assisted decoding runs a `generate` of the assistant within that of the user, whose prompt is the one that counts.
    """
    length = 0
    for frame in callers():
        if frame.f_code is _GENERATE:
            variables = frame.f_locals
            users = [
                *variables.get("prepared_logits_processor", ()),
                *variables.get("prepared_stopping_criteria", ()),
            ]
            if any(user is owner for user in users):
                length = variables["input_ids_length"]
    return length


class LZPenaltyLogitsProcessor(LogitsProcessor):
    """Subtracts the LZ penalty from the scores of tokens that would repeat what was generated (arXiv 2504.20131).

    Only generated tokens count, not the prompt and its padding. Nothing is remembered from call to call, so one object
    serves any number of `generate` calls, and beams that are reordered or drafts that are rolled back need no care.

    Parameters
    ----------
    strength, window, buffer, cost, min_match, min_count, escalation, horizon, neutral
        As in :func:`lzpenalty.lz_penalize_`: nats a bit, tokens, tokens, ...
    prompt_length : int, optional
        Tokens, padding included, at the beginning of each row that do not count. By default the prompt of the `generate`
        call that is running; outside of `generate`, where prompt and answer can't be told apart, every token counts.
    inplace : bool, default False
        Whether to write to the scores that are passed in and save a copy. Leave it off with `output_logits=True`.

    Raises
    ------
    TypeError, ValueError
        For options that :func:`lzpenalty.lz_penalize_` refuses, at construction.
    """

    supports_continuous_batching = False  # it hands processors the newest tokens only

    def __init__(
        self,
        strength: float = 0.15,
        window: int = 512,
        buffer: int = 32,
        *,
        cost: str = "lzss",
        min_match: int = 1,
        min_count: int = 1,
        escalation: float = 0.0,
        horizon: int = 0,
        neutral=None,
        prompt_length: int | None = None,
        inplace: bool = False,
    ):
        if neutral is not None and not isinstance(neutral, int):
            neutral = tuple(neutral)
        self.options = {
            "strength": strength,
            "window": window,
            "buffer": buffer,
            "cost": cost,
            "min_match": min_match,
            "min_count": min_count,
            "escalation": escalation,
            "horizon": horizon,
            "neutral": neutral,
        }
        self.prompt_length = check_prompt_length(prompt_length)
        self.inplace = inplace
        no_rows = np.empty((0, 2**31 - 1), dtype=np.float32)
        lz_penalize_(no_rows, np.empty((0, 0), dtype=np.int64), **self.options)  # raises for bad options

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        start = _prompt_length(self) if self.prompt_length is None else self.prompt_length
        if not self.inplace:
            scores = scores.clone()
        return lz_penalize_(scores, input_ids, starts=min(start, input_ids.shape[1]), **self.options)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options}, prompt_length={self.prompt_length}, inplace={self.inplace})"


class RepetitionStoppingCriteria(StoppingCriteria):
    """Stops a row that has run in an exact loop for too long: when its last ngram + (count - 1) * p tokens repeat with some
    period p, so that one n-gram stands `count` times in a row. The defaults call a loop what "Wait, Wait, Wait"
    (arXiv 2512.12895) does, 20 times the same 30 tokens.

    Parameters
    ----------
    ngram, count, max_period : int
        Tokens, times, tokens; as in :func:`lzpenalty.repetition_period`.
    prompt_length : int, optional
        As in :class:`LZPenaltyLogitsProcessor`.
    """

    def __init__(self, ngram: int = 30, count: int = 20, max_period: int = 512, *, prompt_length: int | None = None):
        self.options = {"ngram": ngram, "count": count, "max_period": max_period}
        self.prompt_length = check_prompt_length(prompt_length)
        repetition_period(np.empty((0, 0), dtype=np.int64), **self.options)  # raises for bad options

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor | None = None, **kwargs) -> torch.BoolTensor:
        start = _prompt_length(self) if self.prompt_length is None else self.prompt_length
        return repetition_period(input_ids, starts=min(start, input_ids.shape[1]), **self.options) > 0
