"""The source archive: what is in it, and that it can be built again to the byte."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATE = 1_700_000_000
FILES = ["LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"]
FOLDERS = {
    "csrc": {".c", ".h", ".cu", ".cuh", ".py"},
    "examples": {".c", ".h"},
    "lzpenalty": {".py", ".pyi", ".typed", ".html", ".css", ".js"},
}
SETUPTOOLS = {"PKG-INFO", "setup.cfg", "lzpenalty.egg-info/SOURCES.txt"}
STRAYS = ["csrc/lz/match.o", "csrc/cuda/__pycache__/generate.pyc", "lzpenalty/_core.so", "tests/test_stray.py", "build/x.c"]


def sources():
    found = {name for folder in FOLDERS for name in map(str, (ROOT / folder).rglob("*"))}
    inside = {str(Path(name).relative_to(ROOT)) for name in found}
    return {name for name in inside if Path(name).suffix in FOLDERS[Path(name).parts[0]]}


def build(checkout, umask):
    """The archive, built in a copy of the checkout that has a few files too many, which an earlier one listed."""
    for name in [*FILES, *sources(), *STRAYS]:
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in STRAYS:
            path.touch()
        else:
            shutil.copyfile(ROOT / name, path)
    (checkout / "lzpenalty.egg-info").mkdir()
    (checkout / "lzpenalty.egg-info/SOURCES.txt").write_text("\n".join(STRAYS))
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(DATE)}
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=checkout, env=environment, umask=umask, check=True)
    (archive,) = (checkout / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return build(tmp_path_factory.mktemp("sdist"), 0o022)


def test_what_is_in_it(archive):
    with tarfile.open(archive) as tar:
        names = {entry.name.partition("/")[2] for entry in tar if entry.isfile()}
    assert names == {*SETUPTOOLS, *FILES, *sources()}


def test_entries_say_nothing_of_the_machine(archive):
    with tarfile.open(archive) as tar:
        entries = tar.getmembers()
    assert [entry.name for entry in entries] == sorted((entry.name for entry in entries), key=lambda name: name.split("/"))
    for entry in entries:
        assert (entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime) == (0, 0, "", "", DATE)
        assert entry.mode == (0o755 if entry.isdir() else 0o644)


def test_a_second_build_is_the_same(archive, tmp_path):
    assert build(tmp_path, 0o077).read_bytes() == archive.read_bytes()


def test_every_package_is_installed():
    listed = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    folders = [path.parent.relative_to(ROOT) for path in (ROOT / "lzpenalty").rglob("__init__.py")]
    assert sorted(ast.literal_eval(listed)) == sorted(".".join(folder.parts) for folder in folders)
