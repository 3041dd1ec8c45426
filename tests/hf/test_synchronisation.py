"""In an ordinary step nothing asks a tensor for its contents: on a GPU that would wait for all that it still has to do."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.even import EvenLayer
from lzpenalty.cache.ragged import RaggedLayer
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.hf import CompressedCache, LZPenaltyLogitsProcessor, RepetitionStoppingCriteria
from tiny import generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
WAITING = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "_to_copy", "unique")


class Traced(TorchDispatchMode):
    """Every operation that torch is asked for."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def trace(monkeypatch):
    """trace(owner, name): that method runs traced from now on, and what it asks torch for is returned as a list."""
    traced = Traced()

    def start(owner, name):
        method = getattr(owner, name)

        def wrapped(*args, **kwargs):
            with traced:
                return method(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    yield start, traced.operations


def test_the_trace_sees_what_waits(trace):
    operations = trace[1]
    with Traced() as traced:
        torch.ones(2).sum().item()
    assert operations == [] and set(traced.operations) & set(WAITING)


@pytest.mark.parametrize("selector", [*SELECTORS])
def test_the_cache_does_not_wait(selector, trace):
    start, operations = trace
    for name in ("update", "attend"):
        start(EvenLayer, name)
        start(RaggedLayer, name)
    start(EvenLayer, "attended")  # budgets have to be known, in a compression
    with CompressedCache(tiny(), interval=16, recent=8, selector=selector) as cache:
        generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache})
    assert cache.stats()["compressions"] == 3
    assert operations and not set(operations) & set(WAITING)


def test_the_processor_and_the_criterion_do_not_wait(trace, monkeypatch):
    start, operations = trace
    start(LZPenaltyLogitsProcessor, "__call__")
    start(RepetitionStoppingCriteria, "__call__")
    processor, criterion = LZPenaltyLogitsProcessor(), RepetitionStoppingCriteria()
    scores, ids = torch.randn(2, 211), prompt(2, 50)
    for _ in range(3):
        processor(ids, scores)
        criterion(ids)
    assert operations.count("clone") == 3 and not set(operations) & set(WAITING)
