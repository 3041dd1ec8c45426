"""How fast are the routines on a GPU?

    python benchmarks/gpu.py [--quick]

Microseconds a call, from events around the replay of a CUDA graph, in which what a call costs the host does not show; and of
calls that are made one by one, in which it does. The peers: transformers' RepetitionPenaltyLogitsProcessor on the same
input, the dense PyTorch formula through torch.compile, and PyTorch's own operations for the cache. Writes
results/gpu.json."""

import argparse
import statistics
import sys
import time

import torch

from dense import dense_penalize
from harness import write
from lz import make_tokens
from lzpenalty import attention_scores, compact_, lz_penalize_, select_top, warmup

BUFFER = 32


def replayed_us(function, calls: int = 20, rounds: int = 15) -> float | None:
    """Median time of a call in a graph; None if it can't be captured."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        function()
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(calls):
                function()
    except RuntimeError as error:
        print(f"not captured: {error}", file=sys.stderr)
        return None
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return round(statistics.median(times), 2)


def called_us(function, calls: int = 50, rounds: int = 9) -> float:
    """Median time of a call out of many that are made one by one, until the device has done them."""
    function()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / calls * 1e6)
    return round(statistics.median(times), 2)


def row(name: str, functions: dict) -> dict:
    result = {"case": name}
    for label, function in functions.items():
        result[label] = {"replayed_us": replayed_us(function), "called_us": called_us(function)}
    print(result, flush=True)
    return result


def penalties(quick: bool) -> list[dict]:
    from transformers import RepetitionPenaltyLogitsProcessor

    repetition, rows, vocab = RepetitionPenaltyLogitsProcessor(1.1), [], 151_936
    for batch in (1, 64) if quick else (1, 8, 64, 256):
        logits = torch.randn(batch, vocab, device="cuda")
        for window in (512,) if quick else (128, 512, 4096):
            for text in ("random", "prose", "loop"):
                tokens = make_tokens(text, batch, window + BUFFER, vocab).cuda()
                functions = {
                    "in place": lambda: lz_penalize_(logits, tokens, window=window, buffer=BUFFER),
                    "repetition penalty": lambda: repetition(tokens, logits),
                }
                rows.append(row(f"penalty, B {batch}, W {window}, {text}", functions))
    return rows


def against_dense() -> dict:
    """At a vocabulary of 32,000, or [B, V, W] would not fit small devices."""
    compiled, logits = torch.compile(dense_penalize), torch.randn(1, 32_000, device="cuda")
    tokens = make_tokens("prose", 1, 512 + BUFFER, 32_000).cuda()

    def dense():
        with torch.device("cuda"):
            compiled(logits, tokens)

    functions = {"in place": lambda: lz_penalize_(logits, tokens), "dense, compiled": dense}
    return row("penalty, B 1, W 512, V 32,000", functions)


def cache(quick: bool) -> list[dict]:
    rows = []
    for n in (4096,) if quick else (4096, 16_384, 65_536):
        queries = torch.randn(1, 32, 32, 128, device="cuda", dtype=torch.bfloat16)
        keys = torch.randn(1, 8, n + 32, 128, device="cuda", dtype=torch.bfloat16)
        values, k = keys.clone(), n // 4
        scores = attention_scores(queries, keys, start=0, stop=n)
        positions = select_top(scores, k)

        def in_torch(queries=queries, keys=keys, n=n):
            weights = torch.matmul(queries.unflatten(1, (8, 4)), keys[:, :, None, :n].mT) * 128**-0.5
            mean = weights.float().softmax(-1).mean((1, 2, 3))
            return torch.nn.functional.avg_pool1d(mean[:, None], 7, 1, 3)

        def gathered(keys=keys, values=values, positions=positions, n=n):
            index = positions[..., None].expand(1, 8, positions.shape[-1], 128)
            return [torch.cat([x[:, :, :n].gather(2, index), x[:, :, n:]], 2) for x in (keys, values)]

        functions = {
            "attention_scores": lambda: attention_scores(queries, keys, start=0, stop=n),
            "scores in torch": in_torch,
            "select_top": lambda: select_top(scores, k),
            "torch.topk": lambda: scores.topk(k),
            "compact_": lambda: compact_(keys, values, positions, start=0, stop=n, length=n + 32),
            "gather and cat": gathered,
        }
        rows.append(row(f"cache, B 1, Hq 32, Hkv 8, R 32, D 128, n {n}", functions))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a corner of the grid, nothing written")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch finds no GPU", file=sys.stderr)
        return 1
    torch.set_grad_enabled(False)
    warmup()
    results = {"gpu": torch.cuda.get_device_name(), "penalty": penalties(quick), "cache": cache(quick)}
    results["dense"] = against_dense()
    if not quick:
        write("gpu", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
