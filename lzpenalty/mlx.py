"""MLX (mlx-lm): the LZ penalty as a logits processor.

    generate(model, tokenizer, prompt, logits_processors=[LZPenalty()])

Tokens come to the host, where the penalty is computed; of the logits, which stay where they are, only those of tokens in the
window are changed.
"""

import mlx.core as mx
import numpy as np

from lzpenalty._core import LZOptions, lz_penalize_
from lzpenalty.engines.adaptor import check_prompt_length
from lzpenalty.engines.prompts import mlx_prompt_length
from lzpenalty.presets import resolve

__all__ = ["LZPenalty"]


class LZPenalty:
    """Subtracts the LZ penalty from the logits of tokens that would repeat what was generated (arXiv 2504.20131).

    Only generated tokens count, not the prompt. Nothing is remembered: one object serves any number of calls.

    Parameters
    ----------
    options : LZOptions, optional
        In the place of a preset.
    preset, tokenizer
        As for :class:`lzpenalty.hf.LZPenaltyLogitsProcessor`; mlx-lm's tokenizer.
    prompt_length : int, optional
        Tokens at the beginning that do not count. By default the prompt of the `stream_generate` or `generate` call that is
        running; outside of mlx-lm every token counts.
    strength, window, buffer, ... : optional
        As in :class:`lzpenalty.LZOptions`; None is what the options or the preset say.

    Raises
    ------
    TypeError, ValueError
        For options that :func:`lzpenalty.lz_penalize_` refuses, at construction.
    RuntimeError
        When called, if `prompt_length` was not given and mlx-lm does not say it, as in speculative generation and in its
        `BatchGenerator`.
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
        self.options = resolve(preset, keywords, tokenizer, options)
        self.prompt_length = check_prompt_length(prompt_length)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r}, prompt_length={self.prompt_length})"

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits [1, V] or [V] with the penalty, after `tokens` [T]. A new array; MLX's do not change."""
        start = mlx_prompt_length() if self.prompt_length is None else self.prompt_length
        first = max(0, tokens.shape[0] - self.options.context)
        text, start = np.array(tokens[first:], dtype=np.int64), max(0, start - first)
        if start >= len(text):
            return logits
        vocab = logits.shape[-1]
        # The system's zeros: untouched, they cost nothing.
        penalty = lz_penalize_(np.zeros(vocab, np.float32), text, self.options, starts=start)
        ids = np.union1d(text[max(start, len(text) - self.options.window) :], np.array(self.options.changed, np.int64))
        ids = ids[(ids >= 0) & (ids < vocab)]
        if not len(ids):
            return logits
        return logits.at[..., mx.array(ids)].add(mx.array(penalty[ids]).astype(logits.dtype))
