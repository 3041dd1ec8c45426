"""The selector 'echo' in a worker: queries that are asked again, evidence of what they find, and what stays.

The rule is :class:`lzpenalty.cache.selectors.Echo`, with one budget for all heads of a request. Every `recent` tokens of its
answer the last `recent` + 1 queries of a layer are turned to where they would stand an interval later, and compared with all
that its heads hold. At a compression the entries with most evidence stay, of whatever layer and head.
"""

from dataclasses import dataclass, field

import torch

from lzpenalty._core import compact_blocks_, echo_blocks_, gather_blocks_, select_top
from lzpenalty.cache.attend import shares_by_torch
from lzpenalty.cache.budgets import share
from lzpenalty.cache.rotary import rotated
from lzpenalty.cache.selectors import SELECTORS, Echo
from lzpenalty.vllm.heads import Heads, Pool
from lzpenalty.vllm.plan import HeadPlan

__all__ = ["Ask", "Turning", "asks", "compress", "find_turning"]


# Turning.


@dataclass(frozen=True)
class Turning:
    """How the model's queries are rotated: the cosines and sines [positions, size / 2] of each position, float32, and which
    numbers form pairs. Rotations add up, so that the row d is what turns a query to a position d tokens later."""

    cos: torch.Tensor
    sin: torch.Tensor
    pairs: str
    found: dict = field(default_factory=dict)

    def table(self, interval: int, recent: int) -> tuple[torch.Tensor, torch.Tensor]:
        """For the queries n - recent - 1 .. n - 1, to n + interval."""
        key = interval, recent
        if key not in self.found:
            distances = interval + torch.arange(recent + 1, 0, -1)
            self.found[key] = self.cos[distances], self.sin[distances]
        return self.found[key]

    def __call__(self, queries: torch.Tensor, interval: int, recent: int) -> torch.Tensor:
        """Queries [Hq, recent + 1, D], float32."""
        cos, sin = (part.to(queries.device) for part in self.table(interval, recent))
        return rotated(queries.float(), cos, sin, self.pairs)


def find_turning(model) -> Turning:
    """Of a model of vLLM's: what its rotary embedding multiplies with, without the factor that some scale it by.

    Raises
    ------
    ValueError
        If it has none, several that differ, or one that does not turn a query as this would.
    """
    modules = [module for module in model.modules() if hasattr(module, "cos_sin_cache")]
    if not modules:
        raise ValueError("the selector 'echo' needs a model with a rotary embedding, got one without")
    found = [_turning(module) for module in modules]
    for other in found[1:]:
        if other.pairs != found[0].pairs or not torch.equal(other.cos, found[0].cos):
            raise ValueError("the selector 'echo' needs a model with one rotary embedding, got several that differ")
    return found[0]


def _turning(module) -> Turning:
    name = type(module).__name__
    try:
        cos, sin = module._compute_cos_sin_cache().float().cpu().chunk(2, dim=-1)
        size = module.cos_sin_cache.shape[-1]
        scale = torch.sqrt(cos[:1] ** 2 + sin[:1] ** 2)
        turning = Turning(cos / scale, sin / scale, "half" if module.is_neox_style else "interleaved")
        device, dtype = module.cos_sin_cache.device, module.cos_sin_cache.dtype
        query = torch.randn(2, module.head_size, device=device).to(dtype)
        start, distance = 3, min(61, len(cos) - 4)
        positions = torch.tensor([start, start + distance], device=device)
        before, after = module.forward_native(positions, query[:1].repeat(2, 1), None)[0].float().cpu()
        ours = rotated(before[None], turning.cos[distance], turning.sin[distance], turning.pairs)[0]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the selector 'echo' does not know how {name} rotates queries: {error}") from error
    tolerance = (1e-3 if dtype == torch.float32 else 0.03) * after.abs().max()
    if 2 * cos.shape[1] != size or (ours - after).abs().max() > tolerance:
        raise ValueError(f"the selector 'echo' does not know how {name} rotates queries: it turned one otherwise")
    return turning


# Asking.


@dataclass
class Ask:
    """What one request asks in a step: the blocks of queries that end in it. Tokens are counted in the text."""

    state: Heads
    plan: HeadPlan
    held: torch.Tensor  # rows of the ring with the queries before this step that are asked
    rows: slice  # of the step's tokens, those whose queries are
    behind: list[int]  # tokens of the step that come after each block
    lengths: torch.Tensor  # [layers, heads], with the step's tokens

    def __call__(self, number: int, ring: torch.Tensor, queries: torch.Tensor, pool: Pool, turning: Turning, scale: float):
        """For one layer: all that was kept of its queries, and those of the step, [T, Hq, D]."""
        own = queries[self.rows]
        stream = torch.cat([ring[self.held], own]) if len(self.held) else own
        recent, interval = self.plan.options.plan.recent, self.plan.options.plan.interval
        for i, behind in enumerate(self.behind):
            block = stream[i * recent : (i + 1) * recent + 1].transpose(0, 1)
            turned = turning(block, interval, recent)[None].to(pool.keys.dtype)
            asked, table, lengths = block[None].to(pool.keys.dtype), self.state.table[number], self.lengths[number] - behind
            raise_evidence(pool, table, lengths, turned, asked, self.plan.prompt, scale)


