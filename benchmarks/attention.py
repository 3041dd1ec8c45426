"""How fast is attention over a cache?

    python benchmarks/attention.py [--quick]

One new token to the whole cache: attend against PyTorch's scaled_dot_product_attention, given the heads as transformers
gives them (enable_gqa) and with the query heads of a group as if they were tokens, which is the same for one token and
faster. Each has a process of its own and they take turns. So do two loops in C (peak.c): one only reads, from memory that no
cache holds, the other only multiplies and adds. What both allow on so many threads is the roof: a lower bound of attend's
time, once keys and values are larger than the caches. Writes results/attention.json; takes some minutes and 4 GB, and needs
a C compiler and Linux."""

import argparse
import statistics

import torch
from torch.nn.functional import scaled_dot_product_attention

from harness import Contestant, median_ratio, prepare, taking_turns, write
from lzpenalty import attend, set_num_threads
from peak import loops, multiply_add, on_all

MODELS = {"SmolLM2-135M": (9, 3, 64), "Qwen2.5-7B": (28, 4, 128), "QwQ-32B": (40, 8, 128)}
TOKENS = (1024, 4096, 32768)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
READ = 1 << 25  # floats: more than caches hold


def machine_alone(threads: int) -> dict:
    """Reads READ floats; multiplies and adds."""
    memory, share = torch.ones(READ), READ // threads
    read = on_all(threads, lambda thread: loops().read_numbers(memory.data_ptr() + 4 * thread * share, share))
    return {"read": read, "multiply": multiply_add(threads)[0]}


def made_up(*shape, dtype):
    """Numbers of a normal distribution, which are the same again after a while: to draw so many would take too long."""
    count = torch.Size(shape).numel()
    return torch.randn(1 << 18).to(dtype).repeat(-(-count // (1 << 18)))[:count].view(shape)


def attention(model, batch, tokens, dtype, threads) -> dict:
    """The same by us and by PyTorch."""
    query_heads, heads, D = MODELS[model]
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    queries = torch.randn(batch, query_heads, 1, D).to(DTYPES[dtype])
    keys, values = (made_up(batch, heads, tokens, D, dtype=DTYPES[dtype]) for _ in range(2))
    out, grouped = torch.empty_like(queries), queries.view(batch, heads, query_heads // heads, D)
    torch.set_num_threads(threads)
    set_num_threads(threads)
    return {
        "ours": lambda: attend(queries, keys, values, out=out),
        "torch": lambda: scaled_dot_product_attention(queries, keys, values, enable_gqa=True),
        "torch_grouped": lambda: scaled_dot_product_attention(grouped, keys, values),
    }


def measure(model, batch, tokens, dtype, threads, ours, torchs, machine, peak_operations) -> dict:
    query_heads, heads, D = MODELS[model]
    case = dict(model=model, batch=batch, tokens=tokens, dtype=dtype, threads=threads)
    for contestant in (ours, torchs):
        contestant.run(prepare, attention, *case.values())
    machine.run(prepare, machine_alone, threads)
    contestants = {"ours": ours, "torch": torchs, "torch_grouped": torchs, "read": machine, "multiply": machine}
    times = taking_turns(contestants, 3 if tokens > 4096 else 5)
    best = {name: statistics.median(found) for name, found in times.items()}
    numbers = 2 * batch * heads * tokens * D
    size, flops = torch.finfo(DTYPES[dtype]).bits // 8 * numbers, 2 * numbers * (query_heads // heads)
    row = case | {f"{name}_us": round(best[name] * 1e6, 1) for name in ("ours", "torch", "torch_grouped")}
    row["torch_over_ours"] = round(median_ratio(times["torch"], times["ours"]), 2)
    row["torch_grouped_over_ours"] = round(median_ratio(times["torch_grouped"], times["ours"]), 2)
    row["gb_per_second"] = round(size / best["ours"] / 1e9, 2)
    row["read_gb_per_second"] = round(READ * 4 / best["read"] / 1e9, 2)
    row["gflops"] = round(flops / best["ours"] / 1e9, 1)
    row["peak_gflops"] = round(threads * peak_operations / best["multiply"] / 1e9, 1)
    reading = size / (READ * 4) * median_ratio(times["read"], times["ours"])
    multiplying = flops / (threads * peak_operations) * median_ratio(times["multiply"], times["ours"])
    row |= {"share_of_reading": round(reading, 3), "share_of_multiplying": round(multiplying, 3)}
    row["share_of_roof"] = max(row["share_of_reading"], row["share_of_multiplying"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a corner of the grid, nothing written")
    quick = parser.parse_args().quick
    ours, torchs, machine = (Contestant() for _ in range(3))
    contestants = ours, torchs, machine, multiply_add()[1]
    rows = []
    for model in MODELS:
        for batch in (1,) if quick else (1, 4):
            for tokens in TOKENS[:2] if quick else TOKENS:
                for dtype in DTYPES:
                    for threads in (1, 2):
                        rows.append(measure(model, batch, tokens, dtype, threads, *contestants))
                        print(rows[-1], flush=True)
    if not quick:
        write("attention", {"grid": rows})


if __name__ == "__main__":
    main()
