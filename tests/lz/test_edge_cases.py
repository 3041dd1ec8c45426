"""The edges: empty and tiny histories, degenerate options, odd logits, every dtype and layout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty import codelength_deltas, dry_penalize_, lz_penalize_
from strategies import coders, histories, options
from thorough import examples

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
LOOP = torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2]])


def exact(history, logits, **kwargs):
    """Logits minus the oracle's penalties, in float64."""
    wanted = logits.double().clone()
    for token, penalty in oracle.penalties(history.tolist(), logits.shape[-1], **kwargs).items():
        wanted[token] -= penalty
    return wanted


def test_no_history_changes_nothing(device):
    penalize = device.of(lz_penalize_)
    logits = torch.randn(2, 9)
    assert torch.equal(penalize(logits.clone(), torch.empty(2, 0, dtype=torch.int64)), logits)
    assert torch.equal(penalize(logits.clone(), LOOP.repeat(2, 1), starts=8), logits)


def test_a_history_of_one_token(device):
    penalize = device.of(lz_penalize_)
    logits = torch.zeros(1, 16)
    penalize(logits, torch.tensor([[5]]), strength=1.0)
    assert logits[0, 5] == -4  # log2 16 bits less log2 1
    assert logits.count_nonzero() == 1


@pytest.mark.parametrize("options", [{"window": 0}, {"strength": 0}, {"strength": 0.0}])
def test_off_means_no_change_bit_for_bit(device, options):
    penalize = device.of(lz_penalize_)
    logits = torch.tensor([[float("nan"), float("-inf"), -0.0, 1e-42, 3.0]])
    before = logits.numpy().tobytes()
    penalize(logits, LOOP % 5, **options)
    assert logits.numpy().tobytes() == before


def test_no_rows(device):
    penalize = device.of(lz_penalize_)
    dry = device.of(dry_penalize_)
    assert penalize(torch.empty(0, 7), torch.empty(0, 3, dtype=torch.int64)).shape == (0, 7)
    assert dry(np.empty((0, 7), np.float32), np.empty((0, 3), np.int32)).shape == (0, 7)


@pytest.mark.parametrize("vocab", [1, 2, 3])
def test_tiny_vocabularies(device, vocab):
    penalize = device.of(lz_penalize_)
    tokens = torch.tensor([0, 1, 0, 0, 1, 0]) % vocab
    logits = torch.randn(vocab)
    for cost in ("lzss", "pair", "distance"):
        got = penalize(logits.clone(), tokens, cost=cost)
        torch.testing.assert_close(got.double(), exact(tokens, logits, cost=cost), atol=1e-6, rtol=0)


@pytest.mark.parametrize("window", [1, 3, 8, 9, 10**9, 2**31 - 1])
@pytest.mark.parametrize("buffer", [1, 2, 10**9, 2**31 - 1])
def test_windows_and_buffers_around_and_beyond_the_history(device, window, buffer):
    penalize = device.of(lz_penalize_)
    logits = torch.zeros(1, 10)
    penalize(logits, LOOP, window=window, buffer=buffer)
    wanted = exact(LOOP[0], torch.zeros(10), window=window, buffer=buffer)
    torch.testing.assert_close(logits[0].double(), wanted, atol=1e-5, rtol=0)


def test_ids_outside_the_vocabulary_match_but_are_not_written(device):
    penalize = device.of(lz_penalize_)
    for stranger in (-1, -100, 10, 2**31 - 1, -(2**31)):
        for dtype in (torch.int32, torch.int64):
            text = torch.tensor([stranger, 4, 7, stranger], dtype=dtype)
            row = torch.zeros(10)
            penalize(row, text, strength=1.0)
            assert set(row.nonzero().flatten().tolist()) == {4, 7}
            assert row[4] == pytest.approx(-(np.log2(10) - 1))  # prolongs the match of the stranger, log2 2 = 1 bit


