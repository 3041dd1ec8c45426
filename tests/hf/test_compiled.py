"""`model.forward = torch.compile(model.forward)` with RPCCache: the same texts, and no graph for each step, length or cache."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from lzpenalty.hf import RPCCache
from tiny import generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = dict(interval=16, ratio=4, recent=8)
MASK = (torch.arange(20) >= torch.tensor([[5], [0]])).long()


@pytest.fixture
def compiled(request):
    """compiled(model) is the model with a forward that is compiled, until the test ends."""
    changed = []

    def make(model, backend="eager"):
        changed.append(model)
        model.forward = torch.compile(type(model).forward.__get__(model), backend=backend)
        return model

    torch._dynamo.reset()
    counters.clear()
    yield make
    for model in changed:
        del model.forward
    torch._dynamo.reset()


def text(model, mask=None, tokens=70, **options):
    ids = prompt() if mask is None else prompt() * mask
    with RPCCache(model, **options) as cache:
        found = generate(model, ids, tokens, mask, past_key_values=cache)
    return found, cache.stats()


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    "options", [dict(SMALL, budget=24), dict(SMALL, selector="echo"), dict(interval=None)], ids=["rpc", "echo", "None"]
)
def test_texts_are_the_same_and_graphs_few(compiled, options):
    """A graph for the prompt and one for steps, which compressions and other caches go on using."""
    model = tiny()
    wanted, padded = text(model, **options), text(model, MASK, **options)
    compiled(model)
    got = text(model, **options)
    assert got[0].equal(wanted[0])
    assert got[1]["kept"] == wanted[1]["kept"] and got[1]["compressions"] == wanted[1]["compressions"]
    assert graphs() <= 3 and not counters["graph_break"]
    before = graphs()
    assert text(model, **options)[0].equal(wanted[0])
    assert text(model, MASK, **options)[0].equal(padded[0])
    text(model, tokens=40, interval=32, ratio=2, recent=4)
    assert graphs() == before


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler for torch.compile")
def test_code_that_is_compiled_says_the_same(compiled):
    """Inductor's code uses memory of queries again, which a cache must not keep a view of."""
    options = dict(SMALL, selector="echo")
    wanted = text(tiny(), **options)[0]
    assert text(compiled(tiny(), "inductor"), **options)[0].equal(wanted)
    assert graphs() <= 3


def test_layers_that_are_not_ours_are_the_compilers(compiled):
    """Gemma 3 has layers with a sliding window."""
    wanted = text(tiny("gemma3_text"), **SMALL)[0]
    assert text(compiled(tiny("gemma3_text")), **SMALL)[0].equal(wanted)


def test_wrong_use_is_refused_as_without_a_compiler(compiled):
    model = compiled(tiny())
    with RPCCache(model, **SMALL) as cache, pytest.raises(Exception, match="expected at least 2 tokens"), torch.no_grad():
        model(prompt(1, 1), past_key_values=cache)


def test_copies_of_a_cache_are_caches_of_their_own(compiled):
    import copy

    model = compiled(tiny())
    with RPCCache(model, **SMALL) as cache, torch.no_grad():
        model(prompt(), past_key_values=cache)
        twin = copy.deepcopy(cache)
        model(prompt()[:, :1], past_key_values=twin)
    assert (cache.stats()["seen"], twin.stats()["seen"]) == (20, 21)
