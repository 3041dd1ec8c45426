"""The header by hand, for ctypes: written from its text, and compared with the compiler's layouts in test_layouts."""

import ctypes as c

import numpy as np


class Tensor(c.Structure):
    _fields_ = [
        ("data", c.c_void_p),
        ("dtype", c.c_int32),
        ("dims", c.c_int32),
        ("shape", c.c_int64 * 4),
        ("strides", c.c_int64 * 4),
    ]


class Mark(c.Structure):
    _fields_ = [("n", c.c_int32), ("ids", c.c_int32 * 8)]


class Marks(c.Structure):
    _fields_ = [("mark", c.POINTER(Mark)), ("n", c.c_size_t)]


class Range(c.Structure):
    _fields_ = [("from", c.c_double), ("to", c.c_double)]


class Sized(c.Structure):
    """Options; fields() names them with their defaults, but for the size."""

    def fields(self):
        return {name: getattr(self, name) for name, _ in self._fields_ if name != "size"}


class Options(Sized):
    _fields_ = [
        ("size", c.c_size_t),
        ("strength", c.c_double),
        ("window", c.c_int64),
        ("buffer", c.c_int64),
        ("cost", c.c_int64),
        ("min_match", c.c_int64),
        ("gate", Range),
        ("release_rate", c.c_double),
        ("release_after", c.c_int64),
        ("release", Marks),
        ("open", Marks),
        ("section_gate", Range),
        ("skip", Marks),
        ("resume", Marks),
    ]


class DryOptions(Sized):
    _fields_ = [
        ("size", c.c_size_t),
        ("multiplier", c.c_float),
        ("base", c.c_float),
        ("allowed_length", c.c_int32),
        ("window", c.c_int32),
        ("sequence_breakers", c.POINTER(c.c_int32)),
        ("n_sequence_breakers", c.c_int32),
        ("reserved", c.c_int32),
    ]


class Phrase(c.Structure):
    _fields_ = [("source", c.c_int32), ("length", c.c_int32)]


class Loop(c.Structure):
    _fields_ = [("period", c.c_int32), ("start", c.c_int32), ("length", c.c_int32)]


class LoopOptions(Sized):
    _fields_ = [
        ("size", c.c_size_t),
        ("min_repeats", c.c_int32),
        ("max_period", c.c_int32),
        ("tolerance", c.c_float),
        ("reserved", c.c_int32),
    ]


class ScoreOptions(Sized):
    _fields_ = [
        ("size", c.c_size_t),
        ("scale", c.c_float),
        ("kernel", c.c_int32),
        ("aggregation", c.c_int32),
        ("threads", c.c_int32),
    ]


class AttendOptions(Sized):
    _fields_ = [
        ("size", c.c_size_t),
        ("lengths", c.POINTER(Tensor)),
        ("starts", c.POINTER(Tensor)),
        ("pads", c.POINTER(Tensor)),
        ("scale", c.c_float),
        ("softcap", c.c_float),
        ("threads", c.c_int32),
        ("reserved", c.c_int32),
        ("lse", c.POINTER(Tensor)),
    ]


STRUCTS = {
    "lzpenalty_tensor": Tensor,
    "lzpenalty_mark": Mark,
    "lzpenalty_marks": Marks,
    "lzpenalty_range": Range,
    "lzpenalty_options": Options,
    "lzpenalty_dry_options": DryOptions,
    "lzpenalty_phrase": Phrase,
    "lzpenalty_loop": Loop,
    "lzpenalty_loop_options": LoopOptions,
    "lzpenalty_score_options": ScoreOptions,
    "lzpenalty_attend_options": AttendOptions,
}

