"""vLLM's worker with a compressed cache."""

import logging

from vllm.platforms import current_platform
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.outputs import AsyncModelRunnerOutput

from lzpenalty.vllm.checks import (
    ATTRIBUTES,
    ECHO,
    HEAD_MAJOR,
    METHODS,
    WITHOUT_ECHO,
    check_configuration,
    check_surface,
)
from lzpenalty.vllm.compressor import Compressor
from lzpenalty.vllm.runners import FirstRunner, SecondRunner

__all__ = ["Worker"]

logger = logging.getLogger("vllm.lzpenalty")

_OF_SECOND = "vllm.v1.worker.gpu."


def _surface(second: bool) -> list[str]:
    """The classes of vLLM's that one of its runners has to do with."""
    return [
        name
        for name in dict.fromkeys((*METHODS, *ATTRIBUTES))
        if (name.startswith(_OF_SECOND) if second else ".worker." in name and not name.startswith(_OF_SECOND))
    ]


def _base() -> type:
    """The platform's worker."""
    if current_platform.is_cpu():
        return resolve_obj_by_qualname("vllm.v1.worker.cpu_worker.CPUWorker")
    if current_platform.is_cuda_alike():
        return resolve_obj_by_qualname("vllm.v1.worker.gpu_worker.Worker")
    raise RuntimeError(f"the compressed cache can't be served on {current_platform.device_name}")


class Worker(_base()):
    """`--worker-cls lzpenalty.vllm.Worker`"""

    compresses_cache = True

    def __init__(self, vllm_config, *args, **kwargs):
        self.cache_server = check_configuration(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)
        if vllm_config.parallel_config.tensor_parallel_size > 1:
            logger.info("compressed cache: each rank chooses by its own heads")

    def init_device(self):
        super().init_device()
        kind = SecondRunner if self.use_v2_model_runner else FirstRunner
        check_surface(_surface(self.use_v2_model_runner))
        runner = self.model_runner
        # The platform made its own kind of runner, of which there are several: what is added goes in front of it.
        runner.__class__ = type(f"Compressing{type(runner).__name__}", (kind, type(runner)), {})
        most_tokens = max(
            self.scheduler_config.max_num_batched_tokens, self.compilation_config.max_cudagraph_capture_size or 0
        )
        if self.device.type == "cuda":
            logger.warning("compressed cache: its use of GPUs was read, not run")
            logger.info("compressed cache: queries are copied within graphs (%s)", self.compilation_config.cudagraph_mode)
        runner.compressor = Compressor(self.cache_server, most_tokens, self.model_config.dtype, self.device)

    def get_supported_kv_cache_layouts(self):
        """Where heads have places of their own, layouts in which a head's tokens lie side by side."""
        names = super().get_supported_kv_cache_layouts()
        if not self.cache_server.echo:
            return names
        if found := [name for name in names if name in HEAD_MAJOR]:
            return found
        raise ValueError(
            f"{ECHO} needs one of the layouts {', '.join(HEAD_MAJOR)} of blocks, and the attention of this model has "
            f"{', '.join(names)}; {WITHOUT_ECHO}"
        )

    def determine_available_memory(self):
        """Less what evidence takes: a float32 for each key and value of a head."""
        available = super().determine_available_memory()
        if not self.cache_server.echo:
            return available
        spec = next(iter(self.model_runner.get_kv_cache_spec().values()))
        entry = spec.page_size_bytes // (spec.block_size * spec.num_kv_heads)
        return int(available * entry // (entry + 4))

    def sample_tokens(self, *args, **kwargs):
        """Tells the scheduler what the step's compressions took."""
        output, seconds = super().sample_tokens(*args, **kwargs), self.model_runner.compressor.take_seconds()
        if not seconds or output is None:
            return output

        def told(result):
            result.cache_seconds = seconds
            return result

        if not isinstance(output, AsyncModelRunnerOutput):
            return told(output)
        get_output = output.get_output
        output.get_output = lambda: told(get_output())
        return output

    def cache_statistics(self) -> dict[str, float]:
        """compressions, their seconds, and those that asking and metadata by head took so far; requests and windows at the
        moment. For `collective_rpc`."""
        return self.model_runner.compressor.statistics()
