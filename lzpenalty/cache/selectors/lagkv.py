"""LagKV, arXiv 2504.04704."""

import torch

from lzpenalty.cache.plan import check_integer
from lzpenalty.cache.selectors.base import Selector

__all__ = ["LagKV"]


class LagKV(Selector):
    """LagKV (arXiv 2504.04704): the new tokens are cut into pieces of `lag`, and of each piece the same share stays in each
    key head: those whose numbers scatter most by the measure of what follows. Needs no queries.

        score = softmax over the piece of std over D of (k - least) / (largest - least), and the same of the values

    with the least and largest number of each of the D channels among the `lag` tokens behind the piece; for the last piece
    these may be no more than the R recent ones. What stays is not asked again, as in the paper; under a fixed `budget`,
    which the paper doesn't have, old tokens make way and are cut into pieces like the new ones."""

    def __init__(self, lag: int = 128):
        check_integer("lag", lag, 1)
        self.lag, self.left = lag, 0

    def score(self, layer):
        keys, values = layer.keys[:, :, layer.start :].float(), layer.values[:, :, layer.start :].float()
        if layer.hidden is not None:  # measures nothing
            mask = layer.hidden[..., layer.start :, None]
            keys, values = keys.masked_fill(mask, torch.nan), values.masked_fill(mask, torch.nan)
        end = layer.stop - layer.start
        old = self.left if self.left < layer.keep else 0
        scores = keys.new_full((*keys.shape[:2], end), torch.inf)
        for first in range(old, end, self.lag):
            last = min(first + self.lag, end)
            news = sum(_scatter(states[:, :, first:last], states[:, :, last : last + self.lag]) for states in (keys, values))
            rank = news.argsort(dim=-1, descending=True, stable=True).argsort(-1)
            scores[..., first:last] = 1 - rank / (last - first)
        return scores

    def compacted(self, positions, region):
        self.left = positions.shape[2]


def _scatter(states: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """[B, Hkv, n] for states [B, Hkv, n, D]."""
    least = reference.nan_to_num(torch.inf).amin(2, keepdim=True)
    largest = reference.nan_to_num(-torch.inf).amax(2, keepdim=True)
    span = largest - least
    relative = torch.where(span > 0, (states - least) / span, 0)  # a channel that is constant there measures nothing
    spread = relative.std(-1)
    return spread.masked_fill(spread.isnan(), -torch.inf).softmax(-1).nan_to_num()
