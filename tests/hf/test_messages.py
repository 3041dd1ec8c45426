"""What can't be done is refused for its reason, not for what would follow from it, before anything is written."""

import gc
import warnings

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from lzpenalty.cache import selectors
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.hf import CompressedCache, Forget, ForgetCache, RPCCache
from tiny import OWN_SIZES, SIZES, VOCAB, generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = dict(interval=16, ratio=4, recent=8)
RULE = Forget(close=18, then=[20, 21, 22, 19])
CACHES = {
    "echo": lambda model: CompressedCache(model, **SMALL),
    "rpc": lambda model: RPCCache(model, **SMALL),
    "ForgetCache": lambda model: ForgetCache(model, RULE),
}


def fresh(architecture="llama", **changes):
    torch.manual_seed(0)
    sizes = {**SIZES, **OWN_SIZES.get(architecture, {}), **changes}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes)).eval()


# Ways to call.


@pytest.mark.parametrize("name", CACHES)
def test_forgetting_the_block_is_named_in_all_ways(name):
    """A new cache, one that has left its block, and a copy."""
    model = tiny()
    used = CACHES[name](model)
    with used:
        text = generate(model, prompt(), 30, **{CACHE_ARGUMENT: used})
    for cache, ids in ((CACHES[name](model), prompt()), (used, text)):
        before = cache.stats()
        with pytest.raises(RuntimeError, match="expected to be used inside of its block, `with cache: model.generate"):
            generate(model, ids, 4, **{CACHE_ARGUMENT: cache})
        assert cache.stats() == before
    with used:  # nothing is broken
        generate(model, text, 4, **{CACHE_ARGUMENT: used})


def test_a_block_in_which_nothing_was_seen():
    """As PEFT's prefix tuning leaves it, which replaces the cache."""
    model = tiny()
    for make in (*CACHES.values(), lambda model: CompressedCache(model, interval=None)):
        with pytest.warns(UserWarning, match="nothing was fed to it in its block; .* prefix tuning"), make(model):
            generate(model, prompt(), 4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with make(model) as cache:
                generate(model, prompt(), 4, **{CACHE_ARGUMENT: cache})
            with pytest.raises(KeyError), make(model):
                raise KeyError


@pytest.mark.parametrize("name", CACHES)
def test_gradient_checkpointing_and_training(name):
    model = fresh()
    cache = CACHES[name](model)
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # before transformers 5.24
    getattr(model, f"{kind}_checkpointing_enable")()
    model.train()
    with cache, pytest.raises(ValueError, match="without gradient checkpointing, which passes no cache on while it trains"):
        generate(model, prompt(), 4, **{CACHE_ARGUMENT: cache})
    assert cache.stats()["seen"] == 0
    getattr(model, f"{kind}_checkpointing_disable")()
    with cache:  # training alone is no reason
        generate(model, prompt(), 20, **{CACHE_ARGUMENT: cache})
    model.eval()
    model.train()
    with CACHES[name](model) as cache:
        assert model.training
        generate(model, prompt(), 4, **{CACHE_ARGUMENT: cache})


def test_dropout_that_is_ours_to_compute_is_refused():
    model = fresh(attention_dropout=0.1).train()
    for make in (CACHES["echo"], lambda model: CompressedCache(model, **SMALL, selector="rpc", allocation="global")):
        with (
            make(model) as cache,
            pytest.raises(ValueError, match="model: expected no dropout once entries have been dropped"),
        ):
            generate(model, prompt(), 40, **{CACHE_ARGUMENT: cache})
        assert cache.stats()["compressions"] == 1


@pytest.mark.parametrize("name", CACHES)
def test_use_cache_false(name):
    model = tiny()
    with CACHES[name](model) as cache:
        with pytest.raises(ValueError, match="use_cache: expected True where a cache is passed, got False"):
            generate(model, prompt(), 4, use_cache=False, **{CACHE_ARGUMENT: cache})
        with pytest.raises(ValueError, match="use_cache: expected True"):
            model(prompt(), use_cache=False, **{CACHE_ARGUMENT: cache})
    assert cache.stats()["seen"] == 0


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_of_another_model(name):
    """Of another architecture, or of the same."""
    for other in (fresh(), tiny("qwen3")):
        with CACHES[name](tiny()) as cache, CACHES[name](other):
            with pytest.raises(ValueError, match=f"cache: expected the model that {type(cache).__name__} was made for, got"):
                generate(other, prompt(), 4, **{CACHE_ARGUMENT: cache})
            cache.reset()
            generate(tiny(), prompt(), 4, **{CACHE_ARGUMENT: cache})


def test_a_model_that_is_gone():
    cache = CompressedCache(fresh(), **SMALL)
    gc.collect()
    with (
        pytest.raises(RuntimeError, match="model: expected the one that CompressedCache was made for, which is gone"),
        cache,
    ):
        pass


# Models.


@pytest.mark.parametrize("make", [*CACHES.values(), lambda model: CompressedCache(model, interval=None)])
@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ("gpt2", "str 'gpt2'"),
        (AutoConfig.for_model("llama", **SIZES), "LlamaConfig"),
        (torch.nn.Linear(2, 2), "Linear"),
        (None, "NoneType"),
        (transformers.LlamaForCausalLM, "type"),
    ],
)
def test_no_model(make, thing, words):
    with pytest.raises(TypeError, match=f"model: expected a model of transformers, got {words}"):
        make(thing)


