"""How many slots of its blocks a request takes: tokens of the prompt, and of those generated what compressions leave.

Counted in tokens computed, as vLLM counts. Scheduler and workers ask each for itself: what is sent from one to the other is
late where steps overlap, and this can't be.
"""

from dataclasses import dataclass

from lzpenalty.vllm.options import CacheOptions

__all__ = ["RequestPlan"]


@dataclass(frozen=True)
class RequestPlan:
    prompt: int
    options: CacheOptions

    def dropped(self, computed: int) -> int:
        """Tokens that are in no slot once so many have been computed, and the compression that was due has been done."""
        return self.options.plan.dropped(computed - self.prompt)

    def compressions(self, computed: int) -> int:
        """Compressions done by then."""
        return self.options.plan.compressions(computed - self.prompt)

    def boundary(self, computed: int) -> int:
        """The number of tokens computed at which the next compression is due. No step goes beyond."""
        return self.prompt + self.options.plan.next_due(computed - self.prompt)

    def slots(self, tokens: int) -> int:
        """Slots for so many tokens while the last of them is computed: before the compression that it may make due."""
        return tokens - self.dropped(tokens - 1)

    def peak(self, tokens: int) -> int:
        """The most slots that are taken at once until so many tokens have been computed. Just before a compression these are
        more than behind it."""
        if tokens <= self.prompt:
            return tokens
        return self.prompt + self.options.plan.peak(tokens - self.prompt)

    def window(self, computed: int) -> int:
        """From which token on the queries of the next compression are kept."""
        return self.boundary(computed) - self.options.plan.recent

    def kept(self, computed: int) -> int:
        """Tokens that stay of the region in the compression that is due at `computed`."""
        return self.options.plan.kept(self.compressions(computed))
