"""benchmarks/history.py keeps the ratios of what a benchmark writes, whatever shape that has."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import history  # noqa: E402

MACHINE = {"cpu": "A (tm) CPU", "level": "avx2", "date": "2026-01-02"}


def test_ratios_are_found_by_their_names():
    rows = [
        {"eager_over_ours": 2.0, "ms": 7, "ratios": {1: 4, "all": True}},
        {"eager_over_ours": 5.0, "against_one": {"two": 3}, "share": 0.5, "ours / other": 6},
    ]
    assert history.ratios({"machine": {"share": 1}, "rows": rows}) == {
        "eager_over_ours": [2.0, 5.0], "1": [4], "against_one two": [3], "share": [0.5], "ours / other": [6]
    }  # fmt: skip


def test_keys_that_are_numbers_are_no_ratios():
    """benchmarks/generate.py has them, before JSON makes them words."""
    assert history.ratios({"tokens_per_second": {1024: 17.2}}) == {}


def test_a_day_has_one_file_for_each_machine(tmp_path):
    for name, found in (("one", 2.0), ("two", 3.0), ("one", 4.0), ("none", None)):
        results = {"machine": MACHINE, "a_over_b": [found, 1.0]} if found else {"machine": MACHINE}
        history.keep(tmp_path, name, results)
    (path,) = tmp_path.iterdir()
    assert path.name == "2026-01-02-a-tm-cpu-avx2.json"
    assert json.loads(path.read_text())["ratios"] == {
        "one": {"a_over_b": {"median": 2.5, "lowest": 1.0, "cells": 2}},
        "two": {"a_over_b": {"median": 2.0, "lowest": 1.0, "cells": 2}},
    }
    points = {("a_over_b", "A (tm) CPU, avx2"): [("2026-01-02", 2.5)]}
    assert history.points(tmp_path)["one"] == points
