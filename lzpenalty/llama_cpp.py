"""llama.cpp, by way of llama-cpp-python: the LZ penalty as a logits processor. Needs no torch.

    llama = Llama("model.gguf")
    llama.create_completion(prompt, temperature=0, logits_processor=LogitsProcessorList([LZPenalty()]))

The scores are a view of llama.cpp's own candidates, every third float of them, and are written to where they are.
"""

import sys
import threading
from weakref import WeakKeyDictionary

import numpy as np

from lzpenalty._core import LZOptions, lz_penalize_

__all__ = ["LZPenalty"]


def _sampler():
    """What the running `Llama.generate` call samples with: made anew for every call. None outside of any.

    A processor is given prompt and answer in one array and is not told where one ends and the other begins. What it
    remembers from its last call could not tell: the next prompt may be the last answer and one token more.
    """
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "apply_func":
            return getattr(frame.f_locals.get("self"), "_sampler", None)
        frame = frame.f_back
    return None


class LZPenalty:
    """Subtracts the LZ penalty from the scores of tokens that would repeat what was generated (arXiv 2504.20131).

    Only generated tokens count, not the prompt. One object serves any number of completions and models.

    Parameters
    ----------
    strength, window, buffer, cost, min_match, min_count, escalation, horizon, neutral
        As in :func:`lzpenalty.lz_penalize_`: nats a bit, tokens, tokens, ...
    prompt_length : int, optional
        Tokens at the beginning that do not count. By default the prompt of the completion that is running; outside of
        llama-cpp-python every token counts.

    Raises
    ------
    TypeError, ValueError
        For options that :func:`lzpenalty.lz_penalize_` refuses, at construction.
    """

    def __init__(
        self, strength: float = 0.15, window: int = 512, buffer: int = 32, *, prompt_length: int | None = None, **options
    ):
        if prompt_length is not None and (not isinstance(prompt_length, int) or prompt_length < 0):
            raise ValueError(f"prompt_length: expected an integer >= 0 or None, got {prompt_length!r}")
        self.options = LZOptions(strength=strength, window=window, buffer=buffer, **options).keywords()
        self.prompt_length = prompt_length
        self._prompts: WeakKeyDictionary = WeakKeyDictionary()  # by what samples
        self._lock = threading.Lock()

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """`scores` [V], float32, in place, after the tokens `input_ids` [T], intc."""
        start = self.prompt_length
        if start is None:
            sampler = _sampler()
            start = 0
            if sampler is not None:
                with self._lock:
                    start = self._prompts.setdefault(sampler, len(input_ids))
        return lz_penalize_(scores, input_ids, starts=min(start, len(input_ids)), **self.options)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options}, prompt_length={self.prompt_length})"
