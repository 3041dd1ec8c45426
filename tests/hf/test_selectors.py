"""What stays in the cache is what each published rule says, in every layer and at every step, on every architecture."""

import copy

import numpy as np
import pytest
import torch

from lzpenalty.cache import selectors
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.even import EvenLayer
from lzpenalty.hf import CompressedCache
from rpc_oracle import Reference, following
from tiny import ARCHITECTURES, generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
P, C, R = 16, 4, 8
SMALL = dict(interval=P, ratio=C, recent=R)


def run(model, ids=None, tokens=80, reference=None, mask=None, **options):
    options = {**SMALL, "selector": "rpc", **options}
    reference = Reference(**{**options, **(reference or {})})
    with CompressedCache(model, **options) as cache, following(reference):
        out = generate(model, prompt() if ids is None else ids, tokens, mask, **{CACHE_ARGUMENT: cache})
    layers = sum(isinstance(layer, EvenLayer) for layer in cache.layers)
    assert reference.compressions == cache.stats()["compressions"] * layers > 0
    return out, cache


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_keeps_what_the_formula_says(architecture, attention):
    run(tiny(architecture, attention))


@pytest.mark.parametrize("aggregation", ["layer", "group"])
@pytest.mark.parametrize("budget", [None, 24])
@pytest.mark.parametrize("selector", sorted({*selectors.SELECTORS} - {"echo"}))  # which test_ragged.py is about
def test_every_selector_keeps_what_its_rule_says(selector, budget, aggregation):
    run(tiny(), selector=selector, budget=budget, aggregation=aggregation)


@pytest.mark.parametrize(
    ("selector", "name", "options"),
    [
        (selectors.SnapKV("avg"), "snapkv", {"pooling": "avg"}),
        (selectors.Streaming(sinks=0), "streaming", {"sinks": 0}),
        (selectors.RKV(0.5), "rkv", {"weight": 0.5}),
        (selectors.VaSE(0.5), "vase", {"share": 0.5}),
        (selectors.VaSE(0), "vase", {"share": 0}),
        (selectors.Random(aggregation="layer"), "random", {"draws": "once"}),
        (selectors.LagKV(4), "lagkv", {"lag": 4}),
        (selectors.LagKV(7), "lagkv", {"lag": 7}),
        (selectors.Expected(16), "expected", {"future": 16}),
    ],
)
def test_options_of_selectors(selector, name, options):
    run(tiny(), selector=selector, reference={"selector": name, **options})


@pytest.mark.parametrize(
    "options", [{"kernel": 1}, {"kernel": 31}, {"recent": 1}, {"recent": 15}, {"ratio": 1}, {"ratio": 16}]
)
def test_options_of_the_cache(options):
    run(tiny(), **options)


def test_half_precision():
    run(tiny(dtype=torch.bfloat16))
    run(tiny(dtype=torch.float16))


def test_scale_is_the_models_own():
    model = tiny("gemma3_text")  # 1 / sqrt(query_pre_attn_scalar), not 1 / sqrt(head_dim)
    _, cache = run(model)
    assert {layer.scale for layer in cache.layers if isinstance(layer, EvenLayer)} == {7**-0.5}


def test_padding_counts_as_prompt():
    ids = prompt(3)
    mask = torch.ones_like(ids)
    mask[0, :7] = mask[1, :3] = 0
    run(tiny(), ids.masked_fill(mask == 0, 0), mask=mask)


def test_later_turns_count_as_generated():
    model, reference = tiny(), Reference(**SMALL)
    ids = prompt(1)
    with CompressedCache(model, **SMALL, selector="rpc") as cache, following(reference):
        for message in (prompt(1, 5, 2), prompt(1, 70, 3), prompt(1, 3, 4), prompt(1, 0)):
            ids = torch.cat([generate(model, ids, 30, **{CACHE_ARGUMENT: cache}), message], dim=1)
    stats = cache.stats()
    assert stats["prompt"] == 20 and stats["compressions"] >= 4 and stats["seen"] == ids.shape[1] - 1


def test_several_intervals_at_once_keep_a_part_of_each():
    model, reference = tiny(), Reference(**SMALL)
    with CompressedCache(model, **SMALL, selector="rpc") as cache, following(reference), torch.no_grad():
        model(prompt(1), **{CACHE_ARGUMENT: cache})
        model(prompt(1, 1), **{CACHE_ARGUMENT: cache})
        model(prompt(1, 5 * P + R), **{CACHE_ARGUMENT: cache})
    assert cache.stats()["kept"] == 20 + 5 * P // C + R + 1  # the token that came after the fifth was due


@pytest.mark.parametrize("selector", ["random", "h2o", "vase", "lagkv", "expected"])
def test_random_and_stateful_selectors_can_be_repeated(selector):
    runs = []
    prototype = selectors.SELECTORS[selector]()
    for _ in range(2):
        with CompressedCache(tiny(), **SMALL, selector=prototype) as cache:
            runs.append(generate(tiny(), prompt(), 80, **{CACHE_ARGUMENT: cache}))
            cache.reset()
            runs.append(generate(tiny(), prompt(), 80, **{CACHE_ARGUMENT: cache}))
    assert all(torch.equal(runs[0], other) for other in runs)


def test_random_differs_from_layer_to_layer_and_seed_to_seed():
    kept = set()
    for seed in (0, 1):
        with CompressedCache(tiny(), **SMALL, selector=selectors.Random(seed)) as cache:
            generate(tiny(), prompt(), 40, **{CACHE_ARGUMENT: cache})
        kept |= {tuple(layer.positions.flatten().tolist()) for layer in cache.layers}
    assert len(kept) > 3
    twin = copy.deepcopy(cache)
    for layer, other in zip(cache.layers, twin.layers, strict=True):
        assert torch.equal(layer.own_selector.generator.get_state(), other.own_selector.generator.get_state())


def test_a_selector_of_ones_own_needs_only_a_score():
    class Oldest(selectors.Selector):
        def score(self, layer):
            return -torch.arange(layer.stop - layer.start, dtype=torch.float32).repeat(layer.keys.shape[0], 1, 1)

    with CompressedCache(tiny(), **SMALL, selector=Oldest()) as cache:
        generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache})
    assert np.array_equal(cache.layers[0].positions[0, 0], np.arange(cache.layers[0].keep))
    with pytest.raises(NotImplementedError):
        selectors.Selector().score(None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: selectors.SnapKV("sum"), "pooling: expected 'max' or 'avg', got 'sum'"),
        (lambda: selectors.Streaming(-1), "sinks: expected an integer >= 0, got -1"),
        (lambda: selectors.RKV(1.5), "weight: expected a number from 0 to 1, got 1.5"),
        (lambda: selectors.VaSE(float("nan")), "share: expected a number from 0 to 1, got nan"),
        (lambda: selectors.Random(aggregation="head"), "aggregation: expected 'layer' or 'group', got 'head'"),
        (lambda: selectors.LagKV(0), "lag: expected at least 1, got 0"),
        (lambda: selectors.Expected(0), "future: expected at least 1, got 0"),
    ],
)
def test_bad_options_of_selectors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
