"""The CPU as Triton's only device."""

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase


class InterpreterDriver(DriverBase):
    def __init__(self):  # nothing to load
        pass

    @classmethod
    def is_active(cls):
        return True

    def get_current_target(self):
        return GPUTarget("interpreter", 0, 1)

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def map_python_to_cpp_type(self, type_name):
        return type_name

    def get_benchmarker(self):
        return lambda call, **kwargs: 0.0
