"""How fast are the key/value cache's routines?

    python benchmarks/cache.py [--quick]

One compression of one layer, attention_scores + select_top + compact_ in place, side by side with the same in eager PyTorch,
as the authors of Reasoning Path Compression write it, on the same number of threads, each in a process of its own and in
turns, in three passes over all cells: its time, the memory that it needs on top of the cache, and the share of what a core
can multiply and add (peak.c) that the scores reach. Then append_ and the two slice copies that it replaces. Writes
results/cache.json; takes half an hour and 8 GB, and needs Linux and a C compiler."""

import argparse
import ctypes
import math
import statistics
import time
from itertools import product
from pathlib import Path

import torch

from harness import Contestant, median_ratio, prepare, prepared, side_by_side, taking_turns, write
from lzpenalty import append_, attention_scores, compact_, select_top, set_num_threads
from peak import multiply_add

MODELS = {"Qwen2.5-7B": (28, 4, 128), "QwQ-32B": (40, 8, 128)}
PROMPT, RECENT, KERNEL = 256, 32, 7
REGIONS = {4096: 1024, 11264: 8192}  # and how many tokens are kept of it: the first compression, and the eighth
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def eager(queries, keys, values, kept):
    """One compression: new keys and values."""
    B, heads, length, D = keys.shape
    start, stop = PROMPT, length - RECENT
    group = queries.shape[1] // heads
    repeated = keys[:, :, None].expand(-1, -1, group, -1, -1).reshape(B, heads * group, length, D)  # repeat_kv
    products = torch.matmul(queries, repeated.mT) / math.sqrt(D)
    weights = products[..., start:stop].softmax(-1, dtype=torch.float32)
    scores = torch.nn.functional.avg_pool1d(weights.mean((1, 2))[:, None], KERNEL, 1, KERNEL // 2)
    index = scores.topk(kept).indices.sort().values[..., None].expand(-1, heads, -1, D)
    return [torch.cat([x[:, :, :start], x[:, :, start:stop].gather(2, index), x[:, :, stop:]], 2) for x in (keys, values)]


def ours(queries, keys, values, kept):
    """The same in place: the new length."""
    start, stop = PROMPT, keys.shape[2] - RECENT
    scores = attention_scores(queries, keys, start=start, stop=stop, kernel=KERNEL)
    return compact_(keys, values, select_top(scores, kept), start=start, stop=stop, length=keys.shape[2])


def peak_memory(function) -> int:
    """Bytes by which the process grows at most while function() runs, as the kernel counts them. Free memory that the C
    library holds would hide a part, and is given back first. It has run before: what a first call sets up for good doesn't
    count."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def roofline(operations, rounds: int = 9) -> dict:
    """Operations a second of the scores on one core, and their share of the peak, in processor time: without what others
    take of it. Runs in the process of ours."""

    def seconds(function):
        start = time.process_time()
        function()
        return time.process_time() - start

    peak, peak_operations = multiply_add()
    times = [(seconds(prepared["scores", 1]), seconds(peak)) for _ in range(rounds)]
    rate = statistics.median(operations / ours for ours, _ in times)
    share = statistics.median(operations / ours * of_peak / peak_operations for ours, of_peak in times)
    return {"gflops": round(rate / 1e9, 1), "share_of_one_core": round(share, 3)}


def memory(name) -> int:
    """peak_memory of a prepared function. Runs in its process."""
    return peak_memory(prepared[name])


def compression(model, batch, region, dtype, threads) -> dict:
    """The same by us, as a whole and in parts, and in eager PyTorch, by (name, threads)."""
    query_heads, heads, D = MODELS[model]
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    set_num_threads(threads)
    shape = batch, heads, PROMPT + region + RECENT, D
    queries = torch.randn(batch, query_heads, RECENT, D).to(DTYPES[dtype])
    before = [torch.randn(shape).to(DTYPES[dtype]) for _ in range(2)]
    keys, values = (x.clone() for x in before)
    case = queries, keys, values, REGIONS[region]
    span = dict(start=PROMPT, stop=PROMPT + region)
    scores = attention_scores(queries, keys, **span)
    positions = select_top(scores, REGIONS[region])

    def restore():
        keys.copy_(before[0])
        values.copy_(before[1])
        time.sleep(0.01)  # PyTorch's threads stop waiting for work

    return {
        "before": restore,
        ("ours", threads): lambda: ours(*case),
        ("eager", threads): lambda: eager(*case),
        ("scores", threads): lambda: attention_scores(queries, keys, **span),
        ("selection", threads): lambda: select_top(scores, REGIONS[region]),
        ("compaction", threads): lambda: compact_(keys, values, positions, **span, length=shape[2]),
    }


def machine_alone(threads: int) -> dict:
    return {("machine", threads): multiply_add(threads)[0]}


def measure(model, batch, region, dtype, rounds: int, us, torchs, loops) -> dict[tuple, list]:
    """One cell, by (what, threads). One thread and two take turns as well, so that what two gain is known of each round; and
    beside it what the machine gives a second thread that has nothing to wait for."""
    contestants = {}
    for i, threads in enumerate((1, 2)):
        for contestant in (us[i], torchs[i]):
            contestant.run(prepare, compression, model, batch, region, dtype, threads)
        loops[i].run(prepare, machine_alone, threads)
        ours = dict.fromkeys(("ours", "scores", "selection", "compaction"), us[i])
        of_all = ours | {"eager": torchs[i], "machine": loops[i]}
        contestants |= {(name, threads): contestant for name, contestant in of_all.items()}
    found = taking_turns(contestants, rounds)
    for name, threads in product(("ours", "eager"), (1, 2)):
        found[f"{name}_mb", threads] = [contestants[name, threads].run(memory, (name, threads)) / 1e6]
    query_heads, _, D = MODELS[model]
    for name, value in us[0].run(roofline, 2 * batch * query_heads * RECENT * region * D).items():
        found[name, 1] = [value]
    return found


def rows_of(case: tuple, found: dict[tuple, list]):
    """Of one thread and of two."""
    for threads in (1, 2):
        times = {name: found[name, threads] for name in ("ours", "scores", "selection", "compaction", "eager")}
        row = dict(zip(("model", "batch", "region", "dtype"), case, strict=True), threads=threads)
        row |= {f"{name}_ms": round(statistics.median(values) * 1e3, 2) for name, values in times.items()}
        row["eager_over_ours"] = round(median_ratio(times["eager"], times["ours"]), 2)
        if threads == 1:
            row |= {name: statistics.median(found[name, 1]) for name in ("gflops", "share_of_one_core")}
        else:
            row["one_over_two_threads"] = round(median_ratio(found["ours", 1], found["ours", 2]), 2)
            row["machine_one_over_two"] = round(2 * median_ratio(found["machine", 1], found["machine", 2]), 2)
        row |= {name: round(max(found[name, threads]), 2) for name in ("ours_mb", "eager_mb")}
        yield row


def compressions(passes: int, rounds: int, models, regions, batches) -> list[dict]:
    """The grid is gone through several times: what disturbs the machine for half a minute hits one pass of a cell only."""
    us, torchs, loops = ([Contestant() for _ in (1, 2)] for _ in range(3))
    grid = {case: {} for case in product(models, batches, regions, DTYPES)}
    for number in range(passes):
        for case, found in grid.items():
            for name, values in measure(*case, rounds, us, torchs, loops).items():
                found.setdefault(name, []).extend(values)
            print(f"pass {number + 1} of {passes}", *rows_of(case, found), sep="\n", flush=True)
    return [row for case, found in grid.items() for row in rows_of(case, found)]


def appends(rounds: int) -> dict:
    """One new token for 4 rows of 8 heads."""
    keys, values, new_keys, new_values = (torch.zeros(4, 8, n, 128) for n in (4096, 4096, 1, 1))

    def slices():
        keys[:, :, 1000:1001] = new_keys
        values[:, :, 1000:1001] = new_values

    times = side_by_side(
        {"append": lambda: append_(keys, values, new_keys, new_values, position=1000), "slices": slices}, rounds
    )
    result = {f"{name}_us": round(statistics.median(values) * 1e6, 2) for name, values in times.items()}
    result["slices_over_append"] = round(median_ratio(times["slices"], times["append"]), 2)
    print(result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a corner of the grid, nothing written")
    quick = parser.parse_args().quick
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    append = appends(3 if quick else 101)
    grid = compressions(1 if quick else 3, 3, *((["Qwen2.5-7B"], [4096], [1]) if quick else (MODELS, REGIONS, (1, 4))))
    if not quick:
        write("cache", {"append": append, "grid": grid})


if __name__ == "__main__":
    main()
