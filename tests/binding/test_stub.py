"""The typed stub says what the extension does."""

import inspect
import subprocess
import sys

import pytest

import lzpenalty
from lzpenalty import _core


def test_mypy_agrees():
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy.stubtest", "lzpenalty._core"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_function_has_a_signature_and_a_docstring():
    for name in set(lzpenalty.__all__) - {"get_include", "get_library_dir", "get_num_threads", "set_num_threads"}:
        function = getattr(_core, name)
        assert inspect.signature(function).parameters
        assert "Parameters" in function.__doc__ and "Raises" in function.__doc__
        assert isinstance(function, type) or "Returns" in function.__doc__


def test_documented_defaults_are_the_real_ones():
    import numpy as np

    tokens, vocab = np.array([1, 2, 3, 1, 2, 3, 1, 2]), 20
    for name in ("lz_penalize_", "dry_penalize_"):
        function = getattr(_core, name)
        parameters = inspect.signature(function).parameters.values()
        spelled_out = {p.name: p.default for p in parameters if p.default is not p.empty}
        assert (function(np.zeros(vocab), tokens, **spelled_out) == function(np.zeros(vocab), tokens)).all()
