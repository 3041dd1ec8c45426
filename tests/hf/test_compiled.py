"""The cases of compiled_cases.py, in a process of their own.

In one in which a thousand other tests have run, Python 3.11 was seen to call functions without asking the compiler: then
nothing would be compiled, and nothing tested."""

import subprocess
import sys
from pathlib import Path


def test_compiled_forwards():
    cases = Path(__file__).with_name("compiled_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    found = subprocess.run(command, cwd=cases.parents[2], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
