"""attention_scores is its formula, on every level, whatever the layout of queries and keys."""

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty import attention_scores, get_num_threads, select_top, set_num_threads
from states import DTYPES, LAYOUTS, random, stored_otherwise
from strategies import at_each_level

inf, nan = float("inf"), float("nan")


def expected(queries, keys, start, stop, *, scale=None, kernel=7, aggregation="layer"):
    """The formula in float64 PyTorch."""
    queries, keys = queries.double(), keys.double()[:, :, start:stop]
    B, Hkv, n, D = keys.shape
    products = queries @ keys.repeat_interleave(queries.shape[1] // Hkv, 1).mT * (1 / sqrt(D) if scale is None else scale)
    mean = products.softmax(-1).reshape(B, 1 if aggregation == "layer" else Hkv, -1, n).mean(2)
    return torch.nn.functional.avg_pool1d(mean, kernel, 1, kernel // 2)


def error_bound(queries, keys, scale=None):
    """Relative: a float32 product is off by roundings of what it sums, and an exponential by as much as its argument, which
    is the difference of two products."""
    largest = queries.double().norm(dim=-1).max() * keys.double().norm(dim=-1).max()
    return 2**-23 * (8 + 2 * float(largest) * abs(1 / sqrt(keys.shape[3]) if scale is None else scale))


def assert_close(got, wanted, bound):
    torch.testing.assert_close(torch.as_tensor(got).double(), wanted, rtol=bound, atol=1e-35)


@st.composite
def cases(draw):
    B, Hkv, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    R, D, n = draw(st.sampled_from([1, 2, 5, 17, 33])), draw(st.sampled_from([1, 2, 3, 8, 17, 32])), draw(st.integers(1, 30))
    start, behind, seed = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(0, 99))
    dtype, loud = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([0.0, 1.0, 30.0]))
    queries = random(B, Hkv * group, R, D, dtype=dtype, seed=seed) * loud
    keys = random(B, Hkv, start + n + behind, D, dtype=dtype, seed=seed + 100)
    options = {
        "start": start,
        "stop": start + n,
        "kernel": draw(st.sampled_from([1, 3, 7, 101])),
        "aggregation": draw(st.sampled_from(["layer", "group"])),
    }
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([None, 0.0, 0.3, -1.5]))
    return queries, keys, options, draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS))


@given(cases())
@settings(max_examples=150, deadline=None)
def test_scores_are_the_formula(case):
    queries, keys, options, *layouts = case
    wanted = [oracle.attention_scores(q, k, **options) for q, k in zip(queries.tolist(), keys.tolist(), strict=True)]
    bound = error_bound(queries, keys, options.get("scale"))
    layed_out = [stored_otherwise(x, layout) for x, layout in zip((queries, keys), layouts, strict=True)]
    for got in at_each_level(lambda: attention_scores(*layed_out, **options)):
        assert_close(got, torch.tensor(wanted, dtype=torch.float64), bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "R", "n", "D"),
    [
        ((1, 1), 1, 5, 1),
        ((4, 2), 5, 47, 3),
        ((6, 2), 9, 7, 32),
        ((3, 1), 32, 383, 17),
        ((2, 2), 33, 769, 64),
        ((14, 2), 70, 1200, 128),
    ],
)
def test_sizes_that_fill_registers_and_blocks_and_those_that_do_not(level, dtype, heads, R, n, D):
    queries, keys = random(2, heads[0], R, D, dtype=dtype), random(2, heads[1], n + 9, D, dtype=dtype, seed=1)
    for aggregation in ("layer", "group"):
        options = dict(start=4, stop=4 + n, aggregation=aggregation)
        got = attention_scores(queries, keys, **options)
        assert got.shape == (2, 1 if aggregation == "layer" else heads[1], n) and got.dtype == torch.float32
        assert_close(got, expected(queries, keys, **options), error_bound(queries, keys))


@pytest.mark.parametrize("where", ["queries", "keys"])
def test_float16_loses_no_digit_whatever_the_size_of_its_numbers(level, where):
    """Some levels compute with parts of the numbers. The smallest have fewer digits than others, the largest none above."""
    for exponent in range(-24, 16, 3):
        queries, keys = random(1, 2, 5, 64), random(1, 1, 50, 64, seed=1)
        (queries if where == "queries" else keys).mul_(2.0**exponent).clamp_(-65504, 65504)
        queries, keys = queries.half(), keys.half()
        options = dict(start=0, stop=50, scale=2.0**-exponent / 8)
        got = attention_scores(queries, keys, **options)
        assert_close(got, expected(queries, keys, **options), error_bound(queries, keys, options["scale"]))


