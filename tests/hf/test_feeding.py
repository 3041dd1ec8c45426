"""However a text is fed, as much is kept as the plan says, and the prompt is what the caller of generate gave."""

import copy
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, GenerationMixin

from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.plan import Plan
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.hf import CompressedCache, Forget, ForgetCache, RPCCache
from tiny import VOCAB, generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
P, C, R = 16, 4, 8
SMALL = dict(interval=P, ratio=C, recent=R)
NEVER = Forget(close=VOCAB - 1, then=[VOCAB - 2])
KINDS = [
    {"selector": "rpc"},
    {"selector": "echo"},
    {"selector": "h2o", "budget": 12},
    {"selector": "lagkv"},
    {"selector": "random", "budget": R},
    {"selector": "snapkv", "allocation": "global"},
]


def feed(model, cache, ids, **kwargs):
    with torch.no_grad():
        return model(ids, **{CACHE_ARGUMENT: cache}, **kwargs).logits


# Pieces.


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_any_split_of_a_text_keeps_what_the_plan_says(options, sizes):
    model, total = tiny(), sum(sizes)
    plan = Plan(P, C, R, options.get("budget"))
    with CompressedCache(model, **SMALL, **options, prompt_length=9) as cache:
        feed(model, cache, prompt(2, 9))
        for size, ids in zip(sizes, prompt(2, total, 2).split(sizes, dim=1), strict=True):
            feed(model, cache, ids)
            generated = cache.stats()["seen"] - 9
            assert cache.stats()["kept"] == 9 + generated - plan.dropped(generated), (size, generated)
            assert cache.stats()["compressions"] == plan.compressions(generated)
    if "kept_by_head" in cache.stats():
        for row in range(2):
            heads = [entries for layer in cache.stats()["kept_by_head"] for entries in layer[row]]
            assert sum(heads) == len(heads) * cache.stats()["kept"]


