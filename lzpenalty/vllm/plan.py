"""How many slots of its blocks a request takes: tokens of the prompt, and of those generated what compressions leave.

Counted in tokens computed, as vLLM counts. Scheduler and workers ask each for itself: what is sent from one to the other is
late where steps overlap, and this can't be.
"""

from dataclasses import dataclass

from lzpenalty.vllm.options import CacheOptions

__all__ = ["HeadPlan", "RequestPlan", "request_plan"]


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

    def held(self, tokens: int, computed: int) -> int:
        """Slots for so many tokens after the compressions that are done when `computed` of them have been."""
        return tokens - self.dropped(computed)

    def slots(self, tokens: int) -> int:
        """Slots for so many tokens while the last of them is computed: before the compression that it may make due."""
        return self.held(tokens, tokens - 1)

    def peak(self, tokens: int) -> int:
        """The most slots that are taken at once until so many tokens have been computed. Just before a compression these are
        more than behind it."""
        if tokens <= self.prompt:
            return tokens
        return self.prompt + self.options.plan.peak(tokens - self.prompt)

    def window(self, computed: int) -> int:
        """From which token on the queries of the next compression are kept."""
        return self.boundary(computed) - self.options.plan.recent

    @property
    def shared(self) -> int:
        """Tokens whose blocks other requests may find: what is generated moves, and its keys depend on what was dropped."""
        return self.prompt

    def kept(self, computed: int) -> int:
        """Tokens that stay of the region in the compression that is due at `computed`."""
        return self.options.plan.kept(self.compressions(computed))


@dataclass(frozen=True)
class HeadPlan(RequestPlan):
    """Of a request whose heads have lengths of their own from its first compression on. All lengths together are known:
    heads times the mean. Each is rounded up to blocks of `block` tokens, so that so many blocks as block - 1 more tokens a
    head would fill are always enough; and no head has more entries than tokens."""

    block: int

    def held(self, tokens: int, computed: int) -> int:
        margin = self.block - 1 if self.compressions(computed) else 0
        return min(tokens, super().held(tokens, computed) + margin)

    def peak(self, tokens: int) -> int:
        margin = self.block - 1 if tokens > self.prompt and self.compressions(tokens - 1) else 0
        return min(tokens, super().peak(tokens) + margin)

    def blocks(self, tokens: int) -> int:
        """Blocks for so many tokens while the last of them is computed."""
        return -(-self.slots(tokens) // self.block)

    def blocks_left(self, computed: int) -> int:
        """Blocks that are left by the compression that is due then."""
        return -(-self.held(computed, computed) // self.block)

    def window(self, computed: int) -> int:
        """All queries from the prompt's last one on are asked again later."""
        return self.prompt - 1

    @property
    def shared(self) -> int:
        """The prompt's last query has to be computed again after a preemption, so its block must not be found."""
        return self.prompt - 1


def request_plan(prompt: int, options: CacheOptions, block: int) -> RequestPlan:
    """Of a request with so many tokens of prompt, in blocks of so many tokens."""
    return HeadPlan(prompt, options, block) if options.uneven else RequestPlan(prompt, options)
