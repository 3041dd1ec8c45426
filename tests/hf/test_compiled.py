"""`model.forward = torch.compile(model.forward)` with CompressedCache: the same texts, no graph for each step or cache."""

import copy
import shutil
import threading

import pytest
import torch
import transformers
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForCausalLM

from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.hf import CompressedCache
from tiny import OWN_SIZES, SIZES, generate, prompt

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = dict(interval=16, ratio=4, recent=8, selector="rpc")
OLD = tuple(map(int, transformers.__version__.split(".")[:2])) <= (5, 13)
FEW, PADDED = (2, 2) if OLD else (2, 4)
MASK = (torch.arange(20) >= torch.tensor([[5], [0]])).long()


def make(architecture="llama", layers=2, **more):
    """Few layers, since each takes a compiler a second and more."""
    torch.manual_seed(0)
    sizes = {**SIZES, **OWN_SIZES.get(architecture, {}), "initializer_range": 0.3, "num_hidden_layers": layers, **more}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes)).eval()


@pytest.fixture
def compiled(monkeypatch):
    """compiled(model) is the model with a forward that is compiled, also where the environment switches compilers off."""

    def compiled(model, backend="eager"):
        model.forward = torch.compile(model.forward, backend=backend)
        return model

    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    with torch._dynamo.config.patch(disable=False):
        torch._dynamo.reset()
        counters.clear()
        torch.compile(torch.sin, backend="eager")(torch.zeros(2))
        assert graphs(), "torch.compile compiles nothing in this process"
        torch._dynamo.reset()
        counters.clear()
        yield compiled
        torch._dynamo.reset()


def text(model, mask=None, **options):
    """The tokens, and what was kept of them after how many compressions."""
    ids = prompt() if mask is None else prompt() * mask
    with CompressedCache(model, **options) as cache:
        found = generate(model, ids, 60, mask, **{CACHE_ARGUMENT: cache})
    return found.tolist(), cache.stats()["kept"], cache.stats()["compressions"]


def graphs():
    return counters["stats"]["unique_graphs"]


def test_graphs_are_few_and_texts_the_same(compiled):
    """One for the prompt and one for steps, which compressions and other caches use as well. Masks make two more. Up to
    transformers 5.13 generate hands over a mask that masks nothing as well, so that the two are all."""
    model = make()
    kinds = [dict(SMALL, budget=24), dict(interval=32, ratio=2, recent=4, selector="rpc"), dict(interval=None)]
    wanted, padded = [text(model, **options) for options in kinds], [text(model, MASK, **options) for options in kinds]
    compiled(model)
    assert text(model, **kinds[0]) == wanted[0] and wanted[0][2] == 2
    assert graphs() == FEW and not counters["graph_break"]
    assert [text(model, **options) for options in kinds] == wanted
    assert graphs() == FEW
    assert text(model, MASK, **kinds[0]) == padded[0]
    assert graphs() == PADDED
    assert [text(model, MASK, **options) for options in kinds] == padded
    assert graphs() == PADDED

    with CompressedCache(model, **SMALL) as cache, torch.no_grad():  # copies are caches of their own
        model(prompt(), **{CACHE_ARGUMENT: cache})
        twin = copy.deepcopy(cache)
        model(prompt()[:, :1], **{CACHE_ARGUMENT: twin})
    assert (cache.stats()["seen"], twin.stats()["seen"]) == (20, 21)
    with (
        CompressedCache(model, **SMALL) as cache,
        pytest.raises(ValueError, match="prompt_length: expected"),
        torch.no_grad(),
    ):
        model(prompt(1, 1), **{CACHE_ARGUMENT: cache})


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile has no C++ compiler")
def test_code_that_is_compiled_says_the_same(compiled):
    """It uses the memory of queries again, of which a cache must not keep a view."""
    model, options = make(layers=1), {**SMALL, "selector": "echo"}
    wanted = text(model, **options)
    assert text(compiled(model, "inductor"), **options) == wanted
    assert graphs() == FEW


def test_layers_that_are_not_ours_are_the_compilers(compiled):
    """Gemma 3 has layers with a sliding window."""
    model = make("gemma3_text", layer_types=["sliding_attention", "full_attention"])
    wanted = text(model, **SMALL)
    assert wanted[2] == 3 and text(compiled(model), **SMALL) == wanted


def test_threads_that_make_caches_at_once_leave_the_compiler_on(compiled):
    """What a new cache shows its model is not compiled, for which the compiler is off in the whole process. The second
    thread comes while the first is at it, if it can, and is at it until the first has ended."""
    second_is_there, first_has_ended = threading.Event(), threading.Event()
    first, second = make(layers=1), make(layers=1)
    other = threading.Thread(target=CompressedCache, args=(second,), kwargs=SMALL)

    def in_first(*_):
        if not other.ident:
            other.start()
        second_is_there.wait(0.5)

    def in_second(*_):
        second_is_there.set()
        first_has_ended.wait(0.5)

    hooks = first.register_forward_pre_hook(in_first), second.register_forward_pre_hook(in_second)
    CompressedCache(first, **SMALL)
    first_has_ended.set()
    other.join()
    for hook in hooks:
        hook.remove()
    compiled(first)(prompt())
    assert graphs()
