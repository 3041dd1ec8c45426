"""Programs in C and in C++ against the installed library: the examples, and calls that chance makes up."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from building import ROOT, run

HERE = Path(__file__).parent
EXAMPLES = ROOT / "examples/c"


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


def test_what_the_guide_shows(installed, language, tmp_path):
    code = re.search(r"^```c\n(.*?)```", (ROOT / "docs/guides/c.md").read_text(), re.M | re.S)[1]
    includes = re.findall(r"^#include .*\n", code, re.M)
    inside = code.replace("".join(includes), "")
    around = "int main(void)\n{\nfloat logits[4] = {0};\nint32_t tokens[3] = {1, 2, 1}, vocab = 4;\nint64_t n = 3;\n"
    (tmp_path / "guide.c").write_text("".join(includes) + around + inside + "return !(logits[2] < 0);\n}\n")
    run(installed.compile(tmp_path / "guide.c", language))


def test_no_allocation_in_the_steady_state(installed):
    wrapped = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc"
    printed = run(installed.compile(HERE / "steady.c", "c", wrapped))
    assert ", 0 after it" in printed
