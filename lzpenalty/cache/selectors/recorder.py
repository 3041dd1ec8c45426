"""A record of what another selector kept, for pictures."""

import torch

from lzpenalty.cache.selectors.base import Selector

__all__ = ["Recorder"]


class Recorder(Selector):
    """Another selector, with a record of what it kept, for pictures.

    `history` has an int64 tensor [B, 1 or Hkv, keep] for each compression: the generated tokens, counted from 0, that were
    left of the first `seen` ones. `cache.selectors` are the recorders of a cache's layers.
    """

    def __init__(self, selector: Selector):
        if not isinstance(selector, Selector):
            raise TypeError(f"selector: expected a Selector, got {type(selector).__name__}")
        self.selector, self.history, self.seen = selector, [], 0

    @property
    def keeps_evidence(self):
        return self.selector.keeps_evidence

    def score(self, layer):
        return self.selector.score(layer)

    def observe(self, layer, queries):
        self.selector.observe(layer, queries)

    def compacted(self, positions, region):
        self.selector.compacted(positions, region)
        left = self.history[-1] if self.history else positions[..., :0]
        new = torch.arange(self.seen, self.seen + region - left.shape[2], device=positions.device)
        self.history.append(torch.cat([left, new.expand(*left.shape[:2], -1)], dim=2).gather(2, positions))
        self.seen += len(new)

    def select_rows(self, index):
        self.selector.select_rows(index)
        self.history = [kept[index] for kept in self.history]
