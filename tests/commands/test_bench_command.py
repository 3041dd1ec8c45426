"""lzpenalty bench finds the programs of a checkout, runs them and prints their tables."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lzpenalty.commands import bench, cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Programs that print how they are called."""
    says = '"""{0}?\n\nMore."""\nimport sys, lzpenalty\nprint("{0} runs", *sys.argv[1:])\n'
    for name in ("lz", "frontier", "thinking", "generate", "recall", "tables"):
        (tmp_path / f"{name}.py").write_text(says.format(name))
    fails = '"""Fails?"""\nimport sys\nprint("begun")\nraise ValueError("not today")\n'
    (tmp_path / "cache.py").write_text(fails)
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    return tmp_path


def test_every_benchmark_is_there_and_knows_what_is_said_of_it(capsys):
    assert cli.main(["bench", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [*bench.BENCHMARKS]
    for name, benchmark in bench.BENCHMARKS.items():
        program = (ROOT / "benchmarks" / f"{name}.py").read_text()
        options = set(re.findall(r'add_argument\("(--[\w-]+)"', program))
        assert set(benchmark.arguments) <= options and benchmark.quick == ("--quick" in options)


def test_programs_run_and_tables_follow(checkout, capfd):
    assert cli.main(["bench", "lz", "generate"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "lz: lz? (a quarter of an hour)",
        "lz runs",
        "tables runs --print lz",
        "generate: generate? (an hour, the model of the demo)",
        "generate runs --check --whole",
        "tables runs --print generate",
    ]


def test_what_readme_quotes_is_the_default(checkout, capfd):
    assert cli.main(["bench"]) == 0
    assert re.findall(r"^(\w+) runs(?! --print)", capfd.readouterr().out, re.MULTILINE) == [*bench.QUOTED]
    quoted = re.findall(r"<!-- table: (\w+)", (ROOT / "README.md").read_text())
    # generate-first has facts as well, and versions are noted by sessions of tests.
    assert {*quoted, "recall"} - {"versions"} == {*bench.QUOTED}


def test_quick_prints_no_tables(checkout, capfd):
    assert cli.main(["bench", "--quick"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "frontier: frontier? (a minute)",
        "frontier runs --quick",
    ]


def test_the_tables_are_those_of_the_pages():
    command = [sys.executable, ROOT / "benchmarks" / "tables.py", "--print", "lz"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for name in ("lz-summary", "lz-parts", "lz-dense", "lz-grid"):
        table = re.search(rf"<!-- table: {name} -->\n(.*?)\n<!-- end -->", page, re.DOTALL)[1]
        assert table in printed
    assert "DynamicCache" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache"], "`python benchmarks/cache.py` failed: ValueError: not today"),
    ],
)
def test_mistakes_cost_one_line(checkout, arguments, message, capfd):
    assert cli.main(["bench", *arguments]) == 1
    printed = capfd.readouterr()
    assert printed.err == f"lzpenalty: {message}\n"


def test_one_that_is_never_quick_is_asked_before_any_runs(checkout, capfd):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "lz", "generate", "--quick"])
    printed = capfd.readouterr()
    assert stop.value.code == 2 and "error: argument --quick: generate has none" in printed.err and not printed.out


def test_quiet_prints_tables_alone(checkout, capfd):
    assert cli.main(["bench", "lz", "--quiet"]) == 0
    assert capfd.readouterr().out == "tables runs --print lz\n"


@pytest.mark.parametrize("arguments", [[], ["lz"], ["--list"]])
def test_without_a_checkout(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "FOLDER", tmp_path / "benchmarks")
    assert cli.main(["bench", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lzpenalty: the benchmarks are in the source") and error.count("\n") == 1
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "bench" not in capsys.readouterr().out


def test_help_lists_it_in_a_checkout(checkout, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "bench" in capsys.readouterr().out


def test_without_torch(checkout, monkeypatch, capsys):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert cli.main(["bench", "lz"]) == 1
    assert capsys.readouterr().err == "lzpenalty: the benchmarks need torch: pip install 'lzpenalty[demo]'\n"


def test_usage_errors(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "lzz"])
    known = "lz, analysis, cache, attention, launch, generate, recall, prompts, frontier, thinking, gpu"
    assert stop.value.code == 2 and f"expected one of {known}, got lzz" in capsys.readouterr().err
