"""The real vLLM on one thread of a CPU, in this process, with its first model runner: the second runs in Triton's
interpreter here, where no figure means anything. To be imported before vllm."""

import os

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TRITON_INTERPRET": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}

from vllm import LLM, SamplingParams  # noqa: E402

__all__ = ["engine", "greedy"]


def engine(model: str, **options):
    """(LLM, its scheduler, its worker)"""
    llm = LLM(model, dtype="float32", enforce_eager=True, **options)
    core = llm.llm_engine.engine_core.engine_core
    return llm, core.scheduler, core.model_executor.driver_worker.worker


def greedy(tokens: int, extra: dict | None):
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra)
