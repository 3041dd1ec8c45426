"""The few things of mlx.core that the adaptor uses, on NumPy arrays."""

from types import ModuleType

import numpy as np


class _At:
    def __init__(self, owner, index=None):
        self.owner, self.index = owner, index

    def __getitem__(self, index):
        return _At(self.owner, index)

    def add(self, values):
        changed = self.owner.numpy.copy()
        np.add.at(changed, tuple(i.numpy if isinstance(i, array) else i for i in self.index), values.numpy)
        return array(changed)


class array:
    """Immutable, without strides or DLPack that could be written to."""

    def __init__(self, values):
        self.numpy = np.array(values)
        self.shape, self.dtype = self.numpy.shape, self.numpy.dtype

    def __array__(self, dtype=None, copy=None):
        return self.numpy.astype(dtype or self.dtype)

    def __getitem__(self, index):
        return array(self.numpy[index])

    def astype(self, dtype):
        return array(self.numpy.astype(dtype))

    @property
    def at(self):
        return _At(self)


def modules():
    """What to put into sys.modules."""
    package, core = ModuleType("mlx"), ModuleType("mlx.core")
    core.array, package.core = array, core
    return {"mlx": package, "mlx.core": core}
