"""The helpers that calls share their work with: started once, in each process, and nobody waits for them for ever."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lzpenalty import attend, attention_scores, compact_, get_num_threads, set_num_threads

SANITIZERS = os.environ.get("LZPENALTY_SANITIZE", "")
linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="asks Linux about threads")
counting = pytest.mark.skipif(SANITIZERS == "thread", reason="ThreadSanitizer has a thread of its own")
# ThreadSanitizer ends a child that starts threads. AddressSanitizer's allocator has locks that a fork may find taken.
forking = pytest.mark.skipif(bool(SANITIZERS), reason="sanitizers don't survive a fork beside threads")
PREPARED = """
import os, sys
sys.path[:0] = {path!r}
import numpy as np
from lzpenalty import attend, set_num_threads

keys = np.random.default_rng(0).standard_normal((2, 3, 2000, 64), np.float32)
queries = keys[:, :, :1].copy()
def call(threads):
    set_num_threads(threads)
    return attend(queries, keys, keys).tobytes()
def tasks():
    return len(os.listdir("/proc/self/task"))
wanted = call(1)
"""


def run(program):
    """Runs a program of its own, since a process has one pool, after PREPARED."""
    text = PREPARED.format(path=sys.path) + program
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def threads_as_before():
    before = get_num_threads()
    yield
    set_num_threads(before)


@linux
@counting
def test_helpers_are_started_when_they_are_wanted_and_once():
    run("""
before = tasks()
for threads, helpers in (1, 0), (2, 1), (2, 1), (4, 3), (3, 3), (1, 3), (4, 3):
    for _ in range(20):
        assert call(threads) == wanted
    assert tasks() == before + helpers, (threads, tasks(), before)
""")


@linux
@counting
def test_a_child_process_starts_its_own():
    run("""
call(3)
for generation in range(3):
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert call(3) == wanted and tasks() >= 3
        break
    assert tasks() == 1
    assert call(3) == wanted and tasks() == 3
""")


@forking
def test_children_of_a_busy_process_work():
    """A fork comes at any moment of other threads' calls."""
    run("""
import threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
done = threading.Event()
def work():
    while not done.is_set():
        call(3)
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
for _ in range(50):
    child = os.fork()
    if not child:
        os._exit(call(3) != wanted)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
done.set()
for worker in workers:
    worker.join()
""")


@pytest.mark.parametrize("ends", ["", "sys.exit(0)", "os._exit(0)"])
def test_the_process_ends_whatever_the_helpers_do(ends):
    run(f"""
import threading, time
def work():
    while True:
        call(4)
threading.Thread(target=work, daemon=True).start()
time.sleep(.05)
{ends}
""")


def test_many_callers_at_once_get_what_one_gets():
    rng = np.random.default_rng(0)
    jobs = []
    for n in (10, 700, 3000) * 4:
        keys, queries = rng.standard_normal((2, 4, n, 32), np.float32), rng.standard_normal((2, 8, 3, 32), np.float32)
        jobs.append((keys, queries, np.sort(rng.permutation(n)[: n // 2]).reshape(1, 1, -1).repeat(2, 0)))

    def one(job):
        keys, queries, positions = job
        n, moved = keys.shape[2], keys.copy()
        compact_(moved, keys.copy(), positions, start=0, stop=n, length=n)
        kept = moved[:, :, : positions.shape[2]]
        return (
            attend(queries, keys, keys).tobytes(),
            attention_scores(queries, keys, start=0, stop=n).tobytes(),
            kept.tobytes(),
        )

    set_num_threads(1)
    one_by_one = [one(job) for job in jobs]
    set_num_threads(4)
    with ThreadPoolExecutor(6) as pool:
        for _ in range(4):
            assert list(pool.map(one, jobs)) == one_by_one


@linux
def test_signals_are_left_to_the_threads_of_the_program():
    run("""
import signal
before = set(os.listdir("/proc/self/task"))
call(3)
helpers = set(os.listdir("/proc/self/task")) - before
assert helpers
for helper in helpers:
    with open(f"/proc/self/task/{helper}/status") as status:
        blocked = next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))
    assert blocked >> (signal.SIGINT - 1) & 1 and blocked >> (signal.SIGALRM - 1) & 1
""")
