"""vLLM's bookkeeping of blocks, for requests that may hold fewer slots than tokens."""

from dataclasses import dataclass, fields

from vllm.utils.math_utils import cdiv
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from lzpenalty.vllm.plan import RequestPlan

__all__ = ["CompressedManager", "CompressedSpec", "compressed_specs"]


@dataclass(frozen=True, kw_only=True)
class CompressedSpec(FullAttentionSpec):
    """The kind of cache that :class:`CompressedManager` manages: vLLM finds the one by the other."""


def compressed_specs(specs: dict) -> dict:
    """The same for all layers. Raises ValueError for layers that do not attend to the whole text."""
    for name, spec in specs.items():
        if type(spec) is not FullAttentionSpec or spec.sliding_window or spec.attention_chunk_size or spec.non_causal:
            raise ValueError(
                f"the compressed cache needs a model whose layers all have full attention and keys of their own; {name} has "
                f"{type(spec).__name__} with sliding_window={getattr(spec, 'sliding_window', None)}"
            )
    return {
        name: CompressedSpec(**{f.name: getattr(spec, f.name) for f in fields(spec) if f.init})
        for name, spec in specs.items()
    }


class CompressedManager(FullAttentionManager):
    """Blocks for slots instead of tokens. The scheduler says what is planned for a request, and takes `truncated`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.plans: dict[str, RequestPlan] = {}  # over preemptions, as long as a request lives
        self.highest: dict[str, int] = {}  # tokens that a request got slots for
        self.truncated: dict[str, int] = {}  # blocks that are left to a request, for the worker to know
        self.freed: dict[str, int] = {}  # blocks that compressions gave back, by request
        self.freed_blocks = 0

    def get_num_blocks_to_allocate(self, request_id, num_tokens, *args, apply_admission_cap=False, **kwargs):
        if plan := self.plans.get(request_id):
            # Admission asks for all that a request needs until it has caught up, which may be less in the end.
            num_tokens = plan.peak(num_tokens) if apply_admission_cap else plan.slots(num_tokens)
        return super().get_num_blocks_to_allocate(
            request_id, num_tokens, *args, apply_admission_cap=apply_admission_cap, **kwargs
        )

    def allocate_new_blocks(self, request_id, num_tokens, num_tokens_main_model):
        if plan := self.plans.get(request_id):
            self.highest[request_id] = num_tokens
            num_tokens = num_tokens_main_model = plan.slots(num_tokens)
        return super().allocate_new_blocks(request_id, num_tokens, num_tokens_main_model)

    def cache_blocks(self, request, num_tokens, *args, **kwargs):
        # The scheduler that runs ahead calls this a second time, so that it has to be seen to here. Blocks that are not
        # cached have one owner, so compressions write to nobody else's.
        if plan := self.plans.get(request.request_id):
            num_tokens = min(num_tokens, plan.shared)
        super().cache_blocks(request, num_tokens, *args, **kwargs)

    def remove_skipped_blocks(self, request_id, processed_computed_tokens, num_prompt_tokens=None):
        """Called before each allocation, with the number of tokens whose steps have certainly been executed. Those in flight
        write to slots that they were given, so that the last of these stay."""
        plan, blocks = self.plans.get(request_id), self.req_to_blocks.get(request_id)
        if not plan or not blocks or not plan.dropped(processed_computed_tokens):
            return
        tokens = max(processed_computed_tokens, self.highest.get(request_id, 0))
        keep = cdiv(plan.held(tokens, processed_computed_tokens), self.block_size)
        if keep >= len(blocks):
            return
        tail = blocks[keep:]
        for block in blocks[plan.shared // self.block_size :]:
            if block.ref_cnt != 1 or block.block_hash is not None:
                raise RuntimeError(f"block {block.block_id} behind the prompt of request {request_id} is shared")
        del blocks[keep:]
        self.block_pool.free_blocks(reversed(tail))
        self.truncated[request_id] = keep
        self.freed[request_id] = self.freed.get(request_id, 0) + len(tail)
        self.freed_blocks += len(tail)

    def pop_blocks_for_free(self, request_id):
        self.highest.pop(request_id, None)
        self.truncated.pop(request_id, None)
        return super().pop_blocks_for_free(request_id)


def _register() -> None:
    # The registry takes itself for complete once anything is in it, and would never learn of vLLM's own kinds.
    KVCacheSpecRegistry._ensure_registered()
    KVCacheSpecRegistry.register(CompressedSpec, CompressedManager, uniform_type_base_spec=FullAttentionSpec)


_register()
