"""attend is softmax attention over a cache, whatever the layout of the cache, on every level, with any number of threads."""

from importlib.util import find_spec
from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import oracle
from lzpenalty import attend, get_num_threads, set_num_threads
from states import DTYPES, LAYOUTS, random, stored_otherwise
from strategies import at_each_level

inf, nan = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def threads_as_before():
    before = get_num_threads()
    yield
    set_num_threads(before)


def bound(queries, keys, values, scale=None):
    """What roundings of float32 may come to, and of the dtype at the end: a product is off by some of what it sums, and a
    weight by as much as its product."""
    largest = queries.double().norm(dim=-1).max() * keys.double().norm(dim=-1).max() if keys.numel() else 0
    exact = 2**-22 * (16 + float(largest) * abs(1 / sqrt(queries.shape[-1]) if scale is None else scale))
    most = float(values.double().abs().max()) if values.numel() else 0
    return (exact + {torch.float32: 0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[queries.dtype]) * most + 1e-7


def assert_close(got, wanted, atol):
    torch.testing.assert_close(torch.as_tensor(got).double(), wanted, rtol=0, atol=atol)


def by_oracle(queries, keys, values, spans, pads, **options):
    """The output and the log-sum-exp. `spans` gives the head's entries, [(start, length)] by row and head of keys, values
    [slots, D] or [B, H, T, D]."""
    B, Hq, q, _ = queries.shape
    wanted = torch.zeros(B, Hq, q, values.shape[-1], dtype=torch.float64)
    sums = torch.full((B, Hq, q), -inf, dtype=torch.float64)
    for b in range(B):
        for h in range(Hq):
            head = h // (Hq // len(spans[b]))
            start, length = spans[b][head]
            k, v = (x if x.ndim == 2 else x[b, head] for x in (keys, values))
            k, v = (x[start : start + length].double().tolist() for x in (k, v))
            if length:
                rows = oracle.attend(queries[b, h].double().tolist(), k, v, pads[b], **options)
                wanted[b, h], sums[b, h] = (torch.tensor(each, dtype=torch.float64) for each in rows)
    return wanted, sums


@st.composite
def cases(draw):
    B, Hkv, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 7))
    q, T = draw(st.sampled_from([1, 1, 2, 3, 5])), draw(st.integers(1, 40))
    D, Dv = draw(st.sampled_from([1, 2, 3, 8, 16, 17, 32, 40])), draw(st.sampled_from([1, 5, 16, 32, 48]))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 99))
    queries = random(B, Hkv * group, q, D, dtype=dtype, seed=seed) * draw(st.sampled_from([0.0, 1.0, 8.0]))
    ragged = draw(st.booleans())
    shape = (T,) if ragged else (B, Hkv, T)
    keys, values = random(*shape, D, dtype=dtype, seed=seed + 100), random(*shape, Dv, dtype=dtype, seed=seed + 200)
    spans = [[(0, T)] * Hkv for _ in range(B)]
    arguments = {}
    if ragged or draw(st.booleans()):
        starts = [[draw(st.integers(0, T)) if ragged else 0 for _ in range(Hkv)] for _ in range(B)]
        spans = [[(s, draw(st.integers(0, T - s))) for s in row] for row in starts]
        arguments["lengths"] = torch.tensor([[length for _, length in row] for row in spans])
        if ragged:
            arguments["starts"] = torch.tensor(starts)
    pads = [0] * B
    if draw(st.booleans()):
        pads = [draw(st.integers(0, min(T, 5))) for _ in range(B)]
        arguments["pads"] = torch.tensor(pads)
    options = {}
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([None, 0.0, 0.3, -1.5]))
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from([0.0, 0.5, 30.0]))
    layouts = [draw(st.sampled_from(LAYOUTS)) for _ in range(4)]
    return queries, keys, values, spans, pads, arguments, options, layouts, draw(st.integers(1, 4))


