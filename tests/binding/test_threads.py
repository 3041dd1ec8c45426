"""Calls from many threads at once give what calls one after the other give."""

import os
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from lzpenalty import (
    LZOptions,
    _core,
    append_,
    attend,
    attention_scores,
    codelength_deltas,
    compact_,
    dry_penalize_,
    echo_scores_,
    lz_penalize_,
    lz_penalize_rows_,
    repetition_period,
    select_top,
)
from lzpenalty.cache.attention import CACHE_ARGUMENT
from producers import Producer


def test_threads_do_not_disturb_each_other():
    rng = np.random.default_rng(0)
    jobs = [
        (rng.integers(0, 50, (rows, 900)), {"window": int(window), "min_match": 1 + rows % 2, "release": [rows]})
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
    rng = np.random.default_rng(0)
    jobs = [
        (rng.standard_normal((2, 4, 32, 64), np.float32), rng.standard_normal((2, 2, n, 64), np.float32))
        for n in (10, 50, 700, 2000) * 4
    ]

    def run(job):
        queries, keys = job
        scores = attention_scores(queries, keys, start=2, stop=keys.shape[2])
        return scores.tobytes(), select_top(scores, 7).tolist()

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
            lz_penalize_(kind(array), np.array([[1, 2, 1]]))
            assert array.any()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))


def test_threads_share_a_model_and_a_processor_and_have_a_cache_each(one_thread):
    hf, tiny = pytest.importorskip("lzpenalty.hf"), pytest.importorskip("tiny")
    model, processor, stop = tiny.tiny(), hf.LZPenaltyLogitsProcessor(window=64), hf.RepetitionStoppingCriteria()
    barrier = threading.Barrier(4)

    def run(i, together=True):
        ids = tiny.prompt(1 + i % 2, 20 + i, seed=i)
        if together:
            barrier.wait()
        with hf.CompressedCache(model, interval=16, ratio=4, recent=8) as cache:
            more = dict(**{CACHE_ARGUMENT: cache}, logits_processor=[processor], stopping_criteria=[stop])
            return tiny.generate(model, ids, 40, **more).tolist(), cache.stats()["compressions"]

    one_by_one = [run(i, together=False) for i in range(4)]
    assert all(compressions > 0 for _, compressions in one_by_one)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == one_by_one


def rewritten_call(name):
    """A call, an array that it reads, and contents for it, the last of which the call takes a while with."""
    rng = np.random.default_rng(0)
    if name == "ids beyond 32 bits":
        tokens, logits = np.zeros((64, 512), np.int64), np.zeros((64, 16), np.float32)
        return lambda: lz_penalize_(logits, tokens), tokens, (1, rng.integers(2**40, 2**50, 512))
    if name == "scores":
        scores = np.zeros((1, 4, 20_000), np.float32)
        return lambda: select_top(scores, 15_000), scores, (-np.inf, rng.random(scores.shape))
    n, positions = 20_000, np.zeros((1, 1, 10_000), np.int64)
    keys, values = np.zeros((2, 1, 8, n, 8), np.float32)
    call = lambda: compact_(keys, values, positions, start=0, stop=n, length=n)  # noqa: E731
    return call, positions, (2**40, np.arange(0, n, 2))


@pytest.mark.skipif(os.environ.get("LZPENALTY_SANITIZE") == "thread", reason="is a data race")
@pytest.mark.parametrize("name", ["ids beyond 32 bits", "scores", "positions"])
def test_what_is_rewritten_meanwhile_leads_nowhere_else(name):
    call, array, contents = rewritten_call(name)
    done = threading.Event()

    def rewrite():
        while not done.is_set():
            for content in contents:
                array[...] = content

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(rewrite)
        try:
            for _ in range(30):
                array[...] = contents[-1]
                with suppress(ValueError):  # a position that is seen to be none
                    call()
        finally:
            done.set()
        writer.result()


