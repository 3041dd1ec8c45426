"""The keys and values of one layer whose key heads hold as many entries as each is given, in one buffer for all of them.

    head 0: row 0 | room | row 1 | room     head 1: row 0 | room | ...

A head holds the same number of entries in each row of the batch: those of the prompt, what compressions left, and what came
since. All heads have the same room behind them, as every token adds one entry to each. So memory is what the budgets say,
not the longest head times the heads.
"""

import copy
import math
import time
from collections import deque

import torch

from lzpenalty._core import compact_, select_top
from lzpenalty.cache.attend import append_heads, attend_heads, is_ours, padding
from lzpenalty.cache.budgets import Budgets
from lzpenalty.cache.layer import RPCLayer, Settings
from lzpenalty.cache.selectors import Selector

__all__ = ["Head", "RaggedLayer"]


class Head:
    """One key head of a ragged layer, as selectors look at a layer: keys and values [B, 1, n, D], queries [B, G, R, D]."""

    aggregation = "group"

    def __init__(self, layer: "RaggedLayer", number: int):
        self.layer, self.number = layer, number
        self.length, self.start, self.keep = layer.entries[number], layer.start, layer.keep
        self.stop = self.length - layer.settings.plan.recent
        self.scale, self.kernel, self.rotation = layer.scale, layer.kernel, layer.rotation
        self.index = layer.index * len(layer.entries) + number
        self.keys, self.values = (
            layer.of_head(buffer, number)[:, :, : self.length] for buffer in (layer.key_slots, layer.value_slots)
        )

    def of_group(self, queries: torch.Tensor) -> torch.Tensor:
        """Of the queries of all heads those that look at this one's keys."""
        group = queries.shape[1] // len(self.layer.entries)
        return queries[:, self.number * group : (self.number + 1) * group]

    @property
    def queries(self) -> torch.Tensor:
        return self.of_group(self.layer.queries)

    @property
    def evidence(self) -> torch.Tensor:
        """float32 [B, 1, n], beside the keys; see RaggedLayer."""
        return self.layer.of_head(self.layer.evidence, self.number)[:, :, : self.length, 0]


