"""The beginning of each of `make soak`'s runs, with more of its rows compared."""

import random

import pytest

import soak

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "run, steps, share",
    [
        (soak.steps_of_generate, 60, 0.5),
        (soak.steps_of_first_runner, 80, 0.1),
        (soak.steps_of_second_runner, 60, 0.1),
        (soak.compressions, 10, 1),
    ],
)
def test_soak(run, steps, share):
    done = compared = 0
    for count, sample in run(random.Random(1), share):
        done, compared = done + count, compared + sample
        if done >= steps:
            break
    assert compared >= 10
