"""lzpenalty.llama_cpp.sampler with the stub in llama.cpp's place: where it is put, for how long, and what it computes."""

import ctypes as c
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import sampler
from building import CC, ROOT, run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lzpenalty import lz_penalize_
from lzpenalty.llama_cpp import sampler as chain_sampler

VOCAB = 40


def new_llama_cpp(stub):
    """The module llama_cpp, as far as it goes: chains are lists."""

    class Data(c.Structure):
        _fields_ = [("id", c.c_int32), ("logit", c.c_float), ("p", c.c_float)]

    class Array(c.Structure):
        _fields_ = [("data", c.POINTER(Data)), ("size", c.c_size_t), ("selected", c.c_int64), ("sorted", c.c_bool)]

    class Interface(c.Structure):
        _fields_ = [(name, c.c_void_p) for name in ("name", "accept", "apply", "reset", "clone", "free", "copy_state")]

    class Sampler(c.Structure):
        _fields_ = [("iface", c.POINTER(Interface)), ("ctx", c.c_void_p)]

    return SimpleNamespace(
        llama_token_data=Data,
        llama_token_data_array=Array,
        llama_sampler_i=Interface,
        llama_sampler=Sampler,
        llama_sampler_p_ctypes=c.POINTER(Sampler),
        llama_cpp=SimpleNamespace(_lib=stub),
        llama_sampler_free=lambda smpl: stub.llama_sampler_free(smpl),
        llama_sampler_chain_n=len,
        llama_sampler_chain_add=lambda chain, smpl: chain.append(smpl),
        llama_sampler_chain_remove=lambda chain, i: chain.pop(i),
    )


class Llama:
    """What of a `llama_cpp.Llama` is asked for."""

    metadata: dict = {}

    def n_vocab(self):
        return VOCAB

    def _init_sampler(self, *others):
        return SimpleNamespace(sampler=[*others], custom_samplers=[(1, "custom")])


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    path = tmp_path_factory.mktemp("stub") / "libllama.so"
    run(CC, "-shared", "-fPIC", "-I", ROOT / "csrc/abi", ROOT / "tests/capi/stub/llama.c", "-o", path)
    return c.CDLL(str(path))


@pytest.fixture
def llama_cpp(stub, monkeypatch):
    module = new_llama_cpp(stub)
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    return module


