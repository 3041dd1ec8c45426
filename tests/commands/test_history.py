"""benchmarks/history.py: what is a ratio, and that a day and a machine have one file."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import harness  # noqa: E402
import history  # noqa: E402

RESULTS = {
    "machine": {"cpu": "A (R) processor", "level": "avx2", "date": "2026-01-02", "share": 7},
    "grid": [{"ours_us": 3.0, "torch_over_ours": 2.0}, {"ours_us": 3.0, "torch_over_ours": 4.0, "quick_over_ours": True}],
    "texts": [{"seconds": {"x": 1.0}, "ratios": {"x / y": 5, "bytes": 6}}],
    "against_none": {"on": 0.9},
    "share": 0.25,
}
FOUND = {"torch_over_ours": [2, 4], "x / y": [5], "bytes": [6], "against_none on": [0.9], "share": [0.25]}


def test_what_is_a_ratio():
    assert history.ratios(RESULTS) == FOUND
    assert history.ratios({"a": 1, "b": ["c_over_d", {"e": 2.0}]}) == {}


def test_keys_may_be_numbers():
    """As in what benchmarks/generate.py writes, until JSON makes them words."""
    assert history.ratios({"tokens_per_second": {1024: 17.2}, "ratios": {1024: 2.0}}) == {"1024": [2.0]}


def test_a_day_and_a_machine_have_a_file(tmp_path):
    def keep(name, value, **machine):
        history.keep(tmp_path / "history", name, {"machine": {**RESULTS["machine"], **machine}, "a_over_b": value})

    keep("one", 1)
    keep("one", 2)
    keep("two", 3)
    keep("one", 4, date="2026-01-03")
    keep("one", 5, level="scalar")
    history.keep(tmp_path / "history", "none", {"machine": RESULTS["machine"], "ms": 3})
    names = [
        "2026-01-02-a-r-processor-avx2.json",
        "2026-01-02-a-r-processor-scalar.json",
        "2026-01-03-a-r-processor-avx2.json",
    ]
    assert sorted(path.name for path in (tmp_path / "history").iterdir()) == names
    day = json.loads((tmp_path / "history" / names[0]).read_text())
    assert day["ratios"] == {
        name: {"a_over_b": {"median": n, "lowest": n, "cells": 1}} for name, n in (("one", 2), ("two", 3))
    }
    found = history.points(tmp_path / "history")
    assert found == {
        "one": {
            ("a_over_b", "A (R) processor, avx2"): [("2026-01-02", 2), ("2026-01-03", 4)],
            ("a_over_b", "A (R) processor, scalar"): [("2026-01-02", 5)],
        },
        "two": {("a_over_b", "A (R) processor, avx2"): [("2026-01-02", 3)]},
    }
    assert "  a_over_b (A (R) processor, avx2): 2026-01-02 2, 2026-01-03 4" in history.table(found).splitlines()
    pytest.importorskip("matplotlib")
    history.draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_benchmark_that_ends_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.write("lz", {"a_over_b": [{"x_over_y": 2.0}]})
    (path,) = (tmp_path / "history").iterdir()
    kept = json.loads(path.read_text())
    assert kept["ratios"]["lz"]["x_over_y"]["median"] == 2 and kept["machine"] == harness.machine()


def test_the_committed_history_is_read():
    found = history.points(history.RESULTS / "history")
    assert {"lz", "cache", "analysis"} <= set(found)
    days = [day for lines in found.values() for line in lines.values() for day, _ in line]
    assert min(days) == "2026-11-22"
