"""Calls from many threads at once give what calls one after the other give."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from lzpenalty import codelength_deltas, lz_penalize_
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


def test_the_gil_is_released_for_large_batches():
    tokens, logits = np.random.default_rng(0).integers(0, 9, (20_000, 256)), np.zeros((20_000, 16), np.float32)
    running, seen = threading.Event(), []

    def watch():
        running.set()
        while running.is_set():
            seen.append(len(seen))

    watcher = threading.Thread(target=watch)
    watcher.start()
    running.wait()
    before = len(seen)
    lz_penalize_(logits, tokens)
    during = len(seen) - before
    running.clear()
    watcher.join()
    assert during > 0
    assert len(codelength_deltas(tokens[0], 9)[0]) > 0