TENSOR, INT32, INT64 = c.POINTER(Tensor), c.c_int32, c.c_int64
WORKSPACE = c.c_void_p
BATCH = [TENSOR, TENSOR, c.c_void_p]
FUNCTIONS = {
    "strerror": (c.c_char_p, [c.c_int]),
    "version": (c.c_int, []),
    "cpu_level": (c.c_char_p, []),
    "set_cpu_level": (c.c_int, [c.c_char_p]),
    "workspace_create": (WORKSPACE, []),
    "workspace_destroy": (None, [WORKSPACE]),
    "options_init": (c.c_int, [c.POINTER(Options), c.c_size_t]),
    "dry_options_init": (c.c_int, [c.POINTER(DryOptions), c.c_size_t]),
    "loop_options_init": (c.c_int, [c.POINTER(LoopOptions), c.c_size_t]),
    "score_options_init": (c.c_int, [c.POINTER(ScoreOptions), c.c_size_t]),
    "attend_options_init": (c.c_int, [c.POINTER(AttendOptions), c.c_size_t]),
    "options_copy": (c.POINTER(Options), [c.POINTER(Options), INT32]),
    "options_destroy": (None, [c.POINTER(Options)]),
    "penalize": (c.c_int, [WORKSPACE, c.POINTER(Options), *BATCH]),
    "penalize_row": (c.c_int, [WORKSPACE, c.POINTER(Options), c.c_void_p, INT32, c.c_void_p, INT64]),
    "context": (c.c_int, [c.POINTER(Options), c.POINTER(INT32)]),
    "code_lengths": (
        c.c_int,
        [WORKSPACE, c.POINTER(Options), INT32, TENSOR, c.c_void_p, c.c_void_p, INT64, c.POINTER(INT64)],
    ),
    "token_bits": (c.c_int, [WORKSPACE, c.POINTER(Options), INT32, TENSOR, c.c_void_p]),
    "dry": (c.c_int, [WORKSPACE, c.POINTER(DryOptions), *BATCH]),
    "loop_evidence": (c.c_int, [WORKSPACE, TENSOR, c.c_void_p, INT32, INT32, c.c_void_p]),
    "repetition_period": (c.c_int, [WORKSPACE, TENSOR, c.c_void_p, INT32, INT32, INT32, c.c_void_p]),
    "factorize": (c.c_int, [TENSOR, INT32, c.c_void_p, c.POINTER(INT64)]),
    "factorize_lz78": (c.c_int, [TENSOR, c.c_void_p, c.POINTER(INT64)]),
    "find_loops": (c.c_int, [TENSOR, c.POINTER(LoopOptions), c.c_void_p, INT64, c.POINTER(INT64)]),
    "attention_scores": (c.c_int, [TENSOR, TENSOR, INT64, INT64, c.POINTER(ScoreOptions), c.c_void_p]),
    "select_top": (c.c_int, [TENSOR, INT64, c.c_void_p]),
    "compact": (c.c_int, [TENSOR, TENSOR, TENSOR, INT64, INT64, INT64, INT32]),
    "append": (c.c_int, [TENSOR, TENSOR, TENSOR, TENSOR, INT64]),
    "attend": (c.c_int, [TENSOR, TENSOR, TENSOR, c.POINTER(AttendOptions), TENSOR]),
}
STATUSES = {
    "OK": 0, "NO_MEMORY": 1, "NULL": 2, "BAD_SIZE": 3, "BAD_LEVEL": 4, "BAD_THREADS": 5, "TOO_LITTLE_ROOM": 6,
    "NOT_FINITE": 7, "BAD_DTYPE": 10, "BAD_DIMENSIONS": 11, "BAD_SHAPE": 12, "BAD_STRIDES": 13, "BAD_ALIGNMENT": 14,
    "DISAGREE": 15, "OVERLAP": 16, "BAD_TOKENS": 20, "BAD_STARTS": 21, "BAD_VOCAB": 22,
    "BAD_MULTIPLIER": 40, "BAD_BASE": 41,
    "BAD_ALLOWED_LENGTH": 42, "BAD_BREAKERS": 43, "BAD_NGRAM": 44, "BAD_COUNT": 45, "BAD_MAX_PERIOD": 46, "BAD_GRAM": 47,
    "BAD_MIN_REPEATS": 48, "BAD_TOLERANCE": 49, "BAD_REGION": 60, "BAD_KERNEL": 61, "BAD_SCALE": 62, "BAD_SOFTCAP": 63,
    "BAD_K": 64, "BAD_POSITIONS": 65, "BAD_LENGTHS": 66, "BAD_PADS": 67, "BAD_AGGREGATION": 68,
    "BAD_STRENGTH": 100, "BAD_WINDOW": 101, "BAD_BUFFER": 102, "BAD_COST": 103, "BAD_MIN_MATCH": 104, "BAD_GATE": 105,
    "BAD_RELEASE_RATE": 106, "BAD_RELEASE_AFTER": 107, "BAD_RELEASE": 108, "BAD_OPEN": 109, "BAD_SECTION_GATE": 110,
    "BAD_SKIP": 111, "BAD_RESUME": 112,
}  # fmt: skip

DTYPES = {"float32": 0, "float16": 1, "uint16": 2, "float64": 3, "int32": 4, "int64": 5}  # uint16: bfloat16's bits


def load(path):
    """The library, with lz.penalize(...) for lzpenalty_penalize."""
    library = c.CDLL(str(path))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, f"lzpenalty_{name}")
        function.restype, function.argtypes = result, arguments
        setattr(library, name, function)
    return library


def tensor(array, **changes):
    """A description of a NumPy array, some of it changed; it has to outlive what is made of it."""
    t = Tensor(array.ctypes.data, DTYPES[array.dtype.name], array.ndim)
    for i in range(min(array.ndim, 4)):
        t.shape[i], t.strides[i] = array.shape[i], array.strides[i] // array.itemsize
    for name, value in changes.items():
        setattr(t, name, value)
    return t


def marks(sequences):
    """(array, number) of strings of ids."""
    array = (Mark * max(1, len(sequences)))()
    for mark, ids in zip(array, sequences, strict=False):
        mark.n = len(ids)
        mark.ids[: len(ids)] = ids
    return array, len(sequences)


def options(library, **changes):
    """lzpenalty_options with the defaults and some changes, spelt as in Python."""
    o = Options()
    assert library.options_init(o, c.sizeof(o)) == 0
    for name, value in changes.items():
        if name == "cost":
            o.cost = ["lzss", "pair", "distance"].index(value)
        elif name in ("gate", "section_gate"):
            setattr(o, name, Range(*(value or (0, 0))))
        elif name in ("release", "open", "skip", "resume"):
            array, n = marks(value)
            setattr(o, name, Marks(array, n))
        else:
            setattr(o, name, value)
    return o


def pointer(array):
    return array.ctypes.data if array is not None else None


def as_bfloat16(array):
    """The bits of the nearest bfloat16, for finite numbers."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
