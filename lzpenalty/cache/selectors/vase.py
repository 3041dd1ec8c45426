"""VaSE, arXiv 2606.03928."""

import torch

from lzpenalty._core import select_top
from lzpenalty.cache.selectors.base import Drawing, attention, region

__all__ = ["VaSE"]

_KERNEL = 5


class VaSE(Drawing):
    """VaSE (arXiv 2606.03928): models fall into loops without their largest values, so each key head keeps the tokens whose
    values have the largest range (largest minus smallest number), `share` of all that it keeps. The others are drawn without
    replacement, with the attention of the last R queries, averaged over 5 neighbours, as their chances.

    The paper's attention sinks are the first tokens of the prompt, which is never dropped here."""

    def __init__(self, share: float = 0.25, seed: int = 0):
        super().__init__(seed)
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a number from 0 to 1, got {share!r}")
        self.share = share

    def score(self, layer):
        chances = attention(layer, aggregation="group", kernel=_KERNEL)
        # The largest of chance / exponential draw are a sample without replacement.
        scores = chances / torch.empty_like(chances[:1]).exponential_(generator=self.draws(layer))
        values = region(layer, layer.values)
        ranges = (values.amax(-1) - values.amin(-1)).contiguous()
        protected = int(self.share * layer.keep)
        return scores.scatter(2, select_top(ranges, protected), float("inf")) if protected else scores
