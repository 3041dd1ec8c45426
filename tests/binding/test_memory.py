"""Whichever allocation fails, MemoryError is raised, nothing leaks, and the next call works."""

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import emulator

NATIVE = Path(__file__).parents[1] / "native"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc for what is allocated")
@pytest.mark.skipif(sysconfig.get_config_var("Py_GIL_DISABLED"), reason="Python without a GIL can't do with malloc")
@pytest.mark.skipif("LZPENALTY_SANITIZE" in os.environ, reason="sanitizers have an allocator of their own")
def test_allocations_and_threads_that_fail():
    compiler = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{sysconfig.get_paths()['include']}"]
    try:
        library = emulator.compile_once([*compiler, NATIVE / "failing.c"], "failing.so")
        driver, _ = emulator.build()
    except emulator.Unavailable as error:
        pytest.skip(str(error))
    env = {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
           "LZPENALTY_LIBCUDA": str(driver), "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    done = subprocess.run([sys.executable, NATIVE / "failing.py", library], env={**os.environ, **env}, timeout=300)
    assert done.returncode == 0
