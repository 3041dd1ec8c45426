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

    def __getattr__(self, name):
        if name == "selector" or name.startswith("__"):  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.selector, name)

    def compacted(self, positions, region):
        self.selector.compacted(positions, region)
        left = self.history[-1] if self.history else positions[..., :0]
        new = torch.arange(self.seen, self.seen + region - left.shape[2], device=positions.device)
        self.history.append(torch.cat([left, new.expand(*left.shape[:2], -1)], dim=2).gather(2, positions))
        self.seen += len(new)

    def select_rows(self, index):
        self.selector.select_rows(index)
        self.history = [kept[index] for kept in self.history]


def _asks(name: str) -> property:
    return property(lambda self: getattr(self.selector, name))


# All else that a selector has is the other one's, what the base class will have some day too.
for _name in vars(Selector):
    if not _name.startswith("_") and _name not in vars(Recorder):
        setattr(Recorder, _name, _asks(_name))
