"""How many entries each key head of a model may keep, and the compression of all layers at once that this takes.

Heads differ in what they are for: some look for single facts, others at the newest tokens or at nothing in particular. With
one budget for the whole model, what would be found again competes with everything in all layers and heads, and a head gets
as many entries as it has among the best. That is known only when the last layer has attended, so layers wait for it.
"""

import time

import torch

from lzpenalty._core import select_top

__all__ = ["Budgets", "share"]


def share(scores: list[torch.Tensor], keep: int) -> list[int]:
    """Entries for each head, `keep` on average, from the scores [B, n] of all: how many of the B * heads * keep largest are
    of this head, divided by the B rows with the largest remainders rounded up. Equal scores go to the earlier head."""
    rows, heads = scores[0].shape[0], len(scores)
    if not keep:
        return [0] * heads
    flat = torch.cat([score.flatten().to(scores[0].device) for score in scores])
    chosen = select_top(flat.view(1, 1, -1), rows * heads * keep).flatten()
    ends = torch.tensor([score.numel() for score in scores], device=flat.device).cumsum(0)
    counts = torch.bincount(torch.searchsorted(ends, chosen, right=True), minlength=heads).tolist()
    budgets = [count // rows for count in counts]
    by_remainder = sorted(range(heads), key=lambda head: -(counts[head] % rows))
    for head in by_remainder[: heads * keep - sum(budgets)]:
        budgets[head] += 1
    return budgets


class Budgets:
    """What ragged layers of one cache have in common: they are compressed together, after the attention of the last."""

    def __init__(self, plan, allocation: str):
        self.plan, self.allocation, self.layers = plan, allocation, []

    def attended(self, layer) -> None:
        if layer is not self.layers[-1] or not layer.answering:
            return
        region = layer.stop - layer.start
        if region >= self.plan.due(layer.intervals):
            started = time.perf_counter()
            self._compress(self.plan.reached(layer.intervals, region))
            layer.seconds += time.perf_counter() - started

    def _compress(self, intervals: int) -> None:
        keep = self.plan.kept(intervals)
        scores = [layer.scores(keep) for layer in self.layers]
        heads = [len(of_layer) for of_layer in scores]
        budgets = self._of_heads([score for of_layer in scores for score in of_layer], keep)
        for layer, of_layer, count in zip(self.layers, scores, heads, strict=True):
            layer.compress(of_layer, budgets[:count], intervals)
            budgets = budgets[count:]

    def _of_heads(self, scores: list[torch.Tensor], keep: int) -> list[int]:
        return share(scores, keep) if self.allocation == "global" else [keep] * len(scores)