def asks(state: Heads, plan: HeadPlan, before: int, after: int, first: int, ring_row: int, lengths) -> Ask | None:
    """What a step from token `before` to `after` asks; its tokens are from `first` on in the step. None if no block ends."""
    recent, prompt = plan.options.plan.recent, plan.prompt
    done = max(0, before - prompt) // recent
    ends = [prompt + (k + 1) * recent for k in range(done, (after - prompt) // recent)]
    if not ends:
        return None
    begin = ends[0] - recent - 1
    held = torch.arange(begin, max(begin, min(before, ends[-1])))
    return Ask(
        state, plan, ring_row + (held - prompt + 1) % (recent + 1),
        slice(first + max(begin, before) - before, first + ends[-1] - before), [after - end for end in ends], lengths,
    )  # fmt: skip


def raise_evidence(pool: Pool, table, lengths, queries, asked, start: int, scale: float, rivals: int = Echo().rivals):
    """Of one layer of a request: sub-blocks [heads, n] and entries [heads], queries [1, Hq, q, D], turned and as they were
    asked, and how far these look back. See echo_blocks_."""
    if queries.device.type == "cpu":
        queries, asked = queries.contiguous(), asked.contiguous()
        echo_blocks_(
            pool.evidence, queries, pool.keys, table, lengths[None], start=start, scale=scale, asked=asked, window=rivals
        )
    else:
        raise_by_torch(pool, table, lengths, queries, asked, start, scale, rivals)


def raise_by_torch(pool: Pool, table, lengths, queries, asked, start: int, scale: float, rivals: int) -> None:
    """The same on any device."""
    device = queries.device
    at = torch.arange(int(lengths.max()))
    blocks, tokens = table[:, at // pool.tokens].to(device), (at % pool.tokens).to(device)
    there = (at < lengths[:, None]).to(device)
    keys = pool.keys[blocks, 0, tokens].float()  # [heads, n, D]
    shares = shares_by_torch(queries, keys[None], there[None], lengths[None].to(device), scale, asked, rivals, start)[0]
    there[:, :start] = False
    slots = (blocks * pool.tokens + tokens)[there]
    flat = pool.evidence.view(-1)
    flat[slots] = torch.maximum(flat[slots], shares[there])


# Choosing.


class _Head:
    """What the rule looks at of one head, where more than it may keep was found: its region alone."""

    aggregation, hidden, start = "group", None, 0

    def __init__(self, pool: Pool, row: torch.Tensor, plan: HeadPlan, stop: int, queries: torch.Tensor, scale: float):
        self.stop = stop - plan.prompt
        self.kernel, self.scale = plan.options.kernel, scale
        self.queries = queries.contiguous()
        self.keys = pool.keys.new_empty(1, 1, self.stop, pool.keys.shape[3])
        gather_blocks_(self.keys, pool.keys, row, start=plan.prompt)


def compress(pool: Pool, state: Heads, plan: HeadPlan, computed: int, queries: list, scales: list[float]) -> None:
    """Drops what the compression after so many tokens drops, and gives up the blocks that this empties. `queries` are the
    last `recent` of each layer, [R, Hq, D]."""
    rule = SELECTORS[plan.options.selector]()
    recent, keep, start = plan.options.plan.recent, plan.kept(computed), plan.prompt
    stops = state.length - recent
    slots, there = state.slots(start, state.length)
    evidence = pool.evidence.view(-1)
    held = torch.where(there.to(evidence.device), evidence[slots.to(evidence.device)], 0)
    sizes = (stops - start).flatten().tolist()
    flat = held.flatten(0, 1)
    tokens = torch.cat([of_head[:size] for of_head, size in zip(state.tokens(computed), sizes, strict=True)])
    scores = rule.agreed([flat[i, :size] for i, size in enumerate(sizes)], tokens.to(held.device).split(sizes))
    budgets = share(scores, keep, rule.certain)
    found = torch.stack([(score > rule.certain).sum() for score in scores]).tolist()
    heads, lengths, left = pool.heads, state.length.flatten().tolist(), []
    for i, (score, budget) in enumerate(zip(scores, budgets, strict=True)):
        layer, head = divmod(i, heads)
        row, stop = state.table[layer, head], start + sizes[i]
        score = score[None]
        if found[i] > budget > 0:
            group = queries[layer].shape[1] // heads
            own = queries[layer][:, head * group : (head + 1) * group].transpose(0, 1)[None]
            score = rule.crowded(_Head(pool, row, plan, stop, own, scales[layer]), score, budget)
        positions = select_top(score[None].contiguous(), budget) if budget else row.new_empty(1, 1, 0).to(held.device)
        left.append(positions.flatten())
        row = row if held.device.type == "cpu" else row.to(held.device)
        lengths[i] = compact_blocks_(
            pool.keys, pool.values, row, positions, start=start, stop=stop, length=lengths[i], evidence=pool.evidence
        )
    state.length = torch.tensor(lengths).view_as(state.length)
    # All heads' at once, since a device is waited for.
    kept = torch.cat(left).cpu().split(budgets)
    state.kept = [of_head[at] for of_head, at in zip(tokens.split(sizes), kept, strict=True)]
    behind = there & (torch.arange(start, start + there.shape[2]) >= state.length[..., None])
    evidence[slots[behind].to(evidence.device)] = 0
    state.uneven = True
    state.shrink(plan.blocks_left(computed))
