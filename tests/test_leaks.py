"""Nothing leaks and nothing is allocated in the steady state, over 10^5 calls of each kind."""

import resource
import tracemalloc

import numpy as np
import pytest
import torch

from lzpenalty import LZOptions, codelength_deltas, lz_penalize_, lz_penalize_rows_
from producers import Producer

TOKENS = torch.randint(0, 50, (4, 700))


def resident_pages():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1])


def grown_bytes(call, times=100_000):
    for _ in range(2000):
        call()
    tracemalloc.start()
    start, pages = tracemalloc.get_traced_memory()[0], resident_pages()
    for _ in range(times):
        call()
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    return max(grown, (resident_pages() - pages) * resource.getpagesize())


def bad_call():
    with pytest.raises(ValueError):
        lz_penalize_(np.zeros((1, 8), np.float32), np.zeros((1, 4), np.int64), starts=5)


@pytest.mark.parametrize("kind", ["torch", "numpy", "starts and neutral", "results", "rows", "errors"])
def test_calls_leave_nothing_behind(kind):
    logits, tokens = torch.zeros(4, 64), TOKENS
    array, ids = np.zeros((1, 64), np.float32), np.zeros((1, 9), np.int64)
    starts = torch.tensor([0, 1, 2, 3])
    calls = {
        "torch": lambda: lz_penalize_(logits, tokens, window=64),
        "numpy": lambda: lz_penalize_(array, ids),
        "starts and neutral": lambda: lz_penalize_(logits, tokens, window=16, starts=starts, neutral=[1, 2]),
        "results": lambda: codelength_deltas(ids[0], 64),
        "rows": lambda: lz_penalize_rows_(
            logits, {1: (LZOptions(window=16, neutral=[1]), [1, 2, 1]), 2: (LZOptions(), tokens[0])}
        ),
        "errors": bad_call,
    }
    times = 10_000 if kind == "errors" else 100_000
    assert grown_bytes(calls[kind], times) < 300_000


def test_capsules_leave_nothing_behind():
    producer = Producer(np.zeros((1, 8), np.float32))
    ids = Producer(np.zeros((1, 4), np.int64))
    assert grown_bytes(lambda: lz_penalize_(producer, ids), 3000) < 300_000
    assert producer.exports == ids.exports == 0
