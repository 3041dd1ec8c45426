"""select_top is a stable sort; compact_ and append_ move exactly what they should, in place."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty import append_, compact_, get_num_threads, select_top, set_num_threads
from states import DTYPES, random

inf, nan = float("inf"), float("nan")
numbers = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, inf, -inf, nan, -nan])


@given(st.lists(st.lists(numbers, min_size=9, max_size=9), min_size=1, max_size=6), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_selection_is_a_stable_sort(rows, k):
    for scores in (np.array([rows], np.float32), np.array(rows, np.float32)[:, None]):
        got = select_top(scores, k)
        assert got.dtype == np.int64 and got.shape == (*scores.shape[:2], k)
        assert got.tolist() == [[oracle.select_top(row, k) for row in heads] for heads in scores.tolist()]


@pytest.mark.parametrize("kind", ["random", "few values", "all equal", "close", "ascending", "descending"])
@pytest.mark.parametrize("n", [1, 2, 1000, 70_000])
def test_long_rows(kind, n):
    rng = np.random.default_rng(n)
    rows = {
        "random": lambda: rng.random((2, 3, n)),
        "few values": lambda: rng.integers(-2, 3, (2, 3, n)),
        "all equal": lambda: np.full((2, 3, n), 0.25),
        "close": lambda: 1 + rng.integers(0, 9, (2, 3, n)) * 2.0**-23,
        "ascending": lambda: np.tile(np.arange(n), (2, 3, 1)),
        "descending": lambda: np.tile(-np.arange(n), (2, 3, 1)),
    }[kind]().astype(np.float32)
    for k in {1, 1 + n // 4, n}:
        order = np.argsort(-rows, axis=-1, kind="stable")[..., :k]
        assert np.array_equal(select_top(rows, k), np.sort(order, axis=-1))


def test_every_nan_is_lowest():
    bits = [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF]
    for nan_bits in bits:
        (strange,) = np.frombuffer(struct.pack("I", nan_bits), np.float32)
        row = np.array([[[strange, -inf, strange, -3e38, inf]]], np.float32)
        assert select_top(row, 3).tolist() == [[[1, 3, 4]]]
        assert select_top(row, 4).tolist() == [[[0, 1, 3, 4]]]


def test_rows_of_scores_may_lie_apart():
    buffer = random(4, 6, 50)
    for part in (buffer[::2, 1:, 3:30], buffer.transpose(0, 1)[..., :20], buffer[:1].expand(3, 6, 50)):
        assert torch.equal(select_top(part, 5), select_top(part.contiguous(), 5))
    assert select_top(buffer[:0], 5).shape == (0, 6, 5)


@pytest.mark.parametrize(
    ("scores", "k", "error", "message"),
    [
        (torch.zeros(2, 1, 9), 0, ValueError, "k: expected an integer from 1 to .* got 0"),
        (torch.zeros(2, 1, 9), 10, ValueError, "k: expected at most the 9 scores of a row, got 10"),
        (torch.zeros(2, 1, 0), 1, ValueError, "k: expected at most the 0 scores of a row, got 1"),
        (torch.zeros(2, 1, 9), 1.0, TypeError, "k: expected an integer, got float"),
        (torch.zeros(2, 9), 1, ValueError, r"scores: expected shape \[batch, heads, length\], got 2 dimensions"),
        (torch.zeros(2, 1, 9).double(), 1, TypeError, "scores: expected dtype float32, got torch.float64"),
        (torch.zeros(2, 1, 9).half(), 1, TypeError, "scores: expected dtype float32, got torch.float16"),
        (torch.zeros(2, 9, 4).mT, 1, ValueError, "scores: expected a contiguous last dimension, got stride 4"),
        ([[[1.0]]], 1, TypeError, "scores: expected a tensor .* got list"),
    ],
)
def test_bad_selections(scores, k, error, message):
    with pytest.raises(error, match=message):
        select_top(scores, k)


B, H, CAPACITY = 2, 3, 20
LAYOUTS = st.sampled_from(["plain", "tokens first", "part of a buffer", "packed", "interleaved", "backwards"])


def new_storage(layout, sizes, dtype):
    """The memory of a cache; with `views`, two caches of the same numbers can be compared byte by byte."""
    shapes = {
        "tokens first": [(B, CAPACITY, H, D) for D in sizes],
        "part of a buffer": [(B + 1, H + 1, 2 * CAPACITY, D + 2) for D in sizes],
        "packed": [(B, H, CAPACITY, sum(sizes))],
        "interleaved": [(B, 2, CAPACITY, H, max(sizes))],
    }.get(layout, [(B, H, CAPACITY, D) for D in sizes])
    return [random(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


def as_torch(x):
    return torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x


def views(storage, layout, sizes):
    """keys and values."""
    if layout == "tokens first":
        return [x.transpose(1, 2) for x in storage]
    if layout == "part of a buffer":
        return [x[1:, 1:, 1::2, 1:-1] for x in storage]
    if layout == "packed":
        return storage[0].split(sizes, -1)
    if layout == "interleaved":
        return [storage[0][:, i].transpose(1, 2)[..., :D] for i, D in enumerate(sizes)]
    if layout == "backwards" and storage[0].dtype != torch.bfloat16:
        return [x.numpy()[::-1, ::-1, ::-1] for x in storage]
    return storage


def assert_only(change, storage, layout, sizes, wanted, undefined=slice(0)):
    """change(keys, values) makes them what wanted(x, i) returns, but for tokens `undefined`, and leaves all else alone."""
    other = [x.clone() for x in storage]
    result = change(*views(storage, layout, sizes))
    for i, x in enumerate(views(other, layout, sizes)):
        new = wanted(as_torch(x), i)
        x[:, :, : new.shape[2]] = new.numpy() if isinstance(x, np.ndarray) else new
    for x in (*views(storage, layout, sizes), *views(other, layout, sizes)):
        x[:, :, undefined] = 0
    assert all(torch.equal(x, y) for x, y in zip(storage, other, strict=True))
    return result


def compacted(x, positions, start, stop, length):
    index = positions.expand(B, H, -1)[..., None].expand(-1, -1, -1, x.shape[3])
    return torch.cat([x[:, :, :start], x[:, :, start:stop].gather(2, index), x[:, :, stop:length]], 2)


@st.composite
def compactions(draw):
    start, stop, length = sorted(draw(st.tuples(*[st.integers(0, CAPACITY)] * 3)))
    kept, heads = draw(st.integers(0, stop - start)), draw(st.sampled_from([1, H]))
    rows = [[sorted(draw(st.permutations(range(stop - start)))[:kept]) for _ in range(heads)] for _ in range(B)]
    return start, stop, length, torch.tensor(rows, dtype=torch.int64).view(B, heads, kept)


@given(compactions(), st.sampled_from(DTYPES), LAYOUTS, st.sampled_from([(8, 5), (1, 1), (3, 16)]))
@settings(max_examples=300, deadline=None)
def test_compaction_is_a_gather_and_touches_nothing_else(case, dtype, layout, sizes):
    start, stop, length, positions = case
    new_length = length - (stop - start) + positions.shape[2]
    returned = assert_only(
        lambda keys, values: compact_(keys, values, positions, start=start, stop=stop, length=length),
        new_storage(layout, sizes, dtype),
        layout,
        sizes,
        lambda x, i: compacted(x, positions, start, stop, length),
        undefined=slice(new_length, length),
    )
    assert returned == new_length


@given(
    st.integers(0, CAPACITY),
    st.integers(0, 4),
    st.sampled_from(DTYPES),
    LAYOUTS,
    LAYOUTS,
    st.sampled_from([(8, 5), (3, 16)]),
)
@settings(max_examples=200, deadline=None)
def test_appending_is_two_slice_copies(position, q, dtype, layout, new_layout, sizes):
    q = min(q, CAPACITY - position)
    new = [x[:, :, :q] for x in views(new_storage(new_layout, sizes, dtype), new_layout, sizes)]
    returned = assert_only(
        lambda keys, values: append_(keys, values, *new, position=position),
        new_storage(layout, sizes, dtype),
        layout,
        sizes,
        lambda x, i: torch.cat([x[:, :, :position], as_torch(new[i])], 2),
    )
    assert returned == position + q


def test_long_caches_and_any_number_of_threads():
    keys, values, before = random(2, 4, 5000, 64), random(2, 4, 5000, 64, seed=1), get_num_threads()
    positions = select_top(random(2, 4, 4000), 1000)
    index = positions[..., None].expand(-1, -1, -1, 64)
    wanted = [torch.cat([x[:, :, :500], x[:, :, 500:4500].gather(2, index), x[:, :, 4500:4900]], 2) for x in (keys, values)]
    try:
        for threads in (1, 2, 5):
            set_num_threads(threads)
            moved = keys.clone(), values.clone()
            assert compact_(*moved, positions, start=500, stop=4500, length=4900) == 1900
            assert all(torch.equal(x[:, :, :1900], want) for x, want in zip(moved, wanted, strict=True))
    finally:
        set_num_threads(before)


def test_compaction_can_be_repeated():
    keys, values = random(1, 1, 30, 2), random(1, 1, 30, 2, seed=1)
    wanted = keys[:, :, [0, 1, 7, 21, 28, 29]].clone()
    length = compact_(keys, values, torch.tensor([[[1, 5, 10, 19]]]), start=2, stop=28, length=30)
    assert length == 8 and compact_(keys, values, torch.tensor([[[1, 3]]]), start=2, stop=6, length=8) == 6
    assert torch.equal(keys[:, :, :6], wanted)


def cache(**changes):
    """Arguments of compact_ and append_ that work, but for the changes."""
    common = {"keys": torch.zeros(2, 3, 8, 4), "values": torch.zeros(2, 3, 8, 4)}
    compact = {"positions": torch.tensor([[[0, 2]], [[1, 3]]]), "start": 1, "stop": 5, "length": 7}
    append = {"new_keys": torch.ones(2, 3, 2, 4), "new_values": torch.ones(2, 3, 2, 4), "position": 6}
    return {**common, **compact, **changes}, {**common, **append, **changes}


def assert_refused(function, arguments, error, message):
    tensors = [x for x in arguments.values() if isinstance(x, torch.Tensor | np.ndarray)]
    before = [x.clone() if isinstance(x, torch.Tensor) else x.copy() for x in tensors]
    with pytest.raises(error, match=message):
        function(**arguments)
    for x, old in zip(tensors, before, strict=True):
        assert (x == old).all()


def read_only(*shape):
    array = np.zeros(shape, np.float32)
    array.flags.writeable = False
    return array


zeros = torch.zeros


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"keys": zeros(3, 8, 4)}, ValueError, r"keys: expected shape \[batch, heads, tokens, size\], got 3 dimensions"),
        ({"keys": zeros(1, 2, 3, 8, 4)}, ValueError, "keys: expected at most 4 dimensions, got 5"),
        ({"keys": zeros(2, 3, 8, 4).half()}, TypeError, "values: expected the dtype of keys, float16, got float32"),
        ({"values": zeros(2, 3, 8, 4).bfloat16()}, TypeError, "values: expected the dtype of keys, float32, got bfloat16"),
        (
            {"keys": zeros(2, 3, 8, 4).double()},
            TypeError,
            "keys: expected dtype float32, float16 or bfloat16, got torch.float64",
        ),
        ({"keys": zeros(2, 3, 8, 4).int()}, TypeError, "keys: expected dtype float32, float16 or bfloat16, got torch.int32"),
        ({"values": zeros(2, 3, 4, 8).mT}, ValueError, "values: expected a contiguous last dimension, got stride 8"),
        ({"values": zeros(1, 3, 8, 4)}, ValueError, "values: expected as many rows as keys, 2, got 1"),
        ({"values": zeros(2, 2, 8, 4)}, ValueError, "values: expected as many heads as keys, 3, got 2"),
        ({"values": zeros(2, 3, 9, 4)}, ValueError, "values: expected as many tokens as keys, 8, got 9"),
        ({"keys": read_only(2, 3, 8, 4)}, ValueError, "keys: expected a writable tensor, got a read-only numpy.ndarray"),
        ({"values": read_only(2, 3, 8, 4)}, ValueError, "values: expected a writable tensor, got a read-only numpy.ndarray"),
        ({"keys": zeros(1, 3, 8, 4).expand(2, 3, 8, 4)}, ValueError, "keys: expected a tensor without overlapping elements"),
        ({"keys": 3}, TypeError, "keys: expected a tensor .* got int"),
    ],
)
def test_bad_caches(changes, error, message):
    for function, arguments in zip((compact_, append_), cache(**changes), strict=True):
        assert_refused(function, arguments, error, message)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"positions": torch.tensor([[[0, 2]], [[3, 1]]])}, ValueError,
         r"positions: expected ascending positions in \[0, 4\), got 1 at \[1, 0, 1\]"),
        ({"positions": torch.tensor([[[0, 2]], [[2, 2]]])}, ValueError, r"positions: .* got 2 at \[1, 0, 1\]"),
        ({"positions": torch.tensor([[[-1, 2]], [[1, 2]]])}, ValueError, r"positions: .* got -1 at \[0, 0, 0\]"),
        ({"positions": torch.tensor([[[0, 4]], [[1, 2]]])}, ValueError, r"positions: .* got 4 at \[0, 0, 1\]"),
        ({"positions": torch.tensor([[[0, 2**62]], [[1, 2]]])}, ValueError, r"positions: .* got 4611686018427387904 at"),
        ({"positions": torch.tensor([[[0, 2**63 - 1]], [[1, 2]]])}, ValueError, r"positions: .* got 9223372036854775807 at"),
        ({"positions": torch.tensor([[[0, 2]], [[1, 2]]]).int()}, TypeError, "positions: .* int64, got torch.int32"),
        ({"positions": zeros(2, 1, 2)}, TypeError, "positions: expected dtype int64, got torch.float32"),
        ({"positions": zeros(2, 2, 2).long()}, ValueError, "positions: expected 1 head, or as many as keys, 3, got 2"),
        ({"positions": zeros(1, 1, 2).long()}, ValueError, "positions: expected as many rows as keys, 2, got 1"),
        ({"positions": zeros(2, 2).long()}, ValueError, r"positions: expected shape \[batch, heads, kept\], got 2 dim"),
        ({"positions": zeros(2, 2, 3).long().mT}, ValueError, "positions: .* contiguous last dimension, got stride 3"),
        ({"positions": [0, 1]}, TypeError, "positions: expected a tensor .* got list"),
        ({"length": 9}, ValueError, "length: expected a position from 0 to 8, got 9"),
        ({"length": 4}, ValueError, "stop: expected a position from 0 to 4, got 5"),
        ({"start": 6}, ValueError, "start: expected a position from 0 to 5, got 6"),
        ({"start": -1}, ValueError, "start: .* got -1"),
        ({"stop": None}, TypeError, "stop: expected an integer, got NoneType"),
    ],
)  # fmt: skip
def test_bad_compactions(changes, error, message):
    assert_refused(compact_, cache(**changes)[0], error, message)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"position": 7}, ValueError, "position: expected a position from 0 to 6, so that 2 tokens fit, got 7"),
        ({"position": -1}, ValueError, "position: .* got -1"),
        ({"new_keys": zeros(2, 3, 9, 4), "new_values": zeros(2, 3, 9, 4), "position": 0}, ValueError,
         "new_keys: expected at most the 8 tokens of keys, got 9"),
        ({"new_keys": zeros(2, 3, 1, 4)}, ValueError, "new_values: expected as many tokens as new_keys, 1, got 2"),
        ({"new_keys": zeros(1, 3, 2, 4)}, ValueError, "new_keys: expected as many rows as keys, 2, got 1"),
        ({"new_values": zeros(2, 1, 2, 4)}, ValueError, "new_values: expected as many heads as values, 3, got 1"),
        ({"new_values": zeros(2, 3, 2, 5)}, ValueError, "new_values: expected as many numbers a token as values, 4, got 5"),
        ({"new_keys": zeros(2, 3, 2, 4).half()}, TypeError, "new_keys: expected the dtype of keys, float32, got float16"),
        ({"new_keys": zeros(2, 3, 4, 2).mT}, ValueError, "new_keys: expected a contiguous last dimension, got stride 2"),
    ],
)  # fmt: skip
def test_bad_appends(changes, error, message):
    assert_refused(append_, cache(**changes)[1], error, message)


def test_missing_arguments():
    for function, arguments in zip((compact_, append_), cache(), strict=True):
        for name in arguments:
            with pytest.raises(TypeError, match=rf"{function.__name__}\(\) missing required argument '{name}'"):
                function(**{key: value for key, value in arguments.items() if key != name})


@st.composite
def views_of_one_buffer(draw):
    """Two [2, 2, 3, D] views with strides that are sometimes the same."""
    order, gap = draw(st.permutations(range(3))), draw(st.integers(1, 7))
    sizes, strides, step = (2, 2, 3), [0, 0, 0], gap
    for i in order:
        strides[i] = step * draw(st.sampled_from([1, -1]))
        step *= sizes[i] + draw(st.integers(0, 1))
    other = strides if draw(st.integers(0, 3)) else [2 * stride for stride in strides]
    buffer = np.zeros(3000, np.float32)

    def view(at, size, strides):
        bytes = [4 * stride for stride in strides] + [4]
        return np.lib.stride_tricks.as_strided(buffer[at:], (*sizes, size), bytes)

    at, distance = 1500, draw(st.integers(-60, 60))
    return view(at, draw(st.integers(1, gap)), strides), view(at + distance, draw(st.integers(1, gap)), other)


@given(views_of_one_buffer())
@settings(max_examples=500, deadline=None)
def test_keys_and_values_that_share_memory_are_refused(pair):
    keys, values = pair
    positions = np.array([[[1]], [[2]]])
    apart = not np.shares_memory(keys, values) if keys.strides == values.strides else not np.may_share_memory(keys, values)
    if apart:
        assert compact_(keys, values, positions, start=0, stop=3, length=3) == 1
    else:
        arguments = dict(keys=keys, values=values, positions=positions, start=0, stop=3, length=3)
        assert_refused(compact_, arguments, ValueError, "values: expected memory apart from that of keys, got")


def test_new_tokens_may_come_from_the_cache_itself_but_not_from_where_they_go():
    keys, values = random(2, 3, 8, 4), random(2, 3, 8, 5)
    wanted = keys[:, :, 1:3].clone(), values[:, :, 2:4].clone()
    assert append_(keys, values, keys[:, :, 1:3], values[:, :, 2:4], position=5) == 7
    assert torch.equal(keys[:, :, 5:7], wanted[0]) and torch.equal(values[:, :, 5:7], wanted[1])
    arguments = dict(keys=keys, values=values, new_keys=keys[:, :, 1:3], new_values=values[:, :, 2:4], position=2)
    assert_refused(append_, arguments, ValueError, "new_keys: expected memory apart from that of keys, got some of the same")
    arguments["new_keys"] = zeros(2, 3, 2, 4)
    assert_refused(append_, arguments, ValueError, "new_values: expected memory apart from that of values")


def test_positions_in_the_cache_are_refused():
    buffer = np.zeros((1, 2, 4, 2), np.float32)
    positions = buffer[:, 1, 0].view(np.int64).reshape(1, 1, 1)
    for keys, values in ((buffer, zeros(1, 2, 4, 2)), (zeros(1, 2, 4, 2), buffer)):
        arguments = dict(keys=keys, values=values, positions=positions, start=0, stop=4, length=4)
        assert_refused(compact_, arguments, ValueError, "positions: expected memory apart from that of ")
