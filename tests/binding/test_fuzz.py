"""What the fuzzer has seen of the kernels, once more, with any compiler (`make fuzz` goes on from there)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SOURCES = {"lz": ["cpu", "lz"], "cache": ["cpu", "cache"], "text": ["text"]}


@pytest.mark.parametrize("target", SOURCES)
def test_corpus(target, tmp_path):
    compiler = os.environ.get("CC", "cc")
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} to compile the target with")
    flags = ["-std=c11", "-O0", "-pthread", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    if sanitizers := os.environ.get("LZPENALTY_SANITIZE"):
        flags += ["-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    sources = [TESTS / f"fuzz/{target}.c", TESTS / "fuzz/replay.c"]
    for folder in SOURCES[target]:
        sources += (TESTS.parent / "csrc" / folder).glob("*.c")
    program = tmp_path / target
    subprocess.run([compiler, *flags, *sources, "-lm", "-o", program], check=True)
    inputs = list((TESTS / "fuzz/corpus" / target).iterdir())
    assert inputs
    subprocess.run([program, *inputs], check=True)
