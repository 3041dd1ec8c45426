"""CompressedCache keeps its promises in real `generate` calls: exact where nothing is dropped, refusing what it can't do."""

import copy
import inspect
import threading

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, DynamicCache

from lzpenalty.cache import selectors
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.layer import Layer
from lzpenalty.hf import CompressedCache, LZPenaltyLogitsProcessor
from tiny import ARCHITECTURES, OWN_SIZES, SIZES, VOCAB, generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = dict(interval=16, ratio=4, recent=8, selector="rpc")
LEFT_PADDED = ((0, 7), (1, 3), (2, 0))  # row, padding


def left_padded(ids):
    mask = torch.ones_like(ids)
    for row, padding in LEFT_PADDED:
        mask[row, :padding] = 0
    return ids * mask, mask


# Never due: as if it were not there.


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_text_when_no_compression_is_due(architecture, attention):
    model = tiny(architecture, attention)
    for options in ({"interval": None}, {"interval": 1024}, {"interval": 1024, "budget": 40, "max_new_tokens": 70}):
        for kwargs in ({}, {"do_sample": True, "top_k": 0}, {"do_sample": True, "num_return_sequences": 3}):
            for ids, mask in ((prompt(), None), left_padded(prompt(3))):
                torch.manual_seed(7)
                expected = generate(model, ids, 40, mask, **kwargs)
                torch.manual_seed(7)
                with CompressedCache(model, **options) as cache:
                    assert torch.equal(generate(model, ids, 40, mask, **{CACHE_ARGUMENT: cache}, **kwargs), expected)


@pytest.mark.parametrize("kwargs", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2, "do_sample": True}])
def test_same_beams_when_no_compression_is_due(kwargs):
    for interval in (None, 1024):
        torch.manual_seed(7)
        expected = generate(tiny(), prompt(), 40, **kwargs)
        torch.manual_seed(7)
        with CompressedCache(tiny(), interval=interval) as cache:
            assert torch.equal(generate(tiny(), prompt(), 40, **{CACHE_ARGUMENT: cache}, **kwargs), expected)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_same_turns_when_no_compression_is_due(architecture):
    model = tiny(architecture)
    with CompressedCache(model, interval=1024) as cache:
        theirs, ours, full = prompt(), prompt(), DynamicCache(config=model.config)
        for message in (prompt(2, 5, 2), prompt(2, 30, 3)):
            theirs = torch.cat([generate(model, theirs, 30, **{CACHE_ARGUMENT: full}), message], 1)
            ours = torch.cat([generate(model, ours, 30, **{CACHE_ARGUMENT: cache}), message], 1)
    assert torch.equal(theirs, ours)


def test_real_model(smollm2):
    model, tokenizer = smollm2
    ids = tokenizer("The three laws of thermodynamics are", return_tensors="pt").input_ids
    expected = generate(model, ids, 24)
    with CompressedCache(model, interval=None, max_new_tokens=24) as cache:
        assert torch.equal(generate(model, ids, 24, **{CACHE_ARGUMENT: cache}), expected)
    with CompressedCache(model, **SMALL) as cache:
        generate(model, ids, 60, **{CACHE_ARGUMENT: cache})
    assert cache.stats()["compressions"] == 3 and cache.stats()["kept"] < cache.stats()["seen"] == ids.shape[1] + 59


# Compressed: rows don't see each other, beams take their cache along.


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_left_padded_rows_are_as_if_alone(architecture, attention):
    model, ids = tiny(architecture, attention), prompt(3)
    padded, mask = left_padded(ids)
    with CompressedCache(model, **SMALL) as cache:
        together = generate(model, padded, 70, mask, **{CACHE_ARGUMENT: cache})
    for row, padding in LEFT_PADDED:
        with CompressedCache(model, **SMALL) as cache:
            alone = generate(model, ids[row : row + 1, padding:], 70, **{CACHE_ARGUMENT: cache})
        assert torch.equal(together[row, 20:], alone[0, 20 - padding :])
        assert cache.stats()["compressions"] == 3


