"""H2O, arXiv 2306.14048."""

import torch
import torch.nn.functional as F

from lzpenalty._core import attention_scores
from lzpenalty.cache.selectors.base import Selector

__all__ = ["H2O"]


class H2O(Selector):
    """H2O (arXiv 2306.14048): the attention that a token got at all steps since it entered, mean over heads."""

    def __init__(self):
        self.mass = None

    def observe(self, layer, queries):
        n, steps = layer.length - layer.start, queries.shape[2]
        mass = queries.new_zeros((queries.shape[0], 1, 0), dtype=torch.float32) if self.mass is None else self.mass
        self.mass = F.pad(mass, (0, n - mass.shape[2]))
        for step in range(steps):  # each query attends to what came before it, and to itself
            seen = n - steps + step + 1
            self.mass[..., :seen] += attention_scores(
                queries[:, :, step : step + 1],
                layer.keys,
                start=layer.start,
                stop=layer.start + seen,
                scale=layer.scale,
                kernel=1,
            )

    def score(self, layer):
        return self.mass[..., : layer.stop - layer.start].contiguous()

    def compacted(self, positions, region):
        self.mass = torch.cat([self.mass[..., :region].gather(2, positions), self.mass[..., region:]], dim=2)

    def select_rows(self, index):
        if self.mass is not None:
            self.mass = self.mass[index]
