"""H2O, arXiv 2306.14048."""

import torch
import torch.nn.functional as F

from lzpenalty.cache.selectors.base import Selector, attention

__all__ = ["H2O"]


class H2O(Selector):
    """H2O (arXiv 2306.14048): each key head keeps what got most attention of its group, summed over all steps since it
    entered."""

    def __init__(self):
        self.mass = None

    def observe(self, layer, queries):
        n, steps = layer.length - layer.start, queries.shape[2]
        shape = (*layer.keys.shape[:2], 0)
        mass = queries.new_zeros(shape, dtype=torch.float32) if self.mass is None else self.mass
        self.mass = F.pad(mass, (0, n - mass.shape[2]))
        for step in range(steps):  # each query attends to what came before it, and to itself
            seen = n - steps + step + 1
            query = queries[:, :, step : step + 1]
            self.mass[..., :seen] += attention(layer, query, layer.start + seen, kernel=1, aggregation="group")

    def score(self, layer):
        return self.mass[..., : layer.stop - layer.start].contiguous()

    def compacted(self, positions, region):
        positions = positions.expand(-1, self.mass.shape[1], -1)
        self.mass = torch.cat([self.mass[..., :region].gather(2, positions), self.mass[..., region:]], dim=2)

    def select_rows(self, index):
        if self.mass is not None:
            self.mass = self.mass[index]
