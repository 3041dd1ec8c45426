"""vLLM with the compressed cache, where the pool of blocks holds a quarter of what full caches need. Needs the environment
of `make test-vllm`.

    python benchmarks/serving_cache.py MODEL

One engine. First what the classes cost where no request asks: they are taken out of the engine and put back in turns. Then
the same requests with full caches and with compressed ones. Tokens are counted by CPU seconds of the process, which other
work on the machine changes little; steps, batches and preemptions it does not change at all.
"""

import os
import statistics
import sys
import time

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TRITON_INTERPRET": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the second runs in Triton's interpreter here, where no figure means anything
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}

import vllm
from vllm import LLM, SamplingParams

from harness import write

PROMPT, TOKENS, REQUESTS, BLOCK = 128, 1024, 6, 32
NEEDED = REQUESTS * (PROMPT + TOKENS) // BLOCK
POOL = NEEDED // 4
ROUNDS, SHORT = 3, 24
MODES = {
    "interval 64, ratio 4": {"rpc_interval": 64, "rpc_ratio": 4, "rpc_recent": 16},
    "full": None,
    "interval 64, budget 128": {"rpc_interval": 64, "rpc_budget": 128, "rpc_recent": 16},
}


class Without:
    """The engine as it is without the classes."""

    def __init__(self, llm):
        core = llm.llm_engine.engine_core.engine_core
        self.runner = core.model_executor.driver_worker.worker.model_runner
        self.scheduler, self.impls = core.scheduler, [layer.impl for layer in self.runner.compressor.layers]

    def __enter__(self):
        self.kind = type(self.runner)
        self.runner.__class__ = self.kind.__mro__[3]  # behind what is added
        self.forwards = [impl.forward for impl in self.impls]
        for impl in self.impls:
            del impl.forward
        added, plain = type(self.scheduler).__mro__[1:3]
        self.methods = [name for name, value in vars(added).items() if callable(value) and not name.startswith("__")]
        for name in self.methods:
            setattr(self.scheduler, name, getattr(plain, name).__get__(self.scheduler))

    def __exit__(self, *exception):
        self.runner.__class__ = self.kind
        for impl, forward in zip(self.impls, self.forwards, strict=True):
            impl.forward = forward
        for name in self.methods:
            delattr(self.scheduler, name)


def main(model: str) -> None:
    llm = LLM(
        model, dtype="float32", enforce_eager=True, max_model_len=PROMPT + TOKENS, max_num_seqs=2 * REQUESTS,
        block_size=BLOCK, num_gpu_blocks_override=POOL + 1, worker_cls="lzpenalty.vllm.Worker",
        scheduler_cls="lzpenalty.vllm.Scheduler",
    )  # fmt: skip
    without = Without(llm)
    scheduler = without.scheduler
    steps = []
    schedule = scheduler.schedule

    def counted(*args, **kwargs):
        output = schedule(*args, **kwargs)
        steps.append(len(output.num_scheduled_tokens))
        return output

    prompts = [{"prompt_token_ids": [(7 * i * i + 31 * n) % 40_000 + 100 for i in range(PROMPT)]} for n in range(REQUESTS)]

    def run(extra, tokens: int) -> tuple[float, float]:
        """CPU seconds and seconds."""
        scheduler.reset_prefix_cache()
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra)
        start, cpu = time.perf_counter(), time.process_time()
        llm.generate(prompts, params, use_tqdm=False)
        return time.process_time() - cpu, time.perf_counter() - start

    def cost() -> float:
        """CPU seconds with the classes against those without."""
        own = run(None, SHORT)[0]
        with without:
            return own / run(None, SHORT)[0]

    cost()
    costs = sorted(cost() for _ in range(ROUNDS))
    print("CPU seconds with the classes against without", costs, flush=True)
    scheduler.schedule = counted
    results = {
        "vllm": vllm.__version__,
        "prompt": PROMPT,
        "tokens": TOKENS,
        "requests": REQUESTS,
        "blocks": {"size": BLOCK, "needed": NEEDED, "pool": POOL},
        "rounds": ROUNDS,
        "cpu_with_the_classes": {"median": statistics.median(costs), "spread": costs},
        "modes": {},
    }
    for mode, extra in MODES.items():
        steps.clear()
        before = scheduler.preemptions, llm.collective_rpc("cache_statistics")[0], scheduler.compressed.freed_blocks
        cpu, seconds = run(extra, TOKENS)
        after = llm.collective_rpc("cache_statistics")[0]
        results["modes"][mode] = {
            "tokens_per_cpu_second": REQUESTS * TOKENS / cpu,
            "tokens_per_second": REQUESTS * TOKENS / seconds,
            "steps": len(steps),
            "mean_batch": statistics.mean(steps),
            "preemptions": scheduler.preemptions - before[0],
            "compressions": after["compressions"] - before[1]["compressions"],
            "share_of_time": (after["seconds"] - before[1]["seconds"]) / seconds,
            "freed_blocks": scheduler.compressed.freed_blocks - before[2],
        }
        print(mode, results["modes"][mode], flush=True)
        write("vllm-cache", results)


if __name__ == "__main__":
    main(sys.argv[1])