@given(cases())
@settings(max_examples=150, deadline=None)
def test_it_is_the_formula(case):
    queries, keys, values, spans, pads, arguments, options, layouts, threads = case
    wanted, sums = by_oracle(queries, keys, values, spans, pads, **options)
    atol = bound(queries, keys, values, options.get("scale"))
    stored = [
        stored_otherwise(x, layout) if x.ndim == 4 else x
        for x, layout in zip((queries, keys, values), layouts[:3], strict=True)
    ]
    set_num_threads(threads)
    for got in at_each_level(lambda: attend(*stored, **arguments, **options)):
        assert_close(got, wanted, atol)
    out = torch.full(wanted.shape, nan, dtype=queries.dtype)
    if layouts[3] in ("tokens first", "heads packed", "part of a buffer"):
        out = stored_otherwise(out, layouts[3])
    assert attend(*stored, **arguments, **options, out=out) is out
    assert_close(out, wanted, atol)
    lse = stored_otherwise(torch.full((*sums.shape, 1), nan), layouts[0])[..., 0]
    for got in at_each_level(lambda: attend(*stored, **arguments, **options, lse=lse)):
        assert_close(got, wanted, atol)
    assert_close(np.asarray(lse).copy(), sums, bound(queries.float(), keys, torch.ones(1), options.get("scale")))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("B", "heads", "q", "T", "D"),
    [
        (1, (1, 1), 1, 1, 64),
        (2, (9, 3), 1, 700, 64),
        (1, (28, 4), 1, 1500, 128),
        (1, (40, 8), 2, 600, 128),
        (1, (71, 1), 1, 520, 64),
        (3, (4, 4), 1, 2049, 80),
        (1, (6, 1), 30, 1100, 96),
        (1, (2, 2), 200, 200, 33),
        (1, (8, 2), 1, 1030, 256),
    ],
)
def test_it_is_pytorchs_attention(level, dtype, B, heads, q, T, D):
    queries, (keys, values) = random(B, heads[0], q, D, dtype=dtype), random(2, B, heads[1], T, D, dtype=dtype, seed=1)
    seen = torch.ones(q, T, dtype=torch.bool).tril(T - q)
    wanted = scaled_dot_product_attention(queries.double(), keys.double(), values.double(), attn_mask=seen, enable_gqa=True)
    for threads in (1, 3):
        set_num_threads(threads)
        assert_close(attend(queries, keys, values), wanted, bound(queries, keys, values))


