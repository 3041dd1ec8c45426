"""Every instruction-set level gives bit-identical results, but for attention scores, which differ in their rounding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import _core, codelength_deltas, dry_penalize_, lz_penalize_, repetition_period
from test_formula import coders, histories, options


def at_each_level(function):
    before, results = _core.cpu_level(), []
    try:
        for level in _core.cpu_levels():
            _core.set_cpu_level(level)
            results.append(function())
    finally:
        _core.set_cpu_level(before)
    return results


def listing(tokens, vocab, **coder):
    ids, bits = codelength_deltas(tokens, vocab, **coder)
    order = np.argsort(ids)
    return ids[order].tobytes() + bits[order].tobytes()


@given(histories(200), coders, options, st.sampled_from([2, 16, 1000, 151_936]))
@settings(max_examples=200, deadline=None)
def test_levels_agree_bit_for_bit(history, coder, option, vocab):
    tokens = np.array(history, np.int64)
    option["neutral"] = [i % vocab for i in option["neutral"] or ()]
    logits = np.random.default_rng(0).normal(size=vocab).astype(np.float32)
    for results in (
        at_each_level(lambda: lz_penalize_(logits.copy(), tokens, **coder, **option).tobytes()),
        at_each_level(lambda: listing(tokens, vocab, **coder)),
        at_each_level(lambda: dry_penalize_(logits.copy(), tokens, breakers=[3]).tobytes()),
        at_each_level(lambda: repetition_period(tokens, ngram=3, count=3, max_period=20).tobytes()),
    ):
        assert len(set(results)) == 1


def test_long_texts_agree_too():
    rng = np.random.default_rng(0)
    for text in (rng.integers(0, 150_000, 9000), rng.integers(0, 40, 9000), np.tile(rng.integers(0, 99, 700), 13)):
        for coder in (
            {},
            {"window": 4096, "min_count": 2},
            {"window": 9000, "buffer": 900, "cost": "pair"},
            {"min_match": 3},
        ):
            assert len(set(at_each_level(lambda: listing(text, 151_936, **coder)))) == 1


def test_each_level_can_be_forced(level):
    assert _core.cpu_level() == level
