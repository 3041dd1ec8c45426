"""TOVA, arXiv 2401.06104."""

from lzpenalty.cache.selectors.base import Selector, attention

__all__ = ["TOVA"]


class TOVA(Selector):
    """TOVA (arXiv 2401.06104): attention of the newest query alone, mean over heads."""

    def score(self, layer):
        return attention(layer, layer.queries[:, :, -1:], kernel=1, aggregation="layer")
