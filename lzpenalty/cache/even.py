"""One layer of which every head of every row keeps as many entries: compacted in place, so attention sees tensors."""

import copy
import time

import torch

from lzpenalty._core import select_top
from lzpenalty.cache.attention import Call
from lzpenalty.cache.layer import Layer, Settings, compact, lasting
from lzpenalty.cache.selectors import Selector
from lzpenalty.cache.text import Text

__all__ = ["Compressed", "EvenLayer", "columns_behind"]


def columns_behind(columns: torch.Tensor, length: int, seen: int) -> torch.Tensor:
    """Columns [..., n] of the first entries, followed by those of all that came since: the text's newest."""
    more = torch.arange(seen - length + columns.shape[-1], seen, device=columns.device)
    return torch.cat([columns, more.expand(*columns.shape[:-1], -1)], dim=-1)


class Compressed(Layer):
    """What layers that selectors compress have in common: counts, and the queries that selectors ask for.

    `start` and `stop` are the region that may be dropped, `keep` is how many of its entries stay, `behind` tokens have come
    since the compression that is under way became due: those, and the `recent` ones before them, stay. `queries` are the
    last R before it became due, [B, Hq, R, D], oldest first."""

    def __init__(self, settings: Settings, selector: Selector, index: int, text: Text, rotation=None, calls: int = 1):
        self.selector, self.rotation = selector, rotation
        self.kernel, self.aggregation = settings.kernel, settings.aggregation
        super().__init__(settings, index, text, calls)

    def reset(self) -> None:
        super().reset()
        self.compressions = self.behind = 0
        self.keep = self.positions = self.queries = self._last = self._queries = None
        self._due = None  # how many tokens will have been generated at the next compression
        self._recent = []
        self.own_selector = copy.deepcopy(self.selector)

    def state(self) -> dict:
        states = [selector.state() for selector in (self.own_selector, *self.selectors)]
        return {
            **super().state(), "compressions": self.compressions, "recent": self._recent, "last": self._last,
            "selectors": states,
        }  # fmt: skip

    def set_state(self, state: dict) -> None:
        super().set_state(state)
        self.compressions, self._recent, self._last = state["compressions"], state["recent"], state["last"]
        self._restore(state)
        for selector, of_selector in zip((self.own_selector, *self.selectors), state["selectors"], strict=True):
            selector.set_state(of_selector)

    def _restore(self, state: dict) -> None:
        """What a layer has besides, before its selectors' states."""

    @property
    def generated(self) -> int:
        """Tokens behind the prompt."""
        return 0 if self.text.prompt is None else max(0, self.seen - self.text.prompt)

    @property
    def stop(self) -> int:
        return self.length - self.settings.plan.recent - self.behind

    def _remember(self, queries: torch.Tensor) -> bool:
        """Keeps the queries that a compression asks for. Returns whether it is due."""
        plan, generated, new = self.settings.plan, self.generated, queries.shape[2]
        if self._due is None:
            self._due = plan.next_due(generated - new)
        if generated < self._due:
            if (needed := generated - (self._due - plan.recent)) > 0:
                self._recent.append(queries[:, :, -min(needed, new) :].clone())
            return False
        self.behind = plan.behind(generated)
        every = torch.cat([*self._recent, queries[:, :, -min(plan.recent + self.behind, new) :]], dim=2)
        end = every.shape[2] - self.behind
        self.queries = every[:, :, end - plan.recent : end].clone()
        next_ones = generated - (plan.next_due(generated) - plan.recent)
        self._recent = [every[:, :, -next_ones:].clone()] if next_ones > 0 else []
        return True

    def _done(self) -> None:
        plan = self.settings.plan
        self.compressions, self._due, self.dropped = plan.compressions(self.generated), plan.next_due(self.generated), True
        self.behind, self.queries = 0, None

    @lasting
    def attended(self, call: Call) -> None:
        if not self.watches:
            return
        if self.waiting == self.calls:
            self._queries = self.text.live(call.queries, self._last)
            self._last = self._queries[:, :, -1:].clone()
            self.scale = call.scale
            self._observed(self._queries)
        if self.waiting == 1:
            self._step(self._queries)
            self._queries = None
        self.waiting -= 1  # last: what interrupts the rest leaves a broken cache

    def _observed(self, queries: torch.Tensor) -> None:
        """The step's queries [B, Hq, q, D] have attended to all entries."""

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
    `stop`, `length`, `keep`, `scale`, `kernel`, `aggregation`, `rotation` and `index`."""

    def reset(self) -> None:
        super().reset()
        self._columns = None  # of the first entries, int64 [B, 1 or Hkv, n]

    def state(self) -> dict:
        return {**super().state(), "columns": self._columns}

    def _restore(self, state: dict) -> None:
        self._columns = state["columns"]

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

    def _observed(self, queries: torch.Tensor) -> None:
        if self.generated:
            self.own_selector.observe(self, queries[:, :, -self.generated :])

    def _step(self, queries: torch.Tensor) -> None:
        if self.generated and self._remember(queries):
            self._compress()

    def _compress(self) -> None:
        started = time.perf_counter()
        region, stop = self.stop - self.start, self.stop
        self.keep = self.settings.plan.kept(self.settings.plan.compressions(self.generated))
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
        self._done()
        self.seconds += time.perf_counter() - started

    def select_rows(self, index: torch.Tensor) -> None:
        if not self.is_initialized:
            return
        super().select_rows(index)
        self._select(index)

    @lasting
    def _select(self, index: torch.Tensor) -> None:
        self._recent = [queries[index] for queries in self._recent]
        self._last = None if self._last is None else self._last[index]
        self._columns = None if self._columns is None else self._columns[index]
        self.own_selector.select_rows(index)
