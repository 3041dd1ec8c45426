"""Hugging Face transformers: the LZ penalty as a logits processor, a hard stop for loops, a cache that forgets.

    with CompressedCache(model) as cache:
        model.generate(**inputs, do_sample=False, logits_processor=[LZPenaltyLogitsProcessor()], cache=cache)

Works with transformers >= 4.56: greedy decoding, sampling, beam search, left-padded batches and assisted decoding.
"""

import numpy as np
import torch
from transformers import LogitsProcessor, StoppingCriteria

from lzpenalty._core import LZOptions, loop_evidence, lz_penalize_, repetition_period
from lzpenalty.cache.compressed import CompressedCache
from lzpenalty.cache.forget import Forget, ForgetCache
from lzpenalty.cache.rpc import RPCCache
from lzpenalty.engines.adaptor import check_prompt_length
from lzpenalty.engines.prompts import generate_prompt_length
from lzpenalty.presets import resolve

__all__ = [
    "CompressedCache",
    "Forget",
    "ForgetCache",
    "LZPenaltyLogitsProcessor",
    "RPCCache",
    "RepetitionStoppingCriteria",
]


class LZPenaltyLogitsProcessor(LogitsProcessor):
    """Subtracts the LZ penalty from the scores of tokens that would repeat what was generated (arXiv 2504.20131).

    Only generated tokens count, not the prompt and its padding. Nothing is remembered from call to call, so one object
    serves any number of `generate` calls, and beams that are reordered or drafts that are rolled back need no care.

    Parameters
    ----------
    options : LZOptions, optional
        In the place of a preset.
    preset : {'paper', 'gentle', 'reasoning'}
        See :mod:`lzpenalty.presets`.
    tokenizer : optional
        Whose ids "reasoning" releases, unless `release` says which.
    prompt_length : int, optional
        Tokens, padding included, at the beginning of each row that do not count. By default the prompt of the `generate`
        call that is running, also if another processor calls this one; outside of `generate`, where prompt and answer can't
        be told apart, every token counts.
    inplace : bool, default False
        Whether to write to the scores that are passed in and save a copy. Leave it off with `output_logits=True`.
    strength, window, buffer, ... : optional
        As in :class:`lzpenalty.LZOptions`; None is what the options or the preset say.

    Raises
    ------
    TypeError, ValueError
        For options that :func:`lzpenalty.lz_penalize_` refuses, at construction.
    RuntimeError
        When called, if `prompt_length` was not given and transformers does not say it in the way that is known.
    """

    supports_continuous_batching = False  # it hands processors the newest tokens only

    def __init__(
        self,
        options: LZOptions | None = None,
        *,
        preset: str = "paper",
        tokenizer=None,
        prompt_length: int | None = None,
        inplace: bool = False,
        **keywords,
    ):
        self.options = resolve(preset, keywords, tokenizer, options)
        self.prompt_length = check_prompt_length(prompt_length)
        self.inplace = inplace

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        start = generate_prompt_length(self) if self.prompt_length is None else self.prompt_length
        if not self.inplace:
            scores = scores.clone()
        try:
            return lz_penalize_(scores, input_ids, self.options, starts=start)
        except ValueError:
            if start <= input_ids.shape[1]:
                raise
            return lz_penalize_(scores, input_ids, self.options, starts=input_ids.shape[1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r}, prompt_length={self.prompt_length}, inplace={self.inplace})"


class RepetitionStoppingCriteria(StoppingCriteria):
    """Stops a row that has run in a loop for too long.

    By default an exact loop: the row's last ngram + (count - 1) * p tokens repeat with some period p, so that one n-gram
    stands `count` times in a row. The defaults are what "Wait, Wait, Wait" (arXiv 2512.12895) calls a loop, 20 times the
    same 30 tokens. With `evidence`, any text that circles, exactly or not: a string of so many tokens stands there for the
    third time.

    Parameters
    ----------
    ngram, count, max_period : int
        Tokens, times, tokens; as in :func:`lzpenalty.repetition_period`.
    evidence : int, optional
        Tokens, >= 1: stops at this :func:`lzpenalty.loop_evidence`, and does not look for exact loops.
    window : int, default 512
        Tokens that the evidence is looked for in.
    prompt_length : int, optional
        As in :class:`LZPenaltyLogitsProcessor`.
    """

    def __init__(
        self,
        ngram: int = 30,
        count: int = 20,
        max_period: int = 512,
        *,
        evidence: int | None = None,
        window: int = 512,
        prompt_length: int | None = None,
    ):
        if evidence is not None and (not isinstance(evidence, int) or evidence < 1):
            raise ValueError(f"evidence: expected an integer >= 1 or None, got {evidence!r}")
        self.options = {"ngram": ngram, "count": count, "max_period": max_period}
        self.evidence, self.window = evidence, window
        self.prompt_length = check_prompt_length(prompt_length)
        nothing = np.empty((0, 0), dtype=np.int64)
        repetition_period(nothing, **self.options)  # raises for bad options
        loop_evidence(nothing, window=window)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor | None = None, **kwargs) -> torch.BoolTensor:
        start = generate_prompt_length(self) if self.prompt_length is None else self.prompt_length
        start = min(start, input_ids.shape[1])
        if self.evidence is not None:
            return loop_evidence(input_ids, window=self.window, starts=start) >= self.evidence
        return repetition_period(input_ids, starts=start, **self.options) > 0
