"""Calls of which one allocation after the other fails: each raises MemoryError, and leaves its arguments as they were and
no memory behind, or does without and gives what it always gives. The call after it works. A thread that can't be started
is done without.

    LD_PRELOAD=FAILING PYTHONMALLOC=malloc GLIBC_TUNABLES=glibc.malloc.tcache_count=0 python tests/native/failing.py FAILING

where FAILING is failing.c as a library. Freed memory that is kept for the same thread would count as used."""

import _imp
import ctypes
import gc
import importlib.util
import itertools
import os
import sys
from functools import partial
from types import ModuleType

import numpy as np

from lzpenalty import _core

EVERYWHERE = (0, 2**64 - 1)
failing = ctypes.PyDLL(sys.argv[1])
failing.call_failing.restype = ctypes.py_object
failing.call_failing.argtypes = [ctypes.py_object, ctypes.c_long, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]


def attempt(call, n, where=EVERYWHERE):
    """What call() returns, None for a MemoryError, and whether there was an n-th allocation, which failed."""
    met = ctypes.c_int()
    try:
        return failing.call_failing(call, n, *where, ctypes.byref(met)), met.value
    except MemoryError:
        return None, met.value


class Memory(ctypes.Structure):
    """What mallinfo2 of the C library returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                                                     "uordblks", "fordblks", "keepcost")]  # fmt: skip


mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Memory


def allocated():
    gc.collect()
    memory = mallinfo2()
    return memory.uordblks + memory.hblkhd


class Wrapped:
    """A producer of capsules."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)


def plain(value):
    """What can be compared."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    array = value.array if isinstance(value, Wrapped) else value
    return array.tobytes() if isinstance(array, np.ndarray) else value


def new_module(run=True):
    """The extension with no memory of earlier calls."""
    spec = importlib.util.spec_from_file_location("lzpenalty._core", _core.__file__)
    module = importlib.util.module_from_spec(spec)
    if run:
        _imp.exec_dynamic(module)
    return module


def run_module(module):
    try:
        _imp.exec_dynamic(module)
    except SystemError as error:  # Python 3.11's PyType_FromModuleAndSpec does not say why it fails
        raise MemoryError from error


rng = np.random.default_rng(0)
TOKENS = rng.integers(0, 9, (3, 40))
LOGITS = rng.normal(size=(3, 16)).astype(np.float32)
KEYS = rng.normal(size=(3, 2, 30, 4)).astype(np.float32)
KEPT = np.tile(np.arange(0, 30, 3), (3, 2, 1))
RANKS = rng.integers(0, 4, 300)


def rows(core):
    options = core.LZOptions(window=32)
    return {0: (options, [1, 2, 1]), 2: (options, (3, 4)), 1: (options, TOKENS[1])}


def options_and_back(core):
    marks = dict(release=[1000, [1, 2000]], open=[3], skip=[(4, 5)])
    options = core.LZOptions(window=1000, cost="pair", gate=(20, 28), **marks)
    return repr(options), options == core.LZOptions(**options.keywords())


CALLS = {
    "penalize": lambda core: partial(core.lz_penalize_, LOGITS.copy(), TOKENS),
    "marks": lambda core: partial(core.lz_penalize_, LOGITS.copy(), TOKENS, gate=(0, 1), release=[[1, 2], 3], skip=[[9, 9]]),
    "evidence": lambda core: partial(core.loop_evidence, TOKENS, gram=1),
    "starts": lambda core: partial(core.lz_penalize_, Wrapped(LOGITS.copy()), Wrapped(TOKENS), starts=np.arange(3)),
    "dry": lambda core: partial(core.dry_penalize_, LOGITS.copy(), TOKENS, sequence_breakers=[1]),
    "rows": lambda core: partial(core.lz_penalize_rows_, LOGITS.copy(), rows(core)),
    "gather": lambda core: partial(core.gather_tokens_, np.zeros((3, 9), np.int32), rows(core)),
    "deltas": lambda core: partial(core.codelength_deltas, TOKENS[0], 9),
    "deltas of a capsule": lambda core: partial(core.codelength_deltas, Wrapped(TOKENS[0]), 9),
    "bits": lambda core: partial(core.token_bits, TOKENS[0], 9),
    "period": lambda core: partial(core.repetition_period, TOKENS, ngram=2, count=2),
    "scores": lambda core: partial(core.attention_scores, KEYS, KEYS, start=0, stop=30),
    "selection": lambda core: partial(core.select_top, KEYS[0], 3),
    "compaction": lambda core: partial(core.compact_, KEYS.copy(), KEYS.copy(), KEPT, start=0, stop=30, length=30),
    "1977": lambda core: partial(core.parse_lz77, RANKS, 9),
    "1978": lambda core: partial(core.parse_lz78, RANKS),
    "loops": lambda core: partial(core.find_loops, RANKS, 2, 0.0, 99),
    "near loops": lambda core: partial(core.find_loops, RANKS, 2, 0.2, 99),
    "options": lambda core: lambda: options_and_back(core),
    "levels": lambda core: core.cpu_levels,
    "import": lambda core: partial(run_module, new_module(run=False)),
}


def written(call):
    """The memory that the call may write to."""
    return [plain(item) for item in getattr(call, "args", ())[:1] if not isinstance(item, ModuleType)]


memory = np.zeros(2, np.int64)  # integers of Python would count


def grows(prepare, n):
    memory[0] = allocated()
    attempt(prepare(new_module()), n)
    memory[1] = allocated()
    return memory[1] > memory[0]


def check(name, prepare):
    call = prepare(new_module())
    before, wanted = written(call), plain(call())
    for n in itertools.count(1):
        call = prepare(new_module())
        result, met = attempt(call, n)
        if result is None:
            assert written(call) == before, (name, n)
            result = call()
        assert plain(result) == wanted, (name, n)
        # Caches of Python's grow now and then; a leak each time.
        assert not all(grows(prepare, n) for _ in range(50)), (name, n)
        if not met:
            return n


def check_device():
    """Making a device ready, in which the driver, which is C++, has all it asks for."""
    with open("/proc/self/maps") as maps:
        spans = [line.split()[0].split("-") for line in maps if line.rstrip().endswith(_core.__file__)]
    ours = int(spans[0][0], 16), int(spans[-1][1], 16)
    for n in itertools.count(1):
        try:
            _, met = attempt(_core.warmup, n, ours)
        except RuntimeError as error:
            assert str(error) == "no memory", error
        else:
            assert n > 2 and not met
            return


def compacted(threads):
    """A cache of which the heads, more than there may be threads, are worth some."""
    core, (keys, values) = new_module(), np.arange(2 * 300 * 160 * 64, dtype=np.float32).reshape(2, 300, 1, 160, 64)
    core.set_num_threads(threads)
    core.compact_(keys, values, np.tile(np.arange(0, 160, 2), (300, 1, 1)), start=0, stop=160, length=160)
    return keys.tobytes() + values.tobytes()


def check_threads():
    wanted = compacted(1)
    assert compacted(1000) == wanted
    failing.fail_threads(1)
    assert compacted(1000) == wanted
    failing.fail_threads(0)


if __name__ == "__main__":
    gc.freeze()
    for name, prepare in CALLS.items():
        assert check(name, prepare) > 1, name
    check_threads()
    if "LZPENALTY_LIBCUDA" in os.environ:
        check_device()
