"""How results are rounded, and that none is no number."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import LZOptions, lz_penalize_

TOKENS = torch.tensor([[5, 6, 7] * 20])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("cost", ["lzss", "pair", "distance"])
def test_a_token_that_pays_and_gains_is_rounded_once(device, dtype, cost):
    """What float64 has, which is exact but for its last bits, rounded to the dtype."""
    options = dict(strength=0.37, release=[[5, 9], 20], release_after=6, release_rate=0.031, cost=cost)
    logits = torch.linspace(-20, 20, 400).to(dtype)[:, None].repeat(1, 64)
    tokens = TOKENS.repeat(400, 1)
    got = device.of(lz_penalize_)(logits.clone(), tokens, **options)
    exact = device.of(lz_penalize_)(logits.double(), tokens, **options)
    assert (exact[:, 5] != logits[:, 5].double()).all() and (exact[:, 20] > logits[:, 20].double()).all()
    assert torch.equal(got[:, [5, 20]], exact[:, [5, 20]].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_release_of_nothing_changes_no_bit(device, dtype):
    logits = torch.randn(3, 64, generator=torch.Generator().manual_seed(3)).to(dtype)
    tokens = TOKENS.repeat(3, 1)
    plain = device.of(lz_penalize_)(logits.clone(), tokens, min_match=2)
    got = device.of(lz_penalize_)(logits.clone(), tokens, min_match=2, release=[5, 9], release_after=6, release_rate=0.0)
    assert torch.equal(got, plain)


HUGE = st.sampled_from([1.0, 1e6])


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=60),
    st.fixed_dictionaries(
        {},
        optional=dict(
            strength=HUGE, release_rate=HUGE, cost=st.sampled_from(["lzss", "pair", "distance"]),
            min_match=st.integers(1, 3),
            gate=st.sampled_from([(0, 1e-45), (0, 2.0**31), (2.0**30, 2.0**31), (0, 5)]), release=st.just([1, [2, 3]]),
            release_after=st.sampled_from([1, 6, 2**31 - 1]), buffer=st.sampled_from([1, 2**31 - 1]),
        ),
    ),
    st.sampled_from([float("inf"), float("-inf"), 0.0, 3e38, -3e38]),
)  # fmt: skip
def test_legal_options_make_no_nan_of_a_number(device, text, options, logit):
    for dtype in (np.float16, np.float32, np.float64):
        with np.errstate(over="ignore"):
            logits = np.full((1, 8), logit, dtype)
        got = device.of(lz_penalize_)(logits.copy(), np.array([text]), **options)
        assert not np.isnan(got).any() and (got[np.isinf(logits)] == logits[np.isinf(logits)]).all()


def test_strengths_are_bounded_where_they_can_still_be_meant():
    assert LZOptions(strength=1e6).strength == 1e6
    for name in ("strength", "release_rate"):
        with pytest.raises(ValueError, match=f"{name}: expected a number from 0 to 1000000 within float32, got 1000001"):
            LZOptions(**{name: 1000001})
