"""Whatever a mask says, a cache says what transformers' own says, or what masks over all tokens come to, or refuses."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from lzpenalty.cache.attention import CACHE_ARGUMENT, find_attention
from lzpenalty.cache.masks import View, follow
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.hf import CompressedCache, Forget, ForgetCache
from mask_oracle import angles, masked
from tiny import OWN_SIZES, SIZES, VOCAB, generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = dict(interval=16, ratio=4, recent=8)
NEVER = Forget(close=VOCAB - 1, then=[VOCAB - 2])
CACHES = {
    "interval=None": lambda model: CompressedCache(model, interval=None),
    "echo": lambda model: CompressedCache(model, interval=512),
    "rpc": lambda model: CompressedCache(model, interval=512, selector="rpc"),
    "h2o, global": lambda model: CompressedCache(model, interval=512, selector="h2o", allocation="global"),
    "ForgetCache": lambda model: ForgetCache(model, NEVER),
}


def make(architecture, attention="sdpa", **changes):
    """All parameters drawn, since some that are zero in an untrained model hide what they do."""
    torch.manual_seed(0)
    sizes = {**SIZES, **OWN_SIZES.get(architecture, {}), **changes}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(architecture, **sizes), attn_implementation=attention
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def looks_up(model):
    """Whether this transformers lets others see its attention."""
    try:
        find_attention(model)
    except ValueError:
        return False
    return True


def feed(model, cache, pieces, masks):
    """Logits of all pieces of a text, each with its mask."""
    with torch.no_grad():
        fed = [
            model(piece, attention_mask=mask, **{CACHE_ARGUMENT: cache}).logits
            for piece, mask in zip(pieces, masks, strict=True)
        ]
    return torch.cat(fed, 1)


# What is read from a mask.


@st.composite
def masks(draw):
    """Of booleans or numbers, one for all heads or one for each, by and large left padding, with mistakes or without."""
    rows, heads, columns = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 7))
    new = draw(st.integers(1, columns))
    pads = draw(st.lists(st.integers(0, columns), min_size=rows, max_size=rows))
    shown = [
        [[[pads[b] <= j <= i + columns - new for j in range(columns)] for i in range(new)] for _ in range(heads)]
        for b in range(rows)
    ]
    for b, h, i, j in draw(
        st.lists(
            st.tuples(
                st.integers(0, rows - 1), st.integers(0, heads - 1), st.integers(0, new - 1), st.integers(0, columns - 1)
            ),
            max_size=2,
        )
    ):
        shown[b][h][i][j] = not shown[b][h][i][j]
    mask = torch.tensor(shown)
    if draw(st.booleans()):
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
        hidden = draw(st.sampled_from([torch.finfo(dtype).min, -torch.inf]))
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, hidden)
        if draw(st.booleans()):
            mask[draw(st.integers(0, rows - 1)), 0, 0, draw(st.integers(0, columns - 1))] += draw(
                st.sampled_from([0.5, -0.5])
            )
    return mask


@given(masks())
def test_a_view_is_what_its_definition_says(mask):
    rows, heads, new, columns = mask.shape
    numbers = (torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask.double()).tolist()
    lowest = -1e30 if mask.dtype != torch.float16 else -65504
    shown = [[[[x > lowest for x in row] for row in head] for head in of] for of in numbers]
    view = View(mask, new, columns)
    pads = [next((j for j in range(columns) if any(head[-1][j] for head in of)), columns) for of in shown]
    plain = all(
        (numbers[b][h][i][j] == 0 if pads[b] <= j <= i + columns - new else not shown[b][h][i][j])
        for b, h, i, j in itertools.product(range(rows), range(heads), range(new), range(columns))
        if i + columns - new >= pads[b]
    ) and all(x == 0 or x <= lowest for of in numbers for head in of for row in head for x in row)
    assert view.plain == plain
    if plain:
        assert (view.pads.tolist() if view.pads is not None else [0] * rows) == pads
    hidden = [[not any(head[-1][j] for head in of) for j in range(columns)] for of in shown]
    assert (view.hidden.tolist() if view.hidden is not None else [[False] * columns] * rows) == hidden
    filler = [[not any(head[i][i + columns - new] for head in of) for i in range(new)] for of in shown]
    assert (view.filler.tolist() if view.filler is not None else [[False] * new] * rows) == filler
    assert view.empty == any(not any(row) for of in shown for head in of for row in head)


@given(masks(), st.data())
def test_following_takes_out_the_columns_that_are_left(mask, data):
    rows, count, new, columns = mask.shape
    key_heads, heads = data.draw(st.sampled_from([1, 2])), 2
    left = torch.tensor(
        [[data.draw(st.permutations(range(columns)))[: columns - 1] for _ in range(key_heads)] for _ in range(rows)]
    ).long().view(rows, key_heads, -1)  # fmt: skip
    got = follow(mask, left, heads)
    for b, h, i, at in itertools.product(range(rows), range(got.shape[1]), range(new), range(left.shape[2])):
        column = left[b, h * key_heads // got.shape[1], at]
        assert got[b, h, i, at] == mask[b, min(h, count - 1), i, column]


# As long as nothing has been dropped: transformers' own cache.


def drawn(seed, new, columns, rows=2, heads=4):
    """A mask of some kind for new tokens, which see themselves."""
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    own = torch.arange(columns - new, columns)[:, None]
    causal = (torch.arange(columns) <= own)[None, None]
    kind = ("numbers", "positive", "heads", "holes", "holes of heads")[seed % 5]
    if kind in ("holes", "holes of heads"):
        shown = (random(rows, 1 if kind == "holes" else heads, new, columns) > 0.3) & causal
        return kind, shown | (torch.arange(columns) == own)
    numbers = 4 * random(rows, heads if kind == "heads" else 1, new, columns) - (0 if kind == "positive" else 2)
    return kind, numbers.masked_fill(~causal, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CACHES)
def test_any_mask_says_what_transformers_cache_says(name, attention):
    model, ids = tiny("llama", attention), prompt(2, 20, 3)
    for seed in range(10):
        pieces = ids.split([12, 1, 1, 4, 1, 1], dim=1)
        given, seen = [], 0
        for i, piece in enumerate(pieces):
            seen += piece.shape[1]
            mask = drawn(seed + i, piece.shape[1], seen)[1]
            if attention == "eager" and mask.dtype == torch.bool:  # which adds what it gets
                mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
            given.append(mask)
        wanted = feed(model, DynamicCache(config=model.config), pieces, given)
        with CACHES[name](model) as cache:
            torch.testing.assert_close(feed(model, cache, pieces, given), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CACHES)
def test_a_mask_of_tokens_with_gaps(name):
    """As a chat has them: rows that ended early are filled up, and the filler is masked from the next turn on."""
    model, ids = tiny(), prompt(3, 40, 3).clamp(max=VOCAB - 3)  # none that ForgetCache looks for
    for seed in range(4):
        mask = (torch.rand(3, 40, generator=torch.Generator().manual_seed(seed)) > 0.25).long()
        mask[:, -1] = mask[:, 5] = 1
        pieces = ids.split([14, 1, 1, 1, 9, 1, 13], dim=1)
        ends = torch.tensor([piece.shape[1] for piece in pieces]).cumsum(0)
        given = [mask[:, :end] for end in ends]
        wanted = feed(model, DynamicCache(config=model.config), pieces, given)
        with CACHES[name](model) as cache:
            got = feed(model, cache, pieces, given)
        there = mask.bool()
        torch.testing.assert_close(got[there], wanted[there], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_models_that_ask_for_more_than_attention_to_the_caches_values(attention):
    """DiffLlama attends twice a layer, to halves of the values; Doge adds numbers of its own to the scores of each head."""
    for architecture, refused in (("diffllama", "2 calls of attention a layer"), ("doge", "masks of its own")):
        model, ids = make(architecture, attention), prompt(2, 20)
        if not looks_up(model):
            with pytest.raises(ValueError, match="expected one that looks its attention up"):
                CompressedCache(model, interval=None)
            continue
        pieces = ids.split([12, *[1] * 8], dim=1)
        wanted = feed(model, DynamicCache(config=model.config), pieces, [None] * 9)
        with CompressedCache(model, interval=None) as cache:
            torch.testing.assert_close(feed(model, cache, pieces, [None] * 9), wanted, rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match=refused):
            ForgetCache(model, NEVER)
        with pytest.raises(ValueError, match=refused):
            CompressedCache(model, **SMALL, selector="echo")
    with pytest.raises(ValueError, match="masks of its own"):
        CompressedCache(model, **SMALL, selector="rpc")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_second_call_in_a_step_neither_observes_nor_compresses_again(attention):
    """A model that asks each question twice keeps what it keeps when it asks once; what it drops, it drops after both."""
    model, ids = make("diffllama", attention), prompt(2, 50)
    if not looks_up(model):
        pytest.skip("this transformers shows nobody the attention of DiffLlama")
    pieces = ids.split([12, *[1] * 38], dim=1)
    for selector in ("rpc", "h2o", "expected"):
        with CompressedCache(model, **SMALL, selector=selector) as cache:
            feed(model, cache, pieces[:24], [None] * 24)
            before = [layer.own_selector for layer in cache.layers]
            assert cache.stats()["compressions"] == 0
            got = feed(model, cache, pieces[24:], [None] * 15)
        assert cache.stats()["compressions"] == 1 and cache.stats()["kept"] == 50 - 16 + 4
        assert got.isfinite().all() and before == [layer.own_selector for layer in cache.layers]
    wanted = feed(model, DynamicCache(config=model.config), pieces, [None] * 39)
    torch.testing.assert_close(got[:, :1], wanted[:, 35:36], rtol=1e-4, atol=1e-4)  # the step that compressed saw all


# Once something has been dropped: what masks over all tokens come to.


@pytest.mark.parametrize(
    "rule", [{}, {"selector": "rpc", "allocation": "global"}, {"selector": "rpc", "aggregation": "group"}]
)
@pytest.mark.parametrize("seed", range(6))
def test_masks_are_followed_by_column(rule, seed):
    """A text whose mask has gaps, in turns of one token and of several, through compressions."""
    model, generator = tiny(), torch.Generator().manual_seed(seed)
    ids, total = prompt(3, 110, seed), 110
    mask = torch.ones(3, total, dtype=torch.int64)
    mask[0, :7] = mask[1, :2] = 0
    for row in range(3):  # answers that ended early
        first = int(torch.randint(25, 70, (1,), generator=generator))
        mask[row, first : first + int(torch.randint(1, 25, (1,), generator=generator))] = 0
    sizes = [20, *[1] * 30, 7, *[1] * 20, 13, *[1] * 20]
    pieces = ids.split(sizes, dim=1)
    ends = torch.tensor(sizes).cumsum(0)
    # Filler is masked from the next message on, as in a chat; in every other text at once.
    given = []
    for end in ends.tolist():
        known = max([e for e, size in zip(ends.tolist(), sizes, strict=True) if size > 1 and e <= end])
        given.append(torch.cat([mask[:, :known], torch.ones_like(mask[:, known:end])], 1) if seed % 2 else mask[:, :end])
    options = {**SMALL, **rule}
    asked = {"rule": rule.get("selector", "echo"), "allocation": "even" if "aggregation" in rule else "global"}
    with masked(model, **SMALL, **asked, angles=angles(model)) as oracle:
        wanted = feed(model, DynamicCache(config=model.config), pieces, given)
    with CompressedCache(model, **options) as cache:
        got = feed(model, cache, pieces, given)
    assert cache.stats()["compressions"] == oracle.intervals >= 5
    there = mask.bool()
    torch.testing.assert_close(got[there], wanted[there], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("allocation", ["even", "global"])
@pytest.mark.parametrize("selector", SELECTORS)
def test_what_filler_says_has_no_say(selector, allocation):
    """Rows that ended early, at generated places: the next turn, which masks what was put behind them, is the same whatever
    that was."""
    if selector == "echo" and allocation == "even":
        allocation = "global"
    model, ids = tiny(), prompt(3, 20, 7)
    for seed in range(3):
        row = seed % 3
        padded = (torch.arange(20) >= torch.tensor([[5], [0], [11]]) * (seed > 0)).long()
        plain = generate(model, ids * padded, 45, padded)
        stop = int(plain[row, 22 + 5 * seed])  # a word that this row says early
        answers = []
        for filler in (0, 7, 150):
            cache = CompressedCache(model, **SMALL, selector=selector, allocation=allocation)
            with cache:
                text = generate(
                    model, ids * padded, 45, padded, eos_token_id=stop, pad_token_id=filler, **{CACHE_ARGUMENT: cache}
                )
                mask = torch.cat([padded, torch.ones_like(text[:, 20:])], 1)
                for each in range(3):
                    said = (text[each, 20:] == stop).nonzero()
                    if len(said):
                        mask[each, 21 + int(said[0]) :] = 0
                message = prompt(3, 6, 5)
                text = torch.cat([text.masked_fill(mask == 0, filler), message], 1)
                mask = torch.cat([mask, torch.ones_like(message)], 1)
                answers.append(generate(model, text, 30, mask, eos_token_id=None, **{CACHE_ARGUMENT: cache})[:, -30:])
        assert (mask == 0).any() and cache.stats()["compressions"] >= 3
        assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_what_is_masked_goes_first():
    model, ids = tiny(), prompt(1, 60, 3)
    mask = torch.ones(1, 60, dtype=torch.int64)
    mask[0, 23:28] = 0
    for selector in SELECTORS:
        with CompressedCache(model, **SMALL, selector=selector, allocation="global") as cache:
            for i in range(20, 46):
                first = 0 if i == 20 else i - 1
                feed(model, cache, [ids[:, first:i]], [mask[:, :i]])
        assert cache.stats()["compressions"] == 1
        for layer in cache.layers:
            left = {column for head in range(layer.heads) for column in layer.columns_of(0, head).tolist()}
            assert not left & set(range(23, 28))


# Refusals.


def test_weights_of_attention_are_right_or_refused():
    model, ids = tiny("llama", "eager"), prompt()
    asked = dict(output_attentions=True, return_dict_in_generate=True)
    wanted = generate(model, ids, 20, **asked).attentions
    for selector in ("echo", "rpc", "h2o"):
        for allocation in ("even", "global"):
            if selector == "echo" and allocation == "even":
                continue
            options = dict(**SMALL, selector=selector, allocation=allocation)
            with CompressedCache(model, **options) as cache:
                got = generate(model, ids, 20, **{CACHE_ARGUMENT: cache}, **asked).attentions
                for ours, theirs in zip(got, wanted, strict=True):
                    for layer, other in zip(ours, theirs, strict=True):
                        torch.testing.assert_close(layer, other, rtol=1e-4, atol=1e-5)
            with (
                CompressedCache(model, **options) as cache,
                pytest.raises(ValueError, match="output_attentions: expected False once entries have been dropped"),
            ):
                generate(model, ids, 40, **{CACHE_ARGUMENT: cache}, **asked)


def test_a_mask_that_does_not_fit_is_refused():
    model, ids = tiny(), prompt(2, 30)
    for selector in ("rpc", "echo"):
        with CompressedCache(model, **SMALL, selector=selector) as cache:
            feed(model, cache, ids[:, :29].split([20, *[1] * 9], dim=1), [None] * 10)
            for mask in (torch.ones(2, 1, 1, 29, dtype=torch.bool), torch.ones(2, 1, 2, 30, dtype=torch.bool)):
                with pytest.raises(ValueError, match="attention_mask: expected 1 rows of 30 columns, one for each token"):
                    feed(model, cache, [ids[:, 29:]], [mask])
                cache.reset()
                feed(model, cache, ids[:, :29].split([20, *[1] * 9], dim=1), [None] * 10)
