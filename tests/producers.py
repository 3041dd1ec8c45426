"""DLPack producers made by hand with ctypes: honest ones for each way of handing out memory, and any lie one can tell."""

import ctypes
from ctypes import (
    POINTER,
    PYFUNCTYPE,
    Structure,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    py_object,
)

import numpy as np

CODES = {"i": 0, "u": 1, "f": 2, "c": 5}


class DLTensor(Structure):
    _fields_ = [("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32), ("code", c_uint8),
                ("bits", c_uint8), ("lanes", c_uint16), ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)),
                ("byte_offset", c_uint64)]  # fmt: skip


DELETER = PYFUNCTYPE(None, c_void_p)


class Managed(Structure):
    _fields_ = [("tensor", DLTensor), ("context", c_void_p), ("deleter", DELETER)]


class ManagedVersioned(Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("context", c_void_p), ("deleter", DELETER), ("flags", c_uint64),
                ("tensor", DLTensor)]  # fmt: skip


CAPSULE_DESTRUCTOR = PYFUNCTYPE(None, c_void_p)
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype, capsule_pointer.argtypes = c_void_p, [c_void_p, c_char_p]
capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
capsule_is_valid.restype, capsule_is_valid.argtypes = c_int, [c_void_p, c_char_p]
NAMES = {name: ctypes.create_string_buffer(name) for name in (b"dltensor", b"dltensor_versioned", b"used_dltensor")}


@CAPSULE_DESTRUCTOR
def _destroy(capsule):
    for name, kind in ((b"dltensor", Managed), (b"dltensor_versioned", ManagedVersioned)):
        if capsule_is_valid(capsule, name):
            address = capsule_pointer(capsule, name)
            kind.from_address(address).deleter(address)


def describe(array, **lies):
    """The DLTensor of a NumPy array, with fields replaced by what `lies` says."""
    shape = lies.pop("shape", array.shape)
    strides = lies.pop("strides", [s // array.itemsize for s in array.strides])
    tensor = DLTensor(array.ctypes.data, 1, 0, len(shape), CODES.get(array.dtype.kind, 0), array.itemsize * 8, 1)
    tensor.shape = (c_int64 * max(len(shape), 1))(*shape)
    tensor.strides = None if strides is None else (c_int64 * max(len(strides), 1))(*strides)
    for name, value in lies.items():
        setattr(tensor, name, value)
    return tensor


_exported = {}  # by address: what was handed out, and by whom, whose deleter will be called


class Producer:
    """Hands out `array` through __dlpack__. `version` is that of its capsules, None for the old kind, which takes no
    max_version. `exports` counts the capsules that have not been destroyed."""

    def __init__(self, array, version=(1, 0), flags=0, capsule_name=None, **lies):
        self.array, self.version, self.flags, self.capsule_name = array, version, flags, capsule_name
        self.tensor = describe(array, **lies)
        self.exports = 0
        # One callback for all exports: it must not free its own code while it runs.
        self.deleter = DELETER(self._delete)

    def _delete(self, address):
        self.exports -= 1
        _exported.pop(address)

    def _export(self):
        if self.version is None:
            managed = Managed(self.tensor, None, self.deleter)
        else:
            managed = ManagedVersioned(*self.version, None, self.deleter, self.flags, self.tensor)
        self.exports += 1
        _exported[ctypes.addressof(managed)] = managed, self
        name = self.capsule_name or (b"dltensor" if self.version is None else b"dltensor_versioned")
        return new_capsule(ctypes.addressof(managed), ctypes.cast(NAMES[name], c_char_p), ctypes.cast(_destroy, c_void_p))

    def __dlpack__(self, **kwargs):
        if self.version is None and kwargs:
            raise TypeError(f"unexpected keyword arguments {sorted(kwargs)}")
        return self._export()

    def __dlpack_device__(self):
        return (self.tensor.device_type, self.tensor.device_id)


class Failing:
    """A producer whose __dlpack__ raises."""

    def __init__(self, error):
        self.error = error

    def __dlpack__(self, **kwargs):
        raise self.error


class ExchangeAPI(Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("prev", c_void_p), ("allocate", c_void_p),
                ("managed_from_object", c_void_p), ("managed_to_object", c_void_p), ("tensor_from_object", c_void_p),
                ("current_stream", c_void_p)]  # fmt: skip


_API_NAME = ctypes.create_string_buffer(b"dlpack_exchange_api")
_kept = []  # exchange tables live as long as the process


@PYFUNCTYPE(c_int)
def _fail():
    return -1


def exchange_type(owning=False, major=1, error=None, with_prev=False, broken=None, unfinished=False):
    """A new type whose instances hand out NumPy arrays through the C exchange API: the non-owning function, or with
    `owning` only the managed one, which fails with something in *out if it is `unfinished`. The function that is named as
    broken fails without a word."""

    @PYFUNCTYPE(c_int, py_object, POINTER(DLTensor))
    def tensor_from_object(obj, out):
        obj.asked += 1
        out[0] = obj.tensor
        return 0

    @PYFUNCTYPE(c_int, py_object, POINTER(c_void_p))
    def managed_from_object(obj, out):
        obj.asked += 1
        producer = Producer(obj.array)
        capsule = producer._export()
        address = capsule_pointer(id(capsule), b"dltensor_versioned")
        ctypes.pythonapi.PyCapsule_SetDestructor(py_object(capsule), None)
        obj.exported.append(producer)
        out[0] = address
        return -1 if unfinished else 0

    @PYFUNCTYPE(c_int, POINTER(DLTensor), POINTER(c_void_p), c_void_p, c_void_p)
    def allocate(prototype, out, error_ctx, set_error):
        shape = [prototype[0].shape[i] for i in range(prototype[0].ndim)]
        dtype = np.dtype({(0, 64): "i8", (2, 32): "f4"}[prototype[0].code, prototype[0].bits])
        producer = Producer(np.empty(shape, dtype))
        capsule = producer._export()
        out[0] = capsule_pointer(id(capsule), b"dltensor_versioned")
        ctypes.pythonapi.PyCapsule_SetDestructor(py_object(capsule), None)
        _made[out[0]] = producer
        return 0

    @PYFUNCTYPE(c_int, c_void_p, POINTER(c_void_p))
    def managed_to_object(address, out):
        result = Exchanged(_made.pop(address).array)
        del _exported[address]
        ctypes.pythonapi.Py_IncRef(py_object(result))
        out[0] = id(result)
        return 0

    _made = {}

    def address(function):
        return ctypes.cast(function, c_void_p).value

    # A callback of ctypes can't raise, but a C function can: one that calls __len__, and returns -1 if that raises.
    ask = address(ctypes.pythonapi.PyObject_Size) if error else address(tensor_from_object)
    api = ExchangeAPI(major, 3, None, address(allocate), address(managed_from_object), address(managed_to_object),
                      None if owning else ask, None)  # fmt: skip
    if broken:
        setattr(api, broken, address(_fail))
    _kept.append((api, allocate, managed_from_object, managed_to_object, tensor_from_object, _made))
    if with_prev:  # a table of a future major version in front of ours
        api = ExchangeAPI(major + 1, 0, ctypes.addressof(api), None, None, None, None, None)
        _kept.append(api)

    class Exchanged:
        __dlpack_c_exchange_api__ = new_capsule(ctypes.addressof(api), ctypes.cast(_API_NAME, c_char_p), None)

        def __init__(self, array, **lies):
            self.array, self.tensor, self.asked, self.exported = array, describe(array, **lies), 0, []

        def __len__(self):
            raise error

        def __dlpack__(self, **kwargs):
            return Producer(self.array)._export()

    return Exchanged
