"""compact_blocks_ and gather_blocks_: a request's tokens, wherever its blocks lie and however a block is laid out, move as
compact_ moves them in a cache of one piece, and nobody else's are touched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import compact_, compact_blocks_, gather_blocks_, get_num_threads, set_num_threads
from states import DTYPES, random

BLOCKS, HEADS = 9, 2


def transposed(memory, block):
    """vLLM on a CPU: the first half of a block holds keys, tokens last, the second half values."""
    n, heads, _, size = memory.shape
    return memory.as_strided((n, heads, block, size), (*memory.stride()[:2], 1, block)), memory[:, :, block:]


# The shape of a cache's memory, and its keys and values with the axes [blocks, heads, tokens, size].
LAYOUTS = {
    # Beside each other in FlashAttention's and Triton's caches, heads or tokens first.
    "heads first": lambda b, d: ((BLOCKS, HEADS, b, 2 * d), lambda m: (m[..., :d], m[..., d:])),
    "tokens first": lambda b, d: (
        (BLOCKS, b, HEADS, 2 * d),
        lambda m: (m.transpose(1, 2)[..., :d], m.transpose(1, 2)[..., d:]),
    ),
    "planes": lambda b, d: ((2, BLOCKS, b, HEADS, d), lambda m: m.transpose(2, 3).unbind(0)),
    "planes in a block": lambda b, d: ((BLOCKS, 2, HEADS, b, d), lambda m: m.unbind(1)),
    "keys transposed": lambda b, d: ((BLOCKS, HEADS, 2 * b, d), lambda m: transposed(m, b)),
    "layers in a block": lambda b, d: ((BLOCKS, 3, HEADS, b, 2 * d), lambda m: (m[:, 1, ..., :d], m[:, 1, ..., d:])),
}


def new_cache(layout, block, size, dtype=torch.float32, seed=0):
    shape, views = LAYOUTS[layout](block, size)
    memory = random(*shape, dtype=dtype, seed=seed)
    return memory, views


def tokens_of(cache, table, length):
    """Side by side, [1, heads, length, size]."""
    block = cache.shape[2]
    tokens = [cache[int(table[t // block]), :, t % block] for t in range(length)]
    return torch.stack(tokens, 1)[None].clone() if tokens else cache.new_empty(1, HEADS, 0, cache.shape[3])


def write(cache, table, tokens):
    block = cache.shape[2]
    for t in range(tokens.shape[2]):
        cache[int(table[t // block]), :, t % block] = tokens[0, :, t]


@st.composite
def requests(draw):
    block = draw(st.sampled_from([1, 2, 5, 16, 70]))
    table = draw(st.permutations(range(BLOCKS)))[: draw(st.integers(1, BLOCKS))]
    start, stop, length = sorted(draw(st.tuples(*[st.integers(0, block * len(table))] * 3)))
    heads = draw(st.sampled_from([1, HEADS]))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    kept = draw(st.integers(0, stop - start))
    rows = [np.sort(rng.permutation(stop - start)[:kept]) for _ in range(heads)]
    positions = torch.from_numpy(np.array(rows, np.int64).reshape(1, heads, kept))
    return (
        block,
        torch.tensor(table, dtype=draw(st.sampled_from([torch.int32, torch.int64]))),
        start,
        stop,
        length,
        positions,
    )


@given(requests(), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(DTYPES), st.sampled_from([1, 3, 16]))
@settings(max_examples=300, deadline=None)
def test_a_compaction_in_blocks_is_one_in_a_piece(request, layout, dtype, size):
    block, table, start, stop, length, positions = request
    memory, views = new_cache(layout, block, size, dtype)
    expected = memory.clone()
    pieces = [tokens_of(cache, table, length) for cache in views(memory)]
    new_length = compact_(*pieces, positions, start=start, stop=stop, length=length)
    for cache, piece in zip(views(expected), pieces, strict=True):
        write(cache, table, piece[:, :, :new_length])
    assert compact_blocks_(*views(memory), table, positions, start=start, stop=stop, length=length) == new_length
    for cache in (*views(memory), *views(expected)):  # what lies behind is undefined
        for t in range(new_length, length):
            cache[int(table[t // block]), :, t % block] = 0
    assert memory.equal(expected)


@given(requests(), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(DTYPES), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_tokens_are_gathered(request, layout, dtype, gap):
    block, table, start, _, length, _ = request
    memory, views = new_cache(layout, block, 3, dtype)
    before = memory.clone()
    for cache in views(memory):
        buffer = random(1, HEADS, length - start + gap, 3 + gap, dtype=dtype, seed=1)
        out = buffer[:, :, : length - start, :3]
        assert gather_blocks_(out, cache, table, start=start) is out
        wanted = random(1, HEADS, length - start + gap, 3 + gap, dtype=dtype, seed=1)
        wanted[:, :, : length - start, :3] = tokens_of(cache, table, length)[:, :, start:]
        assert buffer.equal(wanted)
    assert memory.equal(before)


# What vLLM has on CUDA; on a CPU a key's numbers may lie apart.
ON_CUDA = sorted(set(LAYOUTS) - {"keys transposed"})


@given(requests(), st.sampled_from(ON_CUDA), st.sampled_from(DTYPES), st.sampled_from([1, 3, 8, 40, 64]))
@settings(max_examples=150, deadline=None)
def test_a_gpu_moves_and_gathers_the_same(gpu, request, layout, dtype, size):
    """Whole caches are compared, so that nothing else was written; keys and values in memory of their own, since the
    device's copies of tensors are."""
    block, table, start, stop, length, positions = request
    bounds = dict(start=start, stop=stop, length=length)
    memory, views = new_cache(layout, block, size, dtype)
    moved = [memory.clone(), memory.clone()]
    new_length = compact_blocks_(*views(memory), table, positions, **bounds)
    both = [views(one)[i] for i, one in enumerate(moved)]
    assert gpu.of(compact_blocks_)(*both, table, positions, **bounds) == new_length
    for got, wanted in zip(both, views(memory), strict=True):
        for cache in (got, wanted):  # what lies behind is undefined
            for t in range(new_length, length):
                cache[int(table[t // block]), :, t % block] = 0
        assert got.equal(wanted)
        outs = [torch.zeros(1, HEADS, new_length + 1, size + 1, dtype=dtype) for _ in range(2)]
        theirs, ours = (out[:, :, : new_length - start, :size] for out in outs)
        gather_blocks_(theirs, wanted, table, start=start)
        gpu.of(gather_blocks_)(ours, got, table, start=start)
        assert outs[0].equal(outs[1])


def with_evidence(request, compact, dtype, flipped=False):
    """What becomes of keys and values of one head, and of evidence that is the number of its place."""
    block, table, start, stop, length, positions = request
    keys, values = (random(BLOCKS, 1, block, 4, dtype=dtype, seed=seed) for seed in (1, 2))
    evidence = torch.arange(2.0 * BLOCKS * block).view(BLOCKS, 2 * block)
    places = evidence.numpy()[::-1, :block] if flipped else evidence[:, :block]
    new_length = compact(
        keys, values, table, positions[:, :1], start=start, stop=stop, length=length, evidence=places
    )  # fmt: skip
    for t in range(new_length, length):  # what lies behind is undefined
        for states in (keys[:, 0], values[:, 0], places):
            states[int(table[t // block]), t % block] = 0
    return keys, values, evidence, torch.from_numpy(places.copy()) if flipped else places.clone()


@given(requests(), st.sampled_from(DTYPES), st.booleans())
@settings(max_examples=100, deadline=None)
def test_evidence_moves_with_its_keys(request, dtype, flipped):
    block, table, start, stop, length, positions = request
    alone = [random(BLOCKS, 1, block, 4, dtype=dtype, seed=seed) for seed in (1, 2)]
    new_length = compact_blocks_(*alone, table, positions[:, :1], start=start, stop=stop, length=length)
    keys, values, memory, evidence = with_evidence(request, compact_blocks_, dtype, flipped)
    for got, wanted in ((keys, alone[0]), (values, alone[1])):
        assert tokens_of(got, table, new_length).equal(tokens_of(wanted, table, new_length))
    before = torch.arange(2.0 * BLOCKS * block).view(BLOCKS, 2 * block)
    places = before.flip(0)[:, :block] if flipped else before[:, :block]
    order = [*range(start), *(start + positions[0, 0]).tolist(), *range(stop, length)]
    held = [places[int(table[t // block]), t % block] for t in order]
    assert [evidence[int(table[t // block]), t % block] for t in range(new_length)] == held
    assert memory[:, block:].equal(before[:, block:])
    others = [b for b in range(BLOCKS) if b not in table[: -(-length // block)].tolist()]
    assert evidence[others].equal(places[others])


@given(requests(), st.sampled_from(DTYPES))
@settings(max_examples=50, deadline=None)
def test_a_gpu_moves_evidence_along(gpu, request, dtype):
    wanted = with_evidence(request, compact_blocks_, dtype)
    got = with_evidence(request, gpu.of(compact_blocks_), dtype)
    assert all(one.equal(other) for one, other in zip(got, wanted, strict=True))


def test_blocks_on_the_device_never_lead_out_of_bounds(gpu):
    """They can't be looked at before a launch. The emulator stops at the first access outside of an allocation."""
    keys, values = random(BLOCKS, HEADS, 4, 8), random(BLOCKS, HEADS, 4, 8)
    for ids in ([2**62, 0, -1], [-(2**40), 3, BLOCKS]):
        for bad in ([2**62, -(2**62), 5], [9, 3, 0]):
            moved = keys.clone(), values.clone()
            table, positions = torch.tensor(ids), torch.tensor(bad).view(1, 1, 3)
            assert gpu.of(compact_blocks_)(*moved, table, positions, start=1, stop=9, length=12) == 7
            inside = {min(max(block, 0), BLOCKS - 1) for block in ids}
            others = [block for block in range(BLOCKS) if block not in inside]
            assert moved[0][others].equal(keys[others]) and moved[1][others].equal(values[others])
            gpu.of(gather_blocks_)(torch.zeros(1, HEADS, 9, 8), keys.clone(), table, start=2)


def test_other_blocks_may_be_shared_in_front_of_start():
    """Requests with one prompt have blocks in common; a block may even be there twice, as null blocks are."""
    memory, views = new_cache("heads first", 4, 3)
    keys, values = views(memory)
    table = torch.tensor([2, 2, 5, 1])
    positions = torch.tensor([[[1, 3]]])
    wanted = [tokens_of(cache, table, 15)[:, :, [*range(8), 9, 11, 12, 13, 14]] for cache in (keys, values)]
    assert compact_blocks_(keys, values, table, positions, start=8, stop=12, length=15) == 13
    assert all(tokens_of(x, table, 13).equal(want) for x, want in zip((keys, values), wanted, strict=True))


def test_blocks_with_negative_strides():
    memory = np.random.default_rng(0).normal(size=(BLOCKS, HEADS, 4, 6)).astype(np.float32)
    keys, values = memory[::-1, ::-1, ::-1, 2::-1], memory[::-1, ::-1, ::-1, :2:-1]
    table = np.array([3, 0, 8])
    wanted = np.concatenate([keys[3], keys[0], keys[8]], 1)[:, [0, 1, 4, 9, 10, 11]]
    assert compact_blocks_(keys, values, table, np.array([[[2, 7]]]), start=2, stop=10, length=12) == 6
    np.testing.assert_array_equal(np.concatenate([keys[3], keys[0]], 1)[:, :6], wanted)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_long_caches_and_any_number_of_threads(layout):
    memory, views = new_cache(layout, 128, 64)
    table, before = torch.tensor([4, 1, 7, 0, 8, 2, 6]), get_num_threads()
    positions = torch.sort(torch.randperm(700)[:200]).values.view(1, 1, -1)
    pieces = [tokens_of(cache, table, 890) for cache in views(memory)]
    compact_(*pieces, positions, start=150, stop=850, length=890)
    try:
        for threads in (1, 2, 5):
            set_num_threads(threads)
            moved = memory.clone()
            assert compact_blocks_(*views(moved), table, positions, start=150, stop=850, length=890) == 390
            for cache, piece in zip(views(moved), pieces, strict=True):
                assert tokens_of(cache, table, 390).equal(piece[:, :, :390])
                out = torch.empty(1, HEADS, 300, 64)
                assert gather_blocks_(out, cache, table, start=50).equal(piece[:, :, 50:350])
    finally:
        set_num_threads(before)


def arguments(**changes):
    memory = torch.zeros(5, 3, 4, 8)
    fine = {
        "keys": memory[..., :4], "values": memory[..., 4:], "blocks": torch.tensor([4, 0]),
        "positions": torch.tensor([[[0, 2]]]), "start": 1, "stop": 5, "length": 7,
    }  # fmt: skip
    return {**fine, **changes}


def gathering(**changes):
    fine = {"out": torch.zeros(1, 3, 6, 4), "cache": torch.ones(5, 3, 4, 4), "blocks": torch.tensor([4, 0]), "start": 2}
    return {**fine, **changes}


def assert_refused(function, values, error, message):
    tensors = [x for x in values.values() if isinstance(x, torch.Tensor | np.ndarray)]
    before = [x.clone() if isinstance(x, torch.Tensor) else x.copy() for x in tensors]
    with pytest.raises(error, match=message):
        function(**values)
    assert all((x == old).all() for x, old in zip(tensors, before, strict=True))


zeros = torch.zeros
read_only = np.zeros((5, 3, 4, 4), np.float32)
read_only.flags.writeable = False
ONE_HEAD = torch.zeros(5, 1, 4, 8)
one_buffer = np.zeros(5 * 3 * 4 * 4 + 8, np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"keys": zeros(3, 4, 4)}, ValueError, r"keys: expected shape \[blocks, heads, tokens, size\], got 3 dimensions"),
        ({"keys": zeros(5, 3, 4, 4).double()}, TypeError, "keys: expected dtype float32, float16 or bfloat16, got torch.f"),
        ({"values": zeros(5, 3, 4, 4).half()}, TypeError, "values: expected the dtype of keys, float32, got float16"),
        ({"values": zeros(4, 3, 4, 4)}, ValueError, "values: expected as many blocks as keys, 5, got 4"),
        ({"values": zeros(5, 1, 4, 4)}, ValueError, "values: expected as many heads as keys, 3, got 1"),
        ({"values": zeros(5, 3, 8, 4)}, ValueError, "values: expected as many tokens a block as keys, 4, got 8"),
        ({"values": zeros(5, 3, 4, 0)}, ValueError, "values: expected 1 to .* numbers a token, got 0"),
        ({"keys": read_only}, ValueError, "keys: expected a writable tensor, got a read-only numpy.ndarray"),
        ({"values": read_only}, ValueError, "values: expected a writable tensor, got a read-only numpy.ndarray"),
        ({"keys": zeros(1, 3, 4, 4).expand(5, 3, 4, 4)}, ValueError, "keys: expected a tensor without overlapping elements"),
        ({"keys": one_buffer[:240].reshape(5, 3, 4, 4), "values": one_buffer[8:].reshape(5, 3, 4, 4)}, ValueError,
         "values: expected memory apart from that of keys, got some of the same"),
        ({"keys": one_buffer[:240].reshape(5, 3, 4, 4), "values": one_buffer[:240].reshape(5, 3, 4, 4).swapaxes(2, 3)},
         ValueError, "values: expected memory apart from that of keys, got some of the same"),
        ({"blocks": torch.tensor([4, 5])}, ValueError, r"blocks: expected blocks in \[0, 5\), got 5 at \[1\]"),
        ({"blocks": torch.tensor([-1, 0])}, ValueError, r"blocks: expected blocks in \[0, 5\), got -1 at \[0\]"),
        ({"blocks": torch.tensor([3, 3])}, ValueError, r"blocks: .* distinct .* got 3 a second time at \[1\]"),
        ({"blocks": torch.tensor([3])}, ValueError, "blocks: expected at least 2, for 7 tokens in blocks of 4, got 1"),
        ({"blocks": torch.tensor([[3, 1]])}, ValueError, r"blocks: expected shape \[blocks\], got 2 dimensions"),
        ({"blocks": zeros(2)}, TypeError, "blocks: expected dtype int32 or int64, got torch.float32"),
        ({"blocks": [4, 0]}, TypeError, "blocks: expected a tensor .* got list"),
        ({"positions": torch.tensor([[[2, 0]]])}, ValueError, r"positions: .* ascending positions in \[0, 4\), got 0 at"),
        ({"positions": torch.tensor([[[0, 4]]])}, ValueError, r"positions: .* got 4 at \[0, 0, 1\]"),
        ({"positions": torch.tensor([[[0, 2]]]).int()}, TypeError, "positions: expected dtype int64, got torch.int32"),
        ({"positions": torch.tensor([[0, 2]])}, ValueError, r"positions: expected shape \[batch, heads, kept\], got 2 dim"),
        ({"positions": zeros(1, 2, 2).long()}, ValueError, r"positions: .* 1 head, or as many as keys, 3, got 2"),
        ({"positions": zeros(2, 1, 2).long()}, ValueError, "positions: expected as many rows as requests, 1, got 2"),
        ({"stop": 8}, ValueError, "stop: expected a position from 0 to 7, got 8"),
        ({"start": 6}, ValueError, "start: expected a position from 0 to 5, got 6"),
        ({"length": None}, TypeError, "length: expected an integer, got NoneType"),
    ],
)  # fmt: skip
def test_bad_compactions(changes, error, message):
    assert_refused(compact_blocks_, arguments(**changes), error, message)


@pytest.mark.parametrize(
    ("evidence", "error", "message"),
    [
        (zeros(5, 4, 1), ValueError, r"evidence: expected shape \[blocks, tokens\], got 3 dimensions"),
        (zeros(4, 4), ValueError, "evidence: expected as many blocks as keys, 5, got 4"),
        (zeros(5, 3), ValueError, "evidence: expected as many tokens a block as keys, 4, got 3"),
        (zeros(4, 5).mT, ValueError, "evidence: expected a contiguous last dimension, got stride 5"),
        (zeros(5, 4).half(), TypeError, "evidence: expected dtype float32, got torch.float16"),
        (zeros(1, 4).expand(5, 4), ValueError, "evidence: expected a tensor without overlapping elements"),
        (read_only[:, 0, 0], ValueError, "evidence: expected a writable tensor"),
        (ONE_HEAD[:, 0, :, 0], ValueError, "evidence: expected"),
        (ONE_HEAD.view(5, 32)[:, 8:12], ValueError, "evidence: expected memory apart from that of keys"),
        ([0.0], TypeError, "evidence: expected a tensor"),
    ],
)  # fmt: skip
def test_bad_evidence_of_compactions(evidence, error, message):
    memory = ONE_HEAD
    fine = arguments(keys=memory[..., :4], values=memory[..., 4:])
    assert_refused(compact_blocks_, {**fine, "evidence": evidence}, error, message)
    several = arguments(evidence=zeros(5, 4))
    assert_refused(compact_blocks_, several, ValueError, "keys: expected as many heads a block as evidence, 1, got 3")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"out": zeros(3, 6, 4)}, ValueError, r"out: expected shape \[batch, heads, tokens, size\], got 3 dimensions"),
        ({"out": zeros(2, 3, 6, 4)}, ValueError, "out: expected as many rows as requests, 1, got 2"),
        ({"out": zeros(1, 2, 6, 4)}, ValueError, "out: expected as many heads as cache, 3, got 2"),
        ({"out": zeros(1, 3, 6, 5)}, ValueError, "out: expected as many numbers a token as cache, 4, got 5"),
        ({"out": zeros(1, 3, 4, 6).mT}, ValueError, "out: expected a contiguous last dimension, got stride 6"),
        ({"out": read_only[:1]}, ValueError, "out: expected a writable tensor, got a read-only numpy.ndarray"),
        ({"cache": zeros(5, 3, 4, 4).half()}, TypeError, "cache: expected the dtype of out, float32, got float16"),
        ({"blocks": torch.tensor([4, 5])}, ValueError, r"blocks: expected blocks in \[0, 5\), got 5 at \[1\]"),
        ({"start": 3}, ValueError, "blocks: expected at least 3, for 9 tokens in blocks of 4, got 2"),
        ({"start": 2**31 - 1}, ValueError, "blocks: expected at least 536870914"),
        ({"start": -1}, ValueError, "start: expected .* got -1"),
    ],
)  # fmt: skip
def test_bad_gatherings(changes, error, message):
    assert_refused(gather_blocks_, gathering(**changes), error, message)


def test_a_gathering_into_the_cache_is_refused():
    cache = torch.ones(5, 3, 4, 4)
    assert_refused(gather_blocks_, gathering(out=cache[:1], cache=cache), ValueError, "out: expected memory apart")


def test_missing_arguments():
    for function, fine in ((compact_blocks_, arguments()), (gather_blocks_, gathering())):
        for name in fine:
            with pytest.raises(TypeError, match=rf"{function.__name__}\(\) missing required argument '{name}'"):
                function(**{key: value for key, value in fine.items() if key != name})
