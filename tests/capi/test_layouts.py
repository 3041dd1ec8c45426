"""What compiled programs rely on: layouts, names, numbers. tests/capi/abi.txt lists them, so that a change is seen."""

import ctypes
import os
import re
import subprocess
from pathlib import Path

import header
import numpy as np
import pytest
from building import ROOT, make, run

import lzpenalty

HERE = Path(__file__).parent
HEADER = ROOT / "csrc/include/lzpenalty.h"


def names(path, *flags):
    listed = run("nm", "--defined-only", *flags, path)
    return sorted(line.split()[2] for line in listed.splitlines() if len(line.split()) == 3)


def statuses():
    return {name: int(value) for name, value in re.findall(r"^    LZPENALTY_(\w+) = (\d+)", HEADER.read_text(), re.M)}


def test_ctypes_agrees_with_the_compiler(installed):
    program = installed.compile(HERE / "layout.c")
    lines = run(program).splitlines()
    described = []
    for name, structure in header.STRUCTS.items():
        described.append(f"struct {name} {ctypes.sizeof(structure)}")
        for field, _ in structure._fields_:
            place = getattr(structure, field)
            described.append(f"{name}.{field} {place.offset} {place.size}")
    assert described == lines


def test_what_ctypes_is_given(library):
    """LZOptions where C wants lzpenalty_options."""
    given = dict(strength=0.25, cost="pair", gate=(2, 9), release=[[3, 4], [5]], skip=[[7]])
    made = lzpenalty.LZOptions(**given)
    got, wanted = header.Options.from_address(made._as_parameter_), header.options(library, **given)
    assert got.size == ctypes.sizeof(got)
    for name in ("strength", "window", "buffer", "cost", "min_match", "release_rate", "release_after"):
        assert getattr(got, name) == pytest.approx(getattr(wanted, name))
    assert (getattr(got.gate, "from"), got.gate.to) == (2, 9)
    for name, marks in (("release", [[5], [3, 4]]), ("open", []), ("skip", [[7]])):
        there = getattr(got, name)
        assert [[*there.mark[i].ids[: there.mark[i].n]] for i in range(there.n)] == marks


def test_a_copy_is_of_its_own(library):
    text, rows = np.array([1, 2, 1, 2, 1], np.int32), np.zeros((2, 9), np.float32)
    options = header.options(library, release=[[3], [4, 5]], min_match=2)
    copy, ws = library.options_copy(options, 9), library.workspace_create()
    for given, row in ((options, rows[0]), (copy, rows[1])):
        assert library.penalize_row(ws, given, row.ctypes.data, 9, text.ctypes.data, len(text)) == 0
        options.release.mark[0].ids[0] = 99  # its own marks stay
    assert (rows[0] == rows[1]).all() and rows[0].any()
    library.options_destroy(copy)
    library.workspace_destroy(ws)
    library.options_destroy(None)
    assert not library.options_copy(options, 9) and not library.options_copy(None, 9)


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the list is that of 64-bit systems")
def test_the_committed_list(installed):
    layouts = run(installed.compile(HERE / "layout.c"))
    functions = "".join(f"function {name}\n" for name in names(installed.lib / "liblzpenalty.so", "-D"))
    numbers = "".join(f"LZPENALTY_{name} {value}\n" for name, value in statuses().items())
    current = layouts + functions + numbers
    if os.environ.get("LZPENALTY_UPDATE_ABI"):  # after a change that is meant
        (HERE / "abi.txt").write_text(current)
    assert (HERE / "abi.txt").read_text() == current


def test_names(installed):
    """Both files have the header's functions and no other name that could meet one of a program's."""
    declared = sorted(re.findall(r"LZPENALTY_API [\w ]+?\*?(lzpenalty_\w+)\(", HEADER.read_text()))
    assert declared == sorted(f"lzpenalty_{name}" for name in header.FUNCTIONS)
    assert names(installed.lib / "liblzpenalty.so", "-D") == declared
    assert names(installed.lib / "liblzpenalty.a", "-g") == declared
    dynamic = run("readelf", "-d", installed.lib / "liblzpenalty.so")
    assert "Library soname: [liblzpenalty.so.0.1]" in dynamic
    assert set(re.findall(r"NEEDED.*\[(\w+)", dynamic)) <= {"libc", "libm", "libpthread", "ld"}


def test_every_macro_is_prefixed():
    text = HEADER.read_text()
    assert all(name.startswith("LZPENALTY_") for name in re.findall(r"^#define (\w+)", text, re.M))
    assert set(re.findall(r"^(?:static inline |typedef )?\w+ \*?(\w+)\(", text, re.M)) <= {
        name for name in re.findall(r"\w+", text) if name.startswith("lzpenalty_")
    }


def test_statuses(library):
    wanted = {name: value for name, value in statuses().items() if name in header.STATUSES}
    assert wanted == header.STATUSES
    texts = [library.strerror(value).decode() for value in header.STATUSES.values()]
    assert len(set(texts)) == len(texts) and "an unknown status" not in texts
    assert library.strerror(-1) == library.strerror(1000) == b"an unknown status"


def test_versions(library):
    version = re.search(r'^__version__ = "([\d.]+)', (ROOT / "lzpenalty/__init__.py").read_text(), re.M)[1]
    major, minor, patch = map(int, version.split("."))
    text = HEADER.read_text()
    for name, value in {"MAJOR": major, "MINOR": minor, "PATCH": patch}.items():
        assert f"#define LZPENALTY_VERSION_{name} {value}\n" in text
    assert library.version() == major * 10000 + minor * 100 + patch


def test_install_and_uninstall(installed, tmp_path):
    make("install", f"DESTDIR={tmp_path}", "PREFIX=/usr")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert files == {
        "usr/include/lzpenalty.h",
        "usr/lib/liblzpenalty.a",
        "usr/lib/liblzpenalty.so",
        "usr/lib/liblzpenalty.so.0.1",
        "usr/lib/pkgconfig/lzpenalty.pc",
        "usr/lib/pkgconfig/lzpenalty-shared.pc",
    }
    config = (tmp_path / "usr/lib/pkgconfig/lzpenalty.pc").read_text()
    assert "prefix=/usr\n" in config and "Version: 0.1.0\n" in config and str(tmp_path) not in config
    make("uninstall", f"DESTDIR={tmp_path}", "PREFIX=/usr")
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]


def test_what_the_package_carries(installed):
    """The same header, and an archive with the same names."""
    include, folder = Path(lzpenalty.get_include()), Path(lzpenalty.get_library_dir())
    assert (include / "lzpenalty.h").read_bytes() == HEADER.read_bytes()
    assert set(names(folder / "liblzpenalty.a", "-g")) >= {f"lzpenalty_{name}" for name in header.FUNCTIONS}
    if "LZPENALTY_SANITIZE" in os.environ:
        pytest.skip("a program without a sanitizer can't link an archive with one")
    program = installed.compile(ROOT / "examples/c/penalize.c", "c", link=(folder / "liblzpenalty.a",))
    assert subprocess.run([program], capture_output=True).returncode == 0
