"""The keys and values of one layer whose rows have lengths of their own: what one of them drops, the others keep.

Each row's entries lie at the beginning of its part of the buffers, without gaps. As long as all rows have the same number of
them, the model's own attention sees a tensor, as ever. Once they differ no mask of the model's fits, so the attention is
computed here: by `attend` on the CPU, elsewhere by torch with a mask of the lengths.
"""

import torch
import torch.nn.functional as F

from lzpenalty._core import append_, compact_
from lzpenalty.cache import attend
from lzpenalty.cache.layer import RPCLayer

__all__ = ["RowsLayer"]


class RowsLayer(RPCLayer):
    """Keys and values whose rows have `entries`, a number for each; `length` is the largest, for which masks are made. The
    first `pads` [B] entries of rows are padding."""

    def reset(self) -> None:
        super().reset()
        self.entries: list[int] = []
        self.pads = self.starts = self.lengths = self.capacity = None
        self.peak = 0
        self.dropped = False

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
            append_(self._key_buffer, self._value_buffer, key_states, value_states, position=self.length)
            self.lengths = None
        else:
            self._measure()
            attend.append_heads(self, key_states, value_states)
            self.lengths = self.lengths + new
        self.entries = [entries + new for entries in self.entries]
        self.peak = max(self.peak, *self.entries)

    def _visible(self, key_states, value_states):
        self.waiting = True
        return super()._visible(key_states, value_states)

    def select_rows(self, index: torch.Tensor) -> None:
        if not self.is_initialized:
            return
        super().select_rows(index)
        chosen = torch.arange(len(self.entries), device=index.device)[index]
        self.entries = [self.entries[i] for i in chosen.tolist()]
        if self.pads is not None:
            self.pads = self.pads[chosen.to(self.pads.device)]
        self.length = max(self.entries)
        self.lengths = None
        self._view()

    # What the cache says.

    def drop(self, row: int, first: int, end: int) -> None:
        """Takes these entries out of a row; those behind them move down."""
        keys, values = self._key_buffer[row : row + 1], self._value_buffer[row : row + 1]
        none = torch.empty((1, 1, 0), dtype=torch.int64, device=self.device)
        self.entries[row] = compact_(keys, values, none, start=first, stop=end, length=self.entries[row])
        self.length = max(self.entries)
        self.lengths = None
        self.dropped = True

    # What the attention function says.

    def attends(self, attention_mask, flash: bool) -> None:
        super().attends(attention_mask, flash)
        if not self.answering and not self.dropped:
            self.pads = attend.padding(attention_mask)

    def attend(self, queries, attention_mask, scale, options) -> torch.Tensor | None:
        """As the base says. Masks of several tokens count columns that may be gone."""
        what = attend.check_options(options)
        if what:
            raise ValueError(f"model: expected attention to queries, keys and values alone, got one with {what}")
        if self.is_even and not (self.dropped and queries.shape[2] > 1):
            return super().attend(queries, attention_mask, scale, options)
        if self.is_even:
            self._measure()
        if attend.is_ours(queries):
            return attend.attend_heads(queries, self, scale, options)
        return self._attend(queries, queries.shape[-1] ** -0.5 if scale is None else scale, options.get("softcap"))

    def _attend(self, queries: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
        """The same by torch: [B, q, Hq, D]."""
        new, group = queries.shape[2], queries.shape[1] // self.keys.shape[1]
        at = torch.arange(self.length, device=queries.device)
        last = self.lengths[:, :1] - new + torch.arange(new, device=queries.device)  # that a query sees, [B, q]
        mask = at <= last[..., None]
        if self.pads is not None:
            mask = mask & (at >= self.pads[:, None, None])
        held = (at < self.lengths[:, :1])[:, None, :, None]  # behind it lies whatever memory held, NaN maybe
        keys, values = (torch.where(held, states, 0).repeat_interleave(group, dim=1) for states in (self.keys, self.values))
        if not softcap:
            output = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None], scale=scale)
        else:
            products = softcap * torch.tanh(queries.float() @ keys.float().mT * scale / softcap)
            weights = products.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
            output = (weights @ values.float()).to(values.dtype)
        return output.transpose(1, 2)
