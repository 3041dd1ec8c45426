"""A row of a batch keeps the very entries that it keeps alone, whatever its neighbours say and however rows are chosen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.hf import CompressedCache
from tiny import generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = dict(interval=16, ratio=4, recent=8)
KINDS = [
    *[dict(selector=selector, allocation="global") for selector in SELECTORS],
    *[dict(selector=selector, allocation="even") for selector in SELECTORS if selector != "echo"],
    *[dict(selector=selector, allocation="even", aggregation="group") for selector in ("rpc", "lagkv")],
]


def names(options):
    return "-".join(options.values())


def held(cache, row, pads=0):
    """The columns of what each head of a row has, without the padding; the keys beside them."""
    found = []
    for layer in cache.layers:
        if hasattr(layer, "columns_of"):
            for head in range(layer.heads):
                found.append((layer.columns_of(row, head), layer.of_cell(layer.key_slots, row, head)))
        else:
            columns = layer.entry_columns().expand(-1, layer.keys.shape[1], -1)
            found += [(columns[row, head], layer.keys[row, head]) for head in range(layer.keys.shape[1])]
    return [(columns[pads:] - pads, keys[pads:]) for columns, keys in found]


def assert_alike(ours, theirs):
    assert len(ours) == len(theirs)
    for (columns, keys), (other, other_keys) in zip(ours, theirs, strict=True):
        assert torch.equal(columns, other)
        torch.testing.assert_close(keys, other_keys, rtol=1e-3, atol=1e-3)


def alone(ids, options, turns, message=0):
    with CompressedCache(tiny(), **SMALL, **options) as cache:
        text = generate(tiny(), ids, turns[0], **{CACHE_ARGUMENT: cache})
        for turn in turns[1:]:
            text = torch.cat([text, prompt(1, 6, message)], 1)
            text = generate(tiny(), text, turn, **{CACHE_ARGUMENT: cache})
    return text, cache


@pytest.mark.parametrize("options", KINDS, ids=names)
def test_left_padded_rows_and_further_turns(options):
    ids, mask = prompt(3, 20, 11), torch.ones(3, 20, dtype=torch.int64)
    pads = (7, 3, 0)
    for row in range(3):
        mask[row, : pads[row]] = 0
    with CompressedCache(tiny(), **SMALL, **options) as cache:
        text = generate(tiny(), ids * mask, 35, mask, **{CACHE_ARGUMENT: cache})
        text = torch.cat([text, prompt(1, 6, 0).expand(3, -1)], 1)
        longer = torch.cat([mask, torch.ones(3, 41, dtype=mask.dtype)], 1)
        text = generate(tiny(), text, 30, longer, **{CACHE_ARGUMENT: cache})
    for row in range(3):
        expected, single = alone(ids[row : row + 1, pads[row] :], options, (35, 30))
        assert torch.equal(text[row, pads[row] :], expected[0])
        assert single.stats()["compressions"] == cache.stats()["compressions"] == 3
        assert_alike(held(cache, row, pads[row]), held(single, 0))


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(1, 60), st.booleans())
def test_rows_that_are_chosen_anywhere(options, rows, at, again):
    """Fed token by token; after some tokens only these rows go on, in this order."""
    texts, at = prompt(3, 80, 5), min(at, 59)
    with CompressedCache(tiny(), **SMALL, **options) as cache, torch.no_grad():
        tiny()(texts[:, :20], **{CACHE_ARGUMENT: cache})
        for i in range(20, 80):
            if i == 20 + at:
                cache.batch_select_indices(torch.tensor(rows))
                if again:
                    cache.batch_repeat_interleave(2)
                    rows = [row for row in rows for _ in range(2)]
            fed = texts if i < 20 + at else texts[rows]
            tiny()(fed[:, i : i + 1], **{CACHE_ARGUMENT: cache})
    for number, row in enumerate(rows):
        with CompressedCache(tiny(), **SMALL, **options) as single, torch.no_grad():
            for piece in texts[row : row + 1].split([20, *[1] * 60], dim=1):
                tiny()(piece, **{CACHE_ARGUMENT: single})
        assert_alike(held(cache, number), held(single, 0))


@pytest.mark.parametrize("options", [KINDS[i] for i in range(0, len(KINDS), 5)], ids=names)
def test_beams_and_samples_of_rows(options):
    with CompressedCache(tiny(), **SMALL, **options) as cache:
        together = generate(tiny(), prompt(2), 45, num_beams=3, **{CACHE_ARGUMENT: cache})
    for row in range(2):
        with CompressedCache(tiny(), **SMALL, **options) as single:
            assert torch.equal(
                together[row], generate(tiny(), prompt(2)[row : row + 1], 45, num_beams=3, **{CACHE_ARGUMENT: single})[0]
            )
        for each in range(3):
            assert_alike(held(cache, 3 * row + each), held(single, each))
    torch.manual_seed(3)
    with CompressedCache(tiny(), **SMALL, **options) as cache:
        texts = generate(tiny(), prompt(1), 45, do_sample=True, num_return_sequences=3, **{CACHE_ARGUMENT: cache})
    for row in range(3):  # fed what was drawn, alone
        with CompressedCache(tiny(), **SMALL, **options) as single, torch.no_grad():
            for piece in texts[row : row + 1, :-1].split([20, *[1] * 44], dim=1):
                tiny()(piece, **{CACHE_ARGUMENT: single})
        assert_alike(held(cache, row), held(single, 0))


def test_each_row_has_the_same_total():
    sizes = []
    for rows in (1, 4):
        with CompressedCache(tiny(), **SMALL) as cache:
            generate(tiny(), prompt(rows, 20, 2), 60, **{CACHE_ARGUMENT: cache})
        stats = cache.stats()
        totals = {sum(sum(layer[row]) for layer in stats["kept_by_head"]) for row in range(rows)}
        assert totals == {3 * 2 * stats["kept"]}
        sizes.append(stats["bytes"] / rows)
    assert sizes[0] == sizes[1]