@pytest.mark.parametrize("q", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_ragged_cache_is_what_each_head_would_be_alone(level, dtype, q):
    lengths = torch.tensor([[0, 1, 700, 33], [1500, 2, 5, 128]])
    starts = (lengths.flatten().cumsum(0) - lengths.flatten()).view(2, 4) + 3
    slots = int(lengths.sum()) + 5
    keys, values = random(2, slots, 64, dtype=dtype)
    queries = random(2, 12, q, 64, dtype=dtype, seed=1)
    got = attend(queries, keys, values, starts=starts, lengths=lengths)
    for b in range(2):
        for head in range(4):
            s, n = int(starts[b, head]), int(lengths[b, head])
            group = queries[b : b + 1, 3 * head : 3 * head + 3]
            mine = got[b, 3 * head : 3 * head + 3]
            if n == 0:
                assert torch.equal(mine, torch.zeros_like(mine))
                continue
            alone = attend(group, keys[None, None, s : s + n], values[None, None, s : s + n])[0]
            torch.testing.assert_close(mine, alone, rtol=2**-7 if dtype == torch.bfloat16 else 2**-10, atol=1e-6)


def test_heads_may_share_slots():
    keys, values = random(2, 50, 32)
    queries = random(1, 4, 1, 32, seed=1)
    got = attend(queries, keys, values, starts=torch.zeros(1, 2, dtype=torch.int64), lengths=torch.tensor([[50, 50]]))
    assert torch.equal(got, attend(queries, keys.expand(1, 2, 50, 32), values.expand(1, 2, 50, 32)))


@pytest.mark.parametrize("T", [1, 3, 37, 512, 1025])
def test_equal_keys_give_the_mean_of_values(level, T):
    values = random(1, 1, T, 16)
    got = attend(torch.ones(1, 2, 1, 16), torch.ones(1, 1, T, 16), values)
    assert_close(got, values.double().mean(2, keepdim=True).expand(1, 2, 1, 16), 1e-6)


def test_one_entry_is_its_value(level):
    for dtype in DTYPES:
        value = random(1, 1, 1, 48, dtype=dtype)
        assert torch.equal(attend(random(1, 3, 1, 48, dtype=dtype), value, value), value.expand(1, 3, 1, 48))


def test_the_number_of_threads_changes_nothing(level):
    for dtype in DTYPES:
        queries, (keys, values) = random(2, 10, 3, 64, dtype=dtype), random(2, 2, 2, 5000, 64, dtype=dtype, seed=1)
        results = []
        for threads in (1, 2, 3, 4, 2**31 - 1):
            set_num_threads(threads)
            results.append(attend(queries, keys, values).view(torch.uint8).numpy().tobytes())
        assert len(set(results)) == 1


@pytest.mark.parametrize("slope", [-0.1, 0.1])
def test_maxima_that_rise_or_fall_along_the_keys(level, slope):
    keys, values = (torch.arange(3000.0) * slope).view(1, 1, -1, 1), random(1, 1, 3000, 1)
    wanted = scaled_dot_product_attention(torch.ones(1, 1, 1, 1).double(), keys.double(), values.double())
    assert_close(attend(torch.ones(1, 1, 1, 1), keys, values), wanted, 2e-4)


def test_huge_products_do_not_overflow(level):
    for size in (1e2, 1e4, 1e18):
        queries, keys, values = (
            random(1, 2, 1, 16) * size,
            random(1, 1, 900, 16, seed=1) * size,
            random(1, 1, 900, 16, seed=2),
        )
        got = attend(queries, keys, values)
        assert got.isfinite().all() and got.abs().max() <= values.abs().max() * 1.001


@pytest.mark.parametrize("D", [3, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_query_does_not_see_has_no_influence(level, dtype, D):
    queries, (keys, values) = random(2, 4, 3, D, dtype=dtype), random(2, 2, 2, 700, D, dtype=dtype, seed=1)
    lengths, pads = torch.tensor([600, 33]), torch.tensor([5, 20])
    wanted = attend(queries, keys, values, lengths=lengths, pads=pads)
    for odd in (nan, inf, -inf):
        for x in (keys, values):
            for b in range(2):
                x[b, :, : pads[b]] = odd
                x[b, :, lengths[b] :] = odd
        assert torch.equal(attend(queries, keys, values, lengths=lengths, pads=pads), wanted)
    for x in (keys, values):
        x[0, :, 599] = nan  # the last token: the two before don't see it
    got = attend(queries, keys, values, lengths=lengths, pads=pads)
    assert torch.equal(got[0, :, :2], wanted[0, :, :2]) and got[0, :, 2].isnan().all()
    assert torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("where", ["queries", "keys", "values"])
@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_not_finite_do_what_they_do_in_pytorch(level, where, value, dtype):
    for at, D in ((0, 3), (399, 32), (1299, 32)):
        queries, (keys, values) = random(2, 2, 1, D, dtype=dtype).abs(), random(2, 2, 2, 1300, D, dtype=dtype, seed=1).abs()
        {"queries": queries, "keys": keys, "values": values}[where][1, 1, 0 if where == "queries" else at, 1] = value
        weights = (queries.double() @ keys.double().mT / sqrt(D)).softmax(-1)
        wanted = weights @ values.double()
        got = attend(queries, keys, values).double()
        assert torch.equal(got.isnan(), wanted.isnan()) and torch.equal(got.isinf(), wanted.isinf())
        assert_close(got[wanted.isfinite()], wanted[wanted.isfinite()], bound(queries[0], keys[0], values[0]) * 8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_attention_to_a_cache_is_that_to_its_parts_weighted_by_their_sums(level, dtype):
    queries, (keys, values) = random(2, 6, 1, 64, dtype=dtype), random(2, 2, 2, 3000, 64, dtype=dtype, seed=1)
    parts, sums = [], []
    for part in ((0, 1), (1, 700), (700, 3000)):
        lse = torch.empty(2, 6, 1)
        parts.append(attend(queries, keys[:, :, slice(*part)], values[:, :, slice(*part)], lse=lse).double())
        sums.append(lse.double())
    whole = torch.empty(2, 6, 1)
    wanted = attend(queries, keys, values, lse=whole).double()
    assert_close(whole, torch.stack(sums).logsumexp(0), 1e-4)
    got = (torch.stack(parts) * torch.stack(sums).softmax(0)[..., None]).sum(0)
    assert_close(got, wanted, 2 * bound(queries, keys, values))


@pytest.mark.parametrize("value", [nan, -inf])
def test_sums_of_what_is_not_finite_are_those_of_pytorch(level, value):
    queries, keys = torch.ones(1, 1, 2, 1), random(1, 1, 40, 1)
    for at in ([3], range(39), range(40)):
        products, lse = keys.clone(), torch.empty(1, 1, 2)
        products[:, :, at] = value
        attend(queries, products, keys, lse=lse)
        wanted = torch.stack([products[0, 0, :n, 0].double().logsumexp(0) for n in (39, 40)])
        torch.testing.assert_close(lse[0, 0].double(), wanted, equal_nan=True, rtol=1e-6, atol=1e-6)


def test_a_query_that_sees_nothing_has_the_sum_of_nothing(level):
    lse = torch.zeros(1, 2, 3)
    attend(torch.ones(1, 2, 3, 8), *torch.ones(2, 1, 1, 5, 8), lengths=torch.tensor([1]), lse=lse)
    torch.testing.assert_close(lse, torch.tensor([-inf, -inf, sqrt(8)]).expand(1, 2, 3))


def test_weights_that_vanish_are_zero(level):
    """0 times infinity is NaN, and so it is in PyTorch: no weight may be tiny instead."""
    keys, values = torch.tensor([0.0, -500.0]).view(1, 1, 2, 1), torch.tensor([1.0, inf]).view(1, 1, 2, 1)
    assert attend(torch.ones(1, 1, 1, 1), keys, values).isnan().all()


def test_libraries_and_dtypes():
    queries, (keys, values) = random(1, 2, 1, 16), random(2, 1, 1, 9, 16)
    for dtype in (np.float32, np.float16):
        got = attend(*(x.numpy().astype(dtype) for x in (queries, keys, values)))
        assert isinstance(got, np.ndarray) and got.dtype == dtype
        assert_close(got, torch.as_tensor(attend(queries, keys, values)).double(), 2e-3)
    out = np.zeros((1, 2, 1, 16), np.float32)
    assert attend(queries, keys, values, out=out) is out
    assert_close(out, attend(queries, keys, values).double(), 0)


@pytest.mark.elsewhere(not find_spec("ml_dtypes"), "need jax: make test-newest")
def test_bfloat16_arrays_of_ml_dtypes():
    import ml_dtypes

    queries, (keys, values) = random(1, 2, 1, 16), random(2, 1, 1, 9, 16)
    got = attend(*(x.numpy().astype(ml_dtypes.bfloat16) for x in (queries, keys, values)))
    assert got.dtype == ml_dtypes.bfloat16


Q, K, V = torch.ones(2, 4, 1, 8), torch.ones(2, 2, 10, 8), torch.ones(2, 2, 10, 8)
OUT = torch.ones(2, 4, 1, 8)
SLOTS = torch.ones(30, 8)
STARTS = torch.tensor([[0, 10], [20, 25]])
LENGTHS = torch.tensor([[10, 10], [5, 5]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": Q[0]}, ValueError, r"queries: expected shape \[batch, heads, tokens, size\], got 3 dimensions"),
        ({"queries": Q[:, :, :0]}, ValueError, "queries: expected at least one token, got none"),
        ({"queries": Q.double()}, TypeError, "queries: expected dtype float32, float16 or bfloat16, got torch.float64"),
        ({"queries": Q[:, :3]}, ValueError, "queries: expected a multiple of the 2 heads of keys, got 3"),
        ({"queries": Q[..., ::2]}, ValueError, "queries: expected a contiguous last dimension, got stride 2"),
        ({"queries": None}, TypeError, "queries: expected a tensor .* got NoneType"),
        ({"queries": Q.clone().requires_grad_()}, ValueError, "queries: .* requires grad"),
        ({"keys": K.half()}, TypeError, "keys: expected the dtype of queries, float32, got float16"),
        ({"keys": K[:1]}, ValueError, "keys: expected as many rows as queries, 2, got 1"),
        ({"keys": K[..., :7]}, ValueError, "keys: expected as many numbers a token as queries, 8, got 7"),
        ({"keys": K[0]}, ValueError, r"keys: expected shape \[batch, heads, tokens, size\], got 3 dimensions"),
        ({"keys": K.mT.contiguous().mT}, ValueError, "keys: expected a contiguous last dimension, got stride 10"),
        ({"values": V.half()}, TypeError, "values: expected the dtype of keys, float32, got float16"),
        ({"values": V[:, :1]}, ValueError, "values: expected as many heads as keys, 2, got 1"),
        ({"values": V[:, :, :9]}, ValueError, "values: expected as many tokens as keys, 10, got 9"),
        ({"starts": STARTS}, TypeError, r"starts: expected none with keys of shape \[batch, heads, tokens, size\], got one"),
        ({"lengths": torch.tensor([11, 0])}, ValueError, "lengths: expected 0 to 10, the tokens of keys, got 11 for row 0"),
        ({"lengths": torch.tensor([0, -1])}, ValueError, "lengths: expected 0 to 10, .* got -1 for row 1"),
        ({"lengths": torch.tensor([1])}, ValueError, "lengths: expected as many rows as queries, 2, got 1"),
        ({"lengths": torch.ones(2, 1, dtype=torch.int64)}, ValueError, "lengths: expected as many heads as keys, 2, got 1"),
        ({"lengths": torch.tensor(3)}, ValueError, r"lengths: expected shape \[batch\] or \[batch, heads\], got 0 dim"),
        ({"lengths": torch.ones(2)}, TypeError, "lengths: expected dtype int64, got torch.float32"),
        ({"lengths": 3}, TypeError, "lengths: expected a tensor .* got int"),
        ({"pads": torch.tensor([0, 11])}, ValueError, "pads: expected 0 to 10, the tokens of keys, got 11 for row 1"),
        ({"pads": torch.tensor([[0, 1], [0, 1]])}, ValueError, r"pads: expected shape \[batch\], got 2 dimensions"),
        ({"pads": torch.tensor([0])}, ValueError, "pads: expected as many rows as queries, 2, got 1"),
        ({"scale": nan}, ValueError, "scale: expected a finite number within float32, got nan"),
        ({"scale": "large"}, TypeError, "scale: expected a number, got str"),
        ({"softcap": -1.0}, ValueError, "softcap: expected a finite number >= 0 within float32, got -1.0"),
        ({"softcap": None}, TypeError, "softcap: expected a number, got NoneType"),
        ({"out": torch.ones(2, 4, 1, 7)}, ValueError, "out: expected as many numbers a token as values, 8, got 7"),
        ({"out": torch.ones(2, 4, 2, 8)}, ValueError, "out: expected as many tokens as queries, 1, got 2"),
        ({"out": torch.ones(2, 4, 1, 8).half()}, TypeError, "out: expected the dtype of queries, float32, got float16"),
        ({"out": torch.ones(1, 4, 1, 8).expand(2, 4, 1, 8)}, ValueError, "out: expected a tensor without overlapping"),
        ({"out": Q}, ValueError, "out: expected memory apart from that of queries, got some of the same"),
        ({"lse": torch.ones(2, 4, 1, 1)}, ValueError, r"lse: expected shape \[batch, heads, tokens\], got 4 dimensions"),
        ({"lse": torch.ones(2, 4, 1).double()}, TypeError, "lse: expected dtype float32, got torch.float64"),
        ({"lse": torch.ones(1, 4, 1)}, ValueError, "lse: expected as many rows as queries, 2, got 1"),
        ({"lse": torch.ones(2, 2, 1)}, ValueError, "lse: expected as many heads as queries, 4, got 2"),
        ({"lse": torch.ones(2, 4, 2)}, ValueError, "lse: expected as many tokens as queries, 1, got 2"),
        ({"lse": torch.ones(1, 4, 1).expand(2, 4, 1)}, ValueError, "lse: expected a tensor without overlapping"),
        ({"lse": Q[..., 0]}, ValueError, "lse: expected memory apart from that of queries, got some of the same"),
        ({"lse": OUT[..., 0], "out": OUT}, ValueError, "lse: expected memory apart from that of out, got some of the same"),
        ({"lse": [0.0]}, TypeError, "lse: expected a tensor .* got list"),
        ({"out": K[:, :, :2].reshape(2, 4, 1, 8), "keys": K}, None, None),
        ({"keys": SLOTS}, ValueError, r"values: expected shape \[slots, size\], as that of keys, got 4 dimensions"),
        ({"keys": SLOTS, "values": SLOTS}, TypeError, r"starts: expected a tensor \[batch, heads\] with keys .* got none"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS}, TypeError, "lengths: expected a tensor .* got none"),
        ({"keys": SLOTS, "values": SLOTS[:29], "starts": STARTS, "lengths": LENGTHS}, ValueError,
         "values: expected as many tokens as keys, 30, got 29"),
        ({"keys": SLOTS, "values": SLOTS.half(), "starts": STARTS, "lengths": LENGTHS}, TypeError,
         "values: expected the dtype of keys, float32, got float16"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS, "lengths": LENGTHS + 1}, ValueError,
         "lengths: expected 0 to 5, the slots of keys from this head's first on, got 6 for row 1, head 1"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS + 6, "lengths": LENGTHS * 0}, ValueError,
         "starts: expected 0 to 30, the slots of keys, got 31 for row 1, head 1"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS - 1, "lengths": LENGTHS}, ValueError, "starts: .* got -1 for"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS[0], "lengths": LENGTHS}, ValueError,
         r"starts: expected shape \[batch, heads\], got 1 dimensions"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS[:1], "lengths": LENGTHS}, ValueError,
         "starts: expected as many rows as queries, 2, got 1"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS[:, :0], "lengths": LENGTHS}, ValueError,
         "queries: expected a multiple of the 0 heads of starts, got 4"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS, "lengths": LENGTHS[:, :1]}, ValueError,
         "lengths: expected as many heads as starts, 2, got 1"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS, "lengths": LENGTHS[0]}, ValueError,
         r"lengths: expected shape \[batch, heads\], got 1 dimensions"),
        ({"keys": SLOTS, "values": SLOTS, "starts": STARTS, "lengths": LENGTHS, "pads": torch.tensor([0, 31])}, ValueError,
         "pads: expected 0 to 30, the slots of keys, got 31"),
    ],
)  # fmt: skip
def test_bad_input_leaves_everything_as_it_was(arguments, error, message):
    given = {"queries": Q, "keys": K, "values": V, "out": torch.full((2, 4, 1, 8), 7.0), **arguments}
    before = {name: x.clone() for name, x in given.items() if isinstance(x, torch.Tensor)}
    if error is None:
        attend(**given)
        return
    with pytest.raises(error, match=message):
        attend(**given)
    assert all(torch.equal(given[name].detach(), x.detach()) for name, x in before.items())


def test_out_in_a_buffer_of_the_cache_is_refused():
    buffer = torch.ones(2, 2, 12, 8)
    with pytest.raises(ValueError, match="out: expected memory apart from that of keys, got some of the same"):
        attend(Q, buffer[:, :, :10], V, out=buffer.view(2, 4, 6, 8)[:, :, :1])
    with pytest.raises(ValueError, match="out: expected memory apart from that of values, got some of the same"):
        attend(Q, SLOTS, (slots := torch.ones(30, 8)), starts=STARTS, lengths=LENGTHS, out=slots[:8].view(2, 4, 1, 8))


def test_read_only_outputs_are_refused():
    out = np.zeros((2, 4, 1, 8), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writable tensor, got a read-only numpy.ndarray"):
        attend(Q, K, V, out=out)


def test_devices(gpu):
    queries = gpu.put(Q.numpy())
    with pytest.raises(ValueError, match="queries: expected a tensor on cpu, .*scaled_dot_product_attention"):
        attend(queries, K, V)
