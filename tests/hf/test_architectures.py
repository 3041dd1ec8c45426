"""Caches of ours beside transformers' own: with a sample of architectures that differ in how they attend, and with all where
LZPENALTY_ARCHITECTURES says "all", as in `make test-architectures`."""

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoConfig, DynamicCache  # noqa: E402

import served  # noqa: E402
from dropped import CAN_HIDE, hidden, told_apart  # noqa: E402
from every_architecture import CAUSAL, OWN, VARIANTS, build, configuration, names  # noqa: E402

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

SAMPLE = {
    "llama": "heads that share keys",
    "phi": "a key head for each query head, part of it turned",
    "gpt_bigcode": "one key head for all, learnt positions",
    "gemma3_text": "layers with a sliding window",
    "gemma2": "soft-capped scores",
    "gpt_oss": "attention sinks",
    "inkling_text": "a position bias",
    "deepseek_v3": "latent keys (MLA)",
    "jetmoe": "keys that are made anew behind the cache",
    "deepseek_v32": "an index of its own",
    "smollm3": "layers without positions",
    "bloom": "ALiBi",
    "gemma4_text, num_kv_shared_layers": "keys of another layer",
    "jamba": "Mamba between attention",
    "falcon_h1": "Mamba beside attention",
    "mamba": "no attention",
    "diffllama": "two calls of attention a layer, with values of their own",
    "doge": "numbers as a mask, by head",
    "qwen2": "biases",
    "qwen3_moe": "experts",
    "mllama": "layers that see no text",
    "zaya": "convolutions in attention",
}
ALL = os.environ.get("LZPENALTY_ARCHITECTURES") == "all"


@pytest.mark.parametrize("name", names() if ALL else SAMPLE)
def test_logits_are_those_of_transformers_own_cache(name):
    if VARIANTS.get(name, (name,))[0] not in CAUSAL and not ALL:
        pytest.skip("not in this version of transformers")
    report = served.examine(name)
    assert not report.wrong
    refusals = {found.says for found in report.found.values() if found.status == "refused"}
    assert all(message.startswith("model: ") and report.model in message for message in refusals), refusals
    untried = {*report.untried.values(), *(found.says for found in report.found.values() if found.status == "own")}
    if all(found.status == "own" for found in report.found.values()):
        pytest.skip("; ".join(sorted(untried)))


# What the comparison stands on.


def test_each_kind_of_layer_is_in_the_tiny_model():
    for name in names():
        try:
            small = configuration(name).get_text_config(decoder=True)
        except Exception:  # what is no model by default; examine says so
            continue
        if name not in VARIANTS and name not in OWN:
            default = AutoConfig.for_model(name).get_text_config(decoder=True)
            kinds = [set(getattr(config, "layer_types", None) or ()) for config in (default, small)]
            assert kinds[0] <= kinds[1], name


def test_no_parameter_is_zero_or_one():
    for name in ("llama", "gemma3_text", "gpt2", "jamba"):
        for parameter in build(name).parameters():
            assert not ((parameter == 0) | (parameter == 1)).any(), name


@pytest.mark.skipif(not CAN_HIDE, reason="needs transformers 5")
@pytest.mark.parametrize("attention", served.ATTENTIONS)
def test_what_is_hidden_is_what_a_mask_hides(attention):
    model = build("llama", attention)
    situation = served.Situation([5, 4, 1, 1], closes=(-9, -9))
    masked = served.Situation([5, 4, 1, 1], closes=(-9, -9), pads=3)
    right = [logits for _, logits in served.feed(model, masked, DynamicCache(config=model.config))]
    gone = torch.zeros(2, 1, 11, dtype=torch.bool)
    gone[0, :, :3] = True
    with hidden(dict.fromkeys(range(4), gone)):
        cache = told_apart(DynamicCache(config=model.config))
        ours = [logits for _, logits in served.feed(model, situation, cache)]
    for a, b in zip(ours[1:], right[1:], strict=True):  # rotary positions count from anywhere
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", served.CACHES)
def test_a_value_that_is_a_little_off_is_found(kind, monkeypatch):
    make = served.CACHES[kind]

    def spoilt(model, *selector):
        cache = make(model, *selector)
        update = cache.update
        cache.update = lambda keys, values, *args, **kwargs: update(keys, values * 1.01, *args, **kwargs)
        return cache

    monkeypatch.setitem(served.CACHES, kind, spoilt)
    monkeypatch.setattr(served, "ATTENTIONS", ("sdpa",))
    found = served.examine("llama").found
    assert {case for case, one in found.items() if one.status == "wrong"} == {case for case in found if case[1] == kind}
