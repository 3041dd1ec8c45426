"""Tokens per second of the real vLLM with the penalty off and on, against none. Needs the environment of `make test-vllm`.

    python benchmarks/serving.py MODEL

One engine, so that all three see the same machine: for `none` the processor is taken out of the engine's list. They take
turns; a ratio is the median over rounds. (Not called vllm.py, which Python would find in vLLM's place.)
"""

import statistics
import sys
import time

from vllm_cpu import engine, greedy  # isort: skip  (sets what vllm reads when it is imported)
import vllm

from harness import write
from lzpenalty.vllm import LZPenalty

ROUNDS, BATCH, TOKENS = 9, 8, 48


def main(model: str) -> None:
    llm, _, worker = engine(model, max_model_len=512, logits_processors=["lzpenalty.vllm:LZPenalty"])
    batch = worker.model_runner.input_batch
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
        start = time.perf_counter()
        llm.generate(prompts, greedy(TOKENS, extra), use_tqdm=False)
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
