"""SnapKV, arXiv 2404.14469."""

import torch.nn.functional as F

from lzpenalty.cache.selectors.base import Selector, attention

__all__ = ["SnapKV"]


class SnapKV(Selector):
    """SnapKV (arXiv 2404.14469): attention of the last R queries, mean over the group, each key head for itself. Scores are
    pooled over `kernel` neighbours by 'max', as in the paper's LongBench runs (R = 32, kernel 7), or by 'avg', which is the
    authors' code's default (kernel 5)."""

    def __init__(self, pooling: str = "max"):
        if pooling not in ("max", "avg"):
            raise ValueError(f"pooling: expected 'max' or 'avg', got {pooling!r}")
        self.pooling = pooling

    def score(self, layer):
        if self.pooling == "avg":
            return attention(layer, aggregation="group")
        return F.max_pool1d(attention(layer, aggregation="group", kernel=1), layer.kernel, 1, layer.kernel // 2)
