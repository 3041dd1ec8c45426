"""llama.cpp, by way of llama-cpp-python: the LZ penalty as a logits processor. Needs no torch.

    llama = Llama("model.gguf")
    llama.create_completion(prompt, temperature=0, logits_processor=LogitsProcessorList([LZPenalty()]))

The scores are a view of llama.cpp's own candidates, every third float of them, and are written to where they are.
"""

import numpy as np

from lzpenalty._core import LZOptions, lz_penalize_
from lzpenalty.engines.adaptor import check_prompt_length
from lzpenalty.engines.prompts import llama_prompt_length
from lzpenalty.presets import resolve

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


class LZPenalty:
    """Subtracts the LZ penalty from the scores of tokens that would repeat what was generated (arXiv 2504.20131).

    Only generated tokens count, not the prompt. One object serves any number of completions and models.

    Parameters
    ----------
    options : LZOptions, optional
        In the place of a preset.
    preset, tokenizer
        As for :class:`lzpenalty.hf.LZPenaltyLogitsProcessor`; the tokenizer is the `Llama`.
    prompt_length : int, optional
        Tokens at the beginning that do not count. By default the prompt of the completion that is running; outside of
        llama-cpp-python every token counts.
    strength, window, buffer, ... : optional
        As in :class:`lzpenalty.LZOptions`; None is what the options or the preset say.

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
        options: LZOptions | None = None,
        *,
        preset: str = "paper",
        tokenizer=None,
        prompt_length: int | None = None,
        **keywords,
    ):
        self.options = resolve(preset, keywords, tokenizer and _Tokenizer(tokenizer), options)
        self.prompt_length = check_prompt_length(prompt_length)

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """`scores` [V], float32, in place, after the tokens `input_ids` [T], intc."""
        start = llama_prompt_length() if self.prompt_length is None else self.prompt_length
        return lz_penalize_(scores, input_ids, self.options, starts=min(start, len(input_ids)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r}, prompt_length={self.prompt_length})"
