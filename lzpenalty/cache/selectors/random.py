"""Random Attention, arXiv 2609.03430: chance, which every rule must beat."""

import torch

from lzpenalty.cache.selectors.base import Drawing, check_aggregation

__all__ = ["Random"]


class Random(Drawing):
    """Random Attention (arXiv 2609.03430): each key head keeps tokens of its own that are drawn uniformly, so that what one
    head drops another may have. Keeps up with most rules on average tasks, and fails where one fact must be kept.

    With `aggregation="layer"` there is one draw for all heads of a layer, the paper's control."""

    def __init__(self, seed: int = 0, aggregation: str = "group"):
        super().__init__(seed)
        self.aggregation = check_aggregation(aggregation)

    def score(self, layer):
        rows, heads = layer.keys.shape[:2]
        shape = (1, heads if self.aggregation == "group" else 1, layer.stop - layer.start)
        return torch.rand(shape, generator=self.draws(layer), device=layer.keys.device).repeat(rows, 1, 1)
