"""The keys and values of one layer, in buffers with room to grow: appended to, scored, and compacted in place."""

import copy
import time
from collections import deque
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, DynamicLayer

from lzpenalty._core import append_, compact_, select_top
from lzpenalty.cache.attend import attend_one
from lzpenalty.cache.attention import mark
from lzpenalty.cache.plan import Plan, check_integer
from lzpenalty.cache.selectors import Selector

__all__ = ["ASKS_FOR_QUERY_OFFSET", "RPCLayer", "Settings", "count"]

ASKS_FOR_QUERY_OFFSET = hasattr(Cache, "get_query_offset")  # transformers >= 5.14
_GROWTH = 1024  # tokens that a buffer grows by where no interval says how many


@dataclass(frozen=True)
class Settings:
    """What RPCCache was told, for its layers. Raises TypeError and ValueError for what can't be."""

    plan: Plan
    kernel: int
    aggregation: str | None
    max_new_tokens: int | None
    allocation: str = "even"

    def __post_init__(self):
        check_integer("kernel", self.kernel, 1)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, got {self.kernel}")
        if self.allocation not in ("even", "global"):
            raise ValueError(f"allocation: expected 'even' or 'global', got {self.allocation!r}")
        if self.allocation == "global" and not self.compresses:
            raise ValueError("interval: expected an integer where allocation is 'global', got None")
        if self.aggregation not in ("layer", "group"):
            raise ValueError(f"aggregation: expected 'layer' or 'group', got {self.aggregation!r}")
        if self.allocation == "global" and self.aggregation == "layer":
            raise ValueError("aggregation: expected 'group' where allocation is 'global', got 'layer'")
        if self.max_new_tokens is not None:
            check_integer("max_new_tokens", self.max_new_tokens, 1)

    @property
    def compresses(self) -> bool:
        return self.plan.interval is not None

    def room(self, intervals: int, held: int, generated: int) -> int:
        """Tokens that will come before the next compression, or to the end, if that is known and earlier. So many intervals
        have been compressed, and so many of the generated tokens are held."""
        room = self.plan.due(intervals) + self.plan.recent - held
        return room if self.max_new_tokens is None else max(0, min(room, self.max_new_tokens - generated))

    def capacity(self, prompt: int) -> int:
        """Tokens to make room for at first: all that there will be, if that is known."""
        if self.max_new_tokens is not None:
            return prompt + self.plan.peak(self.max_new_tokens)
        return prompt + (self.plan.due(0) + self.plan.recent if self.compresses else _GROWTH)


