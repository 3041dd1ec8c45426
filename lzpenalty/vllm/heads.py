"""Blocks in which each key head has places of its own.

vLLM keeps the keys and values of all layers in one allocation. Where a head's tokens lie side by side within a block, it can
be seen, without a copy, as sub-blocks, one for each block, layer and head, and any head of any layer may use any of those in
its request's blocks. To vLLM a request then has fewer blocks, of which it knows no more. Who owns which sub-block, it need
not know.

    a new block            gives each head one sub-block
    a compression          leaves each head as many as its entries need; those in blocks that are given back are moved into
                           the ones that stay, and what is to spare goes to the heads that will need it first

Both together are enough: with lengths that grow by one in each step, heads need no more sub-blocks in all than
:class:`lzpenalty.vllm.plan.HeadPlan` counts, and who was given one early needs the next one as much later.
"""

import itertools

import torch

from lzpenalty.vllm.blocks import find_layout

__all__ = ["Heads", "Pool", "make_pool", "versions"]

versions = itertools.count()  # of tables: each has a number of its own


class Pool:
    """All sub-blocks, by number.

    Parameters
    ----------
    origins : list of int
        Of each layer, the sub-block of its first head in block 0.
    stride, step : int
        From one block to the next, and from one head to the next.
    heads, tokens, count : int
        Key heads of a layer, tokens of a block, sub-blocks in all.
    """

    def __init__(self, origins: list[int], stride: int, step: int, heads: int, tokens: int, count: int, device="cpu"):
        self.layers, self.heads, self.tokens, self.count = len(origins), heads, tokens, count
        self._origins = torch.tensor(origins)[:, None, None] + step * torch.arange(heads)[:, None]
        self._stride = stride
        # What was found of each entry when it was asked for again. 0 behind the entries of every head.
        self.evidence = torch.zeros(count, tokens, device=device)
        self.cache = self.keys = self.values = None

    def of_blocks(self, blocks: list[int]) -> torch.Tensor:
        """int64 [layers, heads, n]: those of whole blocks."""
        return self._origins + self._stride * torch.tensor(blocks, dtype=torch.int64)

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies sub-blocks to others."""
        for states in (self.cache, self.evidence):
            source, target = source.to(states.device), target.to(states.device)
            states[target] = states[source]


def make_pool(layers: list) -> Pool:
    """Of the caches that vLLM has given its layers, [blocks, heads, tokens, size] in one allocation.

    Raises
    ------
    ValueError
        Where a head's tokens are not one piece of memory, or layers differ.
    """
    caches = [layer.kv_cache for layer in layers]
    first = caches[0]
    _, heads, tokens, content = first.shape
    size, storage = tokens * content, first.untyped_storage()
    whole = torch.empty(0, dtype=first.dtype, device=first.device).set_(storage)
    for cache in caches:
        if (
            cache.untyped_storage().data_ptr() != storage.data_ptr()
            or (cache.shape, cache.stride()) != (first.shape, first.stride())
            or cache.stride()[2:] != (content, 1)
            or any(number % size for number in (cache.storage_offset(), *cache.stride()[:2]))
        ):
            raise ValueError(
                "the selector 'echo' needs layers that are alike, in one allocation, in which a head's tokens lie side by "
                f"side; got {tuple(cache.shape)} with strides {cache.stride()} at {cache.storage_offset()}"
            )
    pool = Pool(
        [cache.storage_offset() // size for cache in caches], first.stride(0) // size, first.stride(1) // size,
        heads, tokens, whole.numel() // size, first.device,
    )  # fmt: skip
    pool.cache = whole[: pool.count * size].view(pool.count, 1, tokens, content)
    pool.keys, pool.values = find_layout(layers[0])(pool.cache)
    return pool


class Heads:
    """The heads of one request. All tensors are int64 on the CPU, [layers, heads]: `length`, their entries; `count`, their
    sub-blocks, which are the first of `table` [layers, heads, width]. `kept` are the tokens that compressions left behind
    the prompt, of each head; those that came since follow them."""

    def __init__(self, pool: Pool, prompt: int):
        self.pool, self.prompt = pool, prompt
        self.blocks: list[int] = []  # vLLM's
        self.count = torch.zeros(pool.layers, pool.heads, dtype=torch.int64)
        self.length = torch.zeros_like(self.count)
        self.table = torch.zeros(*self.count.shape, 0, dtype=torch.int64)
        self.kept = [torch.empty(0, dtype=torch.int64)] * self.count.numel()
        self.uneven = False  # whether heads may differ
        self.version = next(versions)  # of the table

    def grow(self, row: list[int], needed: int) -> None:
        """Takes the next blocks of the request's row, until there are as many as needed."""
        new = row[len(self.blocks) : needed]
        if len(self.blocks) + len(new) < needed:
            raise RuntimeError(f"expected a row of {needed} blocks, got {len(row)}")
        if not new:
            return
        given = self.pool.of_blocks(new)
        self._widen(int(self.count.max()) + len(new))
        self.table.scatter_(2, self.count[..., None] + torch.arange(len(new)), given)
        self.count += len(new)
        # The prompt's blocks may be others' as well, and of its entries there is no evidence.
        own = given[..., max(0, self.prompt // self.pool.tokens - len(self.blocks)) :].flatten()
        self.pool.evidence[own.to(self.pool.evidence.device)] = 0
        self.blocks += new
        self.version = next(versions)

    def slots(self, first: int, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the entries [first, last) of each head lie, counted in tokens of all sub-blocks: int64
        [layers, heads, n], and which of these there are. `last` is [layers, heads]."""
        at = torch.arange(first, max(first, int(last.max())))
        there = at < last[..., None]
        blocks = self.table[:, :, at // self.pool.tokens]
        return torch.where(there, blocks * self.pool.tokens + at % self.pool.tokens, 0), there

    def tokens(self, computed: int) -> list[torch.Tensor]:
        """Which tokens the entries behind the prompt are, of each head, once so many have been computed."""
        lengths = (self.length.flatten() - self.prompt).tolist()
        return [
            torch.cat([kept, torch.arange(computed - length + len(kept), computed)])
            for kept, length in zip(self.kept, lengths, strict=True)
        ]

    def shrink(self, keep: int) -> None:
        """Moves all entries into the first `keep` blocks, gives the others back, and deals out what is to spare."""
        pool, tokens = self.pool, self.pool.tokens
        need = -(-self.length // tokens)
        kept, gone = pool.of_blocks(self.blocks[:keep]), pool.of_blocks(self.blocks[keep:]).flatten()
        if int(need.sum()) > kept.numel():
            raise RuntimeError(f"expected entries in at most {kept.numel()} sub-blocks, got {int(need.sum())}")
        used = torch.arange(self.table.shape[2]) < need[..., None]
        free = kept[..., self.prompt // tokens :].flatten()
        free = free[~torch.isin(free, self.table[used])]
        strays = used & torch.isin(self.table, gone)
        moved = int(strays.sum())
        if moved:
            pool.move(self.table[strays], free[:moved])
            self.table[strays] = free[:moved]
        free = free[moved:]
        pool.evidence[free.to(pool.evidence.device)] = 0
        self.count = need
        room = torch.argsort((need * tokens - self.length).flatten(), stable=True)
        self._widen(int(need.max()) + -(-len(free) // max(1, room.numel())))
        counts = self.count.view(-1)
        table = self.table.view(room.numel(), -1)
        for given in free.split(room.numel()):
            taking = room[: len(given)]
            table[taking, counts[taking]] = given
            counts[taking] += 1
        del self.blocks[keep:]
        self.version = next(versions)

    def _widen(self, width: int) -> None:
        if width > self.table.shape[2]:
            more = self.table.new_zeros(*self.count.shape, width + 8 - self.table.shape[2])
            self.table = torch.cat([self.table, more], dim=2)
