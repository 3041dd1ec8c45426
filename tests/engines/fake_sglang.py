"""SGLang 0.5's interface for custom logit processors, and what its sampler does with them."""

from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any


class CustomLogitProcessor(ABC):
    @abstractmethod
    def __call__(self, logits, custom_param_list: list[dict[str, Any]] | None = None):
        raise NotImplementedError

    @classmethod
    def to_str(cls) -> str:
        return f'{{"callable": "{cls.__module__}:{cls.__name__}"}}'


def apply_custom_logit_processor(logits, processor, rows, custom_params, num_tokens_in_batch=1):
    """The rows that asked for this processor are copied out, processed and copied back."""
    indices = [row * num_tokens_in_batch + i for row in rows for i in range(num_tokens_in_batch)]
    params = [custom_params[row] for row in rows for _ in range(num_tokens_in_batch)]
    logits[indices] = processor(logits[indices], params)


def modules():
    """What to put into sys.modules."""
    names = ["sglang", "sglang.srt", "sglang.srt.sampling", "sglang.srt.sampling.custom_logit_processor"]
    fakes = {name: ModuleType(name) for name in names}
    fakes[names[-1]].CustomLogitProcessor = CustomLogitProcessor
    return fakes