class RaggedLayer(RPCLayer):
    """Keys and values whose heads have lengths of their own: `entries`, a number for each key head.

    For kernels a head of a row is a run of slots of the buffers [S, D]: it begins at `starts` and has `lengths` entries,
    both int64 [B, Hkv], of which the first `pads` [B] are padding. A selector that keeps evidence has a number for each slot
    in `evidence` [S, 1], which moves along with its keys. `length` is what a layer without budgets of its own would have:
    masks and plans count with it."""

    def __init__(self, settings: Settings, selector: Selector, index: int, budgets: Budgets, rotation=None):
        self.budgets, self.rotation = budgets, rotation
        budgets.layers.append(self)
        super().__init__(settings, selector, index)

    def reset(self) -> None:
        super().reset()
        self.evidence = self.starts = self.lengths = self.pads = self.prompt_query = None
        self.entries, self.capacities, self.head_selectors = [], [], []
        self.key_slots = self.value_slots = None
        self.rows = self.room = 0

    def of_head(self, buffer: torch.Tensor, head: int) -> torch.Tensor:
        """A view of one head's slots, [B, 1, capacity, D]."""
        first, capacity = self.rows * sum(self.capacities[:head]), self.capacities[head]
        return buffer[first : first + self.rows * capacity].view(self.rows, 1, capacity, buffer.shape[1])

    def heads(self) -> list[Head]:
        return [Head(self, number) for number in range(len(self.entries))]

    @property
    def selectors(self) -> list[Selector]:
        return self.head_selectors

    @property
    def is_even(self) -> bool:
        """Whether all heads hold as much as those of a layer without budgets, which masks are made for."""
        return all(entries == self.length for entries in self.entries)

    @property
    def buffers(self) -> list[torch.Tensor]:
        return [buffer for buffer in (self.key_slots, self.value_slots, self.evidence) if buffer is not None]

    # What transformers asks.

    def _store(self, key_states, value_states) -> None:
        new = key_states.shape[2]
        if self.key_slots is None:
            self.rows = key_states.shape[0]
            self.entries = [0] * key_states.shape[1]
            self.head_selectors = [copy.deepcopy(self.selector) for _ in self.entries]
            self.key_slots = key_states.new_empty(0, key_states.shape[3])
            self.value_slots = value_states.new_empty(0, value_states.shape[3])
            if self.own_selector.keeps_evidence:
                self.evidence = key_states.new_empty((0, 1), dtype=torch.float32)
            self.capacities = self.entries
            self._lay_out(new + self.settings.room(0, 0, 0))
        elif new > self.room:
            self._lay_out(max(new, self.settings.plan.interval))
        append_heads(self, key_states, value_states)
        self.lengths = self.lengths + new
        self.entries = [entries + new for entries in self.entries]
        self.room -= new

    def _visible(self, key_states, value_states):
        """What the model's own attention may see: all that there is, if that is the same for all heads."""
        if self.length == key_states.shape[2] or not self.is_even:
            return key_states, value_states
        capacity, length = self.capacities[0], self.entries[0]
        return tuple(
            buffer.view(-1, self.rows, capacity, buffer.shape[1]).transpose(0, 1)[:, :, :length]
            for buffer in (self.key_slots, self.value_slots)
        )

    def _view(self) -> None:
        """Keys of heads that differ in length are no tensor."""

    def select_rows(self, index: torch.Tensor) -> None:
        if not self.is_initialized:
            return
        index = torch.arange(self.rows, device=self.device)[index]
        self._lay_out(self.room, index)
        if self.pads is not None:
            self.pads = self.pads[index]
        if self.prompt_query is not None:
            self.prompt_query = self.prompt_query[index]
        self._recent = deque(queries[index] for queries in self._recent)
        for selector in [self.own_selector, *self.head_selectors]:
            selector.select_rows(index)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.select_rows(torch.arange(self.rows, device=self.device).repeat_interleave(repeats))

    # What the attention function says.

    def attends(self, attention_mask, flash: bool) -> None:
        if not self.answering:
            super().attends(attention_mask, flash)
            self.pads = padding(attention_mask)

    def attend(self, queries, attention_mask, scale, options) -> torch.Tensor | None:
        """As the base says. The model's own function sees a prompt, and several tokens until heads differ in length."""
        new, is_first = queries.shape[2], self.length == queries.shape[2]
        if is_first or (self.is_even and not (new == 1 and options["implementation"] == "sdpa" and is_ours(queries))):
            return None
        return attend_heads(queries, self, scale, options)

    def attended(self, queries: torch.Tensor, scale: float | None) -> None:
        self.scale = queries.shape[-1] ** -0.5 if scale is None else scale
        if not self.answering:
            self.prompt_query = queries[:, :, -1:].clone()
        elif self.own_selector.keeps_evidence:
            started = time.perf_counter()
            self.own_selector.observe(self, queries)
            self.seconds += time.perf_counter() - started
        else:
            for head, selector in zip(self.heads(), self.head_selectors, strict=True):
                selector.observe(head, head.of_group(queries))
        if self.answering:
            self._remember(queries)
        self.budgets.attended(self)
        self.waiting = False

    def scores(self, keep: int) -> list[torch.Tensor]:
        """Of each head, float32 [B, n] for the entries that may be dropped. `keep` is the mean that stays of them."""
        self.keep = keep
        return [
            selector.score(head).reshape(self.rows, -1)
            for head, selector in zip(self.heads(), self.head_selectors, strict=True)
        ]

    def compress(self, scores: list[torch.Tensor], budgets: list[int], intervals: int) -> None:
        """Keeps so many of each head's best entries, moves the others out, and makes room for the next interval."""
        self.positions = []
        for number, (score, budget) in enumerate(zip(scores, budgets, strict=True)):
            head = Head(self, number)
            if budget:
                positions = select_top(self._to_go_by(head, score, budget)[:, None].contiguous(), budget)
            else:
                positions = torch.empty((self.rows, 1, 0), dtype=torch.int64, device=self.device)
            keys, values = (self.of_head(buffer, number) for buffer in (self.key_slots, self.value_slots))
            if self.evidence is not None:
                evidence = self.of_head(self.evidence, number)[:, 0, :, 0]
                left = [evidence[:, head.start : head.stop].gather(1, positions[:, 0]), evidence[:, head.stop : head.length]]
                evidence[:, head.start : head.length - (head.stop - head.start) + budget] = torch.cat(left, dim=1)
            self.entries[number] = compact_(keys, values, positions, start=head.start, stop=head.stop, length=head.length)
            self.head_selectors[number].compacted(positions, head.stop - head.start)
            self.positions.append(positions)
        self.length = self.start + self.keep + self.settings.plan.recent
        self.intervals = intervals
        self.compressions += 1
        self._recent.clear()
        self._lay_out(self.settings.room(intervals, self.length - self.start, self.seen - self.start))

    def _to_go_by(self, head: Head, score: torch.Tensor, keep: int) -> torch.Tensor:
        """The head's scores [B, n], but for rows in which more is certain than stays."""
        selector = self.head_selectors[head.number]
        if selector.certain == math.inf:
            return score
        crowded = (score > selector.certain).sum(1, keepdim=True) > keep
        return torch.where(crowded, selector.crowded(head, score, keep), score) if crowded.any() else score

    # Memory.

    def _lay_out(self, room: int, rows: torch.Tensor | None = None) -> None:
        """New buffers with so much room behind each head, for these rows of the present ones."""
        capacities = [entries + room for entries in self.entries]
        count = self.rows if rows is None else len(rows)
        fresh = [buffer.new_empty((count * sum(capacities), buffer.shape[1])) for buffer in self.buffers]
        if self.evidence is not None:
            fresh[2].zero_()
        first = 0
        for head, (entries, capacity) in enumerate(zip(self.entries, capacities, strict=True)):
            for buffer, old in zip(fresh, self.buffers, strict=True):
                if entries:
                    held = self.of_head(old, head)[:, 0, :entries]
                    view = buffer[first : first + count * capacity].view(count, capacity, -1)
                    view[:, :entries] = held if rows is None else held[rows]
            first += count * capacity
        self.key_slots, self.value_slots, *rest = fresh
        self.evidence = rest[0] if rest else None
        self.rows, self.capacities, self.room = count, capacities, room
        sizes = torch.tensor(capacities, device=self.device)
        row = torch.arange(count, device=self.device)[:, None]
        self.starts = (sizes.cumsum(0) - sizes) * count + sizes * row
        self.lengths = torch.tensor(self.entries, device=self.device).expand(count, -1).contiguous()
