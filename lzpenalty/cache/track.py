"""How far rows of a layer are: what has come behind the tokens that always stay, and the queries that compressions ask for.

All rows of a batch are as far as long as what stays ends in the same column of each. Where a number of real tokens stays and
rows are padded, it ends elsewhere in each, and so each is compressed when it would be alone.
"""

import copy

import torch

__all__ = ["Track"]


class Track:
    """Rows of a layer that are as far: all of them, or one.

    `generated` tokens have come behind those that always stay, `behind` of them since the compression that is under way
    became due: these, and the `recent` ones before them, stay, and `keep` entries of the region. `queries` are the last R
    before it became due, [b, Hq, R, D], oldest first. `before` is the query of the newest token that always stays,
    [b, Hq, 1, D], or None if there is none. `selector` is what these rows have of the layer's."""

    def __init__(self, layer, row: int | None = None):
        self.layer, self.row = layer, row
        self.compressions = self.behind = 0
        self.keep = self.queries = self.before = None
        self._due = None  # how many tokens will have been generated at the next compression
        self._recent = []
        self.selector = copy.deepcopy(layer.selector)

    def of_row(self, row: int) -> "Track":
        """A copy, for another row of a batch whose rows are not as far as each other."""
        twin = copy.copy(self)
        twin.row, twin._recent, twin.selector = row, [*self._recent], copy.deepcopy(self.selector)
        return twin

    def state(self) -> dict:
        return {
            "row": self.row, "compressions": self.compressions, "before": self.before, "recent": self._recent,
            "selector": self.selector.state(),
        }  # fmt: skip

    def set_state(self, state: dict) -> None:
        self.row, self.compressions = state["row"], state["compressions"]
        self.before, self._recent = state["before"], state["recent"]
        self.selector.set_state(state["selector"])

    @property
    def rows(self) -> slice:
        return slice(None) if self.row is None else slice(self.row, self.row + 1)

    @property
    def start(self) -> int:
        """Entries that always stay."""
        stays = self.layer.text.stays(self.row or 0)
        return self.layer.seen if stays is None else min(self.layer.seen, stays)

    @property
    def generated(self) -> int:
        return self.layer.seen - self.start

    def remember(self, queries: torch.Tensor) -> bool:
        """Keeps those of a step's queries that a compression asks for. Returns whether it is due."""
        plan, generated, new = self.layer.settings.plan, self.generated, queries.shape[2]
        if self._due is None:
            self._due = plan.next_due(max(0, generated - new))
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
        self.keep = plan.kept(plan.compressions(generated))
        return True

    def done(self) -> None:
        plan = self.layer.settings.plan
        self.compressions, self._due = plan.compressions(self.generated), plan.next_due(self.generated)
        self.behind, self.queries = 0, None

    def select_rows(self, index: torch.Tensor) -> None:
        """These rows, which are all of a layer, are now those of the old ones."""
        self._recent = [queries[index] for queries in self._recent]
        self.before = None if self.before is None else self.before[index]
        self.selector.select_rows(index)
