"""R-KV, arXiv 2505.24133."""

import torch
import torch.nn.functional as F

from lzpenalty.cache.selectors.base import Selector, hidden, region

__all__ = ["RKV"]

_QUERIES, _KERNEL = 8, 7
_DUPLICATE = 0.5  # the cosine from which on two keys are near-duplicates
_BLOCK = 256  # keys that are compared with all others at once, so that memory is O(n)


class RKV(Selector):
    """R-KV (arXiv 2505.24133), as its authors' code has it: each key head keeps what was attended to and is no repetition.

        score = weight * attention - (1 - weight) * softmax over tokens of the redundancy

    Attention is that of the last 8 queries: the largest product in the group, softmax, mean over the queries, maximum of 7
    neighbours. The redundancy of a token is the mean cosine between its key and the others of the region, each of which
    leaves out its own newest near-duplicate (cosine above 0.5), so that of several copies the newest counts as no copy. The
    weight is .1 in the paper, .5 where Random Attention (arXiv 2609.03430) found that R-KV remembers a passcode.
    """

    def __init__(self, weight: float = 0.1):
        if not 0 <= weight <= 1:
            raise ValueError(f"weight: expected a number from 0 to 1, got {weight!r}")
        self.weight = weight

    def score(self, layer):
        keys = region(layer, layer.keys)
        rows, heads, _, size = keys.shape
        queries = layer.queries[:, :, -_QUERIES:].float().view(rows, heads, -1, min(_QUERIES, layer.queries.shape[2]), size)
        products = torch.stack([group @ keys.mT for group in queries.unbind(2)]).amax(0)
        products, mask = products * layer.scale, hidden(layer)
        if mask is not None:
            products = products.masked_fill(mask[:, :, None], -torch.inf)
        attention = F.max_pool1d(products.softmax(-1).nan_to_num().mean(2), _KERNEL, 1, _KERNEL // 2)
        return self.weight * attention - (1 - self.weight) * _redundancy(keys).softmax(-1)


def _redundancy(keys: torch.Tensor) -> torch.Tensor:
    """[B, Hkv, n] from keys [B, Hkv, n, D]."""
    unit = F.normalize(keys, dim=-1)
    n = keys.shape[2]
    total = unit.new_zeros(keys.shape[:3])
    at = torch.arange(n, device=keys.device)
    for first in range(0, n, _BLOCK):
        cosines = unit[:, :, first : first + _BLOCK] @ unit.mT
        cosines.diagonal(first, 2, 3).zero_()
        # Who has no near-duplicate leaves out the oldest key, as in the authors' code.
        newest = torch.where(cosines > _DUPLICATE, at, 0).amax(-1, keepdim=True)
        total += cosines.scatter_(3, newest, 0).sum(2)
    return total / n