@pytest.mark.parametrize("slope", [-0.1, 0.1])
def test_maxima_that_rise_or_fall_along_the_keys(level, slope):
    queries, keys = torch.ones(1, 1, 2, 1), (torch.arange(2000.0) * slope).view(1, 1, -1, 1)
    wanted = expected(queries, keys, 0, 2000, kernel=1)
    got = attention_scores(queries, keys, start=0, stop=2000, kernel=1)
    torch.testing.assert_close(got.double(), wanted, rtol=2e-4, atol=1e-35)


def test_huge_products_do_not_overflow(level):
    for size in (1e2, 1e4, 1e18):
        queries, keys = random(1, 2, 3, 4) * size, random(1, 1, 900, 4, seed=1) * size
        got = attention_scores(queries, keys, start=0, stop=900, kernel=1)
        assert got.isfinite().all()
        assert_close(got.sum(-1), torch.ones(1, 1, dtype=torch.float64), 1e-6)
        assert got.argmax() == expected(queries, keys, 0, 900, kernel=1).argmax()


def test_without_smoothing_each_row_sums_to_one(level):
    queries, keys = random(2, 6, 33, 16), random(2, 3, 5000, 16, seed=1)
    for aggregation in ("layer", "group"):
        sums = attention_scores(queries, keys, start=0, stop=5000, kernel=1, aggregation=aggregation).double().sum(-1)
        assert_close(sums, torch.ones_like(sums), 1e-6)


def test_equal_keys_share_evenly(level):
    scores = attention_scores(torch.ones(1, 1, 3, 8), torch.ones(1, 1, 500, 8), start=0, stop=500, kernel=1)
    assert len(set(scores.flatten().tolist())) == 1
    assert select_top(scores, 4).flatten().tolist() == [0, 1, 2, 3]


def test_tokens_outside_of_the_region_do_not_count(level):
    queries, keys = random(1, 2, 5, 8), random(1, 2, 50, 8, seed=1)
    wanted = attention_scores(queries, keys, start=10, stop=40)
    keys[:, :, :10], keys[:, :, 40:] = nan, inf
    assert torch.equal(attention_scores(queries, keys, start=10, stop=40), wanted)


