"""When is a compression due, and how many tokens stay? Needs neither torch nor a cache.

Counts don't depend on what the tokens are: they are a pure function of the options and of how many tokens were computed. So
everybody who must know them, a layer, an engine's scheduler, its workers, computes them alone, and nothing can be late.

Tokens are counted behind the prompt. Of those generated the last `recent` always stay; those before them are the region
that a compression shortens (arXiv 2505.13866).
"""

from dataclasses import dataclass

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """The options that decide counts.

    Parameters
    ----------
    interval : int or None
        P, tokens between compressions, a multiple of `ratio`. None never compresses; the methods below are for the others.
    ratio : int
        c: 1 / c of the generated tokens are kept.
    recent : int
        R, the newest tokens that always stay; less than `interval`.
    budget : int, optional
        Generated tokens that stay in a compression at most, `recent` ones included. By default they grow by P / c each time.

    Raises
    ------
    TypeError, ValueError
        Naming the option, what came and what is wanted.
    """

    interval: int | None = 4096
    ratio: int = 4
    recent: int = 32
    budget: int | None = None

    def __post_init__(self):
        for name in ("interval", "ratio", "recent", "budget"):
            value = getattr(self, name)
            if value is None and name in ("interval", "budget"):
                continue
            check_integer(name, value, 1)
        if self.interval is None:
            if self.budget is not None:
                raise ValueError(f"budget: expected None where interval is None, got {self.budget}")
            return
        if self.interval % self.ratio:
            raise ValueError(f"interval: expected a multiple of ratio, {self.ratio}, got {self.interval}")
        if self.recent >= self.interval:
            raise ValueError(f"recent: expected less than interval, {self.interval}, got {self.recent}")
        if self.budget is not None and self.budget < self.recent:
            raise ValueError(f"budget: expected at least recent, {self.recent}, got {self.budget}")

    # By what a cache holds, however many tokens come at once.

    def kept(self, intervals: int) -> int:
        """Tokens of the region that stay once so many intervals have been compressed."""
        return intervals * self.interval // self.ratio if self.budget is None else self.budget - self.recent

    def due(self, intervals: int) -> int:
        """Tokens that the region reaches before the next compression."""
        return self.kept(intervals) + self.interval

    def reached(self, intervals: int, region: int) -> int:
        """Intervals that are compressed when the region, last compressed after `intervals`, has this many tokens: several at
        once, as when a user's long message follows."""
        return intervals + max(0, region - self.kept(intervals)) // self.interval

    # By tokens generated, where no step goes past a compression that is due.

    def compressions(self, generated: int) -> int:
        """Compressions done once so many tokens have been computed behind the prompt."""
        return self.reached(0, generated - self.recent)

    def dropped(self, generated: int) -> int:
        """Tokens that are no longer held then: the others are in their slots, in order."""
        done = self.compressions(generated)
        return done * self.interval + self.kept(0) - self.kept(done)

    def next_due(self, generated: int) -> int:
        """The number of generated tokens at which the next compression follows."""
        return self.recent + self.due(0) + self.compressions(generated) * self.interval

    def peak(self, generated: int) -> int:
        """Generated tokens held at most until so many have been computed: the step that makes a compression due attends to
        all before it."""
        if self.interval is None or not generated:
            return generated
        done = self.compressions(generated - 1)
        before = self.recent + self.due(done - 1) if done else 0
        return max(before, generated - self.dropped(generated - 1))


def check_integer(name: str, value, least: int) -> None:
    """Raises TypeError or ValueError for what is no integer, or below the least."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
