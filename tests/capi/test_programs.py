"""Programs in C and in C++ against the installed library: the examples, and calls that chance makes up."""

import os
import subprocess
from pathlib import Path

import pytest
from building import run

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples/c"


@pytest.fixture(params=["c", "c++"])
def language(request):
    return request.param


@pytest.fixture(params=["liblzpenalty.a", "liblzpenalty.so"])
def link(request, installed):
    folder = installed.lib
    return (folder / request.param, f"-Wl,-rpath,{folder}") if request.param.endswith(".so") else (folder / request.param,)


def test_a_loop_ends(installed, language, link):
    printed = run(installed.compile(EXAMPLES / "penalize.c", language, link=link))
    before, after = printed.split("With a strength")
    assert "period: 6\n" in before and "the sea is wide and deep the sea is wide and deep" in before
    assert "period: 0\n" in after


def test_a_cache_is_compressed(installed, language, link):
    printed = run(installed.compile(EXAMPLES / "compress.c", language, link=link))
    assert "kept 20 of 64 tokens: 0 " in printed
    kept = set(map(int, printed.partition("tokens:")[2].splitlines()[0].split()))
    assert {*range(0, 60, 6), 60, 61, 62, 63} <= kept
    assert "changed by nothing" in printed


def test_random_calls(installed):
    """A million of them, with AddressSanitizer: `make test-lib`."""
    n = os.environ.get("LZPENALTY_RANDOM_CALLS", "20000")
    subprocess.run([installed.compile(HERE / "random_calls.c"), n], check=True)
