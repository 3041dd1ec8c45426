"""TOVA, arXiv 2401.06104."""

from lzpenalty._core import attention_scores
from lzpenalty.cache.selectors.base import Selector

__all__ = ["TOVA"]


class TOVA(Selector):
    """TOVA (arXiv 2401.06104): attention of the newest query alone, mean over heads."""

    def score(self, layer):
        return attention_scores(
            layer.queries[:, :, -1:], layer.keys, start=layer.start, stop=layer.stop, scale=layer.scale, kernel=1
        )