def test_ids_beyond_32_bits_stay_distinct():
    big = 2**32 + 4
    same = codelength_deltas(np.array([big, 5, 9, big]), 10)
    aliased = codelength_deltas(np.array([big, 5, 9, 4]), 10)
    other = codelength_deltas(np.array([big, 5, 9, big + 2**32]), 10)
    negative = codelength_deltas(np.array([-1, 5, 9, big]), 10)
    assert set(same[0]) == set(other[0]) == set(negative[0]) == {5, 9} and set(aliased[0]) == {4, 5, 9}
    bits = [dict(zip(*(x.tolist() for x in result), strict=True))[5] for result in (same, aliased, other, negative)]
    assert bits == [1.0, pytest.approx(np.log2(3)), pytest.approx(np.log2(3)), pytest.approx(np.log2(3))]


@pytest.mark.parametrize("dtype", FLOATS)
def test_infinite_and_nan_logits_stay_and_spread_nowhere(device, dtype):
    penalize = device.of(lz_penalize_)
    logits = torch.zeros(1, 8, dtype=dtype)
    logits[0, 1], logits[0, 2], logits[0, 5] = float("-inf"), float("nan"), float("inf")
    penalize(logits, torch.tensor([[1, 2, 3, 5, 1, 2, 3]]))
    assert logits[0, 1] == float("-inf") and logits[0, 2].isnan() and logits[0, 5] == float("inf")
    assert logits[0, 3] < 0 and (logits[0, [0, 4, 6, 7]] == 0).all()


@given(histories(), coders, options, st.sampled_from(FLOATS))
@examples(300)
def test_narrow_logits_are_rounded_once_from_float32(device, history, coder, option, dtype):
    penalize = device.of(lz_penalize_)
    logits = torch.randn(64, generator=torch.Generator().manual_seed(len(history))).to(dtype)
    tokens = torch.tensor(history, dtype=torch.int64)
    got = penalize(logits.clone(), tokens, **coder, **option)
    if dtype == torch.float64:
        wanted = exact(tokens, logits, **coder, **option)
        torch.testing.assert_close(got, wanted, atol=2e-5 * max(1.0, wanted.abs().max().item()), rtol=0)
    else:
        assert torch.equal(got, penalize(logits.float(), tokens, **coder, **option).to(dtype))


@given(histories(), coders, st.integers(-3, 3), st.integers(-3, 3))
@settings(max_examples=200, deadline=None)
def test_any_strides(device, history, coder, column_step, row_step):
    penalize = device.of(lz_penalize_)
    column_step, row_step = column_step or 1, row_step or 1
    tokens = np.array([history, history[::-1]], np.int64).reshape(2, len(history))
    logits = np.random.default_rng(0).normal(size=(2, 30)).astype(np.float32)
    wanted = penalize(logits.copy(), tokens, **coder)
    wide = np.full((2 * abs(row_step), 30 * abs(column_step)), 7, np.float32)
    view = wide[::row_step, ::column_step][:2, :30]
    view[:] = logits
    wide_tokens = np.full((2 * abs(row_step), len(history) * abs(column_step)), 1, np.int64)
    tokens_view = wide_tokens[::row_step, ::column_step][:2]
    tokens_view[:] = tokens
    outside = np.ones_like(wide, bool)
    outside[::row_step, ::column_step][:2, :30] = False
    assert penalize(view, tokens_view, **coder) is view
    np.testing.assert_array_equal(view, wanted)
    assert (wide[outside] == 7).all()


def test_transposed_and_broadcast(device):
    penalize = device.of(lz_penalize_)
    logits, tokens = torch.zeros(12, 3).T, LOOP.expand(3, 8)
    penalize(logits, tokens)
    torch.testing.assert_close(logits[2].double(), exact(LOOP[0], torch.zeros(12)), atol=1e-6, rtol=0)
    assert torch.equal(logits[0], logits[2])


def test_the_first_start_of_a_row_of_pads_counts_nothing_before(device):
    penalize = device.of(lz_penalize_)
    tokens = torch.tensor([[0, 0, 0, 0, 5, 6]])
    penalised = penalize(torch.zeros(1, 10), tokens, starts=4)
    assert set(penalised[0].nonzero().flatten().tolist()) == {5, 6}
