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

    def kept(self, compressions: int) -> int:
        """Tokens of the region that stay once so many compressions have been done. Under a `budget` the first one waits
        until there are that many besides an interval."""
        return compressions * self.interval // self.ratio if self.budget is None else self.budget - self.recent

    def compressions(self, generated: int) -> int:
        """Compressions done once so many tokens have been computed behind the prompt, in whatever pieces they came."""
        return max(0, generated - self.recent - self.kept(0)) // self.interval

    def behind(self, generated: int) -> int:
        """Tokens computed since the newest compression became due: they are no part of what it shortens."""
        return generated - self.recent - self.kept(0) - self.compressions(generated) * self.interval

    def dropped(self, generated: int) -> int:
        """Tokens that are no longer held then: the others are in their slots, in order."""
        done = self.compressions(generated)
        return done * self.interval + self.kept(0) - self.kept(done)

    def next_due(self, generated: int) -> int:
        """The number of generated tokens at which the next compression follows."""
        return self.recent + self.kept(0) + (self.compressions(generated) + 1) * self.interval

    def peak(self, generated: int) -> int:
        """Generated tokens held at most until so many have been computed: the step that makes a compression due attends to
        all before it."""
        if self.interval is None or not generated:
            return generated
        done = self.compressions(generated - 1)
        before = self.recent + self.kept(done - 1) + self.interval if done else 0
        return max(before, generated - self.dropped(generated - 1))


def check_integer(name: str, value, least: int) -> None:
    """Raises TypeError or ValueError for what is no integer, or below the least."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
