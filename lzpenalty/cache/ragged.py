"""One layer whose key heads hold as many entries as each is given in each row, in one buffer for all of them.

    head 0: row 0 | room | row 1 | room     head 1: row 0 | room | ...

A head of a row is a cell. It holds the prompt's entries, what compressions left, and what came since. All cells have the
same room behind them, as every token adds one entry to each. So memory is what the budgets say, not the longest head times
the heads.
"""

import copy
import math
import time

import torch

from lzpenalty._core import select_top
from lzpenalty.cache.attend import append_heads, attend_heads, attend_padded, check_call
from lzpenalty.cache.attention import Call
from lzpenalty.cache.budgets import Budgets
from lzpenalty.cache.even import Compressed, scored
from lzpenalty.cache.layer import Settings, lasting, promoted
from lzpenalty.cache.masks import follow
from lzpenalty.cache.selectors import Selector
from lzpenalty.cache.text import Text
from lzpenalty.cache.track import Track

__all__ = ["Cell", "RaggedLayer"]

_STATE = (
    "key_slots", "value_slots", "evidence", "_columns", "starts", "lengths", "heads", "room", "_held", "_first", "_since",
)  # fmt: skip


class Cell:
    """One key head of a ragged layer in one row, as selectors look at a layer: keys and values [1, 1, n, D], queries
    [1, G, R, D]."""

    aggregation = "group"

    def __init__(self, layer: "RaggedLayer", row: int, head: int):
        self.layer, self.row, self.head, self.track = layer, row, head, layer.track_of(row)
        self.length, self.start, self.keep = layer.entries(row, head), self.track.start, self.track.keep
        self.stop = self.length - layer.settings.plan.recent - self.track.behind
        self.scale, self.kernel, self.rotation = layer.scale, layer.kernel, layer.rotation
        self.index = layer.index * layer.heads + head
        self.keys, self.values = (self._of(buffer)[None, None] for buffer in (layer.key_slots, layer.value_slots))

    def _of(self, buffer: torch.Tensor) -> torch.Tensor:
        return self.layer.of_cell(buffer, self.row, self.head)

    def of_group(self, queries: torch.Tensor) -> torch.Tensor:
        """Of the queries of all heads and the track's rows those that look at this one's keys."""
        group, row = queries.shape[1] // self.layer.heads, self.row - (self.track.row or 0)
        return queries[row : row + 1, self.head * group : (self.head + 1) * group]

    @property
    def queries(self) -> torch.Tensor:
        return self.of_group(self.track.queries)

    @property
    def evidence(self) -> torch.Tensor:
        """float32 [1, 1, n], beside the keys; see RaggedLayer."""
        return self._of(self.layer.evidence)[None, None, :, 0]

    @property
    def hidden(self) -> torch.Tensor | None:
        """Entries that are none of the text, or that the newest token does not see, bool [1, 1, n]; or None."""
        hidden = self.layer.text.hidden
        return None if hidden is None else hidden[self.row, self.layer.columns_of(self.row, self.head)][None, None]


