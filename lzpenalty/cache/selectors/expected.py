"""Expected Attention, arXiv 2510.00636."""

import torch

from lzpenalty.cache.plan import check_integer
from lzpenalty.cache.selectors.base import Selector, hidden, region

__all__ = ["Expected"]


class Expected(Selector):
    """Expected Attention (arXiv 2510.00636), as kvpress has it: what the next `future` queries of a head will look at, if
    they are distributed like those since the last compression, N(m, C) before their rotation by positions.

        score = |v| * mean over the group of softmax over t of (scale <m', k> + scale^2 / 2 k C' k)

    m' and C' are m and C under the mean rotation of the future positions. Keeps D x D numbers for each query head."""

    turns_queries = True

    def __init__(self, future: int = 512):
        check_integer("future", future, 1)
        self.future = future
        self._forget()

    def _forget(self) -> None:
        self.count, self.mean, self.spread = 0, 0.0, 0.0

    def observe(self, layer, queries):
        """Rotations add up, so all queries are turned back to where the first one was, and forward from there."""
        steps = queries.shape[2]
        back = layer.rotation(queries, -_places(self.count, steps, queries.device))
        mean = back.mean(2, keepdim=True)
        change, total = mean - self.mean, self.count + steps
        self.spread = self.spread + (back - mean).mT @ (back - mean) + change.mT @ change * (self.count * steps / total)
        self.mean = self.mean + change * (steps / total)
        self.count = total

    def score(self, layer):
        keys, size, mask = region(layer, layer.keys), layer.keys.shape[3], hidden(layer)
        ahead = _places(self.count, self.future, keys.device)
        unit = torch.eye(size, device=keys.device)
        turn = torch.stack([layer.rotation(row.expand(self.future, size), ahead).mean(0) for row in unit])
        mean, covariance = self.mean @ turn, turn.mT @ (self.spread / self.count) @ turn
        total = 0.0
        heads = keys.shape[1]
        for m, c in zip(_by_group(mean, heads), _by_group(covariance, heads), strict=True):
            products = layer.scale * (keys @ m.mT)[..., 0] + layer.scale**2 / 2 * ((keys @ c) * keys).sum(-1)
            if mask is not None:
                products = products.masked_fill(mask, -torch.inf)
            total = total + products.softmax(-1).nan_to_num()
        return total * region(layer, layer.values).norm(dim=-1) / (mean.shape[1] // heads)

    def compacted(self, positions, region):
        self._forget()

    def select_rows(self, index):
        if self.count:
            self.mean, self.spread = self.mean[index], self.spread[index]


def _places(first: int, count: int, device) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float32, device=device)


def _by_group(states: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """[B, Hq, ...] to the first query head of each key head [B, Hkv, ...], the second, ..."""
    return states.unflatten(1, (heads, -1)).unbind(2)
