"""The committed PTX is that of the sources, and its kernels take what the host passes."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[2] / "csrc/cuda"


def committed() -> str:
    lines = re.findall(r'^ +(".*")', (CUDA / "ptx/ptx.c").read_text(), flags=re.M)
    return "".join(ast.literal_eval(line) for line in lines)


def test_the_text_is_current():
    if not shutil.which("nvcc") or not shutil.which("ptxas"):
        pytest.skip("no nvcc here")
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    if "release 13.0" not in version:
        pytest.skip("an nvcc other than that of CUDA 13.0, which writes other PTX")
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # of `make sanitize`
    command = [sys.executable, CUDA / "generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_text_is_for_old_drivers_and_devices():
    assert committed().startswith(".version 7.0\n.target sm_75\n.address_size 64\n")


def kernels() -> list[str]:
    listed = re.search(r"#define CUDA_KERNELS(.*?)\n\n", (CUDA / "device.h").read_text(), re.S)[1]
    units = re.sub(r"CUDA_UNITS\(X, (\w+)\)", r"X(\1_16) X(\1_4) X(\1_2)", listed)
    return re.findall(r"X\((\w+)\)", units)


def test_the_host_knows_all_kernels_by_name():
    assert sorted(re.findall(r"\.visible \.entry (\w+)\(", committed())) == sorted(kernels())


@pytest.mark.parametrize("kernel", kernels())
def test_parameters(kernel, emulated):
    """Sizes and number of each kernel's parameters are compared when a module is loaded, with those of the structures that
    the host fills in: a warmup without errors says that all agree. Here: they fit what a launch can take."""
    emulated.emulator.load()
    head = re.search(rf"\.entry {kernel}\((.*?)\)", committed(), re.S)[1]
    sizes = [int(size) for size in re.findall(r"\.param \.align [48] \.b8 \w+\[(\d+)\]", head)]
    assert 1 <= len(sizes) == head.count(".param") <= 2
    assert sum(sizes) <= 4096


def test_no_kernel_needs_a_stack_or_contracts_products():
    """Local memory would be slow; fused operations that the source does not ask for would round differently."""
    text = committed()
    assert ".local" not in text
    assert not re.search(r"fma\.rn\.f64", text)
    lz = text[text.index(".entry lz_penalize(") : text.index(".entry score_maxima(")]
    assert "fma." not in lz and "approx" not in text and ".ftz" not in text
