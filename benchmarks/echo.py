"""What echo's scores cost beside the attention of the same steps.

    python benchmarks/echo.py [--threads 1] [--batch 1] [--recent 32]

One layer of a cache whose key heads have lengths of their own (half of them a quarter of the others'), of the sizes of
SmolLM2-135M, Qwen2.5-7B and QwQ-32B: `attend` for R single tokens, and `echo_scores_` once for the R + 1 queries of them
and of the one before, with their 256 rivals, turning not included. Seconds are those of the threads' processors (as wall
time means nothing on a machine with other work), medians of several runs in turns. The scores multiply R + 1 queries with
all keys, attention R queries with all keys and all values: of the multiplications echo has (R + 1) / 2R, a little more
than half, and those with rivals, so its share of the time says how much of its time attention waits for memory. Beside it
stands what both reach of what a core multiplies and adds (peak.c). Writes results/echo.json; needs a C compiler."""

import argparse
import statistics
import time

import torch

import lzpenalty
from harness import write
from lzpenalty.cache.selectors import Echo
from peak import multiply_add

MODELS = {"SmolLM2-135M": (3, 9, 64), "Qwen2.5-7B": (4, 28, 128), "QwQ-32B": (8, 40, 128)}  # key heads, heads, size
LENGTHS = (1024, 4096, 16384)


def spent(call) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def measure(model: str, n: int, dtype: torch.dtype, batch: int, recent: int, peak, peak_operations, runs: int = 5) -> dict:
    heads, all_heads, size = MODELS[model]
    lengths = torch.tensor([n if head % 2 == 0 else n // 4 for head in range(heads)]).expand(batch, -1).contiguous()
    starts = (lengths.flatten().cumsum(0) - lengths.flatten()).view(batch, heads)
    slots = int(lengths.sum())
    keys, values = torch.randn(2, slots, size).to(dtype)
    queries, asked = torch.randn(2, batch, all_heads, recent + 1, size).to(dtype)
    rivals = Echo().rivals
    evidence, layout = torch.zeros(slots), dict(starts=starts, lengths=lengths)

    def attend():
        for i in range(recent):
            lzpenalty.attend(queries[:, :, i : i + 1], keys, values, **layout)

    def echo():
        lzpenalty.echo_scores_(evidence, queries, keys, asked=asked, window=rivals, **layout)

    times = [(spent(attend), spent(echo), spent(peak)) for _ in range(runs + 1)][1:]
    attention, scores, second = (statistics.median(column) for column in zip(*times, strict=True))
    operations = 2 * slots * (all_heads // heads) * size / peak_operations * second  # for one query and all keys
    seen = 1 + lengths.numel() * (rivals + recent / 2 + 1) / slots  # with rivals
    return {
        "model": model, "entries": n, "dtype": str(dtype).removeprefix("torch."), "batch": batch, "recent": recent,
        "attention_ms": 1e3 * attention, "echo_ms": 1e3 * scores, "share": scores / attention,
        "attention_of_peak": 2 * recent * operations / attention, "echo_of_peak": seen * (recent + 1) * operations / scores,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--recent", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lzpenalty.set_num_threads(options.threads)
    rows, peak = [], multiply_add()
    for dtype in (torch.float32, torch.bfloat16):
        for model in MODELS:
            for n in LENGTHS:
                row = measure(model, n, dtype, options.batch, options.recent, *peak)
                rows.append(row)
                line = "{model:14} {entries:6} {dtype:8} attend {attention_ms:8.2f} ms  echo {echo_ms:8.2f} ms  {share:.2f}"
                line += "  of the peak {attention_of_peak:.2f} {echo_of_peak:.2f}"
                print(line.format(**row))
    write("echo", {"threads": options.threads, "rows": rows})


if __name__ == "__main__":
    main()