def test_one_set_of_arrays_for_all_threads():
    rng = np.random.default_rng(0)
    tokens, queries = rng.integers(0, 9, 700), rng.standard_normal((1, 2, 8, 16), np.float32)
    keys = rng.standard_normal((1, 2, 300, 16), np.float32)
    options, text = LZOptions(gate=(6, 9), release=[[1, 2], 3], open=[[8, 8, 8]]), tokens.tolist()

    def run(_):
        logits = np.zeros((2, 9), np.float32)
        lz_penalize_rows_(logits, {0: (options, text), 1: (LZOptions(**options.keywords()), tokens)})
        scores = attention_scores(queries, keys, start=0, stop=300)
        results = [logits, scores, select_top(scores, 30), *codelength_deltas(tokens, 9), _core.parse_lz77(tokens, 50)]
        return repr(options), *(array.tobytes() for array in results)

    expected = run(0)
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(run, range(400)))


def test_lists_and_dicts_that_change():
    options, growing, done = LZOptions(), [1, 2, 3], threading.Event()
    rows = {row: (options, growing) for row in range(8)}

    def change():
        while not done.is_set():
            growing.append(len(growing) % 7)
            rows[len(growing) % 8] = LZOptions(skip=growing[:3] or None), [*growing]
            rows.pop(len(growing) * 5 % 8, None)
            if len(growing) > 2000:
                del growing[:1500]

    def penalize(_):
        logits = np.zeros((8, 9), np.float32)
        for _ in range(200):
            lz_penalize_rows_(logits, rows)
            lz_penalize_(logits[0], np.zeros(3, int))
        return np.isfinite(logits).all()

    with ThreadPoolExecutor(5) as pool:
        changes = pool.submit(change)
        try:
            assert all(pool.map(penalize, range(4)))
        finally:
            done.set()
        changes.result()


@pytest.mark.elsewhere(not sysconfig.get_config_var("Py_GIL_DISABLED"), "need another Python: make test-pythons")
def test_the_gil_stays_off():
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; import numpy as np; from lzpenalty import lz_penalize_; "
        "lz_penalize_(np.zeros(9), np.zeros(3, int)); assert not sys._is_gil_enabled()"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def large_call(name):
    if name == "penalize":
        tokens, logits = np.random.default_rng(0).integers(0, 9, (20_000, 256)), np.zeros((20_000, 16), np.float32)
        return lambda: lz_penalize_(logits, tokens)
    if name in ("dry", "period"):
        logits, tokens = np.zeros((2000, 16), np.float32), np.random.default_rng(0).integers(0, 2, (2000, 1500))
        if name == "dry":
            return lambda: dry_penalize_(logits, tokens)
        return lambda: repetition_period(tokens, ngram=1, count=2, max_period=1500)
    if name in ("parse", "loops"):
        ranks = np.random.default_rng(0).integers(0, 9, 100_000)
        return (lambda: _core.parse_lz77(ranks, 512)) if name == "parse" else (lambda: _core.find_loops(ranks, 2, 0.0, 512))
    n = 40_000  # NumPy, since torch lets go of the GIL to allocate what is returned
    (keys, values), new = np.zeros((2, 1, 8, n, 64), np.float32), np.ones((1, 8, n - 1, 64), np.float32)
    scores, kept = np.zeros((1, 8, n), np.float32), np.arange(1, n).reshape(1, 1, -1)
    return {
        "score": lambda: attention_scores(new[:, :, :32], keys, start=0, stop=n),
        "attend": lambda: attend(new[:, :, :1], keys, values),
        "echo": lambda: echo_scores_(
            np.zeros(8 * n, np.float32),
            new[:, :, :32],
            keys.reshape(8 * n, 64),
            starts=np.arange(0, 8 * n, n).reshape(1, 8),
            lengths=np.full((1, 8), n),
        ),
        "select": lambda: select_top(scores, 100),
        "compact": lambda: compact_(keys, values, kept, start=0, stop=n, length=n),
        "append": lambda: append_(keys, values, new, new, position=1),
    }[name]


@pytest.mark.parametrize(
    "name", ["penalize", "dry", "period", "score", "attend", "echo", "select", "compact", "append", "parse", "loops"]
)
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