def test_beams_of_rows_are_as_if_alone():
    for selector in ("rpc", "h2o"):
        options = {**SMALL, "selector": selector}
        with CompressedCache(tiny(), **options) as cache:
            together = generate(tiny(), prompt(2), 60, **{CACHE_ARGUMENT: cache}, num_beams=3)
        assert cache.stats()["compressions"] == 3
        for row in range(2):
            with CompressedCache(tiny(), **options) as cache:
                alone = generate(tiny(), prompt(2)[row : row + 1], 60, **{CACHE_ARGUMENT: cache}, num_beams=3)
            assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("selector", ["rpc", "h2o"])
def test_rows_can_be_chosen_at_any_time(selector):
    """Feeding rows [2, 0, 0] after a choice is as feeding rows chosen from the beginning."""
    rows, tokens = torch.tensor([2, 0, 0]), prompt(3, 60, 5)
    changes = {
        "reorder": lambda cache: cache.reorder_cache(rows),
        "select": lambda cache: cache.batch_select_indices(rows),
        "repeat": lambda cache: (cache.batch_repeat_interleave(2), cache.batch_select_indices(torch.tensor([4, 0, 1]))),
    }
    for at in (0, 1, 20, 21, 22, 45):  # before anything is fed, within the prompt, before and after compressions
        for change in changes.values():
            keys = []
            for chosen_first in (True, False):
                with CompressedCache(tiny(), **{**SMALL, "selector": selector}) as cache, torch.no_grad():
                    for i in range(60):
                        fed = tokens[rows] if chosen_first or i >= at else tokens
                        if i == at and not chosen_first:
                            change(cache)
                        if i in (0, 10):
                            tiny()(fed[:, i : i + 10], **{CACHE_ARGUMENT: cache})
                        elif i >= 20:
                            tiny()(fed[:, i : i + 1], **{CACHE_ARGUMENT: cache})
                keys.append(torch.stack([layer.keys for layer in cache.layers]))
            assert cache.stats()["compressions"] == 2 and torch.equal(*keys)


def feed(model, cache, ids, **kwargs):
    with torch.no_grad():
        return model(ids, **{CACHE_ARGUMENT: cache}, **kwargs).logits


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_several_tokens_at_once_see_what_single_ones_see(architecture):
    """After a compression too: each new token sees what is left and the new ones up to itself."""
    model, ids = tiny(architecture), prompt(2, 60, 6)
    logits = []
    for at_once in (1, 5):
        with CompressedCache(model, **SMALL) as cache:
            feed(model, cache, ids[:, :20])
            for i in range(20, 50):
                feed(model, cache, ids[:, i : i + 1])
            assert cache.stats()["compressions"] == 1
            parts = [feed(model, cache, ids[:, i : i + at_once]) for i in range(50, 60, at_once)]
        logits.append(torch.cat(parts, 1))
    assert torch.allclose(*logits, rtol=1e-3, atol=1e-3)


def test_several_tokens_at_once_with_left_padding():
    model = tiny()
    ids, mask = left_padded(prompt(3))
    with CompressedCache(model, **SMALL) as cache:
        text = generate(model, ids, 30, mask, **{CACHE_ARGUMENT: cache})
        text = torch.cat([text, prompt(3, 6, 9)], 1)
        longer = torch.cat([mask, torch.ones(3, 36, dtype=mask.dtype)], 1)
        together = generate(model, text, 20, longer, **{CACHE_ARGUMENT: cache})
    for row, padding in LEFT_PADDED:
        with CompressedCache(model, **SMALL) as cache:
            first = generate(model, ids[row : row + 1, padding:], 30, **{CACHE_ARGUMENT: cache})
            alone = generate(model, torch.cat([first, text[row : row + 1, -6:]], 1), 20, **{CACHE_ARGUMENT: cache})
        assert torch.equal(alone[0], together[row, padding:])


# Memory.


