"""Nothing leaks and nothing is allocated in the steady state, over 10^5 calls of each kind."""

import tracemalloc

import numpy as np
import pytest
import torch

from lzpenalty import (
    LZOptions,
    _core,
    append_,
    append_ragged_,
    attention_scores,
    codelength_deltas,
    compact_,
    compact_blocks_,
    echo_blocks_,
    echo_scores_,
    gather_blocks_,
    loop_evidence,
    lz_penalize_,
    lz_penalize_rows_,
    select_top,
)
from producers import Producer
from resident import resident_bytes

TOKENS = torch.randint(0, 50, (4, 700))


def grown_bytes(call, times):
    tracemalloc.start()
    start, resident = tracemalloc.get_traced_memory()[0], resident_bytes()
    for _ in range(times):
        call()
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    return max(grown, resident_bytes() - resident)


def leaks(call, times=100_000):
    """Whether memory grows in each of three rounds. It grows in one when something is touched for the first time, as a
    library's pages by a collection of garbage."""
    for _ in range(2000):
        call()
    return all(grown_bytes(call, times) > 3 * times for _ in range(3))


def test_what_grows_once_is_no_leak():
    kept = []
    assert leaks(lambda: kept.append(bytes(1)), 10_000)
    kept.clear()
    assert not leaks(lambda: len(kept) > 3000 or kept.append(bytes(1000)), 10_000)


def bad_call():
    with pytest.raises(ValueError):
        lz_penalize_(np.zeros((1, 8), np.float32), np.zeros((1, 4), np.int64), starts=5)


def bad_options():
    for bad in ({"gate": (2, 1)}, {"release": [1, [2] * 9]}, {"open": [[1, "x"]]}, {"skip": range(17)}):
        with pytest.raises((TypeError, ValueError)):
            LZOptions(**bad)
    LZOptions(**LZOptions(gate=(1, 2), release=[1, (2, 3)], skip=4).keywords())


