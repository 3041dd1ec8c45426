"""`lzpenalty bench`: the programs in a checkout's benchmarks/, and the tables that are made of what they measure."""

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lzpenalty.commands.output import say

FOLDER = Path(__file__).parents[2] / "benchmarks"


class BenchmarkError(Exception):
    """A benchmark can't run, or failed; the message says why."""


class OptionError(BenchmarkError):
    """It was asked for what it doesn't know."""


@dataclass(frozen=True)
class Benchmark:
    """A program of that name."""

    takes: str
    arguments: tuple[str, ...] = ()
    quick: bool = True  # whether it knows --quick


BENCHMARKS = {
    "lz": Benchmark("a quarter of an hour"),
    "analysis": Benchmark("some minutes, pydivsufsort"),
    "cache": Benchmark("some minutes, Linux, 8 GB, a C compiler"),
    "attention": Benchmark("some minutes, 4 GB, a C compiler"),
    "launch": Benchmark("seconds, a C compiler"),
    "generate": Benchmark("an hour, the model of the demo", ("--check", "--whole"), quick=False),
    "recall": Benchmark("three hours, or as long as it is given; the model of the demo", quick=False),
    "prompts": Benchmark("a day, or as long as it is given; the model of the demo", quick=False),
    "frontier": Benchmark("forty minutes, the model of the demo"),
    "thinking": Benchmark("ten minutes, the model of the demo"),
    "gpu": Benchmark("an hour, seven minutes at a time; a GPU", quick=False),
}
QUOTED = ("frontier", "generate", "recall")


def listing() -> str:
    """A line for each benchmark: what it asks, and what it takes."""
    return "\n".join(f"{name:9} {_question(name)} ({BENCHMARKS[name].takes})" for name in BENCHMARKS)


def is_checkout() -> bool:
    """Whether the programs are there: the installed package hasn't got them."""
    return (FOLDER / "tables.py").is_file()


def run(names: list[str], quick: bool, quiet: bool = False) -> None:
    """Runs benchmarks and prints their tables. With `quick` nothing is written, so that there is no table. With `quiet` the
    tables are all that is printed.

    Raises
    ------
    BenchmarkError
    """
    names = names or [name for name in QUOTED if BENCHMARKS[name].quick or not quick]
    _check_folder()
    for name in names:
        if quick and not BENCHMARKS[name].quick:
            raise OptionError(f"argument --quick: {name} has none")
    for library in ("torch", "transformers"):
        if find_spec(library) is None:
            raise BenchmarkError(f"the benchmarks need {library}: pip install 'lzpenalty[demo]'")
    for name in names:
        benchmark = BENCHMARKS[name]
        if not quiet:
            say(f"{name}: {_question(name)} ({'a minute' if quick else benchmark.takes})")
        _call(f"{name}.py", *(["--quick"] if quick else benchmark.arguments), quiet=quiet)
        if not quick:
            _call("tables.py", "--print", name)


def _check_folder() -> None:
    if not is_checkout():
        raise BenchmarkError(
            "the benchmarks are in the source, not in the installed package: in a checkout, `make bench-lz` runs one, and "
            "after `pip install -e '.[demo]'` this command finds all of them"
        )


def _question(name: str) -> str:
    _check_folder()
    return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())).splitlines()[0]


def _call(program: str, *arguments: str, quiet: bool = False) -> None:
    """What a program prints is its progress. Of its errors the last line says what is wrong."""
    paths = filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [sys.executable, FOLDER / program, *arguments],
        stdout=subprocess.DEVNULL if quiet else None,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        command = " ".join(["python", f"benchmarks/{program}", *arguments])
        raise BenchmarkError(f"`{command}` failed: {last}")
