"""Paged attention in which each key head is a sequence of its own.

Where heads of one request hold different numbers of entries, vLLM's own backend is called with requests times key heads as
many sequences of one key head each, over the sub-blocks of :mod:`lzpenalty.vllm.heads`: by a copy of the layer's
implementation and one of the builder of its metadata that know of one key head. All requests of a step are then written and
read in this way, those whose heads are alike too. No attention is computed here, on no device.
"""

import copy
import time
from functools import lru_cache

import torch

from lzpenalty.vllm.heads import Pool

__all__ = ["Explosion", "Row"]

# What implementations and builders call their numbers of heads.
_QUERY_HEADS, _KEY_HEADS = ("num_heads", "num_heads_q"), ("num_kv_heads", "num_heads_kv")


def _of_one_head(thing, group: int):
    """A copy that knows of one key head, and the query heads that share it."""
    one = copy.copy(thing)
    for names, number in ((_QUERY_HEADS, group), (_KEY_HEADS, 1)):
        found = [name for name in names if hasattr(one, name)]
        if not found:
            raise ValueError(f"the selector 'echo' does not know how {type(thing).__name__} counts heads")
        for name in found:
            setattr(one, name, number)
    for name in ("forward", "do_kv_cache_update"):  # ours, in the original
        vars(one).pop(name, None)
    return one


class Row:
    """A request in a step: the sub-blocks of its heads, [layers, heads, n], of which there is one such table to each `key`;
    entries of each head once the step's tokens are there, a number or [layers, heads]; and how many tokens are new."""

    def __init__(self, key, table: torch.Tensor, length, new: int):
        self.key, self.table, self.length, self.new = key, table, length, new


@lru_cache(maxsize=64)
def _order(scheduled: tuple[int, ...], heads: int):
    """Tokens in the order of requests, heads, and time: which of [tokens, heads] each is, None if that is their order
    already; its request, head, and how many of its request's tokens come later; and where each sequence begins."""
    first, order, requests, of_heads, behind = 0, [], [], [], []
    for request, new in enumerate(scheduled):
        tokens, head = torch.arange(first, first + new), torch.arange(heads)
        order.append((tokens * heads + head[:, None]).flatten())
        requests.append(torch.full((new * heads,), request))
        of_heads.append(head.repeat_interleave(new))
        behind.append((first + new - tokens).repeat(heads))
        first += new
    counts = torch.tensor(scheduled, dtype=torch.int32).repeat_interleave(heads)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0, dtype=torch.int32)])
    single = all(new == 1 for new in scheduled)
    return None if single else torch.cat(order), torch.cat(requests), torch.cat(of_heads), torch.cat(behind), starts


class Explosion:
    """The metadata of a step, in buffers that stay. A row's table is copied when it has changed, lengths and slots in each
    step, for all layers and heads at once."""

    def __init__(self, pool: Pool, layers: list, builder, device: torch.device):
        self.pool, self.device = pool, device
        self.group = layers[0].impl.num_heads // pool.heads
        self.builder = _of_one_head(builder, self.group)
        self.impls = [_of_one_head(layer.impl, self.group) for layer in layers]
        self.active = False
        self.seconds = 0.0  # that metadata took
        self.keys: list = []  # of the rows whose tables are in the buffer
        self.tables = torch.zeros(pool.layers, 0, pool.heads, 0, dtype=torch.int32)

    def begin(self, rows: list[Row]) -> None:
        started = time.perf_counter()
        pool, layers, heads = self.pool, self.pool.layers, self.pool.heads
        self._fit(len(rows), max(row.table.shape[2] for row in rows))
        lengths = torch.empty(layers, len(rows), heads, dtype=torch.int64)
        for r, row in enumerate(rows):
            lengths[:, r] = row.length
            if self.keys[r] != row.key:
                self.tables[:, r, :, : row.table.shape[2]] = row.table
                self.keys[r] = row.key
        scheduled = tuple(row.new for row in rows)
        order, requests, of_heads, behind, starts = _order(scheduled, heads)
        at = lengths[:, requests, of_heads] - behind
        blocks = self.tables[torch.arange(layers)[:, None], requests, of_heads, at // pool.tokens]
        self.slots = (blocks.long() * pool.tokens + at % pool.tokens).to(self.device)
        self.order = None if order is None else order.to(self.device)
        self.tokens, self.starts, self.longest_new = len(requests), starts, max(scheduled)
        self.lengths = lengths.view(layers, -1).int()
        self.longest = lengths.amax((1, 2)).tolist()
        self.rows = len(rows)
        self.active = True
        self.seconds += time.perf_counter() - started

    def _fit(self, rows: int, width: int) -> None:
        _, had, heads, wide = self.tables.shape
        if rows > had or width > wide:
            rows, width = max(rows, 2 * had), max(width, 2 * wide)
            self.tables = self.tables.new_zeros(self.pool.layers, rows, heads, width)
            self.keys = [None] * rows

    def _metadata(self, layer: int):
        from vllm.v1.attention.backend import CommonAttentionMetadata

        started = time.perf_counter()
        lengths = self.lengths[layer]
        starts, on_device = self.starts.to(self.device), lengths.to(self.device)
        built = self.builder.build(
            0,
            CommonAttentionMetadata(
                query_start_loc=starts, query_start_loc_cpu=self.starts, seq_lens=on_device, num_reqs=lengths.numel(),
                num_actual_tokens=self.tokens, max_query_len=self.longest_new, max_seq_len=self.longest[layer],
                block_table_tensor=self.tables[layer, : self.rows].flatten(0, 1).to(self.device),
                slot_mapping=self.slots[layer], causal=True, seq_lens_cpu_upper_bound=lengths,
            ),
        )  # fmt: skip
        self.seconds += time.perf_counter() - started
        return built

    def _by_head(self, states: torch.Tensor, heads: int) -> torch.Tensor:
        """Of the step's tokens [T, ..] one after the other of each sequence, [n, heads of a sequence, size]."""
        split = states.reshape(-1, heads, states.shape[-1])
        return split[: self.tokens] if self.order is None else split.index_select(0, self.order)

    def update(self, number: int, layer, key: torch.Tensor, value: torch.Tensor) -> None:
        """In the place of the layer's `do_kv_cache_update`."""
        key, value = self._by_head(key, 1), self._by_head(value, 1)
        self.impls[number].do_kv_cache_update(layer, key, value, self.pool.cache, self.slots[number])

    def forward(self, number: int, layer, query: torch.Tensor, output: torch.Tensor, **options) -> torch.Tensor:
        """In the place of its `forward`."""
        one = self.impls[number]
        queries = self._by_head(query.view(query.shape[0], -1, one.head_size), self.group)
        answers = output.view(-1, self.group, one.head_size)
        found = answers[: self.tokens] if self.order is None else torch.empty_like(queries)
        one.forward(layer, queries, None, None, self.pool.cache, self._metadata(number), output=found, **options)
        if self.order is not None:
            answers[self.order] = found
        return output
