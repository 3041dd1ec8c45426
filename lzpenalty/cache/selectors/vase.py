"""VaSE, arXiv 2606.03928."""

from lzpenalty._core import select_top
from lzpenalty.cache.selectors.base import Selector, attention

__all__ = ["VaSE"]


class VaSE(Selector):
    """VaSE (arXiv 2606.03928): as RPC, but the tokens with the largest values (Euclidean norm, mean over heads) always stay:
    models fall into loops without them. `share` is their part of all that is kept."""

    def __init__(self, share: float = 0.1):
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a number from 0 to 1, got {share!r}")
        self.share = share

    def score(self, layer):
        norms = layer.values[:, :, layer.start : layer.stop].float().norm(dim=-1)
        if layer.aggregation == "layer":
            norms = norms.mean(1, keepdim=True)
        protected = round(self.share * layer.keep)
        scores = attention(layer)
        return scores.scatter(2, select_top(norms, protected), float("inf")) if protected else scores
