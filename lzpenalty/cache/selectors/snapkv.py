"""SnapKV, arXiv 2404.14469."""

import torch.nn.functional as F

from lzpenalty.cache.selectors.base import Selector, attention

__all__ = ["SnapKV"]


class SnapKV(Selector):
    """SnapKV (arXiv 2404.14469): as RPC, but each key head chooses for itself; scores are pooled by 'max' or 'avg'."""

    def __init__(self, pooling: str = "max"):
        if pooling not in ("max", "avg"):
            raise ValueError(f"pooling: expected 'max' or 'avg', got {pooling!r}")
        self.pooling = pooling

    def score(self, layer):
        if self.pooling == "avg":
            return attention(layer, aggregation="group")
        return F.max_pool1d(attention(layer, aggregation="group", kernel=1), layer.kernel, 1, layer.kernel // 2)
