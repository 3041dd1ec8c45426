"""Whichever allocation fails, MemoryError is raised, and the next call works."""

import os
import subprocess
import sys

import pytest

CODE = """
import resource, sys
sys.path[:0] = {path!r}
import numpy as np
from lzpenalty import _core

ranks = np.random.default_rng(0).integers(0, 4, 300_000)
calls = [
    lambda: _core.parse_lz77(ranks, 9),
    lambda: _core.parse_lz78(ranks),
    lambda: _core.find_loops(ranks, 2, 0.0, 9),
    lambda: _core.find_loops(ranks, 2, 0.2, 9),
    lambda: _core.token_bits(ranks, 4, window=1),
]

def limited(call, extra):
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, -1))
    try:
        return call()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))

for call in calls:
    failures, got = 0, None
    while got is None:
        try:
            got = limited(call, failures << 19)
        except MemoryError:
            failures += 1
    assert failures > 2
    assert (got == call()).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.skipif("LZPENALTY_SANITIZE" in os.environ, reason="sanitizers need the address space")
def test_allocations_that_fail():
    program = CODE.format(path=sys.path)
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
