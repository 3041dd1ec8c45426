"""lzpenalty doctor says what was found."""

import json
import os
import subprocess
import sys

import numpy as np

from lzpenalty import __version__, _core
from lzpenalty.commands.doctor import report


def doctor(library, *options):
    environment = {**os.environ, "LZPENALTY_LIBCUDA": str(library), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "lzpenalty", "doctor", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_machine_without_a_gpu():
    lines = doctor("/nowhere/libcuda.so.1")
    assert lines[0].startswith(f"lzpenalty: {__version__}, Python 3.")
    assert lines[1].startswith(f"processor: {_core.cpu_levels()[-1]} of {', '.join(_core.cpu_levels())}; ")
    assert f"numpy {np.__version__}: NumPy's C API" in lines
    assert any(line.startswith("torch ") and "DLPack" in line for line in lines)
    assert lines[-1].startswith("CUDA: no CUDA driver: /nowhere/libcuda.so.1: ")


def test_the_same_for_programs():
    (line,) = doctor("/nowhere/libcuda.so.1", "--json")
    found = json.loads(line)
    assert found["lzpenalty"] == __version__ and found["levels"] == list(_core.cpu_levels())
    assert report(found).splitlines() == doctor("/nowhere/libcuda.so.1")


def test_a_machine_with_gpus(emulated):
    lines = doctor(emulated.emulator.path)
    assert [line for line in lines if line.startswith("CUDA: ")] == [
        f"CUDA: driver for CUDA 13.0 ({emulated.emulator.path}), 4 devices",
        "CUDA: cuda:0: Emulated Hopper, compute capability 9.0, 227 KB shared: ready",
        "CUDA: cuda:1: Emulated Turing, compute capability 7.5, 64 KB shared: ready",
        "CUDA: cuda:2: Emulated Volta, compute capability 7.0, 96 KB shared: too old: 7.5 or more is needed",
        "CUDA: cuda:3: Emulated Ampere, compute capability 8.6, 99 KB shared: ready",
    ]
