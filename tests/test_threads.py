"""Calls from many threads at once give what calls one after the other give."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lzpenalty import _core, append_, attention_scores, compact_, lz_penalize_, select_top
from producers import Producer


def test_threads_do_not_disturb_each_other():
    rng = np.random.default_rng(0)
    jobs = [
        (rng.integers(0, 50, (rows, 900)), {"window": int(window), "min_count": 1 + rows % 2, "horizon": rows % 3 * 40})
        for rows, window in zip(rng.integers(1, 40, 60), rng.integers(1, 800, 60), strict=True)
    ]

    def run(job):
        tokens, options = job
        return lz_penalize_(np.zeros((len(tokens), 60), np.float32), tokens, **options).tobytes()

    one_by_one = [run(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(run, jobs)) == one_by_one


def test_scores_from_many_threads_at_once():
    torch.manual_seed(0)
    jobs = [(torch.randn(2, 4, 32, 64), torch.randn(2, 2, n, 64)) for n in (10, 50, 700, 2000) * 4]

    def run(job):
        queries, keys = job
        scores = attention_scores(queries, keys, start=2, stop=keys.shape[2])
        return scores.numpy().tobytes(), select_top(scores, 7).tolist()

    one_by_one = [run(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(run, jobs)) == one_by_one


def test_new_types_arrive_from_many_threads():
    barrier = threading.Barrier(8)

    def run(i):
        kind = type(f"Kind{i}", (Producer,), {})
        barrier.wait()
        for _ in range(20):
            array = np.zeros((1, 8), np.float32)
            lz_penalize_(kind(array), torch.tensor([[1, 2, 1]]))
            assert array.any()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))


def large_call(name):
    if name == "penalize":
        tokens, logits = np.random.default_rng(0).integers(0, 9, (20_000, 256)), np.zeros((20_000, 16), np.float32)
        return lambda: lz_penalize_(logits, tokens)
    if name in ("parse", "loops"):
        ranks = np.random.default_rng(0).integers(0, 9, 100_000)
        return (lambda: _core.parse_lz77(ranks, 512)) if name == "parse" else (lambda: _core.find_loops(ranks, 2, 0.0, 512))
    n = 40_000  # NumPy, since torch lets go of the GIL to allocate what is returned
    (keys, values), new = np.zeros((2, 1, 8, n, 64), np.float32), np.ones((1, 8, n - 1, 64), np.float32)
    scores, kept = np.zeros((1, 8, n), np.float32), np.arange(1, n).reshape(1, 1, -1)
    return {
        "score": lambda: attention_scores(new[:, :, :32], keys, start=0, stop=n),
        "select": lambda: select_top(scores, 100),
        "compact": lambda: compact_(keys, values, kept, start=0, stop=n, length=n),
        "append": lambda: append_(keys, values, new, new, position=1),
    }[name]


@pytest.mark.parametrize("name", ["penalize", "score", "select", "compact", "append", "parse", "loops"])
def test_large_calls_release_the_gil(name):
    call, done, seen, interval = large_call(name), threading.Event(), [], sys.getswitchinterval()

    def watch():
        while not done.is_set():
            seen.append(time.sleep(1e-4))

    watcher = threading.Thread(target=watch)
    sys.setswitchinterval(1000)  # Python takes the GIL from nobody: who wants it has to be given it
    try:
        watcher.start()
        while not seen:
            time.sleep(1e-3)
        before = len(seen)
        for _ in range(100):
            call()
            if len(seen) > before:
                break
        assert len(seen) > before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        watcher.join()
