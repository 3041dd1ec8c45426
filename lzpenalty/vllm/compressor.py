"""What a worker adds to a step: queries that are kept, tokens that take no slot, and compressions. Both of vLLM's runners
use it, and it knows neither.

    begin(...)   before the forward: what this step does, and how many tokens of each request are in no slot
    forward      each layer copies queries into its ring, all of the step by one call: those that nobody asks for go to a row
                 that is never read. So the call is the same in every step, and graphs that were captured can replay it
    end(...)     after the forward: caches whose compression is due

Rings have room for a few requests at a time. With an even rule a request needs a place only for the last R tokens before a
compression; with 'echo' it has one from its prompt's last token on. The scheduler sees to it that no more have begun.

Requests with 'echo' (echo.py) have lengths that differ by head (heads.py). A step in which one of them is, is computed head
by head (explode.py); vLLM's lengths, slots and block rows are never changed for them.
"""

import copy
import logging
import time

import numpy as np
import torch

from lzpenalty._core import compact_blocks_, gather_blocks_, select_top
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.vllm.blocks import find_layout
from lzpenalty.vllm.echo import Ask, Turning, asks, compress
from lzpenalty.vllm.explode import Explosion, Row
from lzpenalty.vllm.heads import Heads, Pool, make_pool, versions
from lzpenalty.vllm.options import ServerOptions, cache_options
from lzpenalty.vllm.plan import HeadPlan, RequestPlan, request_plan

__all__ = ["Compressor"]

logger = logging.getLogger("vllm.lzpenalty")


class _Layer:
    """What a selector sees of one layer of one request: the evictable region alone, so that it begins at 0. Keys and values
    are copied out of their blocks when they are asked for; most rules ask for no values."""

    start = 0
    hidden = None  # a request has no padding

    def __init__(self, compressor, index: int, row, plan: RequestPlan, stop: int, keep: int, queries):
        self.compressor, self.index, self.row = compressor, index, row
        self.first = plan.prompt
        self.stop = self.length = stop
        self.keep, self.queries = keep, queries
        self.kernel, self.aggregation = plan.options.kernel, plan.options.aggregation
        self.scale = compressor.layers[index].impl.scale

    def _copy(self, which: int) -> torch.Tensor:
        blocks = self.compressor.blocks[self.index][which]
        return gather_blocks_(self.compressor.scratch(which, blocks, self.stop), blocks, self.row, start=self.first)

    @property
    def keys(self) -> torch.Tensor:
        return self._copy(0)

    @property
    def values(self) -> torch.Tensor:
        return self._copy(1)