@pytest.mark.parametrize("selector", ["rpc", "tova", "keydiff", "h2o", "echo"])
def test_a_piece_that_goes_past_a_compression_keeps_what_single_tokens_keep(selector):
    """Up to the token that makes it due both have seen the same, and the queries that vote are those before it."""
    model, ids = tiny(), prompt(2, 60, 4)
    left = []
    for sizes in ([20, *[1] * 30], [20, *[1] * 16, 14], [20, 1, 29]):
        with CompressedCache(model, **SMALL, selector=selector) as cache:
            for piece in ids[:, : sum(sizes)].split(sizes, dim=1):
                feed(model, cache, piece)
        assert cache.stats()["compressions"] == 1
        if selector == "echo":  # what is asked later finds more; the budgets are shared out anew
            left.append(torch.tensor(sum(sum(map(sum, layer)) for layer in cache.stats()["kept_by_head"])))
        elif selector != "h2o":  # whose later queries count in sums
            left.append(torch.stack([layer.entry_columns()[..., : 20 + P // C] for layer in cache.layers]))
    assert all(torch.equal(left[0], other) for other in left[1:])


@pytest.mark.parametrize("selector", ["echo", "rpc"])
@pytest.mark.parametrize("size", [1, 3, 8, 19, 20])
def test_the_prompt_is_what_generate_was_given(selector, size):
    """In pieces of any size, the last of which may be a single token."""
    model, ids = tiny(), prompt(2, 20)
    if size == 1 and "prefill_chunk_size" not in inspect.getsource(GenerationMixin):
        pytest.skip("this transformers feeds a prompt at once")
    answers = []
    for options in ({}, {"prefill_chunk_size": size}):
        with CompressedCache(model, **SMALL, selector=selector) as cache:
            answers.append(generate(model, ids, 40, **{CACHE_ARGUMENT: cache}, **options))
        assert cache.stats()["prompt"] == 20 and cache.stats()["compressions"] == 1
    assert torch.equal(*answers)


def test_a_prompt_that_a_cache_has_a_part_of():
    """What was fed by hand before, and all that generate is given but its last token."""
    model, ids = tiny(), prompt(1, 20)
    wanted = None
    for fed in (0, 7, 12, 19):
        with RPCCache(model, **SMALL) as cache:
            if fed:
                feed(model, cache, ids[:, :fed])
            text = generate(model, ids, 40, **{CACHE_ARGUMENT: cache})
        assert cache.stats()["prompt"] == 20
        wanted = text if wanted is None else wanted
        assert torch.equal(text, wanted)


def test_embeddings_are_a_prompt_as_well():
    model, ids = tiny(), prompt(2, 20)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(ids)
    answers = []
    for prompted in ({"input_ids": ids}, {"inputs_embeds": embeddings}):
        with RPCCache(model, **SMALL) as cache:
            mask = torch.ones_like(ids)
            out = model.generate(
                **prompted, attention_mask=mask, max_new_tokens=40, do_sample=False, **{CACHE_ARGUMENT: cache}
            )
        assert cache.stats()["prompt"] == 20 and cache.stats()["compressions"] == 1
        answers.append(out[:, -40:])
    assert torch.equal(*answers)


def test_a_prompt_that_is_said():
    """Where it ends within a piece, too; what comes behind it counts as generated."""
    model, ids, plan = tiny(), prompt(1, 60), Plan(P, C, R)
    for selector in ("rpc", "echo", "h2o"):
        for length in (1, 10, 31, 40):
            with CompressedCache(model, **SMALL, selector=selector, prompt_length=length) as cache:
                for piece in ids.split([25, 15, 1, 1, 18], dim=1):
                    feed(model, cache, piece)
            assert cache.stats()["prompt"] == length
            assert cache.stats()["kept"] == 60 - plan.dropped(60 - length)
    for value, error in ((0, ValueError), (True, TypeError), ("20", TypeError)):
        with pytest.raises(error, match="prompt_length: expected"):
            CompressedCache(model, **SMALL, prompt_length=value)


CACHES = {
    "interval=None": lambda model: CompressedCache(model, interval=None),
    "echo": lambda model: CompressedCache(model, interval=512),
    "rpc": lambda model: RPCCache(model, interval=512),
    "ForgetCache": lambda model: ForgetCache(model, NEVER),
}


@pytest.mark.parametrize("name", CACHES)
def test_padding_that_fills_pieces_and_rows(name):
    """Left padding longer than a piece of the prompt, and a row of padding alone."""
    model, ids = tiny(), prompt(3)
    for pads in ((9, 0, 3), (17, 4, 0), (20, 0, 19)):
        mask = (torch.arange(20) >= torch.tensor(pads)[:, None]).long()
        for size in (3, 8, 10, 20):
            options = dict(prefill_chunk_size=size) if size < 20 else {}
            options["suppress_tokens"] = [VOCAB - 1]  # which ForgetCache looks for
            wanted = generate(model, ids * mask, 30, mask, **options)
            with CACHES[name](model) as cache:
                got = generate(model, ids * mask, 30, mask, **{CACHE_ARGUMENT: cache}, **options)
            for row in range(3):
                if pads[row] < 20:  # what follows padding alone is nobody's text
                    assert torch.equal(got[row], wanted[row])


def test_messages_in_pieces_are_never_a_thought():
    """ForgetCache: the last piece of a prompt or a message may be the token that closes one."""
    model, rule = tiny(), Forget(close=18, then=[20, 21, 22, 19])
    ids = prompt(1, 9).masked_fill(prompt(1, 9) == 18, 17)
    ids[0, -1] = 18

    def two_turns(cache, size):
        text = generate(model, ids, 10, **{CACHE_ARGUMENT: cache}, prefill_chunk_size=size, suppress_tokens=[18])
        more = torch.cat([text, ids], 1)
        return generate(model, more, 10, **{CACHE_ARGUMENT: cache}, prefill_chunk_size=size, suppress_tokens=[18])

    reference = DynamicCache(config=model.config)
    two_turns(reference, 8)
    if reference.get_seq_length() != 2 * (9 + 10) - 1:
        pytest.skip("this transformers feeds a text anew, where it comes in pieces")
    answers = []
    for size in (8, 9):
        with ForgetCache(model, rule) as cache:
            answers.append(two_turns(cache, size))
        assert cache.stats()["kept"] == cache.stats()["seen"] and cache.stats()["thoughts"] == [0]
    assert torch.equal(*answers)


# Modes.


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.booleans(), min_size=2, max_size=4), st.booleans())
def test_turns_in_and_out_of_inference_mode(options, modes, copied):
    model, plain = tiny(), []
    for inference in (False, True):
        text, turns = prompt(2, 12), []
        cache = CompressedCache(model, **SMALL, **options)
        with cache:
            for number, mode in enumerate(modes):
                with torch.inference_mode(mode and inference):
                    if copied:
                        cache = copy.deepcopy(cache)
                    if number == 1:
                        cache.batch_select_indices(torch.tensor([1, 0]))
                        text = text[[1, 0]]
                    text = generate(model, torch.cat([text, prompt(2, 5, number)], 1), 20, **{CACHE_ARGUMENT: cache})
                turns.append(text.clone())
        plain.append(turns[-1])
    assert torch.equal(*plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("selector", [None, *SELECTORS])
def test_autocast(selector, dtype):
    """Keys stay float32 behind their rotation, values don't: as long as nothing is due, the text is transformers'."""
    model, ids = tiny(dtype=dtype), prompt(2, 20)
    options = dict(interval=None) if selector is None else dict(**SMALL, selector=selector)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = generate(model, ids, 20, **{CACHE_ARGUMENT: DynamicCache(config=model.config)})
        with CompressedCache(model, **options) as cache:
            assert torch.equal(generate(model, ids, 20, **{CACHE_ARGUMENT: cache}), wanted)
        if selector is not None:
            with CompressedCache(model, **options) as cache:
                generate(model, ids, 60, **{CACHE_ARGUMENT: cache})
                assert cache.stats()["compressions"] == 3
    if selector is not None:  # and on without it
        with cache:
            generate(model, torch.cat([ids, prompt(2, 62, 3)], 1), 30, **{CACHE_ARGUMENT: cache})


def test_tensors_that_require_grad_are_refused():
    model, ids = tiny(), prompt()
    for options in (dict(interval=None), dict(**SMALL), dict(**SMALL, selector="rpc")):
        with CompressedCache(model, **options) as cache:
            with pytest.raises(ValueError, match="keys: expected tensors outside autograd, .* use torch.no_grad"):
                model(ids, **{CACHE_ARGUMENT: cache})
            assert cache.stats()["seen"] == 0
            feed(model, cache, ids)


@pytest.mark.parametrize("recent", [1, 2])
@pytest.mark.parametrize("allocation", ["even", "global"])
@pytest.mark.parametrize("selector", SELECTORS)
def test_the_smallest_budgets(selector, allocation, recent):
    """The newest tokens alone, or one more; a ratio of one token an interval."""
    if selector == "echo" and allocation == "even":
        allocation = "global"
    for options in ({"budget": recent}, {"budget": recent + 1}, {"ratio": 8}, {"ratio": 8, "budget": recent}):
        for aggregation in ("group",) if allocation == "global" else (None, "group", "layer"):
            with CompressedCache(
                tiny(), **{"interval": 8, "ratio": 4, "recent": recent, **options}, selector=selector,
                allocation=allocation, aggregation=aggregation,
            ) as cache:  # fmt: skip
                generate(tiny(), prompt(2, 3), 40, **{CACHE_ARGUMENT: cache})
            plan, stats = cache.settings.plan, cache.stats()
            assert stats["kept"] == 3 + 39 - plan.dropped(39) and stats["compressions"] == plan.compressions(39) > 2