OPTIONS = [
    {},
    dict(strength=0.5, window=20, buffer=9, cost="pair", min_match=2),
    dict(gate=(0.0, 9.0), release=[[3, 4], 7], release_after=8, release_rate=1.0, open=[9, 1], skip=[[11, 12]]),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_it_comes_first_and_computes_the_penalty(llama_cpp, stub, options):
    llama, text = Llama(), np.resize([1, 2, 3, 1, 2, 4, 3], 60)
    with chain_sampler(llama, **options) as same:
        assert same is llama
        made = llama._init_sampler("custom", "greedy")
        assert made.sampler[1:] == ["custom", "greedy"] and made.custom_samplers == [(2, "custom")]
        ours = made.sampler[0]
        assert llama._init_sampler().sampler[0].contents.ctx != ours.contents.ctx  # each call has its own
    assert "_init_sampler" not in vars(llama)
    for token in text:
        stub.llama_sampler_accept(ours, int(token))
    logits = np.linspace(-3, 3, VOCAB, dtype=np.float32)
    candidates = sampler.candidates_of(logits)
    stub.llama_sampler_apply(ours, c.byref(sampler.Candidates(candidates.ctypes.data, VOCAB, -1, False)))
    assert (candidates["logit"] == lz_penalize_(logits.copy(), text, **options)).all()
    assert (candidates["logit"] != logits).any()


def test_the_prompt_of_generate_is_looked_at(llama_cpp, stub):
    class Generating(Llama):
        def generate(self, tokens):
            yield self._init_sampler("greedy").sampler[0]

    text, logits = [5, 6, 8] * 9, np.linspace(-3, 3, VOCAB, dtype=np.float32)
    options = dict(open=[[9]], release=[7], release_after=8)
    for prompt in ([1, 9], [9, 7], [1], [], (9,)):
        llama = Generating()
        with chain_sampler(llama, **options):
            (ours,) = llama.generate(prompt)
        for token in text:
            stub.llama_sampler_accept(ours, token)
        candidates = sampler.candidates_of(logits)
        stub.llama_sampler_apply(ours, c.byref(sampler.Candidates(candidates.ctypes.data, VOCAB, -1, False)))
        wanted = lz_penalize_(logits.copy(), np.array([*prompt, *text]), starts=len(prompt), **options)
        assert (candidates["logit"] == wanted).all()


def test_bad_options(llama_cpp):
    for bad in (dict(strength=-1.0), dict(skip=[[VOCAB]]), dict(release=[[VOCAB]]), dict(window="wide"), dict(nothing=1)):
        llama = Llama()
        with pytest.raises((TypeError, ValueError)), chain_sampler(llama, **bad):
            pass
        assert "_init_sampler" not in vars(llama)


def test_other_layouts(llama_cpp):
    class Wider(c.Structure):
        _fields_ = [("id", c.c_int64), ("logit", c.c_float), ("p", c.c_float)]

    class Renamed(c.Structure):
        _fields_ = [(name, c.c_void_p) for name in ("name", "apply", "accept", "reset", "clone", "free")]

    for name, structure in {"llama_token_data": Wider, "llama_sampler_i": Renamed}.items():
        before = getattr(llama_cpp, name)
        setattr(llama_cpp, name, structure)
        with pytest.raises(RuntimeError, match="llama_cpp: expected"), chain_sampler(Llama()):
            pass
        setattr(llama_cpp, name, before)


def test_the_block_ends_with_an_error(llama_cpp):
    llama = Llama()
    with pytest.raises(KeyError), chain_sampler(llama):
        raise KeyError
    assert "_init_sampler" not in vars(llama)


STEPS = st.lists(st.tuples(st.sampled_from(["open", "close", "patch", "unpatch"]), st.integers(0, 9)), max_size=14)


@settings(max_examples=60, deadline=None)
@given(STEPS)
@example([("open", 1), ("open", 2), ("close", 1), ("close", 0)])  # nested
@example([("open", 1), ("open", 2), ("close", 0), ("close", 0)])  # overlapping
@example([("open", 1), ("patch", 0), ("open", 2), ("close", 0), ("unpatch", 0), ("close", 0)])
def test_blocks_in_any_order_are_those_that_are_open(stub, steps):
    """Against a list of what is open: each step, the chain has the penalties of these, and of nobody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "llama_cpp", new_llama_cpp(stub))
        llama, opened, patches = Llama(), [], []
        text = np.resize([1, 2, 3, 1, 2, 4, 3], 40)
        for step, number in steps:
            if step == "open":
                block = chain_sampler(llama, strength=0.125 + number / 8)
                block.__enter__()
                opened.append((0.125 + number / 8, block))
            elif step == "close" and opened:
                opened.pop(number % len(opened))[1].__exit__(None, None, None)
            elif step == "patch":  # somebody else does the same, and ends in order
                inner = llama._init_sampler
                patches.append((inner, vars(llama).get("_init_sampler")))
                llama._init_sampler = lambda *args, inner=inner: inner(*args, "patched")
            elif step == "unpatch" and patches and not opened:
                del vars(llama)["_init_sampler"]
                patches.clear()
            made = llama._init_sampler("greedy")
            n = len(made.sampler) - 1 - len(patches)
            assert made.sampler[n:] == ["greedy"] + ["patched"] * len(patches) and n == len(opened)
            assert made.custom_samplers == [(n + 1, "custom")]
            logits = np.linspace(-3, 3, VOCAB, dtype=np.float32)
            candidates = sampler.candidates_of(logits)
            for ours in made.sampler[:n]:
                for token in text:
                    stub.llama_sampler_accept(ours, int(token))
                stub.llama_sampler_apply(ours, c.byref(sampler.Candidates(candidates.ctypes.data, VOCAB, -1, False)))
                stub.llama_sampler_free(ours)
            for strength in sorted(strength for strength, _ in opened):
                lz_penalize_(logits, text, strength=strength)
            np.testing.assert_allclose(candidates["logit"], logits, rtol=1e-5, atol=1e-5)
        for _, block in opened:
            block.__exit__(None, None, None)
        assert patches or "_init_sampler" not in vars(llama)
