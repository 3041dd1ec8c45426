"""Reasoning Path Compression, arXiv 2505.13866."""

from lzpenalty.cache.selectors.base import Selector, attention

__all__ = ["RPC"]


class RPC(Selector):
    """Reasoning Path Compression (arXiv 2505.13866): attention of the last R queries, averaged over neighbours."""

    def score(self, layer):
        return attention(layer)
