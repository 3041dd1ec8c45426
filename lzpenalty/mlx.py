"""MLX (mlx-lm): the LZ penalty as a logits processor.

    generate(model, tokenizer, prompt, logits_processors=[LZPenalty()])

Tokens come to the host, where the penalty is computed; of the logits, which stay where they are, only those of tokens in the
window are changed.
"""

import mlx.core as mx
import numpy as np

from lzpenalty._core import lz_penalize_
from lzpenalty.engines.adaptor import PenaltyOptions
from lzpenalty.engines.prompts import mlx_prompt_length

__all__ = ["LZPenalty"]


class LZPenalty(PenaltyOptions):
    """Subtracts the LZ penalty from the logits of tokens that would repeat what was generated (arXiv 2504.20131).

    Only generated tokens count, not the prompt. Nothing is remembered: one object serves any number of calls.

    Parameters
    ----------
    strength, window, buffer, ...
        As in :func:`lzpenalty.lz_penalize_`: nats a bit, tokens, tokens, ... None is what the preset says.
    preset, tokenizer
        As for :class:`lzpenalty.hf.LZPenaltyLogitsProcessor`; mlx-lm's tokenizer.
    prompt_length : int, optional
        Tokens at the beginning that do not count. By default the prompt of the `stream_generate` or `generate` call that is
        running; outside of mlx-lm every token counts.

    Raises
    ------
    TypeError, ValueError
        For options that :func:`lzpenalty.lz_penalize_` refuses, at construction.
    RuntimeError
        When called, if `prompt_length` was not given and mlx-lm does not say it, as in speculative generation and in its
        `BatchGenerator`.
    """

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits [1, V] or [V] with the penalty, after `tokens` [T]. A new array; MLX's do not change."""
        start = mlx_prompt_length() if self.prompt_length is None else self.prompt_length
        start = max(start, tokens.shape[0] - self.compiled.context)
        text = np.array(tokens[start:], dtype=np.int64)
        if not len(text):
            return logits
        vocab = logits.shape[-1]
        penalty = lz_penalize_(
            np.zeros(vocab, np.float32), text, **self.options
        )  # the system's zeros: untouched, they cost nothing
        ids = np.union1d(text, np.array(self.listed, np.int64))
        ids = ids[(ids >= 0) & (ids < vocab)]
        if not len(ids):
            return logits
        return logits.at[..., mx.array(ids)].add(mx.array(penalty[ids]).astype(logits.dtype))
