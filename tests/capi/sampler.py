"""csrc/llama_cpp/llama_sampler_lz.c, driven through ctypes: with the stub in tests/capi/stub, or with the real llama.cpp."""

import ctypes as c

import header
import numpy as np

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates(c.Structure):
    _fields_ = [("data", c.c_void_p), ("size", c.c_size_t), ("selected", c.c_int64), ("sorted", c.c_bool)]


def load(path):
    """The library with sampler and llama.cpp, and the C interface if that is in it, too."""
    library = c.CDLL(str(path))
    for name, result, arguments in [
        ("init_lz", c.c_void_p, [c.POINTER(header.Options), c.c_int32]),
        ("lz_mark", None, [c.c_void_p]),
        ("name", c.c_char_p, [c.c_void_p]),
        ("accept", None, [c.c_void_p, c.c_int32]),
        ("apply", None, [c.c_void_p, c.POINTER(Candidates)]),
        ("reset", None, [c.c_void_p]),
        ("clone", c.c_void_p, [c.c_void_p]),
        ("free", None, [c.c_void_p]),
    ]:
        function = getattr(library, f"llama_sampler_{name}")
        function.restype, function.argtypes = result, arguments
        setattr(library, name, function)
    return library


class Sampler:
    """One sampler; it is freed with this object."""

    def __init__(self, library, pointer):
        self.library, self.pointer = library, pointer

    def __del__(self):
        if self.pointer:
            self.library.free(self.pointer)

    def accept(self, tokens):
        for token in tokens:
            self.library.accept(self.pointer, int(token))

    def apply(self, candidates, is_sorted=False):
        """In place; `selected` and `sorted` as they are then."""
        array = Candidates(candidates.ctypes.data, len(candidates), -1, is_sorted)
        self.library.apply(self.pointer, array)
        assert (array.data, array.size, array.selected) == (candidates.ctypes.data, len(candidates), -1)
        return array.sorted

    def mark(self):
        self.library.lz_mark(self.pointer)

    def reset(self):
        self.library.reset(self.pointer)

    def clone(self):
        return Sampler(self.library, self.library.clone(self.pointer))


def candidates_of(logits, ids=None):
    """As llama.cpp has them: in the order of their ids, or those that are named."""
    ids = np.arange(len(logits)) if ids is None else np.asarray(ids)
    candidates = np.zeros(len(ids), CANDIDATE)
    candidates["id"], candidates["logit"], candidates["p"] = ids, logits[ids], 0.25
    return candidates
