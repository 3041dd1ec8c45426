"""One layer of which every head of every row keeps as many entries: compacted in place, so attention sees tensors."""

import time

import torch

from lzpenalty._core import select_top
from lzpenalty.cache.attention import Call
from lzpenalty.cache.layer import GROWTH, Layer, Settings, compact, lasting
from lzpenalty.cache.selectors import Selector
from lzpenalty.cache.text import Text
from lzpenalty.cache.track import Track

__all__ = ["Compressed", "EvenLayer", "columns_behind"]


def columns_behind(columns: torch.Tensor, length: int, seen: int) -> torch.Tensor:
    """Columns [..., n] of the first entries, followed by those of all that came since: the text's newest."""
    more = torch.arange(seen - length + columns.shape[-1], seen, device=columns.device)
    return torch.cat([columns, more.expand(*columns.shape[:-1], -1)], dim=-1)


class Compressed(Layer):
    """What layers that selectors compress have in common. `tracks` say how far rows are: one for all, or one for each."""

    def __init__(self, settings: Settings, selector: Selector, index: int, text: Text, rotation=None, calls: int = 1):
        self.selector, self.rotation = selector, rotation
        self.kernel, self.aggregation = settings.kernel, settings.aggregation
        super().__init__(settings, index, text, calls)

    def reset(self) -> None:
        super().reset()
        self.positions = self._last = self._queries = None
        self.tracks = [Track(self)]

    def state(self) -> dict:
        return {
            **super().state(), "last": self._last, "tracks": [track.state() for track in self.tracks],
            "selectors": [selector.state() for selector in self.selectors],
        }  # fmt: skip

    def set_state(self, state: dict) -> None:
        super().set_state(state)
        self._last = state["last"]
        self.tracks = [Track(self) for _ in state["tracks"]]
        for track, of_track in zip(self.tracks, state["tracks"], strict=True):
            track.set_state(of_track)
        self._restore(state)
        for selector, of_selector in zip(self.selectors, state["selectors"], strict=True):
            selector.set_state(of_selector)

    def _restore(self, state: dict) -> None:
        """What a layer has besides, before its selectors' states."""

    @property
    def own_selector(self) -> Selector:
        """Of the first rows."""
        return self.tracks[0].selector

    @property
    def compressions(self) -> int:
        """Of the row that is farthest."""
        return max(track.compressions for track in self.tracks)

    def until_due(self) -> int:
        """Tokens until the next compression of the row that is farthest, as far as that is known."""
        if not self.settings.compresses:
            return GROWTH
        generated = max(track.generated for track in self.tracks)
        return self.settings.plan.next_due(generated) - generated + max(0, (self.text.protect or 0) - self.seen)

    @lasting
    def attended(self, call: Call) -> None:
        if not self.watches:
            return
        if self.waiting == self.calls:
            last = self._last
            self._queries = self.text.live(call.queries, last)
            self._last = self._queries[:, :, -1:].clone()
            self.scale = call.scale
            self._observed(self._queries, last)
        if self.waiting == 1:
            self._step(self._queries)
            self._queries = None
        self.waiting -= 1  # last: what interrupts the rest leaves a broken cache

    def _observed(self, queries: torch.Tensor, last: torch.Tensor | None) -> None:
        """The step's queries [B, Hq, q, D] have attended to all entries; `last` [B, Hq, 1, D] is of the token before."""

    def _step(self, queries: torch.Tensor) -> None:
        """No more attention is computed in this step: now is the time to drop entries."""

    @property
    def selectors(self) -> list[Selector]:
        return self.selectors_of(0)

    def selectors_of(self, row: int) -> list[Selector]:
        return [self.own_selector]


def scored(score: torch.Tensor, hidden: torch.Tensor | None, start: int, stop: int) -> torch.Tensor:
    """A selector's scores [B, h, n], of which entries that are none of the text are the first to go."""
    return score if hidden is None else score.masked_fill(hidden[..., start:stop], -torch.inf)


class EvenLayer(Compressed):
    """Keys and values of heads that are all as long. Selectors look at `keys`, `values`, `queries`, `hidden`, `start`,
    `stop`, `length`, `keep`, `scale`, `kernel`, `aggregation`, `rotation` and `index`: `start` and `stop` are the region
    that may be dropped, `keep` is how many of its entries stay, `queries` are the last R before it became due."""

    def reset(self) -> None:
        super().reset()
        self._columns = None  # of the first entries, int64 [B, 1 or Hkv, n]

    def state(self) -> dict:
        return {**super().state(), "columns": self._columns}

    def _restore(self, state: dict) -> None:
        self._columns = state["columns"]

    @property
    def keep(self) -> int:
        return self.tracks[0].keep

    @property
    def queries(self) -> torch.Tensor:
        return self.tracks[0].queries

    @property
    def stop(self) -> int:
        return self.length - self.settings.plan.recent - self.tracks[0].behind

    @property
    def hidden(self) -> torch.Tensor | None:
        """Entries that are none of the text, or that the newest token does not see, bool [B, 1 or Hkv, n]; or None."""
        return self.hidden_entries()

    @property
    def buffers(self) -> list[torch.Tensor]:
        return super().buffers + ([] if self._columns is None else [self._columns])

    def entry_columns(self) -> torch.Tensor:
        columns = self._columns
        if columns is None:
            columns = torch.empty((self.rows, 1, 0), dtype=torch.int64, device=self.device)
        return columns_behind(columns, self.length, self.seen)

    def attend(self, call: Call) -> torch.Tensor | None:
        output = super().attend(call)
        if self.watches:
            self.text.check_alike()
        return output

    def _observed(self, queries: torch.Tensor, last: torch.Tensor | None) -> None:
        if generated := self.tracks[0].generated:
            self.own_selector.observe(self, queries[:, :, -generated:])

    def _step(self, queries: torch.Tensor) -> None:
        if self.tracks[0].generated and self.tracks[0].remember(queries):
            self._compress()

    def _compress(self) -> None:
        started = time.perf_counter()
        region, stop = self.stop - self.start, self.stop
        if self.keep:
            scores = self.own_selector.score(self)
            positions = select_top(scored(scores, self.hidden, self.start, stop).contiguous(), self.keep)
        else:
            positions = torch.empty((self.rows, 1, 0), dtype=torch.int64, device=self.device)
        columns = self.entry_columns()
        columns = columns.expand(-1, max(columns.shape[1], positions.shape[1]), -1)
        kept = columns[..., self.start : stop].gather(2, positions.expand(-1, columns.shape[1], -1))
        self._columns = torch.cat([columns[..., : self.start], kept, columns[..., stop:]], dim=2)
        self.length = compact(self._key_buffer, self._value_buffer, positions, self.start, stop, self.length)
        self._view()
        self.own_selector.compacted(positions, region)
        self.positions = positions
        self.tracks[0].done()
        self.dropped = True
        self.seconds += time.perf_counter() - started

    def select_rows(self, index: torch.Tensor) -> None:
        if not self.is_initialized:
            return
        super().select_rows(index)
        self._select(index)

    @lasting
    def _select(self, index: torch.Tensor) -> None:
        self._last = None if self._last is None else self._last[index]
        self._columns = None if self._columns is None else self._columns[index]
        self.tracks[0].select_rows(index)