class RaggedLayer(Compressed):
    """Keys and values whose heads have lengths of their own in each row.

    For kernels a cell is a run of slots of the buffers [S, D]: it begins at `starts` and has `lengths` entries, both int64
    [B, Hkv]. A selector that keeps evidence has a number for each slot in `evidence` [S, 1], which moves along with its
    keys. `length` is what a layer without budgets of its own would have."""

    def __init__(self, settings: Settings, selector: Selector, index: int, text: Text, budgets: Budgets, rotation=None):
        self.budgets = budgets
        budgets.layers.append(self)
        super().__init__(settings, selector, index, text, rotation)

    def reset(self) -> None:
        super().reset()
        self.evidence = self.starts = self.lengths = self.key_slots = self.value_slots = None
        self._columns = None  # of the entries that there were when room was made last, int32 [S, 1]
        self._held: list[list[int]] = []  # entries of each row's heads then
        self._since = 0  # entries of each cell that have come since
        self._first: list[list[int]] = []  # slots of each row's heads
        self.cell_selectors: list[list[Selector]] = []
        self.heads = self.room = 0
        self.due: list[Track] = []

    def state(self) -> dict:
        return {**super().state(), **{name: getattr(self, name) for name in _STATE}}

    def _restore(self, state: dict) -> None:
        for name in _STATE:
            setattr(self, name, state[name])
        self._make_selectors(len(self._held))
        if self._held:
            self.lazy_initialization(self.key_slots)

    def _make_selectors(self, rows: int) -> None:
        self.cell_selectors = [[copy.deepcopy(self.selector) for _ in range(self.heads)] for _ in range(rows)]

    def entries(self, row: int, head: int) -> int:
        """That a cell has."""
        return self._held[row][head] + self._since

    @property
    def longest(self) -> int:
        return max(map(max, self._held)) + self._since

    @property
    def rows(self) -> int:
        return len(self._held)

    def of_cell(self, buffer: torch.Tensor, row: int, head: int) -> torch.Tensor:
        """A view of one cell's entries, [n, D]."""
        first = self._first[row][head]
        return buffer[first : first + self.entries(row, head)]

    def cells(self, track: Track | None = None) -> list[list[Cell]]:
        """Of each row its heads; of all rows, or those of a track."""
        rows = range(self.rows)[slice(None) if track is None else track.rows]
        return [[Cell(self, row, head) for head in range(self.heads)] for row in rows]

    @property
    def start(self) -> int:
        """The most of a row."""
        return max(track.start for track in self.tracks)

    def track_of(self, row: int) -> Track:
        return self.tracks[row if len(self.tracks) > 1 else 0]

    @property
    def selectors(self) -> list[Selector]:
        return [selector for of_row in self.cell_selectors for selector in of_row]

    def selectors_of(self, row: int) -> list[Selector]:
        return self.cell_selectors[row]

    @property
    def buffers(self) -> list[torch.Tensor]:
        return [buffer for buffer in (self.key_slots, self.value_slots, self._columns, self.evidence) if buffer is not None]

    # What transformers asks.

    def _store(self, key_states, value_states) -> None:
        rows, heads, new, _ = key_states.shape
        if self.key_slots is None:
            self.heads = heads
            self._held = [[0] * heads for _ in range(rows)]
            self._make_selectors(rows)
            self.key_slots = key_states.new_empty(0, key_states.shape[3])
            self.value_slots = value_states.new_empty(0, value_states.shape[3])
            self._columns = torch.empty((0, 1), dtype=torch.int32, device=key_states.device)
            if self.own_selector.keeps_evidence:
                self.evidence = key_states.new_empty((0, 1), dtype=torch.float32)
            self._lay_out(new + self.settings.room(0))
        elif new > self.room:
            self._lay_out(max(new, self.settings.plan.interval))
        self.key_slots, self.value_slots = promoted(self.key_slots, key_states), promoted(self.value_slots, value_states)
        append_heads(self, key_states, value_states)
        self.lengths = self.lengths + new
        self._since += new
        self.room -= new

    def _visible(self, key_states, value_states):
        """What the model's own attention may see: all that there is, as long as nothing has been dropped."""
        shown = key_states, value_states
        if self.length > key_states.shape[2] and not self.dropped:
            capacity = self.length + self.room
            shown = tuple(
                buffer.view(self.heads, self.rows, capacity, buffer.shape[1]).transpose(0, 1)[:, :, : self.length]
                for buffer in (self.key_slots, self.value_slots)
            )
        self._shown = shown[1]
        return shown

    @lasting
    def select_rows(self, index: torch.Tensor) -> None:
        if not self.is_initialized:
            return
        rows = torch.arange(self.rows)[index.cpu()].tolist()
        self._lay_out(self.room, rows)
        self.cell_selectors = [copy.deepcopy(self.cell_selectors[row]) for row in rows]
        self._last = None if self._last is None else self._last[index]
        if self.tracks[0].row is None:
            self.tracks[0].select_rows(index)
        else:
            self.tracks = [self.tracks[old].of_row(new) for new, old in enumerate(rows)]

    # What the attention function says.

    def attend(self, call: Call) -> torch.Tensor | None:
        """As the base says. The model's own function sees a prompt, and several tokens until something is dropped."""
        if not self.dropped:
            return super().attend(call)
        self._check_module(call.module)
        check_call(call, own=True)
        if call.values is not self._shown:
            raise ValueError("model: expected attention to the values that the cache returned, got others")
        view = None if call.is_flash else self.text.sees(call.mask)
        if view is None or (view.plain and not view.empty):
            return attend_heads(call, self, view and view.pads)
        view.check()
        mask = follow(call.mask, self.entry_columns(), call.queries.shape[1])
        return attend_padded(call, *self.padded(), self.lengths, mask)

    def _observed(self, queries: torch.Tensor, last: torch.Tensor | None) -> None:
        if len(self.tracks) < self.rows and not self.text.alike:  # nothing has come behind what stays of any row
            self.tracks = [self.tracks[0].of_row(row) for row in range(self.rows)]
        started = time.perf_counter()
        for track in self.tracks:
            generated, asked = track.generated, queries[track.rows]
            if not generated:
                continue
            if generated <= asked.shape[2] and self.text.protect != 0:
                every = asked if last is None else torch.cat([last[track.rows], asked], dim=2)
                at = every.shape[2] - generated
                track.before = every[:, :, at - 1 : at].clone()
            asked = asked[:, :, -generated:]
            if self.selector.keeps_evidence:
                track.selector.observe(track, asked)
            else:
                for cell, selector in self._selected(track):
                    selector.observe(cell, cell.of_group(asked))
        self.seconds += time.perf_counter() - started

    def _selected(self, track: Track):
        """Each of the track's cells with its selector."""
        for cells in self.cells(track):
            for cell in cells:
                yield cell, self.cell_selectors[cell.row][cell.head]

    def _step(self, queries: torch.Tensor) -> None:
        self.due = [track for track in self.tracks if track.generated and track.remember(queries[track.rows])]
        self.budgets.attended(self)

    def scores(self, track: Track) -> list[list[torch.Tensor]]:
        """Of each head of the track's rows, float32 [n] for the entries that may be dropped."""
        scores = [self._score(*each) if track.keep else torch.empty(0) for each in self._selected(track)]
        return [scores[first : first + self.heads] for first in range(0, len(scores), self.heads)]

    def region_columns(self, track: Track) -> list[list[torch.Tensor]]:
        """As `scores`: which columns of the text these entries stand for, int64 [n]."""
        return [
            [self.columns_of(cell.row, cell.head)[cell.start : cell.stop] for cell in cells] for cells in self.cells(track)
        ]

    @staticmethod
    def _score(cell: Cell, selector: Selector) -> torch.Tensor:
        return scored(selector.score(cell), cell.hidden, cell.start, cell.stop).flatten()

    def compress(self, track: Track, scores: list[list[torch.Tensor]], budgets: list[list[int]]) -> None:
        """Keeps so many of the best entries of each of the track's cells, and makes room for the next interval."""
        kept, self.positions = {}, []
        for cells, of_row, budgets_of_row in zip(self.cells(track), scores, budgets, strict=True):
            selectors = self.cell_selectors[cells[0].row]
            chosen = [self._choose(*each) for each in zip(cells, of_row, budgets_of_row, selectors, strict=True)]
            for cell, positions, selector in zip(cells, chosen, selectors, strict=True):
                selector.compacted(positions[None, None], cell.stop - cell.start)
            self.positions.append(chosen)
            kept[cells[0].row] = [self._stays(cell, positions) for cell, positions in zip(cells, chosen, strict=True)]
        track.done()
        plan, generated = self.settings.plan, [track.generated for track in self.tracks]
        self.length, self.dropped = self.seen - min(map(plan.dropped, generated)), True
        self._lay_out(min(map(self.settings.room, generated)), kept=kept)

    def _choose(self, cell: Cell, score: torch.Tensor, budget: int, selector: Selector) -> torch.Tensor:
        """The region's entries that stay, int64 [budget]."""
        if not budget:
            return torch.empty(0, dtype=torch.int64, device=self.device)
        if selector.certain < math.inf and int((score > selector.certain).sum()) > budget:
            score = scored(selector.crowded(cell, score[None], budget), cell.hidden, cell.start, cell.stop).flatten()
        return select_top(score[None, None].contiguous(), budget)[0, 0]

    def _stays(self, cell: Cell, positions: torch.Tensor) -> torch.Tensor:
        at = torch.arange(cell.length, device=self.device)
        return torch.cat([at[: cell.start], cell.start + positions, at[cell.stop :]])

    # All cells as tensors, each as long as the longest, for torch.

    def padded_slots(self) -> torch.Tensor:
        """int64 [B, Hkv, n]; behind a cell's entries are slots that hold something, but none of the cell's."""
        at = torch.arange(self.longest, device=self.device)
        return (self.starts[..., None] + at).clamp(max=len(self.key_slots) - 1)

    def padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        slots = self.padded_slots()
        return self.key_slots[slots], self.value_slots[slots]

    def entry_columns(self) -> torch.Tensor:
        """As the base says, int64 [B, Hkv, n]; 0 behind a cell's entries."""
        at = torch.arange(self.longest, device=self.device)
        lengths = self.lengths[..., None]
        columns = torch.where(at < lengths - self._since, self._columns[self.padded_slots(), 0], self.seen - lengths + at)
        return torch.where(at < lengths, columns, 0)

    def columns_of(self, row: int, head: int) -> torch.Tensor:
        """Of one cell, int64 [n]."""
        held = self._held[row][head]
        first = self._first[row][head]
        newest = torch.arange(self.seen - self._since, self.seen, device=self.device)
        return torch.cat([self._columns[first : first + held, 0].long(), newest])

    # Memory.

    def _lay_out(self, room: int, rows: list[int] | None = None, kept: dict[int, list[torch.Tensor]] | None = None) -> None:
        """New buffers with so much room behind each cell, for these rows of the present ones, and of some rows these entries
        of each head; all by default."""
        rows, kept = list(range(self.rows)) if rows is None else rows, kept or {}
        held = [
            [len(kept[row][head]) if row in kept else self.entries(row, head) for head in range(self.heads)] for row in rows
        ]
        first, total = [[0] * self.heads for _ in rows], 0
        for head in range(self.heads):
            for row in range(len(rows)):
                first[row][head] = total
                total += held[row][head] + room
        buffers = self.buffers
        fresh = [buffer.new_empty((total, buffer.shape[1])) for buffer in buffers]
        if self.evidence is not None:
            fresh[-1].zero_()
        for row, old in enumerate(rows):
            for head in range(self.heads):
                if not held[row][head]:
                    continue
                place = slice(first[row][head], first[row][head] + held[row][head])
                for buffer, new in zip(buffers, fresh, strict=True):
                    if buffer is self._columns:
                        entries = self.columns_of(old, head)[:, None]
                    else:
                        entries = self.of_cell(buffer, old, head)
                    new[place] = entries[kept[old][head]] if old in kept else entries
        self.key_slots, self.value_slots, self._columns, *rest = fresh
        self.evidence = rest[0] if rest else None
        self._held, self._first, self._since, self.room = held, first, 0, room
        self.starts = torch.tensor(first, device=self.device).view(len(rows), self.heads)
        self.lengths = torch.tensor(held, device=self.device).view(len(rows), self.heads)
