"""find_loops finds all loops of its definition, and nothing else."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from lzpenalty import _core
from lzpenalty.analysis import find_loops
from strategies import fibonacci, histories
from thorough import examples


@st.composite
def near_repetitive(draw, most=40):
    """Turns with a few tokens changed."""
    turn = draw(st.lists(st.integers(0, 5), min_size=1, max_size=7))
    text = (draw(st.lists(st.integers(0, 5), max_size=6)) + turn * (most // len(turn)))[: draw(st.integers(0, most))]
    for i in draw(st.lists(st.integers(0, most - 1), max_size=6)):
        text[i : i + 1] = [draw(st.integers(0, 5))]
    return text


def triples(loops):
    assert (loops["repeats"] == loops["length"] / loops["period"]).all()
    order = [(start, period) for period, start, *_ in loops.tolist()]
    assert order == sorted(order)
    found = [(period, start, length) for period, start, length, _ in loops.tolist()]
    assert len(set(found)) == len(found)
    return set(found)


@given(histories(60) | near_repetitive(60), st.integers(2, 5), st.none() | st.integers(1, 20))
@examples(1000)
def test_exact(text, min_repeats, max_period):
    expected = {
        (p, start, length)
        for p, start, length in oracle.runs(text)
        if length >= min_repeats * p and p <= (max_period or len(text))
    }
    assert triples(find_loops(text, min_repeats=min_repeats, max_period=max_period)) == expected


def test_all_short_texts():
    for tokens, most in ((2, 11), (3, 7)):
        for n in range(most + 1):
            for text in product(range(tokens), repeat=n):
                assert triples(find_loops(text)) == oracle.runs(text), text


@pytest.mark.parametrize("seed", range(10))
def test_mirrors_and_orders(seed):
    """A text that is put together from parts of itself has its runs in the mirror, and in any order of its tokens."""
    rng = np.random.default_rng(seed)
    text = rng.integers(0, 3, 9)
    while len(text) < 20_000:
        start, stop = np.sort(rng.integers(0, len(text) + 1, 2))
        text = np.concatenate(
            [text, np.tile(text[start:stop][:5000], rng.integers(1, 4)), rng.integers(0, 3, rng.integers(3))]
        )
    runs, n = triples(find_loops(text)), len(text)
    assert triples(find_loops(-text)) == triples(find_loops((text + 1) % 3)) == runs
    assert {(p, n - start - length, length) for p, start, length in triples(find_loops(text[::-1]))} == runs


@given(near_repetitive() | histories(40), st.integers(2, 4), st.integers(1, 63), st.integers(1, 20))
@examples(600)
def test_near(text, min_repeats, tolerance, max_period):
    got = find_loops(text, min_repeats=min_repeats, tolerance=tolerance / 64, max_period=max_period)
    assert triples(got) == oracle.near_loops(text, min_repeats, Fraction(tolerance, 64), max_period)


@given(near_repetitive(60) | histories(60))
@examples(300)
def test_the_least_tolerance_forgives_nothing(text):
    """In texts this short every near loop is a run then, and every run is covered by near loops."""
    runs = oracle.runs(text)
    near = triples(find_loops(text, tolerance=2**-20))
    assert near <= runs
    assert all(
        loop in near or any(other != loop and oracle.is_widely_covered(loop, other) for other in near) for loop in runs
    )


@pytest.mark.parametrize("n", range(5, 20))
def test_runs_of_fibonacci_words(n):
    """2 |f(n - 2)| - 3 of them (Kolmogorov and Kucherov)."""
    assert len(find_loops(fibonacci(n))) == 2 * len(fibonacci(n - 2)) - 3


@pytest.mark.parametrize("text", [[3, 1, 4] * 5 + [1, 4, 1], [7], []])
def test_any_ids(text):
    ids = np.array(text, int)
    for same in (ids - 4, ids + 10**9, 2**62 - ids, ids * 2**60, ids - 2**62 - 2**62, (ids - 4) * 2**61):
        assert find_loops(same).tolist() == find_loops(text).tolist()


@pytest.mark.parametrize("turned", [1, -1])
@pytest.mark.parametrize("mirrored", [1, -1])
def test_runs_within_runs(turned, mirrored):
    """Each turn of a run is a run and a new token, which the runs on the next level hold twice as often."""
    text = np.array([], int)
    for token in range(16):
        text = np.tile(np.append(text, turned * token), 2)
    found = find_loops(text[::mirrored])
    periods, counts = np.unique(found["period"], return_counts=True)
    assert periods.tolist() == [2**k - 1 for k in range(1, 17)]
    assert counts.tolist() == [2 ** (16 - k) for k in range(1, 17)]
    assert (found["repeats"] == 2).all()


def test_one_loop_in_noise():
    noise, turn = np.arange(1000, 3000), np.arange(300)
    loop = np.tile(turn, 9)[:2650]
    text = np.concatenate([noise[:777], loop, noise[777:]])
    assert find_loops(text).tolist() == [(300, 777, 2650, 2650 / 300)]
    assert len(find_loops(text, min_repeats=9)) == 0
    text[777 + 1234] = 5000
    exact, near = find_loops(text), find_loops(text, tolerance=0.05)
    assert exact["length"].tolist() == [1234, 2650 - 1235]
    assert near.tolist() == [(300, 777, 2650, 2650 / 300)]


def test_a_text_of_one_token():
    assert find_loops([7] * 5000).tolist() == [(1, 0, 5000, 5000.0)]
    assert find_loops([7] * 5000, tolerance=0.1).tolist() == [(1, 0, 5000, 5000.0)]
    assert find_loops([-3, -3]).tolist() == [(1, 0, 2, 2.0)]
    for text in ([], [1], "ab"):
        assert len(find_loops(text)) == len(find_loops(text, tolerance=0.5)) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_repeats": 1}, ValueError, "min_repeats: expected an integer from 2 to"),
        ({"min_repeats": 2.5}, TypeError, "min_repeats: expected an integer, got float"),
        ({"tolerance": 1}, ValueError, "tolerance: expected a share of less than 1, got 1"),
        ({"tolerance": -0.1}, ValueError, "tolerance: "),
        ({"tolerance": float("nan")}, ValueError, "tolerance: "),
        ({"tolerance": "some"}, TypeError, "tolerance: expected a number, got str"),
        ({"max_period": 0}, ValueError, "max_period: expected an integer from 1 to"),
        ({"max_period": "long"}, TypeError, "max_period: "),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        find_loops([1, 2, 1, 2], **options)
    with pytest.raises(TypeError, match="tokens: "):
        find_loops([1.5])
    with pytest.raises(ValueError, match=r"tokens: expected ranks in \[0, 1\), .* got -1"):
        _core.find_loops(np.array([-1]), 2, 0.0, 5)
