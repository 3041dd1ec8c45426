"""The adaptors, imported with their engine where it is installed, and with a fake of its interface elsewhere."""

import importlib
import sys
from importlib.util import find_spec
from unittest import mock

import torch  # noqa: F401  # imported before, or else it would go away with the fakes

import lzpenalty.engines.serving  # noqa: F401


def installed(engine):
    return find_spec(engine) is not None


def adaptor(name, fake, **kwargs):
    """lzpenalty.<name>. A fake is in sys.modules for the length of the import only: others look there for what there is."""
    engine = name.partition(".")[0]
    if installed(engine):
        return importlib.import_module(f"lzpenalty.{name}")
    with mock.patch.dict(sys.modules, fake.modules(**kwargs)):
        for module in [module for module in sys.modules if f"{module}.".startswith(f"lzpenalty.{engine}.")]:
            del sys.modules[module]
        return importlib.import_module(f"lzpenalty.{name}")
