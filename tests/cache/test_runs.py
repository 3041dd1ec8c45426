"""Runs of slots: echo_scores_ and append_ragged_ do what a few lines of torch do, on every level, or nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import _core, append_ragged_, echo_scores_
from strategies import at_each_level

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@st.composite
def caches(draw):
    """Runs in any order, with gaps, of any length."""
    rows, heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(0, 70), min_size=rows * heads, max_size=rows * heads))
    gaps = draw(st.lists(st.integers(0, 3), min_size=rows * heads, max_size=rows * heads))
    starts, first = [0] * len(lengths), 0
    for run in draw(st.permutations(range(len(lengths)))):
        starts[run], first = first, first + lengths[run] + gaps[run]
    shape = (rows, heads)
    dtype, size = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([1, 3, 8, 16, 17, 32, 64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    lengths, starts = torch.tensor(lengths).view(shape), torch.tensor(starts).view(shape)
    pads = torch.tensor([draw(st.integers(0, int(row.min()))) for row in lengths]) if draw(st.booleans()) else None
    keys = torch.randn(first, size, generator=generator).to(dtype)
    queries = torch.randn(rows, heads * group, draw(st.integers(1, 34)), size, generator=generator).to(dtype)
    return keys, queries, starts, lengths, pads


def by_torch(evidence, queries, keys, starts, lengths, pads, scale):
    evidence = evidence.double()
    rows, heads = starts.shape
    for b in range(rows):
        for h in range(heads):
            first, last = int(starts[b, h]) + (0 if pads is None else int(pads[b])), int(starts[b, h] + lengths[b, h])
            if first < last:
                asked = queries[b].unflatten(0, (heads, -1))[h].flatten(0, 1).double()
                weights = (scale * asked @ keys[first:last].double().T).softmax(-1).amax(0)
                evidence[first:last] = torch.maximum(evidence[first:last], weights)
    return evidence


@settings(deadline=None, max_examples=60)
@given(caches(), st.sampled_from([None, 0.3, -1.0]))
def test_evidence_is_the_largest_share(cache, scale):
    keys, queries, starts, lengths, pads = cache
    before = torch.rand(keys.shape[0], generator=torch.Generator().manual_seed(1)) * 0.1

    def call():
        evidence = before.clone()
        assert echo_scores_(evidence, queries, keys, starts=starts, lengths=lengths, pads=pads, scale=scale) is None
        return evidence

    expected = by_torch(before, queries, keys, starts, lengths, pads, queries.shape[-1] ** -0.5 if scale is None else scale)
    for evidence in at_each_level(call):
        torch.testing.assert_close(evidence.double(), expected, rtol=2e-3, atol=1e-6)


def with_rivals(evidence, queries, asked, keys, starts, lengths, pads, scale, window, start):
    """What queries look at where they stand, one by one, is a part of their softmax that gives no evidence."""
    evidence = evidence.double()
    (rows, heads), new = starts.shape, queries.shape[2]
    group = queries.shape[1] // heads
    for b in range(rows):
        for h in range(heads):
            of_head = keys[int(starts[b, h]) :][: int(lengths[b, h])].double()
            first, n = 0 if pads is None else int(pads[b]), len(of_head)
            place = evidence[int(starts[b, h]) + first : int(starts[b, h]) + n]
            for g, j in ((g, j) for g in range(group) for j in range(new) if first < n):
                head, own = h * group + g, n - new + j
                everything = (scale * of_head[first:] @ queries[b, head, j].double()).exp()
                nearby = of_head[max(first, start, n - new - window) : own + 1] if own >= 0 else of_head[:0]
                rivals = (scale * nearby @ asked[b, head, j].double()).exp().sum()
                place.copy_(torch.maximum(place, everything / (everything.sum() + rivals)))
    return evidence


@settings(deadline=None, max_examples=60)
@given(caches(), st.sampled_from([0, 1, 5, 40, 256]), st.sampled_from([0, 3, 1000]))
def test_what_queries_look_at_where_they_stand_competes(cache, window, start):
    keys, queries, starts, lengths, pads = cache
    asked = queries.flip(1, 2)
    before = torch.rand(keys.shape[0], generator=torch.Generator().manual_seed(1)) * 0.1

    def call():
        evidence = before.clone()
        echo_scores_(
            evidence, queries, keys, starts=starts, lengths=lengths, pads=pads, scale=0.3, asked=asked, window=window,
            start=start,
        )  # fmt: skip
        return evidence

    expected = with_rivals(before, queries, asked, keys, starts, lengths, pads, 0.3, window, start)
    for evidence in at_each_level(call):
        torch.testing.assert_close(evidence.double(), expected, rtol=2e-3, atol=1e-6)


def test_a_rival_that_is_much_larger_leaves_nothing(level):
    """And one much smaller changes nothing, on either side of what exponentials can hold."""
    keys, starts, lengths = torch.ones(40, 4), torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), 40)
    for size, expected in ((200.0, 0.0), (-200.0, 1 / 40)):
        evidence = torch.zeros(40)
        echo_scores_(
            evidence, torch.ones(1, 1, 2, 4), keys, starts=starts, lengths=lengths, scale=1.0,
            asked=torch.full((1, 1, 2, 4), size),
        )  # fmt: skip
        torch.testing.assert_close(evidence, torch.full((40,), expected), rtol=1e-5, atol=1e-30)


@settings(deadline=None, max_examples=40)
@given(caches(), st.integers(0, 3))
def test_new_entries_lie_behind_the_others(cache, new):
    keys, _, starts, lengths, _ = cache
    (rows, heads), lengths = starts.shape, (lengths - new).clamp(min=0)
    values = torch.zeros(keys.shape[0], 5, dtype=keys.dtype)
    added = torch.randn(rows, new, heads, keys.shape[1]).to(keys.dtype).transpose(1, 2)
    ends = starts + lengths + new
    if int(ends.max()) > keys.shape[0]:
        with pytest.raises(ValueError, match="starts|lengths: expected 0 to"):
            append_ragged_(
                keys, values, added, added[..., :1].expand(-1, -1, -1, 5).contiguous(), starts=starts, lengths=lengths
            )
        return
    expected = keys.clone(), values.clone()
    more = added[..., :1].expand(-1, -1, -1, 5).contiguous()
    for b in range(rows):
        for h in range(heads):
            at = int(starts[b, h] + lengths[b, h])
            expected[0][at : at + new], expected[1][at : at + new] = added[b, h], more[b, h]
    append_ragged_(keys, values, added, more, starts=starts, lengths=lengths)
    assert torch.equal(keys, expected[0]) and torch.equal(values, expected[1])


@pytest.mark.parametrize("query", [0, 31, 32, 98])
def test_one_query_that_is_not_finite_is_seen_wherever_it_is(level, query):
    """Queries of a head are worked on in parts."""
    keys, queries, evidence = torch.randn(50, 8), torch.randn(1, 3, 33, 8), torch.full((50,), 0.01)
    queries.view(99, 8)[query, 3] = nan
    with pytest.raises(ValueError, match="queries, keys: expected finite numbers"):
        echo_scores_(evidence, queries, keys, starts=torch.zeros(1, 1, dtype=torch.long), lengths=torch.full((1, 1), 50))
    assert (evidence == 0.01).all()


def test_many_threads_come_to_the_same():
    keys, queries = torch.randn(20_000, 64), torch.randn(2, 6, 33, 64)
    starts, lengths = torch.tensor([[0, 9000], [10_000, 19_000]]), torch.tensor([[9000, 1000], [9000, 1000]])
    results, before = [], _core.get_num_threads()
    for threads in (1, 4):
        _core.set_num_threads(threads)
        results.append(torch.zeros(20_000))
        echo_scores_(results[-1], queries, keys, starts=starts, lengths=lengths, asked=queries.flip(3))
    _core.set_num_threads(before)
    assert torch.equal(*results)


def good():
    keys, queries = torch.ones(12, 4), torch.ones(2, 4, 3, 4)
    starts, lengths = torch.tensor([[0, 3], [6, 9]]), torch.full((2, 2), 2)
    new = torch.ones(2, 2, 1, 4)
    pads = torch.zeros(2, dtype=torch.int64)
    return dict(evidence=torch.zeros(12), queries=queries, keys=keys, values=torch.zeros(12, 4), new_keys=new,
                new_values=new, starts=starts, lengths=lengths, pads=pads, scale=1.0, asked=queries.clone(), window=2,
                start=1)  # fmt: skip


ECHO = ("evidence", "queries", "keys", "starts", "lengths", "pads", "scale", "asked", "window", "start")
APPEND = ("keys", "values", "new_keys", "new_values", "starts", "lengths")
nan = float("nan")
BAD = [
    (ECHO, "evidence", torch.zeros(11), ValueError, "evidence: expected as many slots as keys, 12, got 11"),
    (ECHO, "evidence", torch.zeros(12, 1), ValueError, r"evidence: expected shape \[slots\]"),
    (ECHO, "evidence", torch.zeros(12, dtype=torch.float64), TypeError, "evidence: expected dtype float32"),
    (ECHO, "evidence", torch.zeros(24)[::2], ValueError, "evidence: expected a contiguous last dimension"),
    (ECHO, "queries", torch.ones(2, 3, 3, 4), ValueError, "queries: expected a multiple of the 2 heads .* got 3"),
    (ECHO, "queries", torch.ones(2, 4, 0, 4), ValueError, "queries: expected at least one token, got none"),
    (ECHO, "queries", torch.ones(2, 4, 3, 5), ValueError, "keys: expected as many numbers .* 5, got 4"),
    (ECHO, "queries", torch.full((2, 4, 3, 4), nan), ValueError, "queries, keys: expected finite numbers"),
    (ECHO, "keys", torch.full((12, 4), float("inf")), ValueError, "queries, keys: expected finite numbers"),
    (ECHO, "keys", torch.ones(12, 4, dtype=torch.float16), TypeError, "keys: expected the dtype of queries"),
    (ECHO, "keys", torch.ones(1, 12, 1, 4), ValueError, r"keys: expected shape \[slots, size\]"),
    (ECHO, "starts", torch.tensor([[0, 3]]), ValueError, "starts: expected as many rows as queries, 2, got 1"),
    (ECHO, "starts", torch.tensor([[0, 3], [6, 13]]), ValueError, "starts: expected 0 to 12, .* got 13 for row 1"),
    (ECHO, "starts", torch.tensor([[0, 3], [6, -1]]), ValueError, "starts: expected 0 to 12, .* got -1 for row 1"),
    (ECHO, "lengths", torch.tensor([[2, 2], [2, 4]]), ValueError, "lengths: expected 0 to 3, .* got 4 for row 1, head 1"),
    (ECHO, "lengths", torch.ones(2, 2), TypeError, "lengths: expected dtype int64, got torch.float32"),
    (ECHO, "lengths", torch.ones(2, 3, dtype=torch.int64), ValueError, "lengths: expected as many heads .* 2, got 3"),
    (ECHO, "pads", torch.tensor([0, 3]), ValueError, "pads: expected 0 to 2, the length .* got 3 for row 1, head 0"),
    (ECHO, "pads", torch.tensor([0]), ValueError, "pads: expected as many rows as queries, 2, got 1"),
    (ECHO, "scale", nan, ValueError, "scale"),
    (ECHO, "asked", torch.ones(2, 4, 2, 4), ValueError, "asked: expected as many tokens as queries, 3, got 2"),
    (ECHO, "asked", torch.ones(2, 2, 3, 4), ValueError, "asked: expected as many heads as queries, 4, got 2"),
    (ECHO, "asked", torch.ones(1, 4, 3, 4), ValueError, "asked: expected as many rows as queries, 2, got 1"),
    (ECHO, "asked", torch.ones(2, 4, 3, 5), ValueError, "asked: expected as many numbers .* 4, got 5"),
    (ECHO, "asked", torch.ones(2, 4, 3, 4).half(), TypeError, "asked: expected the dtype of queries"),
    (ECHO, "asked", torch.full((2, 4, 3, 4), nan), ValueError, "queries, keys: expected finite numbers"),
    (ECHO, "window", -1, ValueError, "window: expected an integer from 0 to"),
    (ECHO, "start", "1", TypeError, "start: expected an integer, got str"),
    (APPEND, "lengths", torch.tensor([[2, 2], [2, 3]]), ValueError, "lengths: expected 0 to 2, .* got 3 for row 1, head 1"),
    (APPEND, "values", torch.zeros(11, 4), ValueError, "values: expected as many slots as keys, 12, got 11"),
    (APPEND, "values", torch.zeros(12, 5), ValueError, "new_values: expected as many numbers .* 5, got 4"),
    (APPEND, "new_keys", torch.ones(2, 2, 1, 3), ValueError, "new_keys: expected as many numbers .* 4, got 3"),
    (APPEND, "new_keys", torch.ones(2, 2, 2, 4), ValueError, "new_values: expected as many tokens as new_keys, 2, got 1"),
    (APPEND, "new_keys", torch.ones(3, 2, 1, 4), ValueError, "new_values: expected as many rows as new_keys, 3, got 2"),
    (APPEND, "new_values", torch.ones(2, 2, 1, 4).half(), TypeError, "new_values: expected the dtype of new_keys"),
    (APPEND, "starts", torch.tensor([[0], [6]]), ValueError, "lengths: expected as many heads as starts, 1, got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "name", "value", "error", "message"), BAD)
def test_bad_input_is_named_and_nothing_is_written(names, name, value, error, message):
    arguments = good() | {name: value}
    before = {key: arguments[key].clone() for key in names if isinstance(arguments[key], torch.Tensor)}
    with pytest.raises(error, match=message):
        if names is ECHO:
            echo_scores_(**{key: arguments[key] for key in names})
        else:
            append_ragged_(**{key: arguments[key] for key in names})
    assert all(torch.equal(arguments[key].nan_to_num(), before[key].nan_to_num()) for key in before)


def test_what_is_written_is_not_read():
    arguments = good()
    memory = torch.zeros(60)
    keys, evidence = memory[:48].view(12, 4), memory[40:52]
    with pytest.raises(ValueError, match="evidence: expected memory apart from that of keys"):
        echo_scores_(evidence, arguments["queries"], keys, starts=arguments["starts"], lengths=arguments["lengths"])
    with pytest.raises(ValueError, match="values: expected memory apart from that of keys"):
        append_ragged_(keys, keys, *[arguments["new_keys"]] * 2, starts=arguments["starts"], lengths=arguments["lengths"])
    with pytest.raises(ValueError, match="new_keys: expected memory apart from that of keys"):
        append_ragged_(
            keys, arguments["values"], keys[:4].view(2, 2, 1, 4), arguments["new_values"],
            starts=arguments["starts"], lengths=arguments["lengths"],
        )  # fmt: skip


def test_the_good_arguments_are():
    for function, names in ((echo_scores_, ECHO), (append_ragged_, APPEND)):
        function(**{key: good()[key] for key in names})
