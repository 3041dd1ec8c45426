"""Arrays on the devices that tests run on, for tests that are written once for all of them.

A device turns NumPy arrays into tensors of its own and back. bfloat16 has no NumPy dtype: it travels as uint16, with the
dtype named."""

import numpy as np

CODES = {"i": 0, "u": 1, "f": 2}


def base_of(array: np.ndarray) -> np.ndarray:
    """The array that owns a view's memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Cpu:
    """NumPy arrays as they are."""

    name = "cpu"

    def tensor(self, array):
        return array

    def array(self, tensor):
        return np.asarray(tensor)


class Emulated:
    """Tensors in the memory of an emulated GPU."""

    name = "emulated"

    def __init__(self, emulator, number=0):
        self.emulator, self.number = emulator, number

    def tensor(self, array, dtype=None, number=None):
        """The array on the device, with its strides: all of the memory that it is a view of is copied there."""
        base = base_of(array)
        if not base.flags.c_contiguous:
            base = array = np.ascontiguousarray(array)
        offset = (array.ctypes.data - base.ctypes.data) // array.itemsize
        code = 4 if dtype == "bfloat16" else CODES.get(array.dtype.kind, 6)
        strides = tuple(stride // array.itemsize for stride in array.strides)
        tensor = self.emulator.module.Tensor(base.tobytes(), array.shape, strides, offset, code, array.itemsize * 8,
                                             self.number if number is None else number)  # fmt: skip
        self.views = getattr(self, "views", {})
        self.views[id(tensor)] = (tensor, base.shape, base.dtype, array.shape, array.strides, offset * array.itemsize)
        return tensor
