"""KeyDiff, arXiv 2504.15364."""

import torch.nn.functional as F

from lzpenalty.cache.selectors.base import Selector, region

__all__ = ["KeyDiff"]


class KeyDiff(Selector):
    """KeyDiff (arXiv 2504.15364): keys that are unlike the others of their head stay. Minus the cosine between a key and the
    mean of all unit keys; O(n D), and no queries needed."""

    def score(self, layer):
        unit = F.normalize(region(layer, layer.keys), dim=-1)
        return -F.cosine_similarity(unit, unit.mean(2, keepdim=True), dim=-1)
