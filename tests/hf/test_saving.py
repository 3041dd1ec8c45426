"""A cache can be saved and loaded, in the middle of anything, and goes on as if it had not been."""

import copy
import io
import pickle

import pytest
import torch

from lzpenalty.cache import selectors
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.hf import CompressedCache, Forget, ForgetCache, RPCCache
from tiny import generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = dict(interval=16, ratio=4, recent=8)
KINDS = [
    ("interval=None", lambda model: CompressedCache(model, interval=None)),
    *[(name, lambda model, name=name: CompressedCache(model, **SMALL, selector=name)) for name in selectors.SELECTORS],
    *[
        (f"{name}, global", lambda model, name=name: CompressedCache(model, **SMALL, selector=name, allocation="global"))
        for name in ("rpc", "h2o", "random", "expected")
    ],
    (
        "with options",
        lambda model: CompressedCache(model, **SMALL, selector=selectors.LagKV(4), budget=20, prompt_length=20),
    ),
    ("RPCCache", lambda model: RPCCache(model, **SMALL)),
    ("ForgetCache", lambda model: ForgetCache(model, Forget(close=18, then=[20, 21, 22, 19]))),
]


# ForgetCache refuses layers with a sliding window.
PAIRS = [(*kind, architecture) for kind in KINDS for architecture in ("llama", "gemma3_text")]
PAIRS.remove((*KINDS[-1], "gemma3_text"))


@pytest.mark.parametrize(("name", "make", "architecture"), PAIRS, ids=[f"{name}-{on}" for name, _, on in PAIRS])
def test_a_loaded_cache_goes_on_as_the_one_that_was_saved(name, make, architecture, tmp_path):
    model = tiny(architecture)
    for tokens in (1, 25, 40):
        with make(model) as cache:
            text = generate(model, prompt(), tokens, **{CACHE_ARGUMENT: cache})
        cache.save(tmp_path / "cache.pt")
        loaded = type(cache).load(tmp_path / "cache.pt", model)
        assert repr(loaded.stats() | {"bytes": 0}) == repr(cache.stats() | {"bytes": 0})
        answers = []
        for each in (copy.deepcopy(cache), cache, loaded):
            with each:
                longer = torch.cat([text, prompt(2, 5, 8)], 1)
                answers.append(generate(model, longer, 40, **{CACHE_ARGUMENT: each}))
        assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])
        assert [each.stats()["seen"] for each in (cache, loaded)] == [text.shape[1] + 5 + 39] * 2


def test_a_cache_that_is_saved_to_be_asked_several_questions():
    model, file = tiny(), io.BytesIO()
    with CompressedCache(model, **SMALL) as cache, torch.no_grad():
        model(prompt(1), **{CACHE_ARGUMENT: cache})
        for i in range(20):
            model(prompt(1, 1, i), **{CACHE_ARGUMENT: cache})
        cache.save(file)
        wanted = [model(prompt(1, 4, seed), **{CACHE_ARGUMENT: copy.deepcopy(cache)}).logits for seed in range(3)]
    for seed in range(3):
        file.seek(0)
        with CompressedCache.load(file, model) as loaded, torch.no_grad():
            assert torch.equal(model(prompt(1, 4, seed), **{CACHE_ARGUMENT: loaded}).logits, wanted[seed])


def test_what_can_not_be_saved_or_loaded(tmp_path):
    model = tiny()

    class Own(selectors.Selector):
        def score(self, layer):
            return torch.zeros(layer.keys.shape[0], 1, layer.stop - layer.start)

    for selector, name in ((Own(), "Own"), (selectors.Recorder(selectors.RPC()), "Recorder")):
        with pytest.raises(TypeError, match=f"selector: expected one of lzpenalty's in a cache that is saved, got {name}"):
            CompressedCache(model, **SMALL, selector=selector).save(tmp_path / "cache.pt")
    cache = RPCCache(model, **SMALL)
    for function in (pickle.dumps, copy.copy, lambda cache: torch.save(cache, io.BytesIO())):
        with pytest.raises(TypeError, match=r"RPCCache: expected save\(file\) and load\(file, model\)"):
            function(cache)
    cache.save(tmp_path / "cache.pt")
    with pytest.raises(ValueError, match="file: expected a ForgetCache's, got RPCCache"):
        ForgetCache.load(tmp_path / "cache.pt", model)
    with pytest.raises(ValueError, match="model: expected one whose cache has the layers of the file's, got Gemma3"):
        RPCCache.load(tmp_path / "cache.pt", tiny("gemma3_text"))
    torch.save([1, 2], tmp_path / "other.pt")
    with pytest.raises(ValueError, match="file: expected a CompressedCache's, got list"):
        CompressedCache.load(tmp_path / "other.pt", model)
