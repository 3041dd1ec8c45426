"""The penalty is the formula: every option against the plain Python oracle, on any input."""

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty import codelength_deltas, lz_penalize_
from strategies import COSTS, coders, histories, options


@given(histories(), coders, st.sampled_from([2, 16, 41, 1000]), st.sampled_from([np.int32, np.int64]))
@settings(max_examples=600, deadline=None)
def test_codelength_deltas(history, coder, vocab, dtype):
    ids, bits = codelength_deltas(np.array(history, dtype), vocab, **coder)
    expected = oracle.deltas(history, vocab, **coder)
    assert len(set(ids.tolist())) == len(ids)
    assert set(ids.tolist()) <= set(expected)
    assert (bits < np.float32(log2(vocab))).all()
    got = dict(zip(ids.tolist(), bits.tolist(), strict=True))
    for token, wanted in expected.items():
        assert got.get(token, log2(vocab)) == pytest.approx(wanted, abs=2e-5)


@given(histories(), coders, options, st.sampled_from([16, 41, 1000]))
@settings(max_examples=1000, deadline=None)
def test_lz_penalize(device, history, coder, option, vocab):
    logits = np.random.default_rng(len(history)).normal(size=vocab)
    got = device.of(lz_penalize_)(logits.copy(), np.array(history, np.int64), **coder, **option)
    wanted = logits.copy()
    for token, penalty in oracle.penalties(history, vocab, **coder, **option).items():
        wanted[token] -= penalty
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * max(1, abs(wanted).max()))


@given(st.lists(histories(40), min_size=1, max_size=5), st.data(), coders, options)
@settings(max_examples=200, deadline=None)
def test_rows_are_independent_and_start_where_told(device, rows, data, coder, option):
    penalize = device.of(lz_penalize_)
    length = max(len(row) for row in rows)
    tokens = np.full((len(rows), length), 45)  # which no mark has
    starts = np.array([length - len(row) for row in rows], data.draw(st.sampled_from([np.int32, np.int64])))
    for row, history in enumerate(rows):
        tokens[row, length - len(history) :] = history
    logits = np.random.default_rng(0).normal(size=(len(rows), 50)).astype(np.float32)
    together = penalize(logits.copy(), tokens, starts=starts, **coder, **option)
    for row, history in enumerate(rows):
        alone = penalize(logits[row].copy(), np.array(history, np.int64), **coder, **option)
        np.testing.assert_array_equal(together[row], alone)
    same_start = penalize(logits.copy(), tokens, starts=int(starts[0]), **coder, **option)
    np.testing.assert_array_equal(same_start[0], together[0])


@pytest.mark.parametrize("cost", COSTS)
def test_a_large_window_over_a_long_text(cost):
    rng = np.random.default_rng(1)
    text = np.concatenate([rng.integers(0, 300, 3000), np.tile(rng.integers(0, 300, 37), 40), rng.integers(0, 300, 500)])
    text = np.concatenate([text, text[1000:1100]])
    ids, bits = codelength_deltas(text, 300, window=4096, buffer=64, cost=cost)
    expected = oracle.deltas(text.tolist(), 300, 4096, 64, cost)
    got = dict(zip(ids.tolist(), bits.tolist(), strict=True))
    for token, wanted in expected.items():
        assert got.get(token, log2(300)) == pytest.approx(wanted, abs=2e-5)


def test_the_papers_three_cases():
    # ... 5 6 7 8 | 5 6: the open match is (length 2, distance 4)
    text, vocab = np.array([1, 5, 6, 7, 8, 5, 6]), 1 << 10
    bits = dict(zip(*(x.tolist() for x in codelength_deltas(text, vocab)), strict=True))
    assert 9 not in bits  # no match: a literal
    assert bits[8] == pytest.approx(log2(3))  # a match of one token
    assert bits[7] == pytest.approx(log2(3 / 2))  # one token more on the longest match
    penalised = lz_penalize_(np.zeros(vocab), text, strength=0.5)
    assert penalised[9] == 0
    assert penalised[7] == pytest.approx(-0.5 * (10 - log2(1.5)))


def test_shift_invariance(device):
    penalize = device.of(lz_penalize_)
    text, logits = np.random.default_rng(0).integers(0, 20, 60), np.linspace(-4, 4, 32)
    np.testing.assert_allclose(penalize(logits + 7, text) - 7, penalize(logits.copy(), text), atol=1e-12)
