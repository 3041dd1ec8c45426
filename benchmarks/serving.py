"""Tokens per second of the real vLLM with the penalty off and on, against none. Needs the environment of `make test-vllm`.

    python benchmarks/serving.py MODEL

One engine, so that all three see the same machine: for `none` the processor is taken out of the engine's list. They take
turns; a ratio is the median over rounds. (Not called vllm.py, which Python would find in vLLM's place.)
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
from lzpenalty.vllm import LZPenalty

ROUNDS, BATCH, TOKENS = 9, 8, 48


def main(model: str) -> None:
    llm = LLM(model, dtype="float32", enforce_eager=True, max_model_len=512, logits_processors=["lzpenalty.vllm:LZPenalty"])
    batch = llm.llm_engine.model_executor.driver_worker.worker.model_runner.input_batch
    listed = batch.logitsprocs.non_argmax_invariant
    ours = next(processor for processor in listed if isinstance(processor, LZPenalty))
    prompts = [f"Tell me a long story about {n} lighthouse keepers." for n in range(2, 2 + BATCH)]
    inside = 0.0
    plain = ours.apply

    def timed(logits):
        nonlocal inside
        start = time.perf_counter()
        plain(logits)
        inside += time.perf_counter() - start
        return logits

    ours.apply = timed

    def run(mode: str) -> tuple[float, float]:
        nonlocal inside
        if mode == "none":
            listed.remove(ours)
            batch.logitsprocs_need_output_token_ids = False
        inside = 0.0
        extra = {"lz_strength": 0.15} if mode == "on" else None
        params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, extra_args=extra)
        start = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        if mode == "none":
            listed.append(ours)
            batch.logitsprocs_need_output_token_ids = True
        return BATCH * TOKENS / seconds, inside / seconds

    modes = ("none", "off", "on")
    for mode in modes:
        run(mode)
    rounds = [{mode: run(mode) for mode in modes} for _ in range(ROUNDS)]
    results = {
        "vllm": vllm.__version__,
        "batch": BATCH,
        "tokens": TOKENS,
        "rounds": ROUNDS,
        "tokens_per_second": {mode: statistics.median(r[mode][0] for r in rounds) for mode in modes},
        "against_none": {mode: statistics.median(r[mode][0] / r["none"][0] for r in rounds) for mode in modes[1:]},
        "spread": {mode: sorted(r[mode][0] / r["none"][0] for r in rounds) for mode in modes[1:]},
        "share_of_time": {mode: statistics.median(r[mode][1] for r in rounds) for mode in modes[1:]},
    }
    write("vllm", results)


if __name__ == "__main__":
    main(sys.argv[1])