def test_memory_stays_what_was_asked_for():
    model = tiny()
    per_token = sum(2 * 2 * 12 * 4 for _ in model.model.layers)  # keys and values, heads, numbers, bytes
    lengths = {}
    for name, options in {
        "bounded": dict(**SMALL, budget=24),
        "known": dict(**SMALL, max_new_tokens=200),
        "known, short": dict(**SMALL, max_new_tokens=20),
        "grown": SMALL,
        "plain": dict(interval=None),
        "plain, known": dict(interval=None, max_new_tokens=200),
    }.items():
        tokens = 20 if name == "known, short" else 200
        with CompressedCache(model, **options) as cache:
            generate(model, prompt(1), tokens, **{CACHE_ARGUMENT: cache})
        buffers = {layer._key_buffer.data_ptr() for layer in cache.layers}
        assert buffers == {layer.keys.data_ptr() for layer in cache.layers}
        columns = sum(8 * buffer.numel() for layer in cache.layers for buffer in layer.buffers[2:])  # of what is left
        assert columns <= 8 * 3 * cache.stats()["kept"]
        lengths[name] = (cache.stats()["bytes"] - columns) / per_token
    largest = 16 + 11 * 4 + 8  # an interval, what 11 intervals left, the recent
    assert lengths["bounded"] == 20 + 24 + 16
    assert lengths["known"] == 20 + largest
    assert lengths["known, short"] == 40
    assert 20 + largest <= lengths["grown"] < 20 + largest + 16
    assert lengths["plain, known"] == 220
    assert lengths["plain"] == 20 + 1024


def test_kept_tokens_follow_the_formula():
    with CompressedCache(tiny(), **SMALL) as cache:
        feed(tiny(), cache, prompt(1))
        for generated in range(1, 120):
            feed(tiny(), cache, prompt(1, 1, generated))
            times = max(0, (generated - 8) // 16)
            stats = cache.stats()
            assert stats["compressions"] == times and stats["seen"] == 20 + generated and stats["prompt"] == 20
            assert stats["kept"] == 20 + generated - times * (16 - 4)


def test_copies_go_their_own_ways():
    """One prompt, two answers: as with any cache."""
    model = tiny()
    with CompressedCache(model, **SMALL) as cache:
        first = generate(model, prompt(), 40, **{CACHE_ARGUMENT: cache})
        twin = copy.deepcopy(cache)
        text = torch.cat([first, prompt(2, 3, 8)], 1)
        answers = [generate(model, text, 40, **{CACHE_ARGUMENT: each}) for each in (cache, twin)]
    assert torch.equal(*answers)


def test_reset_starts_anew():
    with CompressedCache(tiny(), **SMALL) as cache:
        before = generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache})
        cache.reset()
        assert cache.stats() == {"seen": 0, "kept": 0, "prompt": 0, "compressions": 0, "bytes": 0, "seconds": 0}
        assert torch.equal(generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache}), before)
    assert "interval=16" in repr(cache)


# The model stays as it was.


def attention_globals(model):
    return inspect.unwrap(type(model.model.layers[0].self_attn).forward).__globals__


