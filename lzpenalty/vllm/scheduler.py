"""vLLM's scheduler, for requests whose caches are compressed.

A step ends where a compression is due; requests whose newest queries have no place yet wait for one; blocks that a
compression emptied are given back. The worker is told nothing but where block rows were cut: what is due when, it knows
(plan.py).
"""

import logging

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler as PlainScheduler

from lzpenalty.vllm.checks import ATTRIBUTES, METHODS, check_configuration, check_surface
from lzpenalty.vllm.metrics import report
from lzpenalty.vllm.options import cache_options
from lzpenalty.vllm.plan import request_plan
from lzpenalty.vllm.spec import CompressedManager

__all__ = ["AsyncCompressedScheduler", "CompressedScheduler", "Scheduler"]

logger = logging.getLogger("vllm.lzpenalty")  # below vLLM's, so that its settings hold


class _Compressing:
    """What is added to either of vLLM's schedulers."""

    def __init__(self, vllm_config, *args, **kwargs):
        check_surface(_SURFACE)
        self.server = check_configuration(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)
        managers = self.kv_cache_manager.coordinator.single_type_managers
        if len(managers) != 1 or not isinstance(managers[0], CompressedManager):
            raise ValueError(f"the compressed cache needs a model whose layers all have full attention, got {managers}")
        self.compressed: CompressedManager = managers[0]
        self.windows: set[str] = set()  # requests whose newest queries are kept by the worker
        self.seconds: dict[str, float] = {}  # that compressions took, by request
        self.preemptions = 0

    def add_request(self, request):
        if request.request_id not in self.requests:
            try:
                options = self._options(request)
            except ValueError as error:
                # An exception would end the engine. It comes here only if no LZPenalty was there to refuse the request.
                logger.error("request %s is ended: %s", request.request_id, error)
                self._end(request.request_id, str(error))
                request.sampling_params.extra_args = {"cache_interval": 0}  # until then
                options = None
            if options is not None:
                plan = request_plan(request.num_prompt_tokens, options, self.compressed.block_size)
                self.compressed.plans[request.request_id] = plan
                # The prompt has been hashed. What is generated must not be, or else a request that was preempted would find
                # other requests' tokens behind its prompt, where its own compressions belong.
                request._block_hasher = None
                del request.block_hashes[plan.shared // self.compressed.block_size :]
        super().add_request(request)

    def _end(self, request_id: str, reason: str) -> None:
        """Ends a request in the next step, as vLLM ends those whose grammars can't be compiled."""
        if isinstance(self.grammar_compile_error_reqs, set):  # vLLM 0.32
            self.grammar_compile_error_reqs.add(request_id)
        else:
            from vllm.outputs import RequestError

            self.grammar_compile_error_reqs[request_id] = RequestError(code="validation_error", message=reason)

    def _options(self, request):
        if request.sampling_params is None:
            return None
        options = cache_options(request.sampling_params.extra_args, self.server)
        if options and request.resumable:
            raise ValueError("cache_interval: expected no compression in a streaming session, whose prompt grows")
        return options

    def _reserve_prefill_lookahead(self, request, num_computed_tokens, num_new_tokens):
        """How many tokens a step computes of a running or waiting request. More than one at a time behind the prompt only if
        it was preempted, and then the same compressions are made as the first time, each after its own piece: the same
        tokens, and never more blocks than the first time."""
        new = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        plan = self.compressed.plans.get(request.request_id)
        if plan is None:
            return new
        new = min(new, plan.boundary(num_computed_tokens) - num_computed_tokens)
        window = plan.window(num_computed_tokens)
        if num_computed_tokens + new > window and request.request_id not in self.windows:
            if len(self.windows) < self.server.slots:
                self.windows.add(request.request_id)
            else:
                new = max(0, window - num_computed_tokens)  # 0: not in this step
        return new

    def schedule(self, *args, **kwargs):
        before = set(self.windows)
        output = super().schedule(*args, **kwargs)
        output.cache_truncated, self.compressed.truncated = self.compressed.truncated, {}
        # A waiting request that was not admitted must not hold what running ones need to give back blocks.
        self.windows = {
            request_id
            for request_id in self.windows
            if (request_id in output.num_scheduled_tokens or request_id in before) and self._in_window(request_id)
        }
        return output

    def _in_window(self, request_id: str) -> bool:
        request, plan = self.requests.get(request_id), self.compressed.plans.get(request_id)
        return bool(request and plan) and request.num_computed_tokens > plan.window(request.num_computed_tokens)

    def update_from_output(self, scheduler_output, model_runner_output):
        # Before requests end by what was sampled.
        for request_id, seconds in getattr(model_runner_output, "cache_seconds", {}).items():
            if request_id in self.compressed.plans:  # not aborted meanwhile
                self.seconds[request_id] = self.seconds.get(request_id, 0.0) + seconds
        return super().update_from_output(scheduler_output, model_runner_output)

    def _preempt_request(self, request, *args, **kwargs):
        self.preemptions += 1
        self.windows.discard(request.request_id)
        super()._preempt_request(request, *args, **kwargs)

    def _free_blocks(self, request):
        super()._free_blocks(request)
        self.windows.discard(request.request_id)
        plan = self.compressed.plans.pop(request.request_id, None)
        freed = self.compressed.freed.pop(request.request_id, 0)
        seconds = self.seconds.pop(request.request_id, 0.0)
        if plan:
            report(request.request_id, plan, request.num_computed_tokens, freed, seconds, self.server.log)


_SURFACE = [name for name in (*METHODS, *ATTRIBUTES) if ".worker." not in name]


class CompressedScheduler(_Compressing, PlainScheduler):
    """A step is scheduled when the last one has been executed."""

    compresses_cache = True


class AsyncCompressedScheduler(_Compressing, AsyncScheduler):
    """A step is scheduled while the last one is being executed."""

    compresses_cache = True


class Scheduler:
    """`--scheduler-cls lzpenalty.vllm.Scheduler`: the one of both that vLLM would take."""

    compresses_cache = True

    def __new__(cls, vllm_config, *args, **kwargs):
        ahead = vllm_config.scheduler_config.async_scheduling
        return (AsyncCompressedScheduler if ahead else CompressedScheduler)(vllm_config, *args, **kwargs)
