"""How many entries each key head of a model may keep in a row, and the compression of all layers at once that this takes.

Heads differ in what they are for: some look for single facts, others at the newest tokens or at nothing in particular. With
one budget for all heads of a row, what would be found again competes with everything in all layers and heads, and a head
gets as many entries as it has among the best. That is known only when the last layer has attended, so layers wait for it.
Each row of a batch has a budget of its own, so that it keeps what it would keep alone.

A selector may have all heads agree before they compete (`agreed`). It may also have a score above which it is
`certain` that an entry was found, and larger ones say little more. As long as all that was found fits, nothing is different.
If it doesn't, size would give everything to heads that find everything. So each head gives up the same part, and its
selector says what it goes by (`crowded`).
"""

import math
import time

import torch

from lzpenalty._core import select_top

__all__ = ["Budgets", "share"]


def share(scores: list[torch.Tensor], keep: int, certain: float = math.inf) -> list[int]:
    """Entries for each head of a row, `keep` on average, from the scores [n] of all: its part of the heads * keep largest,
    or of all above `certain` where these are more. Largest remainders are rounded up, equal ones and equal scores go to the
    earlier head."""
    heads = len(scores)
    if not keep:
        return [0] * heads
    flat = torch.cat([score.to(scores[0].device) for score in scores])
    sizes = [score.numel() for score in scores]
    counts = torch.stack([part.sum() for part in (flat > certain).split(sizes)]).tolist()
    if sum(counts) <= heads * keep:
        chosen = select_top(flat.view(1, 1, -1), heads * keep).flatten()
        ends = torch.tensor(sizes, device=flat.device).cumsum(0)
        counts = torch.bincount(torch.searchsorted(ends, chosen, right=True), minlength=heads).tolist()
    budgets, remainders = zip(*(divmod(count * heads * keep, sum(counts)) for count in counts), strict=True)
    first = sorted(range(heads), key=lambda head: -remainders[head])[: heads * keep - sum(budgets)]
    return [budget + (head in first) for head, budget in enumerate(budgets)]


class Budgets:
    """What ragged layers of one cache have in common: they are compressed together, after the attention of the last."""

    def __init__(self, plan, allocation: str):
        self.plan, self.allocation, self.layers = plan, allocation, []

    def attended(self, layer) -> None:
        """A layer has attended to all tokens. `layer.due` says which of its tracks are to be compressed."""
        if layer is not self.layers[-1] or not layer.due:
            return
        started = time.perf_counter()
        for tracks in zip(*(each.due for each in self.layers), strict=True):
            self._compress(tracks)
        layer.seconds += time.perf_counter() - started

    def _compress(self, tracks: tuple) -> None:
        """`tracks` are those of the same rows in all layers."""
        pairs = [*zip(self.layers, tracks, strict=True)]
        scores = _by_row(layer.scores(track) for layer, track in pairs)
        if tracks[0].keep:
            columns = _by_row(layer.region_columns(track) for layer, track in pairs)
            agreed = self.layers[0].selector.agreed
            scores = [agreed(*of_row) for of_row in zip(scores, columns, strict=True)]
        budgets, end = self.of_rows(scores, tracks[0].keep), 0
        for layer, track in pairs:
            first, end = end, end + layer.heads
            layer.compress(track, *([of_row[first:end] for of_row in each] for each in (scores, budgets)))

    def of_rows(self, scores: list[list[torch.Tensor]], keep: int) -> list[list[int]]:
        """Entries for all heads of each row, from their scores."""
        if self.allocation == "even":
            return [[keep] * len(of_row) for of_row in scores]
        return [share(of_row, keep, self.layers[0].selector.certain) for of_row in scores]


def _by_row(layers) -> list[list]:
    """Of what each layer has of each row's heads: of each row what all heads have, layer by layer."""
    return [[each for of_layer in of_row for each in of_layer] for of_row in zip(*layers, strict=True)]
