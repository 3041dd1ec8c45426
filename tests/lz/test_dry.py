"""dry_penalize_ is the published formula."""

import numpy as np
import pytest
from hypothesis import given

import oracle
from lzpenalty import dry_penalize_
from strategies import dry_options, histories
from thorough import examples


@given(histories(), dry_options)
@examples(600)
def test_dry(device, history, option):
    logits = np.random.default_rng(0).normal(size=30)
    wanted = logits.copy()
    for token, penalty in oracle.dry(history, 30, **option).items():
        wanted[token] -= min(penalty, float(np.finfo(np.float32).max))
    got = device.of(dry_penalize_)(logits.copy(), np.array(history, np.int64), **option)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_a_long_loop_stays_finite(device):
    penalize = device.of(dry_penalize_)
    row = penalize(np.zeros(9, np.float32), np.full(2000, 5), window=2000)
    assert np.isfinite(row).all() and row[5] == -np.finfo(np.float32).max


def test_breakers_end_a_repetition_and_are_free(device):
    penalize = device.of(dry_penalize_)
    text = np.array([1, 2, 3, 4, 0, 1, 2, 3])
    assert penalize(np.zeros(9), text)[4] == pytest.approx(-0.8 * 1.75, rel=1e-6)
    assert penalize(np.zeros(9), text, sequence_breakers=[2])[4] == 0
    assert penalize(np.zeros(9), text, sequence_breakers=[4])[4] == 0
    assert penalize(np.zeros(9), text, sequence_breakers=0)[4] == pytest.approx(-0.8 * 1.75, rel=1e-6)


def test_defaults_on_a_batch_with_starts(device):
    penalize = device.of(dry_penalize_)
    tokens = np.array([[7, 8, 9, 7, 8], [7, 8, 9, 7, 8]])
    rows = penalize(np.zeros((2, 12), np.float32), tokens, starts=np.array([0, 1]))
    assert rows[0, 9] == pytest.approx(-0.8) and not rows[1].any()
