"""loop_evidence is the longest string that stands for the third time, and what the penalty does with it is the formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from lzpenalty import loop_evidence, lz_penalize_
from strategies import histories
from thorough import examples

CLOSE = [20, 21, 22]  # "</", "think", ">"


@given(st.lists(histories(), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 100))
@examples(600)
def test_evidence_is_the_longest_third_time(device, rows, gram, window):
    length = max(len(row) for row in rows)
    tokens = np.full((len(rows), length), 3)
    starts = np.array([length - len(row) for row in rows])
    for i, row in enumerate(rows):
        tokens[i, starts[i] :] = row
    got = device.of(loop_evidence)(tokens, gram=gram, window=window, starts=starts)
    assert got.tolist() == [oracle.loop_evidence(row, gram, window) for row in rows]


def test_a_copy_is_no_loop_and_a_third_one_is(device):
    evidence = device.of(loop_evidence)
    passage = np.arange(100)
    text = [passage, np.arange(200, 220), passage, np.arange(300, 320), passage]
    for turns, wanted in ((1, 0), (3, 0), (5, 100)):
        assert evidence(np.concatenate(text[:turns])) == wanted
    assert evidence(np.concatenate(text), window=339) == 99  # the first copy has begun to leave the window


@pytest.mark.parametrize("period", [1, 3, 40, 100, 240])
def test_a_loop_shows_after_its_second_turn(device, period):
    evidence = device.of(loop_evidence)
    loop = np.tile(np.arange(period), 600)
    for seen in (2 * period + 5, 2 * period + 6, 2 * period + 30, 512, 600):
        more = min(seen, 512) - 2 * period
        assert evidence(loop[:seen]) == (more if more >= 6 else 0)


def test_shapes(device):
    evidence = device.of(loop_evidence)
    assert evidence(np.zeros(60, np.int64)).shape == ()
    assert evidence(np.zeros((0, 60), np.int64)).shape == (0,)
    assert evidence(np.zeros((3, 0), np.int64)).tolist() == [0, 0, 0]
    assert evidence(np.zeros((2, 60), np.int32), window=0).tolist() == [0, 0]


def test_long_texts(device):
    rng = np.random.default_rng(0)
    for text in (rng.integers(0, 4, 3000), np.concatenate([np.tile(rng.integers(0, 99, 70), 20), rng.integers(0, 99, 500)])):
        for window in (700, 3000):
            assert device.of(loop_evidence)(text, window=window) == oracle.loop_evidence(text.tolist(), 6, window)


def penalized(device, text, **options):
    return device.of(lz_penalize_)(np.zeros(64), np.array(text, np.int64), strength=1.0, **options)


def test_a_gate_leaves_what_is_no_loop_alone(device):
    rng = np.random.default_rng(0)
    text = [*rng.integers(0, 40, 100), *range(40), *range(40)]
    assert penalized(device, text).any()
    assert not penalized(device, text, gate=(20, 28)).any()


def test_a_gate_opens_with_the_evidence(device):
    for turns, share in ((26, 0.0), (30, 0.5), (34, 1.0), (50, 1.0)):
        text = np.tile([5, 6, 7], 50)[:turns]  # the evidence is turns - 6
        got = penalized(device, text, gate=(20, 28))
        np.testing.assert_allclose(got, share * penalized(device, text), rtol=1e-6)


@st.composite
def third_times(draw):
    """Texts in which a passage stands about three times, and what lies between."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    passage = rng.integers(0, draw(st.sampled_from([1, 2, 60])), draw(st.integers(6, 60)))
    between = [rng.integers(0, 64, draw(st.integers(0, 20))) for _ in range(draw(st.integers(2, 12)))]
    text = np.concatenate([part for filler in between for part in (passage, filler)])
    return text[: draw(st.integers(1, len(text)))]


@given(third_times(), st.integers(0, 60), st.integers(1, 30), st.integers(1, 60), st.integers(40, 900))
@examples(200)
def test_gate_and_release_at_and_around_the_evidence(device, text, opens, wide, after, window):
    """However often one n-gram stands there."""
    gate, release = {"gate": (opens, opens + wide)}, {"release": 63, "release_after": after}
    for options in (gate, release, gate | release):
        wanted = np.zeros(64)
        for token, penalty in oracle.penalties(text.tolist(), 64, strength=1.0, window=window, **options).items():
            wanted[token] = -penalty
        np.testing.assert_allclose(penalized(device, text, window=window, **options), wanted, rtol=1e-5, atol=1e-5)


def gain(device, text, **options):
    """What a release adds, with the gate shut."""
    return penalized(device, text, gate=(1e6, 2e6), **options)


def test_a_release_grows_with_every_step_up_to_twenty_nats(device):
    loop = np.tile([5, 6, 7], 50)
    for steps, nats in ((0, 0), (1, 1.5), (2, 3.0), (13, 19.5), (14, 20), (40, 20)):
        got = gain(device, loop[: 29 + steps], release=9, release_rate=1.5)
        assert got[9] == nats and np.count_nonzero(got) == (nats > 0)


def test_of_a_sequence_the_id_that_is_due_gains(device):
    loop = np.tile([5, 6, 7], 30).tolist()
    for written, due in (([], 20), ([20], 21), ([20, 21], 22), ([20, 9], 20), ([20, 20], 21), ([20, 21, 20], 21)):
        got = gain(device, loop + written, release=[CLOSE])
        assert got[due] == 20 and np.count_nonzero(got) == 1
    assert not gain(device, [*loop, *CLOSE], release=[CLOSE]).any()


def test_ids_that_several_sequences_wait_for_gain_once(device):
    got = gain(device, np.tile([5, 6, 7], 30), release=[CLOSE, [20, 9], 20, 30])
    assert got[20] == got[30] == 20 and np.count_nonzero(got) == 2


def test_strength_zero_switches_all_off(device):
    got = device.of(lz_penalize_)(np.zeros(64), np.tile([5, 6, 7], 30), strength=0, release=9)
    assert not got.any()


def test_infinite_logits_stay(device):
    logits = np.full(64, -np.inf, np.float32)
    logits[10] = np.nan
    got = device.of(lz_penalize_)(logits.copy(), np.tile([5, 6, 7], 30), release=[9, 10])
    np.testing.assert_array_equal(got, logits)
