"""benchmarks/instructions.py: what it reads in callgrind's files, and what it says about counts."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import instructions  # noqa: E402

PART = """# callgrind format
version: 1
cmd:  build/instructions/instructions avx2
part: {part}

desc: Timerange: Basic block 0 - 63952
desc: Trigger: Client Request: {name}

positions: line
events: Ir
summary: {count}

fn=(1) evidence
10 {count}

totals: {count}
"""


def test_counts_are_read_by_name():
    parts = [PART.format(part=1, name="evidence: loop", count=31503), PART.format(part=2, name="scores, float32", count=7)]
    end = "# callgrind format\npart: 3\ndesc: Trigger: Program termination\nevents: Ir\nsummary: 99\ntotals: 99\n"
    assert instructions.counts_of([*parts, end]) == {"evidence: loop": 31503, "scores, float32": 7}


def test_five_percent_more_are_too_many():
    said, good = instructions.compare({"a": 1000, "b": 2000}, {"a": 1050, "b": 1000})
    assert good and [line.split() for line in said.splitlines()] == [["a", "1,050", "1.050"], ["b", "1,000", "0.500"]]
    said, good = instructions.compare({"a": 1000}, {"a": 1051})
    assert not good and said.endswith("MORE")


def test_a_call_that_is_gone_fails_and_a_new_one_does_not():
    said, good = instructions.compare({"a": 1}, {"a": 1, "b": 2})
    assert good and said.splitlines()[1].split() == ["b", "2", "new"]
    said, good = instructions.compare({"a": 1, "b": 2}, {"a": 1})
    assert not good and said.splitlines()[1].split() == ["b", "missing"]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A run with counts of one's own choice; a level without any isn't there."""
    monkeypatch.setattr("harness.RESULTS", tmp_path)
    monkeypatch.setattr(instructions, "RESULTS", tmp_path)
    monkeypatch.setattr(instructions, "build", lambda: Path("program"))

    def run(counts, version="cc 1", arguments=()):
        monkeypatch.setattr(instructions, "compiler", lambda: version)
        monkeypatch.setattr(instructions, "count", lambda program, level: counts if level == "avx2" else {})
        monkeypatch.setattr(sys, "argv", ["instructions.py", *arguments])
        instructions.main()
        return json.loads((tmp_path / "instructions.json").read_text())["counts"]

    return run


def test_another_compiler_is_recorded_and_the_same_compared(measured, capsys):
    assert measured({"a": 100}) == {"cc 1, avx2": {"a": 100}}
    assert "recorded now" in capsys.readouterr().out
    assert measured({"a": 102}) == {"cc 1, avx2": {"a": 100}}
    assert "recorded" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="5% more"):
        measured({"a": 106})
    assert measured({"a": 300}, "cc 2") == {"cc 1, avx2": {"a": 100}, "cc 2, avx2": {"a": 300}}
    assert measured({"a": 106}, "cc 1", ["--record"])["cc 1, avx2"] == {"a": 106}