def state_of(model):
    forward = attention_globals(model)
    return (
        model.config.to_dict(),
        model.config._attn_implementation,
        {**vars(model)},
        dict(forward["ALL_ATTENTION_FUNCTIONS"]),
        forward["eager_attention_forward"],
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_leaving_the_block_restores_the_model(attention):
    model, other = tiny("llama", attention), tiny("qwen3", attention)
    before = state_of(model)
    one, two = CompressedCache(model, **SMALL), CompressedCache(model, **SMALL)
    assert state_of(model) == before
    with pytest.raises(KeyError), one:
        raise KeyError
    assert state_of(model) == before
    one.__enter__()
    inside = state_of(model)
    assert inside != before and inside[0] == before[0]
    two.__enter__()
    with CompressedCache(other, **SMALL) as three, one:
        assert state_of(model) == inside or attention == "sdpa"
        generate(other, prompt(), 30, **{CACHE_ARGUMENT: three})
    one.__exit__(None, None, None)
    with two:
        generate(model, prompt(), 30, **{CACHE_ARGUMENT: two})
    two.__exit__(None, None, None)
    assert state_of(model) == before


def test_somebody_elses_replacement_is_left_alone(monkeypatch):
    table = attention_globals(tiny())["ALL_ATTENTION_FUNCTIONS"]
    monkeypatch.setitem(table._local_mapping, "sdpa", table["sdpa"])
    theirs = lambda *args, **kwargs: None  # noqa: E731
    with CompressedCache(tiny(), **SMALL):
        table._local_mapping["sdpa"] = theirs
    assert table._local_mapping["sdpa"] is theirs


def test_other_caches_within_the_block_are_as_ever():
    expected = generate(tiny(), prompt(), 40)
    with CompressedCache(tiny(), **SMALL) as cache:
        assert torch.equal(generate(tiny(), prompt(), 40), expected)
        with CompressedCache(tiny(), interval=None) as plain:
            assert torch.equal(generate(tiny(), prompt(), 40, **{CACHE_ARGUMENT: plain}), expected)
        generate(tiny(), prompt(), 40, **{CACHE_ARGUMENT: cache})
        assert torch.equal(generate(tiny(), prompt(), 40), expected)


def test_two_caches_alternate_on_one_model():
    model = tiny()
    alone, together = [], [[], []]
    texts = [prompt(1, 80, 11), prompt(1, 80, 12)]
    for text in texts:
        with CompressedCache(model, **SMALL) as cache:
            alone.append([feed(model, cache, part) for part in text.split([20] + [1] * 60, 1)])
    with CompressedCache(model, **SMALL) as one, CompressedCache(model, **SMALL) as two:
        for parts in zip(*(text.split([20] + [1] * 60, 1) for text in texts), strict=True):
            for i, cache in enumerate((one, two)):
                together[i].append(feed(model, cache, parts[i]))
    for ours, theirs in zip(alone, together, strict=True):
        assert torch.equal(torch.cat(ours, 1), torch.cat(theirs, 1))


def test_threads_share_a_model():
    model, results = tiny(), {}
    expected = []
    for i in range(4):
        with CompressedCache(model, **SMALL) as cache:
            expected.append(generate(model, prompt(2, 20, i), 60, **{CACHE_ARGUMENT: cache}))

    def work(i):
        with CompressedCache(model, **SMALL) as cache:
            results[i] = generate(model, prompt(2, 20, i), 60, **{CACHE_ARGUMENT: cache})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    before = state_of(model)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state_of(model) == before
    assert all(torch.equal(results[i], expected[i]) for i in range(4))


# Broken rather than wrong.


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("where", ["attention", "feed-forward", "compression"])
def test_an_interrupted_forward_breaks_the_cache(where, monkeypatch):
    model = tiny()

    def fail(*args, **kwargs):
        raise Interrupted

    with CompressedCache(model, **SMALL) as cache:
        text = generate(model, prompt(), 30, **{CACHE_ARGUMENT: cache})
        with monkeypatch.context() as patch:
            if where == "attention":
                patch.setattr(torch.nn.functional, "scaled_dot_product_attention", fail)
                patch.setattr("lzpenalty.cache.attend.attend", fail)
            elif where == "compression":
                patch.setattr("lzpenalty.cache.even.compact", fail)
            else:
                patch.setattr(model.model.layers[1].mlp, "forward", fail)
            with pytest.raises(Interrupted):
                generate(model, text, 30, **{CACHE_ARGUMENT: cache})
        with pytest.raises(RuntimeError, match="an earlier forward ended before all layers were done"):
            generate(model, text, 30, **{CACHE_ARGUMENT: cache})
        cache.reset()
        generate(model, prompt(), 30, **{CACHE_ARGUMENT: cache})


def test_numbers_that_are_none_raise():
    model = tiny()
    with CompressedCache(model, **SMALL) as cache, torch.no_grad():
        model(inputs_embeds=torch.randn(1, 5, 48), **{CACHE_ARGUMENT: cache})
        model(inputs_embeds=torch.full((1, 1, 48), float("nan")), **{CACHE_ARGUMENT: cache})
        with pytest.raises(ValueError, match="queries, keys: expected finite numbers"):
            for _ in range(24):
                model(inputs_embeds=torch.randn(1, 1, 48), **{CACHE_ARGUMENT: cache})


def test_without_the_block_it_says_so():
    cache = CompressedCache(tiny(), **SMALL)
    with pytest.raises(RuntimeError, match="expected to be used inside of its block, `with cache: model.generate"):
        generate(tiny(), prompt(), 4, **{CACHE_ARGUMENT: cache})


# Refusals, before anything is generated.


class Silent:
    """A streamer that nothing must reach but the prompt."""

    def __init__(self):
        self.pieces = 0

    def put(self, value):
        self.pieces += 1

    def end(self):
        pass


def test_assisted_decoding_is_refused():
    for kwargs in ({"assistant_model": tiny("llama", "eager")}, {"prompt_lookup_num_tokens": 3}):
        for interval in (16, None):
            streamer = Silent()
            with (
                CompressedCache(tiny(), interval=interval, recent=8) as cache,
                pytest.raises(RuntimeError, match="can't take tokens back, so assisted decoding is not supported"),
            ):
                generate(tiny(), prompt(1), 20, **{CACHE_ARGUMENT: cache}, streamer=streamer, **kwargs)
            assert streamer.pieces <= 1 and cache.stats()["seen"] == 0
    with pytest.raises(RuntimeError, match="can't take tokens back"):
        cache.crop(-1)


@pytest.mark.parametrize("kind", ["static", "quantized", "offloaded"])
def test_other_cache_implementations_are_refused(kind):
    with CompressedCache(tiny(), **SMALL) as cache, pytest.raises(ValueError, match="cache_implementation"):
        generate(tiny(), prompt(), 20, **{CACHE_ARGUMENT: cache}, cache_implementation=kind)
    assert cache.stats()["seen"] == 0


def test_continuous_batching_is_refused():
    with CompressedCache(tiny(), **SMALL), pytest.raises(RuntimeError, match="continuous batching has a cache of its own"):
        tiny().generate_batch([[5, 6, 7]])


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_a_prompt_of_one_token_has_to_be_said(architecture):
    model = tiny(architecture)
    with CompressedCache(model, **SMALL) as cache:
        with pytest.raises(ValueError, match="prompt_length: expected the number of tokens in the prompt"):
            feed(model, cache, prompt(1, 1))
        assert cache.stats()["seen"] == 0
        generate(model, prompt(1, 1), 40, **{CACHE_ARGUMENT: cache})  # which says it
    assert cache.stats()["prompt"] == 1 and cache.stats()["compressions"] == 1
    with CompressedCache(model, **SMALL, prompt_length=1) as other:
        for i in range(40):
            feed(model, other, prompt(1, 1, i))
    counts = ("seen", "kept", "prompt", "compressions")
    assert [other.stats()[name] for name in counts] == [cache.stats()[name] for name in counts]
    with CompressedCache(tiny(), interval=None) as cache:
        assert torch.equal(generate(tiny(), prompt(1, 1), 9, **{CACHE_ARGUMENT: cache}), generate(tiny(), prompt(1, 1), 9))


def test_models_that_cannot_be_served():
    def small(kind, **changes):
        sizes = {**SIZES, **OWN_SIZES.get(kind, {}), **changes}
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))

    with pytest.raises(
        ValueError, match="that hold keys and values alone, MistralForCausalLM has DynamicSlidingWindowLayer"
    ):
        CompressedCache(small("mistral", sliding_window=16))
    t5 = AutoConfig.for_model("t5", vocab_size=VOCAB, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration, which has an encoder"):
        CompressedCache(AutoModelForSeq2SeqLM.from_config(t5))
    codegen = AutoConfig.for_model("codegen", vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=4, rotary_dim=4)
    with pytest.raises(ValueError, match="expected one that looks its attention up in transformers' AttentionInterface"):
        CompressedCache(AutoModelForCausalLM.from_config(codegen, attn_implementation="eager"))
    model = small("llama")
    model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(ValueError, match="expected attention 'sdpa', 'eager' or .* got 'flex_attention'"):
        CompressedCache(model)
    model.config._attn_implementation_internal, model.config.num_kv_shared_layers = "sdpa", 1
    with pytest.raises(ValueError, match="shares keys between layers"):
        CompressedCache(model)


@pytest.fixture
def flash(monkeypatch):
    """A model that believes to run FlashAttention 2: its mask is the columns of the padding mask, or None."""
    model = copy.deepcopy(tiny())
    table = attention_globals(model)["ALL_ATTENTION_FUNCTIONS"]
    sdpa = table["sdpa"]

    def attention(module, query, key, value, attention_mask, **kwargs):
        assert attention_mask is None
        return sdpa(module, query, key, value, None, **kwargs)

    monkeypatch.setitem(table._local_mapping, "flash_attention_2", attention)
    model.config._attn_implementation_internal = "flash_attention_2"
    return model


def test_flash_attention_with_left_padding_is_refused(flash):
    with CompressedCache(tiny(), **SMALL) as cache:
        expected = generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache})
    with CompressedCache(flash, **SMALL) as cache:
        assert torch.equal(generate(flash, prompt(), 60, **{CACHE_ARGUMENT: cache}), expected)
    ids, mask = left_padded(prompt(3))
    with (
        CompressedCache(flash, **SMALL) as cache,
        pytest.raises(ValueError, match="attention_mask: expected no padding with FlashAttention, got a padded batch"),
    ):
        generate(flash, ids, 60, mask, **{CACHE_ARGUMENT: cache})