class Compressor:
    def __init__(self, server: ServerOptions, most_tokens: int, dtype: torch.dtype, device: torch.device):
        self.server, self.dtype, self.device = server, dtype, device
        self.plans: dict[str, RequestPlan] = {}
        self.selectors: dict[str, list] = {}  # one for each layer
        self.slots: dict[str, int] = {}  # of the rings, which a request has from its first kept query to its compression
        self.free = list(range(server.slots))[::-1]
        self.places = server.most_recent + 1  # of a slot: echo begins with the query before the oldest of the newest
        self.trash = server.slots * self.places
        # Where each query of a step goes. Captured graphs read it, so it stays where it is.
        self.targets = torch.full((most_tokens,), self.trash, dtype=torch.int64, device=device)
        self.targeted = 0  # of its items that are not the trash row
        self.due: list[tuple[str, int, int]] = []
        self.layers, self.rings, self.blocks, self.buffers = [], [], [], {}
        self.rows: dict[str, list[int]] = {}  # vLLM's blocks of each request, where there may be echo
        self.versions: dict[str, int] = {}  # of these
        self.heads: dict[str, Heads] = {}
        self.pool: Pool | None = None
        self.explosion: Explosion | None = None
        self.turning: Turning | None = None
        self.asks: list[tuple[str, Ask]] = []
        self.grown: list[tuple[Heads, int]] = []  # by how many tokens, in this step
        self.compressions, self.seconds, self.asking = 0, 0.0, 0.0
        self.step_seconds: dict[str, float] = {}  # by request, until someone takes them

    # At start-up.

    def make_rings(self, layers: list) -> None:
        """When the model has been loaded: what is allocated now counts when vLLM sees how much is left for blocks."""
        rows = self.trash + 1
        self.rings = [
            torch.empty(rows, layer.impl.num_heads, layer.impl.head_size, dtype=self.dtype, device=self.device)
            for layer in layers
        ]
        size = sum(ring.numel() * ring.element_size() for ring in self.rings)
        logger.info(
            "compressed cache: %.1f MiB for the queries of %d requests of up to %d tokens each",
            size / 2**20, self.server.slots, self.server.most_recent,
        )  # fmt: skip

    def bind(self, layers: list, builder=None, turning: Turning | None = None) -> None:
        """When the blocks have been allocated, for a trial or for good. With 'echo', what builds the metadata of attention,
        and how queries are turned."""
        self.layers = layers
        layout = find_layout(layers[0])
        self.blocks = [layout(layer.kv_cache) for layer in layers]  # keys and values
        watched = [hasattr(layer.impl.forward, "ring") for layer in layers]
        if turning is not None:
            self.turning, self.pool = turning, make_pool(layers)
            self.explosion = Explosion(self.pool, layers, builder, self.device)
        for number, (ring, layer) in enumerate(zip(self.rings, layers, strict=True)):
            if not watched[number]:
                self._watch(number, ring, layer.impl)

    def _watch(self, number: int, ring: torch.Tensor, impl) -> None:
        forward, update = impl.forward, getattr(impl, "do_kv_cache_update", None)

        def watched(layer, query, *args, **kwargs):
            if self.asks:  # of what is in the ring, before it is written
                self._ask(number, ring, query.view(query.shape[0], *ring.shape[1:]))
            if self.targeted or (query.is_cuda and torch.cuda.is_current_stream_capturing()):
                ring.index_copy_(0, self.targets[: query.shape[0]], query.view(query.shape[0], *ring.shape[1:]))
            if self.explosion is not None and self.explosion.active:
                return self.explosion.forward(number, layer, query, **kwargs)
            return forward(layer, query, *args, **kwargs)

        def updated(layer, key, value, cache, slots):
            if self.explosion is not None and self.explosion.active:
                return self.explosion.update(number, layer, key, value)
            return update(layer, key, value, cache, slots)

        watched.ring = ring
        impl.forward = watched
        if self.turning is not None:
            impl.do_kv_cache_update = updated

    def _ask(self, number: int, ring: torch.Tensor, queries: torch.Tensor) -> None:
        started = time.perf_counter()
        for request_id, ask in self.asks:
            try:
                ask(number, ring, queries, self.pool, self.turning, self.layers[number].impl.scale)
            except Exception as error:
                raise RuntimeError(f"request {request_id}: layer {number} could not be asked: {error}") from error
        self.asking += time.perf_counter() - started

    # In each step.

    def remember(self, output) -> None:
        """Takes note of requests that came, went and were preempted. First what went: an id may be back in the same step."""
        for request_id in output.finished_req_ids:
            self.plans.pop(request_id, None)
            self._forget(request_id)
        for request_id in output.preempted_req_ids or ():
            self._forget(request_id)
        for new in output.scheduled_new_reqs:
            # The second runner is told anew of requests that were preempted.
            options = cache_options(getattr(new.sampling_params, "extra_args", None), self.server)
            if options is not None:
                self.plans[new.req_id] = request_plan(new.prompt_len, options, self.pool.tokens if self.pool else 1)
        if self.pool is not None:
            self._remember_rows(output)

    def _remember_rows(self, output) -> None:
        """Which blocks each request has, as the scheduler said it: the rows of vLLM's runners are not all on the CPU."""
        for request_id, blocks in getattr(output, "cache_truncated", {}).items():
            if request_id in self.rows:
                del self.rows[request_id][blocks:]
                self.versions[request_id] = next(versions)
        for new in output.scheduled_new_reqs:
            self._take_blocks(new.req_id, new.block_ids[0], anew=True)
        cached = output.scheduled_cached_reqs
        for request_id, blocks in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if blocks is not None:
                self._take_blocks(request_id, blocks[0], anew=request_id in cached.resumed_req_ids)

    def _take_blocks(self, request_id: str, blocks: list[int], anew: bool) -> None:
        if anew:
            self.rows[request_id] = []
        self.rows[request_id].extend(blocks)
        self.versions[request_id] = next(versions)

    def _forget(self, request_id: str) -> None:
        """What a request gathered since it was admitted: it begins anew, with the same compressions."""
        for remembered in (self.selectors, self.heads, self.rows, self.versions):
            remembered.pop(request_id, None)
        if request_id in self.slots:
            self.free.append(self.slots.pop(request_id))

    def begin(self, request_ids, computed, scheduled) -> np.ndarray | None:
        """Plans a step for its requests, in the order of its tokens. How many tokens of each are in no slot, or None."""
        self.due, self.asks, self.grown = [], [], []
        targets = None
        dropped = None
        if self.plans:
            first = 0
            for i, request_id in enumerate(request_ids):
                new = int(scheduled[i])
                plan = self.plans.get(request_id)
                if plan is not None:
                    before = int(computed[i])
                    end, after = plan.boundary(before), before + new
                    if after > end:
                        raise RuntimeError(
                            f"request {request_id}: a step to token {after} goes beyond a compression at {end}"
                        )
                    if isinstance(plan, HeadPlan):
                        self._begin_heads(request_id, plan, before, after, first)
                    elif gone := plan.dropped(before):
                        dropped = np.zeros(len(request_ids), dtype=np.int32) if dropped is None else dropped
                        dropped[i] = gone
                    window, places = plan.window(before), self._places(plan)
                    if after > window:
                        targets = np.full(int(sum(scheduled)), self.trash) if targets is None else targets
                        begin = max(before, window, after - places)
                        targets[first + begin - before : first + new] = (
                            self._slot(request_id) * self.places + np.arange(begin - window, after - window) % places
                        )
                    if after == end:
                        self.due.append((request_id, i, after))
                first += new
        self._aim(targets)
        if any(heads.uneven for heads, _ in self.grown):
            self.explosion.begin([self._row(*each) for each in zip(request_ids, computed, scheduled, strict=True)])
        return dropped

    @staticmethod
    def _places(plan: RequestPlan) -> int:
        """Of a slot, those that a request uses in turns."""
        return plan.options.plan.recent + plan.options.uneven

    def _begin_heads(self, request_id: str, plan: HeadPlan, before: int, after: int, first: int) -> None:
        heads = self.heads.get(request_id)
        if heads is None:
            heads = self.heads[request_id] = Heads(self.pool, plan.prompt)
            heads.length.fill_(before)  # found in blocks of the prompt that others computed
        heads.grow(self.rows[request_id], plan.blocks(after))
        self.grown.append((heads, after - before))
        if after >= plan.prompt:
            ring_row = self._slot(request_id) * self.places
            ask = asks(heads, plan, before, after, first, ring_row, heads.length + after - before)
            self.asks += [(request_id, ask)] if ask else []

    def _row(self, request_id: str, before: int, new: int) -> Row:
        """A request in a step that is computed head by head."""
        new = int(new)
        if heads := self.heads.get(request_id):
            return Row(heads.version, heads.table, heads.length + new, new)
        plan, length = self.plans.get(request_id), int(before) + new
        length -= plan.dropped(int(before)) if plan else 0
        blocks = self.rows[request_id][: -(-length // self.pool.tokens)]
        return Row((self.versions[request_id], len(blocks)), self.pool.of_blocks(blocks), length, new)

    def _slot(self, request_id: str) -> int:
        if request_id not in self.slots:
            if not self.free:
                raise RuntimeError(
                    f"request {request_id}: the scheduler began more than {self.server.slots} windows at once"
                )
            self.slots[request_id] = self.free.pop()
        return self.slots[request_id]

    def _aim(self, targets: np.ndarray | None) -> None:
        """Says where the step's queries go."""
        count = 0 if targets is None else len(targets)
        if count:
            source = torch.from_numpy(targets)
            if self.device.type == "cuda":
                source = source.pin_memory()
            self.targets[:count].copy_(source, non_blocking=True)
        if self.targeted > count:
            self.targets[count : self.targeted].fill_(self.trash)
        self.targeted = count

    def end(self, block_row) -> None:
        """Compresses what is due. `block_row(i)` is the row of blocks of the step's i-th request."""
        due, self.due, self.asks = self.due, [], []
        for heads, new in self.grown:
            heads.length += new
        self.grown = []
        if self.explosion is not None:
            self.explosion.active = False
        for request_id, i, computed in due:
            started = time.perf_counter()
            if request_id in self.heads:
                self._compress_heads(request_id, computed)
            else:
                self._compress(request_id, block_row(i), computed)
                self.free.append(self.slots.pop(request_id))
            self.compressions += 1
            self.step_seconds[request_id] = seconds = time.perf_counter() - started
            self.seconds += seconds

    def take_seconds(self) -> dict[str, float]:
        """What the compressions of the last step took, by request."""
        taken, self.step_seconds = self.step_seconds, {}
        return taken

    def _compress_heads(self, request_id: str, computed: int) -> None:
        plan, heads = self.plans[request_id], self.heads[request_id]
        recent, first = plan.options.plan.recent, self.slots[request_id] * self.places
        newest = torch.arange(computed - recent, computed) - plan.window(computed)
        newest = first + newest % self._places(plan)
        queries = [ring[newest] for ring in self.rings]
        try:
            compress(self.pool, heads, plan, computed, queries, [layer.impl.scale for layer in self.layers])
        except Exception as error:
            # Some heads may have been compressed already: what the request holds is no text any more.
            raise RuntimeError(
                f"request {request_id}: the compression at token {computed} failed with selector "
                f"{plan.options.selector!r}: {error}"
            ) from error

    def _compress(self, request_id: str, row: torch.Tensor, computed: int) -> None:
        plan = self.plans[request_id]
        recent, keep = plan.options.plan.recent, plan.kept(computed)
        length = plan.slots(computed)  # before the compression
        stop = length - recent
        ring_row = self.slots[request_id] * self.places
        if request_id not in self.selectors:
            selector = SELECTORS[plan.options.selector]()
            self.selectors[request_id] = [copy.deepcopy(selector) for _ in self.layers]
        for index, (ring, (keys, values), selector) in enumerate(
            zip(self.rings, self.blocks, self.selectors[request_id], strict=True)
        ):
            queries = ring[ring_row : ring_row + recent].transpose(0, 1)[None]
            layer = _Layer(self, index, row, plan, stop - plan.prompt, keep, queries)
            try:
                if keep:
                    positions = select_top(selector.score(layer), keep)
                else:
                    positions = torch.empty(1, 1, 0, dtype=torch.int64, device=self.device)
                compact_blocks_(keys, values, row, positions, start=plan.prompt, stop=stop, length=length)
                selector.compacted(positions, stop - plan.prompt)
            except Exception as error:
                # Some layers may have been compressed already: what the request holds is no text any more.
                raise RuntimeError(
                    f"request {request_id}: the compression at token {computed} failed in layer {index} with selector "
                    f"{plan.options.selector!r}: {error}"
                ) from error

    def scratch(self, which: int, like: torch.Tensor, tokens: int) -> torch.Tensor:
        """Memory for tokens of one layer, [1, heads, tokens, size], which all layers share."""
        heads, size = like.shape[1], like.shape[3]
        needed = heads * size * tokens
        buffer = self.buffers.get(which)
        if buffer is None or buffer.numel() < needed:
            buffer = self.buffers[which] = torch.empty(needed, dtype=like.dtype, device=like.device)
        return buffer[:needed].view(1, heads, tokens, size)

    def statistics(self) -> dict[str, float]:
        return {
            "compressions": self.compressions,
            "seconds": self.seconds,
            "asking": self.asking,
            "exploding": self.explosion.seconds if self.explosion else 0.0,
            "requests": max(len(self.plans), len(self.rows), len(self.heads)),
            "windows": len(self.slots),
        }
