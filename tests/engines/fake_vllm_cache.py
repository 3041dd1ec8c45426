"""As much of vLLM 0.32's bookkeeping of blocks and requests as the compressed cache overrides, and of Prometheus."""

from collections import defaultdict
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace


def cdiv(a, b):
    return -(-a // b)


@dataclass(eq=False)
class Block:
    block_id: int
    ref_cnt: int = 0
    block_hash: object = None


class Pool:
    def __init__(self, blocks):
        self.blocks = [Block(i) for i in range(blocks)]
        self.free = list(self.blocks)

    def take(self, count):
        taken, self.free = self.free[:count], self.free[count:]
        for block in taken:
            assert block.ref_cnt == 0
            block.ref_cnt, block.block_hash = 1, None
        return taken

    def free_blocks(self, blocks):
        for block in blocks:
            block.ref_cnt -= 1
            assert block.ref_cnt == 0
            self.free.append(block)


class FullAttentionManager:
    def __init__(self, block_size, pool):
        self.block_size, self.block_pool = block_size, pool
        self.req_to_blocks = defaultdict(list)

    def get_num_blocks_to_allocate(self, request_id, num_tokens, apply_admission_cap=False):
        return max(0, cdiv(num_tokens, self.block_size) - len(self.req_to_blocks.get(request_id, ())))

    def allocate_new_blocks(self, request_id, num_tokens, num_tokens_main_model):
        blocks = self.req_to_blocks[request_id]
        new = self.block_pool.take(max(0, cdiv(num_tokens, self.block_size) - len(blocks)))
        blocks.extend(new)
        return new

    def cache_blocks(self, request, num_tokens):
        for i, block in enumerate(self.req_to_blocks[request.request_id][: num_tokens // self.block_size]):
            block.block_hash = (request.request_id, i)

    def pop_blocks_for_free(self, request_id):
        return self.req_to_blocks.pop(request_id, [])


@dataclass(frozen=True, kw_only=True)
class FullAttentionSpec:
    block_size: int = 32
    sliding_window: int | None = None
    attention_chunk_size: int | None = None
    non_causal: bool = False


@dataclass(frozen=True, kw_only=True)
class SlidingWindowSpec:
    sliding_window: int = 128


class Scheduler:
    """Its requests end when an output says so."""

    def __init__(self, vllm_config):
        managers = [vllm_config.manager]
        self.kv_cache_manager = SimpleNamespace(coordinator=SimpleNamespace(single_type_managers=managers))
        self.requests = {}

    def add_request(self, request):
        self.requests[request.request_id] = request

    def update_from_output(self, scheduler_output, model_runner_output):
        for request_id in model_runner_output.ended:
            self._free_blocks(self.requests[request_id])

    def _free_blocks(self, request):
        del self.requests[request.request_id]


class AsyncScheduler(Scheduler):
    pass


class Counter:
    """Of prometheus_client: what was counted by all of them."""

    counted: dict[str, float] = {}

    def __init__(self, name, documentation):
        assert documentation and name not in self.counted  # or else the registry would refuse it
        self.name = name
        self.counted[name] = 0

    def inc(self, amount):
        assert amount >= 0
        self.counted[self.name] += amount


class KVCacheSpecRegistry:
    registered: dict = {}

    @classmethod
    def _ensure_registered(cls):
        cls.registered.setdefault(FullAttentionSpec, FullAttentionManager)

    @classmethod
    def register(cls, spec, manager, uniform_type_base_spec):
        assert FullAttentionSpec in cls.registered  # or else vLLM's own would never come
        cls.registered[spec] = manager


def modules():
    """What to put into sys.modules for lzpenalty.vllm.spec and scheduler."""
    contents = {
        "vllm.utils.math_utils": {"cdiv": cdiv},
        "prometheus_client": {"Counter": Counter},
        "vllm.v1.core.sched.async_scheduler": {"AsyncScheduler": AsyncScheduler},
        "vllm.v1.core.sched.scheduler": {"Scheduler": Scheduler},
        "vllm.v1.core.single_type_kv_cache_manager": {"FullAttentionManager": FullAttentionManager},
        "vllm.v1.kv_cache_interface": {"FullAttentionSpec": FullAttentionSpec},
        "vllm.v1.kv_cache_spec_registry": {"KVCacheSpecRegistry": KVCacheSpecRegistry},
    }
    fakes = {}
    for name, attributes in contents.items():
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            fakes.setdefault(".".join(parts[:i]), ModuleType(".".join(parts[:i])))
        vars(fakes[name]).update(attributes)
    return fakes
