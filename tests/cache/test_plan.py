"""The plan's counts are those of a text that is compressed token by token."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzpenalty.cache.plan import Plan


@st.composite
def plans(draw):
    ratio = draw(st.integers(1, 6))
    interval = ratio * draw(st.integers(1, 12))
    recent = draw(st.integers(1, max(1, interval - 1)))
    if recent >= interval:
        interval, recent = 2 * ratio + ratio % 2 * ratio, 1
    return Plan(interval, ratio, recent, draw(st.none() | st.integers(recent, recent + 60)))


@given(plans(), st.integers(0, 300))
def test_counts_are_those_of_a_list_that_is_shortened(plan, generated):
    held, dropped, compressions, peak = [], 0, 0, 0
    for token in range(generated):
        held.append(token)
        peak = max(peak, len(held))
        region = len(held) - plan.recent
        kept = plan.budget - plan.recent if plan.budget else compressions * plan.interval // plan.ratio
        if region == kept + plan.interval:
            compressions += 1
            kept = plan.budget - plan.recent if plan.budget else compressions * plan.interval // plan.ratio
            dropped += region - kept
            held = held[:kept] + held[region:]
    assert plan.compressions(generated) == compressions
    assert plan.dropped(generated) == dropped == generated - len(held)
    assert plan.peak(generated) == peak


@given(plans(), st.integers(0, 300))
def test_the_next_compression_is_the_first_that_counts(plan, generated):
    due = plan.next_due(generated)
    assert due > generated
    assert plan.compressions(due - 1) == plan.compressions(generated) == plan.compressions(due) - 1


@given(plans(), st.integers(0, 300))
def test_what_is_behind_has_come_since_the_newest_compression(plan, generated):
    if plan.compressions(generated):
        due = next(n for n in range(generated + 1) if plan.compressions(n) == plan.compressions(generated))
        assert plan.behind(generated) == generated - due


def test_without_compression_all_is_held():
    assert Plan(interval=None).peak(77) == 77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval: expected at least 1, got 0"),
        ({"interval": 4.0}, "interval: expected an integer, got 4.0"),
        ({"interval": 10, "ratio": 4}, "interval: expected a multiple of ratio, 4, got 10"),
        ({"interval": 8, "recent": 8}, "recent: expected less than interval, 8, got 8"),
        ({"interval": 64, "budget": 31}, "budget: expected at least recent, 32, got 31"),
        ({"interval": None, "budget": 31}, "budget: expected None where interval is None, got 31"),
        ({"ratio": True}, "ratio: expected an integer, got True"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((TypeError, ValueError)) as error:
        Plan(**options)
    assert str(error.value) == message


def test_needs_no_torch():
    code = "import sys, lzpenalty.cache.plan; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
