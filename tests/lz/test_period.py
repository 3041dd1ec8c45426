"""repetition_period finds exactly the loops of its definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import oracle
from lzpenalty import repetition_period
from strategies import histories
from thorough import examples


@given(st.lists(histories(), min_size=1, max_size=4), st.integers(1, 9), st.integers(2, 5), st.integers(1, 30))
@examples(500)
def test_period(device, rows, ngram, count, max_period):
    length = max(len(row) for row in rows)
    tokens = np.full((len(rows), length), 3)
    starts = np.array([length - len(row) for row in rows])
    for i, row in enumerate(rows):
        tokens[i, starts[i] :] = row
    got = device.of(repetition_period)(tokens, ngram=ngram, count=count, max_period=max_period, starts=starts)
    assert got.tolist() == [oracle.period(row, ngram, count, max_period) for row in rows]


def test_defaults_are_twenty_times_the_same_thirty_tokens(device):
    period = device.of(repetition_period)
    turn = list(range(100))
    long_enough = turn * 20
    assert period(np.array(long_enough[: 30 + 19 * 100])) == 100
    assert period(np.array([5] + long_enough[: 29 + 19 * 100])) == 0
    assert period(np.zeros((2, 49), np.int32)).tolist() == [1, 1]
    assert period(np.zeros((2, 48), np.int32)).tolist() == [0, 0]


def test_shapes(device):
    period = device.of(repetition_period)
    assert period(np.zeros(60, np.int64)).shape == ()
    assert period(np.zeros((0, 60), np.int64)).shape == (0,)
    assert period(np.zeros((3, 0), np.int64)).tolist() == [0, 0, 0]
