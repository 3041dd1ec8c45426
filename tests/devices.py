"""The devices that tests run on. A test that takes the fixture `device` and calls `device.of(lz_penalize_)` instead of
`lz_penalize_` is written once, for NumPy arrays and torch tensors on the CPU, and runs on all of them."""

import numpy as np

try:
    import torch
except ImportError:  # on which no test of NumPy arrays depends
    torch = None

CODES = {"i": 0, "u": 1, "f": 2}
SCALARS = {(0, 32): np.int32, (0, 64): np.int64, (2, 32): np.float32}


def is_torch(array) -> bool:
    return torch is not None and isinstance(array, torch.Tensor)


def memory_of(array) -> np.ndarray:
    """All of the memory that an array or tensor is a view of, as bytes."""
    if is_torch(array):
        return torch.empty(0, dtype=torch.uint8).set_(array.untyped_storage()).numpy()
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert array.flags.c_contiguous
    return array.reshape(-1).view(np.uint8)


def describe(array) -> tuple:
    """(shape, strides in items, offset in items, DLPack type code, bits) of an array or tensor in its memory."""
    if is_torch(array):
        code = 4 if array.dtype == torch.bfloat16 else 2 if array.is_floating_point() else 0
        if array.dtype == torch.bool:
            code = 6
        return tuple(array.shape), array.stride(), array.storage_offset(), code, array.element_size() * 8
    offset = array.ctypes.data - memory_of(array).ctypes.data if array.size else 0
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return array.shape, strides, offset // array.itemsize, CODES.get(array.dtype.kind, 6), array.itemsize * 8


def reversed_in_memory(array) -> bool:
    """Which torch has no strides for."""
    return not is_torch(array) and any(stride < 0 for stride in array.strides)


class Device:
    """Runs functions on copies of their arguments, and copies back what they have written."""

    def of(self, function):
        def run(*args, **kwargs):
            arrays = {}

            def put(value):
                if not (isinstance(value, np.ndarray) or is_torch(value)):
                    return value
                tensor = self.put(value)
                arrays[id(tensor)] = (value, tensor)
                return tensor

            args, kwargs = [put(value) for value in args], {name: put(value) for name, value in kwargs.items()}
            try:
                result = function(*args, **kwargs)
            finally:
                for value, tensor in arrays.values():
                    self.copy_back(tensor, value)
            if id(result) in arrays:
                return arrays[id(result)][0]
            like = next((value for value, _ in arrays.values()), None)
            return self.get(result, is_torch(like))

        return run


class Cpu(Device):
    name = "cpu"

    def of(self, function):
        return function


class Emulated(Device):
    """The emulator of tests/emulator; the order of its threads is another one in each call."""

    name = "emulated"

    def __init__(self, emulator):
        self.emulator, self.driver = emulator, emulator.driver
        self.Tensor = emulator.module.Tensor
        self.seed = 0

    def of(self, function):
        run = super().of(function)

        def seeded(*args, **kwargs):
            self.seed += 1
            self.emulator.seed(self.seed)
            return run(*args, **kwargs)

        return seeded

    def put(self, array, number=0):
        shape, strides, offset, code, bits = describe(array)
        return self.Tensor(memory_of(array).tobytes(), shape, strides, offset, code, bits, number)

    def bytes(self, tensor):
        data = tensor.bytes()
        assert self.driver.emulator_last_error() == b"", self.driver.emulator_last_error()
        return data

    def copy_back(self, tensor, array):
        memory = memory_of(array)
        if memory.flags.writeable:
            memory[:] = np.frombuffer(self.bytes(tensor), np.uint8)

    def get(self, result, as_torch):
        if not isinstance(result, self.Tensor):
            return result
        _, code, bits, _ = result.info
        array = np.frombuffer(self.bytes(result), SCALARS[code, bits]).reshape(result.shape).copy()
        return torch.from_numpy(array) if as_torch else array


class Cuda(Device):
    """A real GPU, through torch."""

    name = "cuda"

    def __init__(self, where="cuda"):
        self.where = where

    def put(self, array):
        if reversed_in_memory(array):
            array = array.copy()
        shape, strides, offset, _, _ = describe(array)
        dtype = array.dtype if is_torch(array) else getattr(torch, array.dtype.name)
        memory = torch.empty(memory_of(array).size, dtype=torch.uint8, device=self.where)
        memory.copy_(torch.from_numpy(memory_of(array).copy()))
        return memory.view(dtype).as_strided(shape, strides, offset)

    def copy_back(self, tensor, array):
        if reversed_in_memory(array):
            array[...] = tensor.cpu().numpy()
        elif memory_of(array).flags.writeable:
            memory = torch.empty(0, dtype=torch.uint8, device=self.where).set_(tensor.untyped_storage())
            memory_of(array)[:] = memory.cpu().numpy()

    def get(self, result, as_torch):
        if not is_torch(result):
            return result
        return result.cpu() if as_torch else result.cpu().numpy()
