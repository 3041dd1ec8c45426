"""Programs in C and in C++ against the installed library: the examples, and calls that chance makes up."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from building import CC, ROOT, run

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


def test_what_counts_instructions_compiles(installed):
    """It is run by hand alone, `make bench-instructions`, and must not be forgotten when the header changes."""
    installed.compile(ROOT / "benchmarks/instructions.c")


GUIDE = (ROOT / "docs/guides/c.md").read_text(encoding="utf-8")


@pytest.fixture
def guide(tmp_path):
    """The guide's first block of C, as a file."""
    path = tmp_path / "program.c"
    path.write_text(re.search(r"^```c\n(.*?)```", GUIDE, re.M | re.S)[1])
    return path


def test_what_the_guide_shows(installed, language, guide):
    assert float(run(installed.compile(guide, language)).split(": ")[1]) < 0


def test_the_guides_ways_to_find_the_library(installed, guide):
    """Each of its command lines, with an install prefix of its own, and what the program it makes needs."""
    if not shutil.which("pkg-config"):
        pytest.skip("no pkg-config here")
    commands = re.findall(r"^cc program\.c .*$", GUIDE, re.M)
    assert len(commands) == 3
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    environment["PKG_CONFIG_PATH"] = str(installed.lib / "pkgconfig")
    for command, needs, found in zip(commands, (False, True, True), (True, True, False), strict=True):
        run("sh", "-c", command.replace("cc ", f"{CC} ", 1), cwd=guide.parent, env=environment)
        needed = run("readelf", "-d", "program", cwd=guide.parent)
        assert ("liblzpenalty.so" in needed) == needs
        done = subprocess.run(["./program"], cwd=guide.parent, env=environment, capture_output=True, text=True)
        assert (done.returncode == 0) == found
        if not found:  # what ldconfig does for the system, for one program
            assert "cannot open shared object file" in done.stderr
            run("./program", cwd=guide.parent, env=environment | {"LD_LIBRARY_PATH": str(installed.lib)})


def test_no_allocation_in_the_steady_state(installed):
    wrapped = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc"
    printed = run(installed.compile(HERE / "steady.c", "c", wrapped))
    assert ", 0 after it" in printed
