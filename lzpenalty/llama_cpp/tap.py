"""How much attention do tokens in llama.cpp's cache get? Read from its own computation, by its callback for each node.

Without flash attention a node "kq_soft_max-<layer>" has the attention of all heads of a step's queries to every cell. Masks,
soft caps, sinks and quantised keys are in it already. The callback is csrc/cache/tap.c: it is called for each of about a
thousand nodes a token, which costs Python 6 to 10% of the time of a small model.
"""

import ctypes
from pathlib import Path

import numpy as np

from lzpenalty import _core

__all__ = ["GGML", "Tap", "ggml_functions"]

# What the callback asks of ggml, in the order in which it has them.
GGML = {
    "ggml_get_name": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p),
    "ggml_nelements": ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p),
    "ggml_nrows": ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p),
    "ggml_nbytes": ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p),
    "ggml_is_contiguous": ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p),
    "ggml_backend_tensor_get": ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
}
_ROWS = 64  # that are read at a time, if the cache is full


def ggml_functions(package) -> list[int]:
    """The addresses of these functions in the libraries that the package llama_cpp brings.

    Raises
    ------
    RuntimeError
        Where there are none.
    """
    folder = Path(package.__file__).parent / "lib"
    for path in sorted(folder.glob("*ggml-base*")) + sorted(folder.glob("*ggml*")):
        if path.suffix in (".so", ".dylib", ".dll"):
            library = ctypes.CDLL(str(path))
            if all(hasattr(library, name) for name in GGML):
                return [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in GGML]
    raise RuntimeError(f"llama_cpp: expected a library with {', '.join(GGML)} in {folder}, found none")


class _Tap(ctypes.Structure):
    """csrc/cache/tap.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in GGML),
        *((name, ctypes.c_void_p) for name in ("cells", "scores", "weights", "seen", "buffer")),
        *((name, ctypes.c_int64) for name in ("region", "size", "room", "votes")),
        ("armed", ctypes.c_int32),
        ("status", ctypes.c_int32),
    ]


_WRONG = {
    1: "their numbers are not float32",
    2: "they are not contiguous",
    3: "they have more cells than the cache",
    4: "they have fewer cells than are in use",
}


class Tap:
    """Adds up the attention that some cells get for as long as it is armed.

    Parameters
    ----------
    functions : list of int
        As from :func:`ggml_functions`.

    Attributes
    ----------
    callback, user_data : int
        The addresses that go into `cb_eval` and `cb_eval_user_data`. The object must outlive the context.
    """

    def __init__(self, functions: list[int]):
        self.callback, size = _core.attention_tap()
        if size != ctypes.sizeof(_Tap):
            raise RuntimeError(f"attention_tap: expected a struct of {ctypes.sizeof(_Tap)} bytes, got {size}")
        self._c = _Tap(*functions)
        self.user_data = ctypes.addressof(self._c)
        self.resize(0)

    def resize(self, size: int) -> None:
        """The cache has so many cells."""
        self._seen, self._buffer = np.zeros(size, np.float32), np.zeros(_ROWS * size, np.float32)
        self._c.seen, self._c.buffer = self._seen.ctypes.data, self._buffer.ctypes.data
        self._c.size, self._c.room = size, len(self._buffer)

    def arm(self, cells: np.ndarray) -> None:
        """Counts from now on what these cells get."""
        self._cells = np.ascontiguousarray(cells, np.int32)
        self._scores, self._weights = np.zeros((2, len(cells)), np.float32)
        self._seen[:] = 0
        for name in ("cells", "scores", "weights"):
            setattr(self._c, name, getattr(self, f"_{name}").ctypes.data)
        self._c.region, self._c.votes, self._c.status, self._c.armed = len(cells), 0, 0, 1

    def disarm(self) -> None:
        self._c.armed = 0

    def scores(self) -> np.ndarray:
        """float32 [n]: the mean over queries, heads and layers of each row's weights over these cells, which sum to 1.

        Raises
        ------
        RuntimeError
            Where llama.cpp showed nothing, or something else than is expected.
        """
        if self._c.status:
            raise RuntimeError(f"llama.cpp: nodes kq_soft_max can't be read, {_WRONG[self._c.status]}")
        if not self._c.votes:
            raise RuntimeError("llama.cpp: expected nodes kq_soft_max, whose attention decides, but there were none")
        return self._scores / self._c.votes

    def visible(self) -> np.ndarray:
        """The cells that the first layer attended to."""
        return np.flatnonzero(self._seen > 0)