def bad_cache_calls():
    cache, nans = torch.zeros(1, 1, 4, 2), torch.full((1, 1, 4, 2), float("nan"))
    zeros = torch.zeros(1, 1, dtype=torch.int64)
    for call in (
        lambda: attention_scores(nans, cache, start=0, stop=4),
        lambda: select_top(cache[0], 3),
        lambda: compact_(cache, nans, cache, start=0, stop=4, length=4),
        lambda: append_(cache, nans, cache, cache, position=0),
        lambda: compact_blocks_(cache, nans, TOKENS, cache, start=0, stop=4, length=4),
        lambda: gather_blocks_(cache, cache, TOKENS, start=4),
        lambda: append_ragged_(cache[0, 0], nans[0, 0], cache, cache, starts=zeros, lengths=zeros + 4),
        lambda: echo_scores_(torch.zeros(4), nans, cache[0, 0], starts=zeros, lengths=zeros + 4),
        lambda: echo_scores_(torch.zeros(4), cache, cache[0, 0], starts=zeros, lengths=zeros + 5),
        lambda: echo_blocks_(torch.zeros(1, 4), nans, cache[:1, :1], zeros, zeros + 4, start=0),
        lambda: echo_blocks_(torch.zeros(1, 4), cache, cache[:1, :1], zeros + 1, zeros + 4, start=0),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()


def bad_text_calls():
    for tokens in (np.zeros(3), np.zeros((2, 2), np.int64), np.array([0, 9])):
        for call in (lambda: _core.parse_lz77(tokens, 2), lambda: _core.find_loops(tokens, 2, 0.1, 3)):
            with pytest.raises((TypeError, ValueError)):
                call()


@pytest.mark.parametrize(
    "kind",
    [
        "torch",
        "numpy",
        "starts and marks",
        "marks",
        "evidence",
        "results",
        "rows",
        "errors",
        "errors of options",
        "scores",
        "selection",
        "cache",
        "cache errors",
        "text",
        "text errors",
    ],
)
def test_calls_leave_nothing_behind(kind):
    logits, tokens = torch.zeros(4, 64), TOKENS
    array, ids = np.zeros((1, 64), np.float32), np.zeros((1, 9), np.int64)
    starts = torch.tensor([0, 1, 2, 3])
    keys, values, new = torch.zeros(2, 2, 9, 4), torch.zeros(2, 2, 9, 4), torch.ones(2, 2, 1, 4)
    blocks, gathered = torch.tensor([1, 0]), torch.zeros(1, 2, 12, 4)
    scores = attention_scores(new, keys, start=0, stop=6)
    positions = select_top(scores, 3)

    def use_cache():
        append_(keys, values, new, new, position=8)
        compact_(keys, values, positions, start=0, stop=6, length=9)
        compact_blocks_(keys, values, blocks, positions[:1], start=0, stop=6, length=9)
        one = keys[:, :1], values[:, :1]
        compact_blocks_(*one, blocks, positions[:1, :1], start=0, stop=6, length=9, evidence=torch.zeros(2, 9))
        gather_blocks_(gathered, keys, blocks, start=0)
        slots, runs = (keys.view(36, 4), values.view(36, 4)), torch.tensor([[0, 9], [18, 27]])
        append_ragged_(*slots, new, new, starts=runs, lengths=runs.clamp(max=8))
        echo_scores_(torch.zeros(36), new, slots[0], starts=runs, lengths=runs.clamp(max=8), pads=runs[0].clamp(max=0))
        blocks_of_heads, entries = runs.clamp(max=1), runs[:1].clamp(max=9)
        echo_blocks_(torch.zeros(2, 9), new[:1], keys[:, :1], blocks_of_heads, entries, start=2, asked=new[:1])

    def read_text():
        _core.token_bits(ids[0], 64)
        _core.parse_lz77(ids[0], 4)
        _core.parse_lz78(ids[0])
        _core.find_loops(ids[0], 2, 0.0, 4)
        _core.find_loops(ids[0], 2, 0.1, 4)

    calls = {
        "torch": lambda: lz_penalize_(logits, tokens, window=64),
        "numpy": lambda: lz_penalize_(array, ids),
        "starts and marks": lambda: lz_penalize_(logits, tokens, window=16, starts=starts, open=[1, 2]),
        "marks": lambda: lz_penalize_(
            logits, tokens, window=64, gate=(2, 3), release=[[1, 2], 3], release_after=6, open=4, skip=[[5, 6]]
        ),
        "evidence": lambda: loop_evidence(tokens, window=64),
        "results": lambda: codelength_deltas(ids[0], 64),
        "rows": lambda: lz_penalize_rows_(
            logits, {1: (LZOptions(window=16, open=[3]), [1, 2, 1]), 2: (LZOptions(), tokens[0])}
        ),
        "errors": bad_call,
        "errors of options": bad_options,
        "scores": lambda: attention_scores(new, keys, start=0, stop=6),
        "selection": lambda: select_top(scores, 3),
        "cache": use_cache,
        "cache errors": bad_cache_calls,
        "text": read_text,
        "text errors": bad_text_calls,
    }
    times = 10_000 if "errors" in kind else 100_000
    assert not leaks(calls[kind], times)


def test_capsules_leave_nothing_behind():
    producer = Producer(np.zeros((1, 8), np.float32))
    ids = Producer(np.zeros((1, 4), np.int64))
    assert not leaks(lambda: lz_penalize_(producer, ids), 30_000)
    assert producer.exports == ids.exports == 0


def test_cuda_calls_leave_nothing_behind(emulated):
    logits, tokens = emulated.put(np.zeros((4, 64), np.float32)), emulated.put(TOKENS)
    keys = emulated.put(np.zeros((1, 1, 9, 4), np.float32))
    lz_penalize_(logits, tokens)
    emulated.bytes(logits)  # what waits in the queue would make everything after it wait
    emulated.driver.emulator_idle(1)
    try:
        assert not leaks(lambda: lz_penalize_(logits, tokens, window=64))
        assert not leaks(lambda: attention_scores(keys, keys, start=0, stop=9), 30_000)
    finally:
        emulated.driver.emulator_idle(0)
