"""llama.cpp, by way of llama-cpp-python: the LZ penalty as a logits processor. Needs no torch.

    llama = Llama("model.gguf")
    llama.create_completion(prompt, temperature=0, logits_processor=LogitsProcessorList([LZPenalty()]))

The scores are a view of llama.cpp's own candidates, every third float of them, and are written to where they are.
"""

import numpy as np

from lzpenalty._core import lz_penalize_
from lzpenalty.engines.adaptor import PenaltyOptions
from lzpenalty.engines.prompts import llama_prompt_length

__all__ = ["LZPenalty"]


class _Tokenizer:
    """A `Llama`, as presets ask for a tokenizer."""

    def __init__(self, llama):
        self.llama = llama
        self.chat_template = llama.metadata.get("tokenizer.chat_template")

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self.llama.tokenize(text.encode(), add_bos=add_special_tokens, special=True)

    def decode(self, ids: list[int]) -> str:
        return self.llama.detokenize(ids, special=True).decode(errors="replace")


class LZPenalty(PenaltyOptions):
    """Subtracts the LZ penalty from the scores of tokens that would repeat what was generated (arXiv 2504.20131).

    Only generated tokens count, not the prompt. One object serves any number of completions and models.

    Parameters
    ----------
    strength, window, buffer, ...
        As in :func:`lzpenalty.lz_penalize_`: nats a bit, tokens, tokens, ... None is what the preset says.
    preset, tokenizer
        As for :class:`lzpenalty.hf.LZPenaltyLogitsProcessor`; the tokenizer is the `Llama`.
    prompt_length : int, optional
        Tokens at the beginning that do not count. By default the prompt of the completion that is running; outside of
        llama-cpp-python every token counts.

    Raises
    ------
    TypeError, ValueError
        For options that :func:`lzpenalty.lz_penalize_` refuses, at construction.
    RuntimeError
        When called, if `prompt_length` was not given and llama-cpp-python does not say it, or is asked for the first time in
        the middle of an answer. It comes from a callback of ctypes, which prints it and goes on without the penalty.
    """

    def __init__(
        self,
        strength: float | None = None,
        window: int | None = None,
        buffer: int | None = None,
        *,
        tokenizer=None,
        **options,
    ):
        super().__init__(strength, window, buffer, tokenizer=tokenizer and _Tokenizer(tokenizer), **options)

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """`scores` [V], float32, in place, after the tokens `input_ids` [T], intc."""
        start = llama_prompt_length() if self.prompt_length is None else self.prompt_length
        return lz_penalize_(scores, input_ids, starts=min(start, len(input_ids)), **self.options)
