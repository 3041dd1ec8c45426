"""A GPU computes what the CPU computes: the LZ routines to the last bit, attention scores up to the rounding of sums."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import (
    append_,
    attention_scores,
    compact_,
    dry_penalize_,
    loop_evidence,
    lz_penalize_,
    repetition_period,
    select_top,
)
from strategies import coders, dry_options, histories, options, within
from thorough import examples

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
texts = st.tuples(
    st.lists(histories(200), min_size=1, max_size=3),
    st.sampled_from([np.int32, np.int64]),
    st.sampled_from(["each", "one", "number"]),
)


def batch(drawn):
    """Rows, padded on the left, and where each begins, or one position for all: a tensor or a number."""
    rows, dtype, form = drawn
    length = max(len(row) for row in rows)
    tokens = np.full((len(rows), length), 3, dtype)
    for row, history in zip(tokens, rows, strict=True):
        row[length - len(history) :] = history
    starts = torch.from_numpy(np.array([length - len(row) for row in rows], dtype))
    return torch.from_numpy(tokens), {"each": starts, "one": starts[0], "number": int(starts[0])}[form]


def same_bits(got, wanted):
    return got.view(torch.uint8).equal(wanted.view(torch.uint8))


@given(texts, coders, options, st.sampled_from([2, 16, 41, 1000]), st.sampled_from(FLOATS))
@examples(1500)
def test_lz_penalty_bit_for_bit(gpu, drawn, coder, option, vocab, dtype):
    tokens, starts = batch(drawn)
    option = within(option, vocab)
    logits = torch.randn(len(tokens), vocab, generator=torch.Generator().manual_seed(vocab)).to(dtype)
    wanted = lz_penalize_(logits.clone(), tokens, starts=starts, **coder, **option)
    got = gpu.of(lz_penalize_)(logits.clone(), tokens, starts=starts, **coder, **option)
    assert same_bits(got, wanted)


@given(texts, dry_options, st.sampled_from(FLOATS))
@settings(max_examples=200, deadline=None)
def test_dry_and_periods_bit_for_bit(gpu, drawn, option, dtype):
    tokens, starts = batch(drawn)
    logits = torch.randn(len(tokens), 41, generator=torch.Generator().manual_seed(0)).to(dtype)
    wanted = dry_penalize_(logits.clone(), tokens, starts=starts, **option)
    assert same_bits(gpu.of(dry_penalize_)(logits.clone(), tokens, starts=starts, **option), wanted)
    loop = dict(ngram=3, count=3, max_period=40, starts=starts)
    assert gpu.of(repetition_period)(tokens, **loop).equal(repetition_period(tokens, **loop))


@given(texts, st.integers(1, 8), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_loop_evidence(gpu, drawn, gram, window):
    tokens, starts = batch(drawn)
    read = dict(gram=gram, window=window, starts=starts)
    assert gpu.of(loop_evidence)(tokens, **read).equal(loop_evidence(tokens, **read))


@pytest.mark.parametrize("cost", ["lzss", "pair", "distance"])
def test_large_windows(gpu, cost):
    rng = np.random.default_rng(0)
    for text in (rng.integers(0, 150_000, 5000), rng.integers(0, 40, 5000), np.tile(rng.integers(0, 99, 700), 7)):
        logits = rng.normal(size=151_936).astype(np.float32)
        for more in (
            {},
            {"min_match": 3},
            {},
            {"gate": (0, 3000), "release": [[1, 2], 3], "release_after": 2000, "open": 151_000},
        ):
            more = {"cost": cost, "window": 4096, "buffer": 64, **more}
            wanted = lz_penalize_(logits.copy(), text, **more)
            assert gpu.of(lz_penalize_)(logits.copy(), text, **more).tobytes() == wanted.tobytes()


def test_ids_beyond_32_bits(gpu):
    big = 2**32 + 4
    for text in ([big, 5, 9, big], [big, 5, 9, 4], [big, 5, 9, big + 2**32], [-1, 5, 9, big], [-1, -2, -1, big, -2]):
        wanted = lz_penalize_(np.zeros(10), np.array(text))
        np.testing.assert_array_equal(gpu.of(lz_penalize_)(np.zeros(10), np.array(text)), wanted)


attentions = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "heads": st.integers(1, 3),
        "group": st.integers(1, 3),
        "recent": st.sampled_from([1, 5, 32, 70]),
        "size": st.sampled_from([1, 8, 31, 64, 100]),
        "tokens": st.integers(1, 700),
        "kernel": st.sampled_from([1, 3, 7, 1001]),
        "aggregation": st.sampled_from(["layer", "group"]),
        "dtype": st.sampled_from(FLOATS[:3]),
        "seed": st.integers(0, 2**20),
    }
)


def draw_attention(drawn):
    """Queries, keys and a region of them."""
    random = torch.Generator().manual_seed(drawn["seed"])
    heads, size, dtype = drawn["heads"], drawn["size"], drawn["dtype"]
    queries = torch.randn(drawn["batch"], heads * drawn["group"], drawn["recent"], size, generator=random).to(dtype)
    keys = torch.randn(drawn["batch"], drawn["tokens"], heads, size, generator=random).to(dtype).transpose(1, 2)
    start = int(torch.randint(0, drawn["tokens"], (), generator=random))
    stop = int(torch.randint(start + 1, drawn["tokens"] + 1, (), generator=random))
    return queries, keys, {"start": start, "stop": stop}


@given(attentions)
@examples(100)
def test_attention_scores(gpu, drawn):
    queries, keys, region = draw_attention(drawn)
    options = {**region, "kernel": drawn["kernel"], "aggregation": drawn["aggregation"]}
    got = gpu.of(attention_scores)(queries, keys, **options)
    wanted = attention_scores(queries, keys, **options)
    torch.testing.assert_close(got, wanted, rtol=3e-5, atol=1e-9)


def test_scores_are_reproducible(gpu):
    queries, keys = torch.randn(1, 4, 32, 64), torch.randn(1, 2, 900, 64)
    runs = [gpu.of(attention_scores)(queries, keys, start=3, stop=880) for _ in range(3)]
    assert runs[0].equal(runs[1]) and runs[0].equal(runs[2])


def test_nan_scores_sort_as_lowest(gpu):
    queries, keys = torch.randn(1, 2, 3, 8), torch.randn(1, 1, 50, 8)
    keys[0, 0, 7, 3] = float("nan")
    scores = gpu.of(attention_scores)(queries, keys, start=0, stop=50, check=False)
    assert scores.isnan().all()
    assert gpu.of(select_top)(scores, 5).flatten().tolist() == [0, 1, 2, 3, 4]
    scores[0, 0, 30] = float("-inf")
    assert gpu.of(select_top)(scores, 1).item() == 30


@given(st.integers(1, 2500), st.integers(0, 2**20), st.sampled_from([1, 4, 1000]), st.data())
@examples(150)
def test_select_top(gpu, n, seed, levels, data):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=(2, 2, n)) * levels).astype(np.float32) * rng.choice(np.float32([1, -1, 1e-42]))
    if n > 3:
        scores[0, 0, :3] = np.nan, -0.0, np.inf
    k = data.draw(st.integers(1, n))
    np.testing.assert_array_equal(gpu.of(select_top)(scores, k), select_top(scores, k))


moves = st.fixed_dictionaries(
    {
        "sizes": st.tuples(st.sampled_from([1, 2, 6, 8, 40, 64, 128]), st.sampled_from([2, 3, 8, 128])),
        "heads": st.integers(1, 3),
        "own": st.booleans(),
        "tokens": st.integers(1, 900),
        "dtype": st.sampled_from(FLOATS[:3]),
        "seed": st.integers(0, 2**20),
    }
)


@given(moves)
@settings(max_examples=150, deadline=None)
def test_compact(gpu, drawn):
    rng = np.random.default_rng(drawn["seed"])
    capacity, heads = drawn["tokens"], drawn["heads"]
    start, stop, length = (int(x) for x in np.sort(rng.integers(0, capacity + 1, 3)))
    kept = int(rng.integers(0, stop - start + 1))
    own = heads if drawn["own"] else 1
    rows = [np.sort(rng.permutation(stop - start)[:kept]) for _ in range(2 * own)]
    positions = torch.from_numpy(np.array(rows, np.int64).reshape(2, own, kept))
    keys, values = (torch.randn(2, heads, capacity, size).to(drawn["dtype"]) for size in drawn["sizes"])
    wanted = keys.clone(), values.clone()
    got = keys.clone(), values.clone()
    end = compact_(*wanted, positions, start=start, stop=stop, length=length)
    assert gpu.of(compact_)(*got, positions, start=start, stop=stop, length=length) == end
    for cache, correct, before in zip(got, wanted, (keys, values), strict=True):
        assert cache[:, :, :end].equal(correct[:, :, :end]) and cache[:, :, length:].equal(before[:, :, length:])


def padded(shape, extra, offset):
    """A bfloat16 tensor with so many unused items after each row, each head, each token, and before all."""
    batch, heads, tokens, size = shape
    token = size + extra[2]
    head = tokens * token + extra[1]
    row = heads * head + extra[0]
    memory = torch.randn(offset + batch * row).bfloat16()
    return memory, memory[offset:].as_strided(shape, (row, head, token, 1))


@pytest.mark.parametrize("shape", [(2, 3, 9, 16), (1, 3, 9, 16), (2, 1, 9, 16), (2, 3, 1, 16)])
@pytest.mark.parametrize("extra", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (8, 8, 8)])
@pytest.mark.parametrize("offset", [0, 1, 2, 8])
def test_moves_in_memory_of_any_alignment(gpu, shape, extra, offset):
    (memory, keys), (other, values) = (padded(shape, extra, offset) for _ in range(2))
    stop = shape[2]
    positions, new = torch.tensor([[[stop - 1]]]).expand(shape[0], 1, 1), torch.randn(*shape[:2], 1, 16).bfloat16()
    wanted = memory.clone(), other.clone()
    for move, arguments in ((compact_, (positions,)), (append_, (new, new))):
        options = {"start": 0, "stop": stop, "length": stop} if move is compact_ else {"position": stop - 1}
        correct = [x.as_strided(shape, keys.stride(), offset) for x in wanted]
        move(*correct, *arguments, **options)
        gpu.of(move)(keys, values, *arguments, **options)
        assert memory.equal(wanted[0]) and other.equal(wanted[1])


@given(moves)
@settings(max_examples=150, deadline=None)
def test_append(gpu, drawn):
    rng = np.random.default_rng(drawn["seed"])
    added = int(rng.integers(1, drawn["tokens"] + 1))
    position = int(rng.integers(0, drawn["tokens"] - added + 1))
    cache = [torch.randn(2, drawn["heads"], drawn["tokens"], size).to(drawn["dtype"]) for size in drawn["sizes"]]
    new = [torch.randn(2, added, drawn["heads"], size).to(drawn["dtype"]).transpose(1, 2) for size in drawn["sizes"]]
    wanted = [x.clone() for x in cache]
    append_(*wanted, *new, position=position)
    assert gpu.of(append_)(*cache, *new, position=position) == position + added
    assert all(got.equal(correct) for got, correct in zip(cache, wanted, strict=True))
