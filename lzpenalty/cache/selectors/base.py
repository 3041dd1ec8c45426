"""What every selector has, and the attention that most of them score with."""

import torch

from lzpenalty._core import attention_scores

__all__ = ["Selector", "attention"]


def attention(layer, **options) -> torch.Tensor:
    """Attention of the layer's last R queries, as :func:`lzpenalty.attention_scores` has it."""
    options = {"kernel": layer.kernel, "aggregation": layer.aggregation, **options}
    return attention_scores(layer.queries, layer.keys, start=layer.start, stop=layer.stop, scale=layer.scale, **options)


class Selector:
    """Base of all selectors; only `score` must be written."""

    keeps_evidence = False  # a number beside each key and value, that moves along with them; see RaggedLayer

    def score(self, layer) -> torch.Tensor:
        """float32 [B, 1, stop - start], or [B, Hkv, stop - start] for a choice of its own for each key head."""
        raise NotImplementedError

    def observe(self, layer, queries: torch.Tensor) -> None:
        """After the attention of each step behind the prompt; queries [B, Hq, q, D] are the step's."""

    def compacted(self, positions: torch.Tensor, region: int) -> None:
        """Of the first `region` tokens behind the prompt only `positions`, [B, 1 or Hkv, keep], are left."""

    def select_rows(self, index: torch.Tensor) -> None:
        """The rows of the batch are now these of the old ones."""