class RPCLayer(DynamicLayer):
    """The keys and values of one layer, at the beginning of buffers that are larger. `keys`, `values`, `queries`, `start`,
    `stop`, `length`, `keep`, `scale`, `kernel`, `aggregation` and `index` are what selectors look at."""

    is_croppable = False

    def __init__(self, settings: Settings, selector: Selector, index: int):
        super().__init__()
        self.settings, self.selector, self.index = settings, selector, index
        self.kernel, self.aggregation = settings.kernel, settings.aggregation
        self.reset()

    def reset(self) -> None:
        self.keys = self.values = self._key_buffer = self._value_buffer = None
        self.is_initialized = False
        self.seen = self.length = self.start = 0
        self.intervals = self.compressions = 0
        self.answering = self.waiting = self.padded = False
        self.seconds = 0.0
        self.scale = self.keep = None
        self._recent = deque()
        self.own_selector = copy.deepcopy(self.selector)

    # What transformers asks.

    def lazy_initialization(self, key_states, *args) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens seen, so that positions go on counting when tokens are dropped."""
        return self.seen

    def get_mask_sizes(self, query_length) -> tuple[int, int]:
        """The number of keys that attention gets, and the column of the attention mask that the first one stands for.

        That is column 0, where the prompt's padding is. Before 5.14 a query's row counts from the tokens seen: then several
        new tokens see the right ones of each other only if columns count from as many more."""
        queries = count(query_length)
        shift = queries > 1 and not ASKS_FOR_QUERY_OFFSET
        return self.length + queries, self.seen - self.length if shift else 0

    def update(self, key_states, value_states, *args, **kwargs):
        started = time.perf_counter()
        if self.waiting:
            raise RuntimeError(
                f"layer {self.index} was updated twice without attention in between that RPCCache could see. Use the cache "
                "inside of its `with` block; if it was, this model's attention can't be wrapped"
            )
        new = key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        self._store(key_states, value_states)
        self.waiting = self.settings.compresses  # first: what interrupts the rest leaves a broken cache
        self.length += new
        self.seen += new
        self.answering = self.answering or new == 1
        if not self.answering:
            self.start = self.length
        keys, values = self._visible(key_states, value_states)
        mark(keys, self)
        self.seconds += time.perf_counter() - started
        return keys, values

    def _store(self, key_states, value_states) -> None:
        self._reserve(key_states, value_states)
        append_(self._key_buffer, self._value_buffer, key_states, value_states, position=self.length)

    def _visible(self, key_states, value_states):
        """The keys and values that the attention function gets."""
        self._view()
        return self.keys, self.values

    def select_rows(self, index: torch.Tensor) -> None:
        """The rows of the batch become these of the present ones: beams that go on, or are dropped, or multiply."""
        if not self.is_initialized:
            return
        keys, values = self.keys[index], self.values[index]
        if keys.shape[0] != self._key_buffer.shape[0]:
            self._key_buffer = self._like(keys, self._key_buffer.shape[2])
            self._value_buffer = self._like(values, self._value_buffer.shape[2])
        self._key_buffer[:, :, : self.length] = keys
        self._value_buffer[:, :, : self.length] = values
        self._view()
        self._recent = deque(queries[index] for queries in self._recent)
        self.own_selector.select_rows(index)

    def reorder_cache(self, beam_idx) -> None:
        self.select_rows(beam_idx.to(self.device) if self.is_initialized else beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.select_rows(torch.arange(self.keys.shape[0], device=self.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices) -> None:
        self.select_rows(indices)

    def crop(self, *args) -> None:
        raise RuntimeError("RPCCache can't take tokens back, so assisted decoding is not supported")

    activate_past_recording = crop

    # What the attention function says.

    @property
    def stop(self) -> int:
        """The end of the region that may be dropped; the `recent` tokens behind it may not."""
        return self.length - self.settings.plan.recent

    @property
    def queries(self) -> torch.Tensor:
        return torch.cat(tuple(self._recent), dim=2)[:, :, -self.settings.plan.recent :]

    def attends(self, attention_mask, flash: bool) -> None:
        """Attention to all keys is about to be computed. In the first of them the mask shows the padding."""
        if self.start < self.length or attention_mask is None:
            return
        if flash:  # which takes the mask's last columns, whatever has been dropped
            raise ValueError(
                "attention_mask: expected no left padding with FlashAttention, got a padded batch; use sdpa instead"
            )
        if not ASKS_FOR_QUERY_OFFSET:
            oldest = attention_mask[:, :, -1, 0]
            self.padded = bool((~oldest if oldest.dtype == torch.bool else oldest < 0).any())

    def attend(self, queries: torch.Tensor, attention_mask, scale: float | None, options: dict) -> torch.Tensor | None:
        """The step's attention, [B, q, Hq, D], or None where the model's own function is to compute it. `options` are what
        else that would be called with, and its name."""
        if options["implementation"] == "sdpa":
            return attend_one(queries, self.keys, self.values, attention_mask, scale, options)
        return None

    def attended(self, queries: torch.Tensor, scale: float | None) -> None:
        """The step's queries [B, Hq, q, D] have attended to all keys: now is the time to drop some."""
        if self.answering and self.settings.compresses:
            self.scale = queries.shape[-1] ** -0.5 if scale is None else scale
            self.own_selector.observe(self, queries)
            if self._remember(queries) <= 0:
                self._compress()
        self.waiting = False

    def _remember(self, queries: torch.Tensor) -> int:
        """Keeps the queries that will be asked for. Returns how many tokens are left until a compression is due."""
        left = self.settings.plan.due(self.intervals) - (self.stop - self.start)
        if left < self.settings.plan.recent:
            recent = queries[:, :, -self.settings.plan.recent :]
            self._recent.append(recent if recent.shape[2] == queries.shape[2] else recent.clone())
        return left

    def _compress(self) -> None:
        started = time.perf_counter()
        region = self.stop - self.start
        intervals = self.settings.plan.reached(self.intervals, region)
        self.keep = self.settings.plan.kept(intervals)
        if self.keep:
            positions = select_top(self.own_selector.score(self), self.keep)
        else:
            positions = torch.empty((self.keys.shape[0], 1, 0), dtype=torch.int64, device=self.device)
        self.length = compact_(
            self._key_buffer, self._value_buffer, positions, start=self.start, stop=self.stop, length=self.length
        )
        self._view()
        self.own_selector.compacted(positions, region)
        self.intervals = intervals
        self.compressions += 1
        self._recent.clear()
        self.positions = positions
        self.seconds += time.perf_counter() - started

    @property
    def selectors(self) -> list[Selector]:
        return [self.own_selector]

    # Memory.

    @property
    def buffers(self) -> list[torch.Tensor]:
        """All memory that the layer holds for what has been seen."""
        return [buffer for buffer in (self._key_buffer, self._value_buffer) if buffer is not None]

    @staticmethod
    def _like(states: torch.Tensor, capacity: int) -> torch.Tensor:
        return states.new_empty((*states.shape[:2], capacity, states.shape[3]))

    def _reserve(self, key_states, value_states) -> None:
        """Makes room for the new tokens. Both buffers are there before either is used."""
        needed = self.length + key_states.shape[2]
        if self._key_buffer is None:
            capacity = self.settings.capacity(needed)
        elif needed > self._key_buffer.shape[2]:
            capacity = max(needed, self._key_buffer.shape[2] + (self.settings.plan.interval or _GROWTH))
        else:
            return
        key_buffer, value_buffer = self._like(key_states, capacity), self._like(value_states, capacity)
        if self._key_buffer is not None:
            key_buffer[:, :, : self.length] = self.keys
            value_buffer[:, :, : self.length] = self.values
        self._key_buffer, self._value_buffer = key_buffer, value_buffer

    def _view(self) -> None:
        self.keys = self._key_buffer[:, :, : self.length]
        self.values = self._value_buffer[:, :, : self.length]


def count(query_length) -> int:
    """Queries of a forward, which transformers < 5.4 passes as their positions."""
    return query_length if isinstance(query_length, int) else query_length.shape[0]
