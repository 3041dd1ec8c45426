"""The keys and values of one layer whose rows have lengths of their own: what one of them drops, the others keep.

Each row's entries lie at the beginning of its part of the buffers, without gaps. As long as all rows have the same number of
them, the model's own attention sees a tensor, as ever. Once they differ no mask of the model's fits, so the attention is
computed here: by `attend` on the CPU, elsewhere by torch with a mask of the lengths.
"""

import torch

from lzpenalty.cache import attend
from lzpenalty.cache.attention import Call
from lzpenalty.cache.even import columns_behind
from lzpenalty.cache.layer import Layer, compact, lasting
from lzpenalty.cache.masks import follow

__all__ = ["RowsLayer"]


class RowsLayer(Layer):
    """Keys and values whose rows have `entries`, a number for each; `length` is the largest."""

    what = "ForgetCache"
    watches = True

    def reset(self) -> None:
        super().reset()
        self.entries: list[int] = []
        self._columns: list[torch.Tensor] = []  # of each row's first entries
        self.starts = self.lengths = self.capacity = self._shown = None
        self.peak = 0

    def state(self) -> dict:
        return {**super().state(), "entries": self.entries, "columns": self._columns, "peak": self.peak}

    def set_state(self, state: dict) -> None:
        super().set_state(state)
        self.entries, self._columns, self.peak = state["entries"], state["columns"], state["peak"]

    @property
    def is_even(self) -> bool:
        return all(entries == self.length for entries in self.entries)

    # What `attend` and `append_heads` look at: all heads of a row are as long as the row.

    @property
    def key_slots(self) -> torch.Tensor:
        return self._key_buffer.flatten(0, 2)

    @property
    def value_slots(self) -> torch.Tensor:
        return self._value_buffer.flatten(0, 2)

    @property
    def longest(self) -> int:
        return self.length

    def padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys, self._shown

    def _measure(self) -> None:
        """Where the runs of heads begin and how long they are, int64 [B, Hkv]; kept only while rows differ."""
        rows, heads, capacity, _ = self._key_buffer.shape
        if self.lengths is None or self.capacity != capacity:
            self.capacity = capacity
            self.starts = torch.arange(rows * heads, device=self.device).view(rows, heads) * capacity
            self.lengths = torch.tensor(self.entries, device=self.device)[:, None].expand(rows, heads).contiguous()

    # What transformers asks.

    def _store(self, key_states, value_states) -> None:
        new = key_states.shape[2]
        self._reserve(key_states, value_states)
        self.entries = self.entries or [0] * key_states.shape[0]
        if self.is_even:
            super()._store(key_states, value_states)
            self.lengths = None
        else:
            self._measure()
            attend.append_heads(self, key_states, value_states)
            self.lengths = self.lengths + new
        self.entries = [entries + new for entries in self.entries]
        self.peak = max(self.peak, *self.entries)

    def _visible(self, key_states, value_states):
        keys, self._shown = super()._visible(key_states, value_states)
        return keys, self._shown

    @lasting
    def select_rows(self, index: torch.Tensor) -> None:
        if not self.is_initialized:
            return
        super().select_rows(index)
        chosen = torch.arange(len(self.entries))[index.cpu()].tolist()
        self.entries = [self.entries[row] for row in chosen]
        self._columns = [self._columns[row] for row in chosen] if self._columns else []
        self.length = max(self.entries)
        self.lengths = None
        self._view()

    # What the cache says.

    @lasting
    def drop(self, row: int, first: int, end: int) -> None:
        """Takes these entries out of a row; those behind them move down."""
        if not self._columns:
            self._columns = [torch.empty(0, dtype=torch.int64, device=self.device) for _ in self.entries]
        columns = columns_behind(self._columns[row], self.entries[row], self.seen)
        self._columns[row] = torch.cat([columns[:first], columns[end:]])
        keys, values = self._key_buffer[row : row + 1], self._value_buffer[row : row + 1]
        none = torch.empty((1, 1, 0), dtype=torch.int64, device=self.device)
        self.entries[row] = compact(keys, values, none, first, end, self.entries[row])
        self.length = max(self.entries)
        self.lengths = None
        self.dropped = True

    def entry_columns(self) -> torch.Tensor:
        """As the base says, int64 [B, 1, n]; 0 behind a row's entries."""
        columns = [
            columns_behind(held, entries, self.seen) for held, entries in zip(self._columns, self.entries, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)[:, None]

    # What the attention function says.

    def attend(self, call: Call) -> torch.Tensor | None:
        """As the base says, until rows differ in length."""
        if self.dropped:
            attend.check_call(call, own=True)
        if self.is_even and not (self.dropped and call.new > 1):
            return super().attend(call)
        self._check_module(call.module)
        self._measure()
        view = None if call.is_flash else self.text.sees(call.mask)
        if view is None or (view.plain and not view.empty):
            if call.values is self._shown:
                return attend.attend_heads(call, self, view and view.pads)
            mask = attend.in_order(self, call.new, view and view.pads)
        else:
            view.check()
            mask = follow(call.mask, self.entry_columns(), call.queries.shape[1])
        return attend.attend_padded(call, self.keys, call.values, self.lengths, mask)
