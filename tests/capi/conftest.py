"""The C library as programs get it: built and installed by make, into a folder of its own."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import header
import pytest
from building import CC, make, run

LANGUAGES = {"c": "-std=c11", "c++": "-std=c++11"}
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """include, lib; compile(source, language, *more, link=...) makes a program of a source file, and returns its path."""
    for tool in ("make", CC, "objcopy"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool} to build the library with")
    prefix = tmp_path_factory.mktemp("prefix")
    make("install", f"PREFIX={prefix}")

    def compile(source, language="c", *more, link=(prefix / "lib/liblzpenalty.a",)):
        program = tmp_path_factory.mktemp("program") / Path(source).stem
        flags = [LANGUAGES[language], *WARNINGS, "-I", prefix / "include", "-x", language]
        run(CC, *flags, source, *more, "-x", "none", *link, "-lm", "-pthread", "-o", program)
        return program

    return SimpleNamespace(include=prefix / "include", lib=prefix / "lib", compile=compile)


@pytest.fixture(scope="session")
def library(installed):
    return header.load(installed.lib / "liblzpenalty.so")
