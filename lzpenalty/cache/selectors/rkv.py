"""R-KV, arXiv 2505.24133."""

import torch.nn.functional as F

from lzpenalty.cache.selectors.base import Selector, attention

__all__ = ["RKV"]


class RKV(Selector):
    """R-KV (arXiv 2505.24133): weight * attention + (1 - weight) * (1 - redundancy), where the redundancy of a token is the
    softmax of the mean cosine similarity between its key and all keys of the region."""

    def __init__(self, weight: float = 0.1):
        if not 0 <= weight <= 1:
            raise ValueError(f"weight: expected a number from 0 to 1, got {weight!r}")
        self.weight = weight

    def score(self, layer):
        unit = F.normalize(layer.keys[:, :, layer.start : layer.stop].float(), dim=-1)
        # The mean over all pairs of a token is its product with the mean key.
        redundancy = (unit @ unit.mean(2, keepdim=True).mT).squeeze(-1).softmax(-1)
        if layer.aggregation == "layer":
            redundancy = redundancy.mean(1, keepdim=True)
        return self.weight * attention(layer) + (1 - self.weight) * (1 - redundancy)
