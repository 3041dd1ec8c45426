"""vLLM 0.32's and 0.33's two interfaces for logits processors, and the parts of its two runners that drive them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import ModuleType, SimpleNamespace
from typing import Any


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: Sequence[int]
    added: Sequence[tuple]
    moved: Sequence[tuple]


class LogitsProcessor(ABC):
    """vllm.v1.sample.logits_processor"""

    @classmethod
    def validate_params(cls, sampling_params):
        return None

    @abstractmethod
    def __init__(self, vllm_config, device, is_pin_memory) -> None: ...

    @abstractmethod
    def apply(self, logits): ...

    @abstractmethod
    def is_argmax_invariant(self) -> bool: ...

    @abstractmethod
    def update_state(self, batch_update) -> None: ...


@dataclass(frozen=True)
class LogitsProcRequestState:
    device: Any
    max_num_reqs: int
    vocab_size: int
    all_token_ids: Any
    prompt_len: Any
    prefill_len: Any
    total_len: Any


@dataclass(frozen=True)
class LogitsContext:
    expanded_idx_mapping: Any
    idx_mapping: Any
    idx_mapping_np: Any
    expanded_local_pos: Any
    input_ids: Any
    pos: Any
    seq_lens_upper_bound_np: Any


class SlotLogitsProcessor(ABC):
    """vllm.v1.worker.gpu.sample.logits_processor.LogitsProcessor"""

    def __init__(self, vllm_config, req_states): ...  # noqa: B027

    @classmethod  # noqa: B027
    def validate_params(cls, sampling_params) -> None: ...

    def add_request(self, req_idx, sampling_params) -> bool:
        return True

    def apply_staged_writes(self) -> None: ...  # noqa: B027

    @abstractmethod
    def apply(self, logits, ctx): ...


class SamplingParams(SimpleNamespace):
    def __init__(self, extra_args=None):
        super().__init__(extra_args=extra_args)


def modules(second_runner=True):
    """What to put into sys.modules."""
    v1 = ModuleType("vllm.v1.sample.logits_processor")
    v1.LogitsProcessor, v1.MoveDirectionality, v1.BatchUpdate = LogitsProcessor, MoveDirectionality, BatchUpdate
    v2 = ModuleType("vllm.v1.worker.gpu.sample.logits_processor")
    v2.LogitsProcessor = SlotLogitsProcessor
    v2.LogitsProcRequestState, v2.LogitsContext = LogitsProcRequestState, LogitsContext
    names = ["vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.worker", "vllm.v1.worker.gpu", "vllm.v1.worker.gpu.sample"]
    fakes = {name: ModuleType(name) for name in names}
    fakes["vllm"].SamplingParams = SamplingParams
    return fakes | {v1.__name__: v1, v2.__name__: v2 if second_runner else None}
