"""llama.cpp's sampler with a stub in llama.cpp's place: any candidates of any text are the formula's."""

import header
import numpy as np
import pytest
import sampler
from building import CC, ROOT, run
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import lz_penalize_
from strategies import histories

STUB = ROOT / "tests/capi/stub"
FLAGS = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
VOCAB = 40
RELEASE = dict(release=[[3, 4], [7]], release_after=8, gate=(2.0, 20.0))
OPTIONS = [
    {},
    dict(strength=0.5, window=20, buffer=9),
    dict(RELEASE, strength=0.3),
    dict(RELEASE, open=[[9]], section_gate=(1.0, 4.0), skip=[[11, 12]], resume=[[13]]),
]


@pytest.fixture(scope="session")
def stubbed(installed, tmp_path_factory):
    path = tmp_path_factory.mktemp("sampler") / "libsampler.so"
    sources = [ROOT / "csrc/llama_cpp/llama_sampler_lz.c", STUB / "llama.c"]
    includes = ["-I", ROOT / "csrc/abi", "-I", installed.include]
    run(CC, *FLAGS, "-shared", "-fPIC", *includes, *sources, installed.lib / "liblzpenalty.a", "-lm", "-pthread", "-o", path)
    return sampler.load(path)


def new_sampler(stubbed, library, **options):
    made = sampler.Sampler(stubbed, stubbed.init_lz(header.options(library, **options), VOCAB))
    assert made.pointer
    return made


def wanted(logits, text, ids=None, start=0, **options):
    changed = lz_penalize_(logits.copy(), np.array(text, np.int64), starts=start, **options)
    return changed if ids is None else changed[ids]


LOGITS = np.linspace(-3, 3, VOCAB, dtype=np.float32)


@settings(deadline=None)
@given(histories(), st.integers(0, 40), st.sampled_from(OPTIONS), st.permutations(range(VOCAB)), st.integers(1, VOCAB))
def test_any_candidates_of_any_text(stubbed, library, text, start, options, order, n):
    text = [int(token) for token in np.array(text, np.int64).astype(np.int32)]
    start = min(start, len(text))
    smpl = new_sampler(stubbed, library, **options)
    options = options | {"start": start}
    smpl.accept(text[:start])
    smpl.mark()
    smpl.accept(text[start:])
    clone, everything = smpl.clone(), sampler.candidates_of(LOGITS)
    clone.apply(everything)
    assert (everything["logit"] == wanted(LOGITS, text, **options)).all()
    for ids in (order, order[:n], sorted(order[:n]), sorted(order, key=lambda i: -LOGITS[i])[:n]):
        some = sampler.candidates_of(LOGITS, ids)
        smpl.apply(some, is_sorted=True)
        np.testing.assert_allclose(some["logit"], wanted(LOGITS, text, ids, **options), rtol=1e-6, atol=1e-6)
        assert some["id"].tolist() == list(ids) and (some["p"] == 0.25).all()
    again = sampler.candidates_of(LOGITS)
    smpl.apply(again)
    assert (again == everything).all()


def test_a_long_text(stubbed, library):
    """Of which only the end is remembered."""
    text = np.random.default_rng(1).integers(0, VOCAB, 5000)
    for options in OPTIONS[:3]:
        smpl = new_sampler(stubbed, library, **options)
        for start in range(0, 5000, 500):
            smpl.accept(text[start : start + 500])
            candidates = sampler.candidates_of(LOGITS)
            smpl.apply(candidates)
            assert (candidates["logit"] == wanted(LOGITS, text[: start + 500], **options)).all()


def test_mark_reset_and_clone(stubbed, library):
    prompt, text = [1, 2, 3, 1, 2], [4, 5, 4, 5, 4]
    for forget in ("mark", "reset"):
        smpl = new_sampler(stubbed, library, **OPTIONS[1])
        smpl.accept(prompt)
        getattr(smpl, forget)()
        untouched = sampler.candidates_of(LOGITS)
        smpl.apply(untouched)
        assert (untouched["logit"] == LOGITS).all()
        smpl.accept(text)
        clone = smpl.clone()
        smpl.accept([6, 6])
        for other, tokens in ((clone, text), (smpl, [*text, 6, 6])):
            candidates = sampler.candidates_of(LOGITS)
            other.apply(candidates)
            assert (candidates["logit"] == wanted(LOGITS, tokens, **OPTIONS[1])).all()
        del smpl  # the clone has everything of its own
        clone.accept([5, 4])
        candidates = sampler.candidates_of(LOGITS)
        clone.apply(candidates)
        assert (candidates["logit"] == wanted(LOGITS, [*text, 5, 4], **OPTIONS[1])).all()


def test_a_section_may_be_open_since_the_prompt(stubbed, library):
    options = dict(RELEASE, open=[[9]])
    for prompt, is_open in (([1, 9], True), ([9, 7], False), ([1], False)):
        smpl = new_sampler(stubbed, library, **options)
        smpl.accept(prompt)
        smpl.mark()
        smpl.accept([5, 6, 8] * 9)
        candidates = sampler.candidates_of(LOGITS)
        smpl.apply(candidates)
        assert (candidates["logit"] == wanted(LOGITS, prompt + [5, 6, 8] * 9, start=len(prompt), **options)).all()
        assert (candidates["logit"][7] > LOGITS[7]) == is_open


def test_order_is_lost_where_logits_change(stubbed, library):
    smpl = new_sampler(stubbed, library)
    candidates = sampler.candidates_of(LOGITS, range(VOCAB - 1, -1, -1))
    assert smpl.apply(candidates, is_sorted=True)
    smpl.accept([1, 2, 1])
    assert not smpl.apply(candidates, is_sorted=True)
    assert not smpl.apply(sampler.candidates_of(LOGITS), is_sorted=True)


def test_options(stubbed, library):
    for bad in (dict(strength=-1.0), dict(skip=[[VOCAB]]), dict(release=[[VOCAB]]), dict(buffer=0)):
        assert not stubbed.init_lz(header.options(library, **bad), VOCAB)
    assert not stubbed.init_lz(None, 0)
    smpl = sampler.Sampler(stubbed, stubbed.init_lz(None, VOCAB))
    assert stubbed.name(smpl.pointer) == b"lz"
    smpl.accept([1, 2, 1])
    candidates = sampler.candidates_of(LOGITS)
    smpl.apply(candidates)
    assert (candidates["logit"] == wanted(LOGITS, [1, 2, 1])).all()
