"""What the processor allows at most: the loops of peak.c. Needs a C compiler."""

import ctypes
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

TIMES = 500_000  # some two milliseconds


@cache
def loops():
    """The functions of peak.c, compiled for the processor at hand."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        source = Path(__file__).parent / "peak.c"
        subprocess.run([os.environ.get("CC", "cc"), *flags, source, "-o", library], check=True)
        found = ctypes.CDLL(str(library))
    found.multiply_add.restype, found.multiply_add.argtypes = ctypes.c_double, [ctypes.c_long, ctypes.c_void_p]
    found.read_numbers.restype, found.read_numbers.argtypes = ctypes.c_float, [ctypes.c_void_p, ctypes.c_long]
    return found


def multiply_add(threads: int = 1):
    """A function in which so many threads multiply and add numbers in registers, and how many operations that are in all."""
    kept = [(ctypes.c_float * 2)(0.5, 1.0) for _ in range(threads)]
    operations = threads * loops().multiply_add(TIMES, kept[0])
    return on_all(threads, lambda thread: loops().multiply_add(TIMES, kept[thread])), operations


def on_all(threads: int, work):
    """A function that calls work(thread) in each of so many threads, itself one of them."""
    helpers = ThreadPoolExecutor(threads)

    def call():
        others = [helpers.submit(work, thread) for thread in range(1, threads)]
        work(0)
        for other in others:
            other.result()

    return call
