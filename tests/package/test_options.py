"""The list of options is the one place that knows them: what is written from it is current, and an option that is in the
list and nowhere else fails here, by the name of what is missing."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import oracle
from lzpenalty import LZOptions, lz_penalize_

ROOT = Path(__file__).parents[2]
LIST = re.findall(r"^OPTION\((\w+), (\w+),", (ROOT / "csrc/lz/options.def").read_text(), re.MULTILINE)
NAMES = [name for _, name in LIST]


def missing(names) -> list[str]:
    """What an option needs that the list can't give: it is read by both formulas, told by the oracle, and shown."""
    found = []
    places = {
        "the formula on the CPU": [
            "csrc/lz/penalty.h",
            "csrc/lz/codelength.h",
            "csrc/lz/mark.h",
            "csrc/lz/section.h",
            "csrc/lz/workspace.c",
        ],
        "the formula on CUDA": ["csrc/cuda/lz.cuh", "csrc/cuda/lz.c", "csrc/lz/mark.h", "csrc/lz/section.h"],
        "the oracle": ["tests/oracle.py"],
        "the mathematics": ["docs/how/mathematics.md"],
    }
    for name in names:
        for place, files in places.items():
            if not any(re.search(rf"\b{name}\b", (ROOT / path).read_text()) for path in files):
                found.append(f"{name}: missing in {place}, one of {', '.join(files)}")
    return found


def test_what_is_written_from_the_list_is_current():
    done = subprocess.run([sys.executable, ROOT / "csrc/lz/generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_that_an_option_needs_is_missing():
    assert list(LZOptions().keywords()) == NAMES and not missing(NAMES), "\n".join(missing(NAMES))


def test_an_option_that_is_in_the_list_and_nowhere_else_fails_by_name():
    said = missing(["patience"])
    assert len(said) == 4 and all(line.startswith("patience: missing in the ") for line in said)


CHANGES = dict(strength=0.5, window=3, buffer=1, cost="pair", min_match=2, gate=(1, 2**31), release=[9], release_rate=0.5,
               release_after=25, open=8, section_gate=(1, 2**31), skip=3, resume=6)  # fmt: skip
WITH = dict.fromkeys(["release_rate", "release_after", "open", "section_gate"], {"release": [9]}) | {"resume": {"skip": 3}}


@pytest.mark.parametrize("name", NAMES)
def test_every_option_makes_a_difference_and_the_formula_agrees(name):
    """On the same text that all other options are shown on."""
    text = [4, 3, 2, *[1, 2, 3, 5, 5, 2, 6] * 6]
    value, more = CHANGES[name], WITH.get(name, {})
    plain = lz_penalize_(np.zeros(20), np.array(text), **more)
    got = lz_penalize_(np.zeros(20), np.array(text), **more, **{name: value})
    wanted = np.zeros(20)
    for token, nats in oracle.penalties(text, 20, **more, **{name: value}).items():
        wanted[token] -= nats
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert (got != plain).any()


def test_every_option_can_be_read_by_its_name_and_not_written():
    options = LZOptions(**CHANGES)
    assert {name: getattr(options, name) for name in NAMES} == options.keywords()
    for name in NAMES:
        with pytest.raises(AttributeError, match=name):
            setattr(options, name, None)