def mllama():
    text = dict(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, cross_attention_layers=[1], pad_token_id=0, bos_token_id=1, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **({"rope_scaling": {"rope_type": "default"}} if transformers.__version__ < "5" else {}),
    )  # fmt: skip
    vision = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_global_layers=1, attention_heads=2, image_size=8,
        patch_size=4, vision_output_dim=64, intermediate_layers_indices=[0], max_num_tiles=1,
        supported_aspect_ratios=[[1, 1]],
    )  # fmt: skip
    config = transformers.MllamaConfig(text_config=text, vision_config=vision, image_token_index=5)
    return transformers.MllamaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def test_models_with_layers_of_another_kind():
    model = mllama()
    for make in (*CACHES.values(), lambda model: CompressedCache(model, interval=None)):
        with pytest.raises(
            ValueError, match="expected attention to the text alone, got Mllama.*, which has cross-attention"
        ):
            make(model)


@pytest.mark.skipif(not hasattr(transformers, "FalconH1Config"), reason="this transformers has no Falcon-H1")
def test_models_with_a_state_beside_each_layers_keys():
    sizes = dict(mamba_d_ssm=48, mamba_n_heads=4, mamba_d_head=12, mamba_d_state=8, mamba_chunk_size=8)
    model = fresh("falcon_h1", **sizes)
    if type(transformers.DynamicCache(config=model.config).layers[0]).__name__ == "DynamicLayer":
        pytest.skip("this transformers has no cache of its own for Falcon-H1")
    for make in CACHES.values():
        with pytest.raises(
            ValueError, match="full attention that hold keys and values alone, FalconH1ForCausalLM has Linear"
        ):
            make(model)


@pytest.mark.parametrize("buffers", [False, True])
def test_offloaded_models_are_served_as_generate_serves_them(buffers):
    """Their weights are on the device "meta" while they don't run."""
    accelerate = pytest.importorskip("accelerate")
    for make in (*CACHES.values(), lambda model: CompressedCache(model, interval=None)):
        texts = []
        for offloaded in (False, True):
            model = fresh()
            if offloaded:
                model = accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=buffers)
            with make(model) as cache:
                texts.append(generate(model, prompt(), 40, **{CACHE_ARGUMENT: cache}))
        assert torch.equal(*texts)


def test_frequencies_that_are_nowhere_between_two_forwards():
    model = fresh()
    rotary = next(module for module in model.modules() if hasattr(module, "inv_freq"))
    there = rotary.inv_freq
    rotary.register_forward_pre_hook(lambda module, args: setattr(module, "inv_freq", there))
    rotary.register_forward_hook(lambda module, args, output: setattr(module, "inv_freq", there.to("meta")))
    with pytest.warns(UserWarning, match="how queries of 3 of 3 layers change with their positions was not found out"):
        cache = CompressedCache(model, **SMALL)
    with cache:
        generate(model, prompt(), 40, **{CACHE_ARGUMENT: cache})
    assert cache.stats()["turned"] == ["unknown"] * 3


# Options.


def test_recent_that_was_never_set():
    for make in (CompressedCache, RPCCache):
        with pytest.raises(
            ValueError, match="interval: expected more than recent, which is 32 where it is not given, got 16"
        ):
            make(tiny(), interval=16)
        assert make(tiny(), interval=64).settings.plan.recent == 32
    with pytest.raises(ValueError, match="recent: expected less than interval, 16, got 20"):
        CompressedCache(tiny(), interval=16, recent=20)
    with pytest.raises(ValueError, match="interval: expected a multiple of ratio, 4, got 10"):
        CompressedCache(tiny(), interval=10)


def test_rpc_to_the_letter():
    cache = RPCCache(tiny())
    plan, settings = cache.settings.plan, cache.settings
    assert (plan.interval, plan.ratio, plan.recent, plan.budget) == (4096, 4, 32, None)
    assert (settings.kernel, settings.aggregation, settings.allocation) == (7, "layer", "even")
    assert all(type(selector) is selectors.RPC for selector in cache.selectors)
    texts = []
    for make in (RPCCache, lambda model, **options: CompressedCache(model, **options, selector="rpc")):
        with make(tiny(), **SMALL) as cache:
            texts.append(generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache}))
    assert torch.equal(*texts)
    with pytest.raises(TypeError, match="interval: expected an integer, got None; CompressedCache.* never compresses"):
        RPCCache(tiny(), interval=None)
    with pytest.raises(TypeError):
        RPCCache(tiny(), selector="echo")


# A record changes nothing.


@pytest.mark.parametrize("allocation", ["even", "global"])
@pytest.mark.parametrize("name", selectors.SELECTORS)
def test_recorded_is_as_unrecorded(name, allocation):
    if name == "echo" and allocation == "even":
        allocation = None
    model = fresh(initializer_range=0.4)  # sharp attention, so that much is certain
    results = []
    for selector in (selectors.SELECTORS[name](), selectors.Recorder(selectors.SELECTORS[name]())):
        with CompressedCache(model, **SMALL, selector=selector, allocation=allocation) as cache:
            text = generate(model, prompt(), 80, **{CACHE_ARGUMENT: cache})
            cache.reorder_cache(torch.tensor([1, 0]))
        results.append((text.tolist(), cache.stats() | {"seconds": 0}))
    assert results[0] == results[1]
    assert all(len(recorder.history) == 4 for recorder in cache.selectors)


def test_a_recorder_has_all_that_its_selector_has():
    for selector in (kind() for kind in selectors.SELECTORS.values()):
        recorder = selectors.Recorder(selector)
        for name in dir(selector):
            if not name.startswith("_") and name not in ("compacted", "select_rows"):
                assert getattr(recorder, name) == getattr(selector, name), name