@pytest.mark.parametrize("where", ["queries", "keys"])
@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("R", [1, 5, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_not_finite_raise_or_rank_lowest(level, where, value, R, dtype):
    for at, D in ((0, 3), (399, 32), (799, 32)):
        queries, keys = random(2, 2, R, D, dtype=dtype), random(2, 2, 800, D, dtype=dtype, seed=1)
        (queries if where == "queries" else keys)[1, 1, at % R if where == "queries" else at, 1] = value
        with pytest.raises(ValueError, match="queries, keys: expected finite .* got NaN or infinity"):
            attention_scores(queries, keys, start=0, stop=800)
        scores = attention_scores(queries, keys, start=0, stop=800, aggregation="group", check=False)
        assert scores[1, 1].isnan().all() and scores[0].isfinite().all() and scores[1, 0].isfinite().all()
        positions = select_top(scores, 9)
        assert positions[1, 1].tolist() == list(range(9))
        assert positions.min() >= 0 and positions.max() < 800


def test_the_number_of_threads_changes_nothing(level):
    queries, keys, before = random(3, 6, 33, 64), random(3, 2, 2000, 64, seed=1), get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 2**31 - 1):
            set_num_threads(threads)
            results.append(attention_scores(queries, keys, start=3, stop=1999).numpy().tobytes())
    finally:
        set_num_threads(before)
    assert len(set(results)) == 1


def test_results_are_of_the_library_of_the_keys():
    queries, keys = random(1, 2, 5, 8), random(1, 2, 50, 8, seed=1)
    from_torch = attention_scores(queries.numpy(), keys, start=0, stop=50)
    from_numpy = attention_scores(queries, keys.numpy(), start=0, stop=50)
    assert isinstance(from_torch, torch.Tensor) and isinstance(from_numpy, np.ndarray)
    assert isinstance(select_top(from_torch, 3), torch.Tensor) and isinstance(select_top(from_numpy, 3), np.ndarray)
    assert np.array_equal(from_torch.numpy(), from_numpy)


QUERIES, KEYS = torch.ones(2, 4, 5, 8), torch.ones(2, 2, 10, 8)


@pytest.mark.parametrize(
    ("queries", "keys", "error", "message"),
    [
        (QUERIES[0], KEYS, ValueError, r"queries: expected shape \[batch, heads, tokens, size\], got 3 dimensions"),
        (QUERIES, KEYS[None], ValueError, "keys: expected at most 4 dimensions, got 5"),
        (QUERIES, KEYS.half(), TypeError, "queries: expected the dtype of keys, float16, got float32"),
        (QUERIES.double(), KEYS.double(), TypeError,
         "keys: expected dtype float32, float16 or bfloat16, got torch.float64"),
        (QUERIES, KEYS.long(), TypeError, "keys: expected dtype float32, float16 or bfloat16, got torch.int64"),
        (QUERIES, torch.ones(2, 2, 8, 10).mT, ValueError, "keys: expected a contiguous last dimension, got stride 10"),
        (torch.ones(2, 4, 5, 16)[..., ::2], KEYS, ValueError,
         "queries: expected a contiguous last dimension, got stride 2"),
        (QUERIES[:1], KEYS, ValueError, "queries: expected as many rows as keys, 2, got 1"),
        (QUERIES[:, :3], KEYS, ValueError, "queries: expected a multiple of the 2 heads of keys, got 3"),
        (QUERIES[:, :1], KEYS, ValueError, "queries: expected a multiple of the 2 heads of keys, got 1"),
        (QUERIES[..., :7], KEYS, ValueError, "queries: expected as many numbers a token as keys, 8, got 7"),
        (QUERIES[:, :, :0], KEYS, ValueError, "queries: expected at least one token, got none"),
        (QUERIES, KEYS[:, :, :0], ValueError, "keys: expected at least one token, got none"),
        (QUERIES[:, :0], KEYS, ValueError, r"queries: expected 1 to 2\^31 - 1 heads, got 0"),
        (QUERIES, KEYS[:0], ValueError, r"keys: expected 1 to 2\^31 - 1 rows, got 0"),
        (QUERIES, KEYS[..., :0], ValueError, r"keys: expected 1 to 2\^31 - 1 numbers a token, got 0"),
        (QUERIES, KEYS.clone().requires_grad_(), ValueError, "keys: .* requires grad"),
        (None, KEYS, TypeError, "queries: expected a tensor .* got NoneType"),
    ],
)  # fmt: skip
def test_bad_tensors(queries, keys, error, message):
    with pytest.raises(error, match=message):
        attention_scores(queries, keys, start=0, stop=1)


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("start", 10, ValueError, "start: expected a position from 0 to 9, got 10"),
        ("start", -1, ValueError, "start: .* got -1"),
        ("start", 1.0, TypeError, "start: expected an integer, got float"),
        ("stop", 11, ValueError, "stop: expected a position from 1 to 10, got 11"),
        ("stop", 0, ValueError, "stop: expected a position from 1 to 10, got 0"),
        ("kernel", 4, ValueError, "kernel: expected an odd number, got 4"),
        ("kernel", 0, ValueError, "kernel: expected an integer from 1 to .* got 0"),
        ("kernel", None, TypeError, "kernel: expected an integer, got NoneType"),
        ("aggregation", "head", ValueError, "aggregation: expected 'layer' or 'group', got 'head'"),
        ("aggregation", 3, TypeError, "aggregation: expected a string, got int"),
        ("scale", nan, ValueError, "scale: expected a finite number within float32, got nan"),
        ("scale", inf, ValueError, "scale: .* got inf"),
        ("scale", 1e39, ValueError, r"scale: .* got 1e\+39"),
        ("scale", "large", TypeError, "scale: expected a number, got str"),
    ],
)
def test_bad_options(option, value, error, message):
    with pytest.raises(error, match=message):
        attention_scores(QUERIES, KEYS, **{"start": 0, "stop": 10, option: value})


def test_missing_arguments():
    with pytest.raises(TypeError, match=r"attention_scores\(\) missing required argument 'stop'"):
        attention_scores(QUERIES, KEYS, start=0)
    with pytest.raises(TypeError, match=r"attention_scores\(\) takes at most 2 positional arguments, got 3"):
        attention_scores(QUERIES, KEYS, 0, stop=10)