BAD = [
    (dict(interval=30), ValueError, "interval: expected a multiple of ratio, 4, got 30"),
    (dict(interval=0), ValueError, "interval: expected at least 1, got 0"),
    (dict(interval=-16), ValueError, "interval: expected at least 1, got -16"),
    (dict(interval=16.0), TypeError, "interval: expected an integer, got 16.0"),
    (dict(interval=True), TypeError, "interval: expected an integer, got True"),
    (dict(ratio=0), ValueError, "ratio: expected at least 1, got 0"),
    (dict(ratio="4"), TypeError, "ratio: expected an integer, got '4'"),
    (dict(recent=16), ValueError, "recent: expected less than interval, 16, got 16"),
    (dict(recent=0), ValueError, "recent: expected at least 1, got 0"),
    (dict(kernel=4), ValueError, "kernel: expected an odd number, got 4"),
    (dict(kernel=0), ValueError, "kernel: expected at least 1, got 0"),
    (dict(budget=7), ValueError, "budget: expected at least recent, 8, got 7"),
    (dict(budget=0), ValueError, "budget: expected at least 1, got 0"),
    (dict(budget=64, interval=None), ValueError, "budget: expected None where interval is None, got 64"),
    (dict(max_new_tokens=0), ValueError, "max_new_tokens: expected at least 1, got 0"),
    (dict(aggregation="head"), ValueError, "aggregation: expected 'layer' or 'group', got 'head'"),
    (dict(selector="best"), ValueError, "selector: expected one of 'rpc', .* got 'best'"),
    (dict(selector=selectors.RPC), TypeError, "selector: expected a name or a Selector, got type"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        CompressedCache(tiny(), **{**SMALL, **options})


def test_the_smallest_budget_keeps_the_recent_alone():
    with CompressedCache(tiny(), **SMALL, budget=8) as cache:
        generate(tiny(), prompt(), 33, **{CACHE_ARGUMENT: cache})  # 32 = two intervals are in the cache
    assert cache.stats()["kept"] == 20 + 8 + 8 and cache.stats()["compressions"] == 1


# Together with the penalty.


def test_both_at_once():
    """The penalty changes what is said, the cache what is remembered; neither gets in the way of the other."""
    penalty = LZPenaltyLogitsProcessor(strength=0.3)
    expected = generate(tiny(), prompt(), 60, logits_processor=[penalty])
    with CompressedCache(tiny()) as cache:
        assert torch.equal(generate(tiny(), prompt(), 60, logits_processor=[penalty], **{CACHE_ARGUMENT: cache}), expected)
    with CompressedCache(tiny(), **SMALL) as cache:
        both = generate(tiny(), prompt(), 60, logits_processor=[penalty], **{CACHE_ARGUMENT: cache})
    assert cache.stats()["compressions"] == 3
    with CompressedCache(tiny(), **SMALL) as cache:
        assert not torch.equal(generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache}), both)


def test_layers_inherit_what_transformers_asks_for():
    assert transformers.__version__ and issubclass(Layer, type(DynamicCache(config=tiny().config).layers[0]))
