"""How fast is attention over a cache?

    python benchmarks/attention.py [--quick]

One new token to the whole cache: attend side by side with PyTorch's scaled_dot_product_attention, given the heads
as transformers gives them (enable_gqa) and with the query heads of a group as if they were tokens, which is the same for one
token and faster; and with a loop in C (peak.c) that only reads, from memory that no cache holds. attend can't be faster than
that once keys and values are larger than the caches. Writes results/attention.json; takes some minutes and 4 GB, and needs a
C compiler."""

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from harness import median_ratio, side_by_side, write
from lzpenalty import attend, set_num_threads

MODELS = {"SmolLM2-135M": (9, 3, 64), "Qwen2.5-7B": (28, 4, 128), "QwQ-32B": (40, 8, 128)}
TOKENS = (1024, 4096, 32768)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
READ = 1 << 25  # floats: more than caches hold


def reader():
    """A function that reads READ floats with so many threads."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).parent / "peak.c"
        subprocess.run(
            [os.environ.get("CC", "cc"), "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True
        )
        function = ctypes.CDLL(str(library)).read_numbers
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_void_p, ctypes.c_long]
    memory, helper = torch.ones(READ), ThreadPoolExecutor(1)

    def read(threads):
        if threads == 1:
            function(memory.data_ptr(), READ)
            return
        other = helper.submit(function, memory.data_ptr(), READ // 2)
        function(memory.data_ptr() + READ * 2, READ // 2)
        other.result()

    return read


def made_up(*shape, dtype):
    """Numbers of a normal distribution, which are the same again after a while: to draw so many would take too long."""
    count = torch.Size(shape).numel()
    return torch.randn(1 << 18).to(dtype).repeat(-(-count // (1 << 18)))[:count].view(shape)


def measure(model, batch, tokens, dtype, threads, read) -> dict:
    query_heads, heads, D = MODELS[model]
    torch.manual_seed(0)
    queries = torch.randn(batch, query_heads, 1, D).to(DTYPES[dtype])
    keys, values = (made_up(batch, heads, tokens, D, dtype=DTYPES[dtype]) for _ in range(2))
    out, grouped = torch.empty_like(queries), queries.view(batch, heads, query_heads // heads, D)
    torch.set_num_threads(threads)
    set_num_threads(threads)
    functions = {
        "ours": lambda: attend(queries, keys, values, out=out),
        "torch": lambda: scaled_dot_product_attention(queries, keys, values, enable_gqa=True),
        "torch_grouped": lambda: scaled_dot_product_attention(grouped, keys, values),
        "read": lambda: read(threads),
    }
    times = side_by_side(functions, 3 if tokens > 4096 else 5)
    best = {name: statistics.median(found) for name, found in times.items()}
    numbers = 2 * keys.numel()
    row = dict(model=model, batch=batch, tokens=tokens, dtype=dtype, threads=threads)
    row |= {f"{name}_us": round(best[name] * 1e6, 1) for name in ("ours", "torch", "torch_grouped")}
    row["torch_over_ours"] = round(median_ratio(times["torch"], times["ours"]), 2)
    row["torch_grouped_over_ours"] = round(median_ratio(times["torch_grouped"], times["ours"]), 2)
    row["gb_per_second"] = round(numbers * keys.element_size() / best["ours"] / 1e9, 2)
    row["read_gb_per_second"] = round(READ * 4 / best["read"] / 1e9, 2)
    of_reading = numbers * keys.element_size() / (READ * 4)
    row["share_of_reading"] = round(of_reading * median_ratio(times["read"], times["ours"]), 3)
    row["gflops"] = round(2 * numbers * (query_heads // heads) / best["ours"] / 1e9, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a corner of the grid, nothing written")
    quick = parser.parse_args().quick
    torch.set_grad_enabled(False)
    read = reader()
    rows = []
    for model in MODELS:
        for batch in (1,) if quick else (1, 4):
            for tokens in TOKENS[:2] if quick else TOKENS:
                for dtype in DTYPES:
                    for threads in (1, 2):
                        rows.append(measure(model, batch, tokens, dtype, threads, read))
                        print(rows[-1], flush=True)
                        time.sleep(0.01)  # PyTorch's threads stop waiting for work
    if not quick:
        write("attention", {"grid": rows})


if __name__ == "__main__":
    main()
