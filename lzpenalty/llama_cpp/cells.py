"""Which cell of llama.cpp's cache holds which token? Nothing in its interface tells, so its choices are made again here.

They are those of `llama_kv_cache::find_slot` for a single sequence: new tokens take the empty cells from `head` upwards, and
from 0 again at the end. `head` is behind the last token that was placed, or at the lowest cell that was emptied since.
"""

import numpy as np

__all__ = ["Cells"]

_EMPTY = -1


class Cells:
    """Positions in the text, by cell.

    Parameters
    ----------
    size : int
        Cells of the cache.
    ubatch : int
        llama.cpp's `n_ubatch`: tokens that are placed at a time.
    """

    def __init__(self, size: int, ubatch: int):
        self.positions = np.full(size, _EMPTY, np.int64)
        self.ubatch, self.head = ubatch, 0

    @property
    def used(self) -> int:
        return int(np.count_nonzero(self.positions != _EMPTY))

    def add(self, start: int, count: int) -> None:
        """The tokens at positions [start, start + count) come in one batch. Raises RuntimeError where there is no room."""
        for first in range(start, start + count, self.ubatch):
            self._place(np.arange(first, min(first + self.ubatch, start + count)))

    def _place(self, positions: np.ndarray) -> None:
        head = 0 if self.head > self.used + 2 * len(positions) else self.head
        empty = np.flatnonzero(self.positions == _EMPTY)
        chosen = np.roll(empty, -np.searchsorted(empty, head))[: len(positions)]
        if len(chosen) < len(positions):
            raise RuntimeError(f"cells: {len(positions)} tokens were added to a cache with {len(empty)} empty cells")
        self.positions[chosen] = positions
        self.head = int(chosen[-1]) + 1

    def remove(self, start: int, stop: int | None = None) -> int:
        """Those at positions [start, stop), or from `start` on, are gone. Returns how many there were."""
        gone = self.positions >= max(start, 0)
        if stop is not None:
            gone &= self.positions < stop
        emptied = np.flatnonzero(gone)
        if len(emptied):
            self.positions[emptied] = _EMPTY
            self.head = min(self.head, int(emptied[0]))
        return len(emptied)

    def held(self, start: int, stop: int) -> np.ndarray:
        """The positions within [start, stop) that are in the cache, ascending."""
        return np.sort(self.positions[(self.positions >= start) & (self.positions < stop)])

    def of(self, positions: np.ndarray) -> np.ndarray:
        """The cells of these positions, all of which must be held."""
        order = np.argsort(self.positions)
        return order[np.searchsorted(self.positions, positions, sorter=order)]

    def first_hole(self, stop: int) -> int:
        """The first position below `stop` that isn't held, or `stop`."""
        held = self.held(0, stop)
        missing = np.flatnonzero(held != np.arange(len(held)))
        return int(missing[0]) if len(missing) else len(held)
