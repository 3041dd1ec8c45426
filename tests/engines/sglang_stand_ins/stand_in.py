"""A stand-in for a package that no test calls anything of: its names and submodules are there, and calls raise."""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

__path__ = []


class _Missing(type):
    def __getattr__(cls, name):
        return _missing(f"{cls.__name__}.{name}", name)


def _missing(path, name):
    if name.startswith("__"):
        raise AttributeError(name)

    def fail(*args, **kwargs):
        raise NotImplementedError(f"{path} is a stand-in")

    return _Missing(path, (), {"__new__": fail})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.startswith(f"{__name__}.") else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__getattr__ = lambda name: _missing(f"{module.__name__}.{name}", name)


sys.meta_path.append(_Finder())


def __getattr__(name):
    return _missing(f"{__name__}.{name}", name)
