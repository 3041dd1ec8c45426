"""Every instruction-set level gives bit-identical results, but for attention scores, which differ in their rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzpenalty import (
    LZOptions,
    _core,
    append_,
    codelength_deltas,
    compact_,
    dry_penalize_,
    loop_evidence,
    lz_penalize_,
    lz_penalize_rows_,
    repetition_period,
    select_top,
)
from strategies import at_each_level, coders, histories, options, within
from thorough import examples


def listing(tokens, vocab, **coder):
    ids, bits = codelength_deltas(tokens, vocab, **coder)
    order = np.argsort(ids)
    return ids[order].tobytes() + bits[order].tobytes()


@given(histories(200), coders, options, st.sampled_from([2, 16, 1000, 151_936]))
@examples(200)
def test_levels_agree_bit_for_bit(history, coder, option, vocab):
    tokens = np.array(history, np.int64)
    option = within(option, vocab)
    logits = np.random.default_rng(0).normal(size=vocab).astype(np.float32)
    for results in (
        at_each_level(lambda: lz_penalize_(logits.copy(), tokens, **coder, **option).tobytes()),
        at_each_level(lambda: listing(tokens, vocab, **coder)),
        at_each_level(lambda: dry_penalize_(logits.copy(), tokens, sequence_breakers=[3]).tobytes()),
        at_each_level(lambda: repetition_period(tokens, ngram=3, count=3, max_period=20).tobytes()),
        at_each_level(lambda: loop_evidence(tokens, gram=2, window=90).tobytes()),
    ):
        assert len(set(results)) == 1


def test_long_texts_agree_too():
    rng = np.random.default_rng(0)
    for text in (rng.integers(0, 150_000, 9000), rng.integers(0, 40, 9000), np.tile(rng.integers(0, 99, 700), 13)):
        for coder in (
            {},
            {"window": 4096},
            {"window": 9000, "buffer": 900, "cost": "pair"},
            {"min_match": 3},
        ):
            assert len(set(at_each_level(lambda: listing(text, 151_936, **coder)))) == 1


RNG = np.random.default_rng(0)
LOGITS, TOKENS = RNG.normal(size=(3, 50)), RNG.integers(0, 40, (3, 300))
CACHE = RNG.normal(size=(2, 2, 3, 40, 8)).astype(np.float32)
ROWS = {row: (LZOptions(window=200), TOKENS[row]) for row in range(3)}


def moved(function, *args, **how):
    keys, values = CACHE.copy()
    function(keys, values, *args, **how)
    return keys, values


@pytest.mark.parametrize(
    "call",
    [
        lambda: [lz_penalize_(LOGITS.astype(dtype), TOKENS) for dtype in (np.float16, np.float32, np.float64)],
        lambda: [dry_penalize_(LOGITS.astype(dtype), TOKENS) for dtype in (np.float16, np.float32, np.float64)],
        lambda: lz_penalize_rows_(LOGITS.copy(), ROWS),
        lambda: _core.gather_tokens_(np.zeros((3, 99), np.int32), ROWS),
        lambda: [listing(TOKENS[0], 50)],
        lambda: _core.token_bits(TOKENS[0], 50),
        lambda: repetition_period(TOKENS % 2, ngram=2, count=2),
        lambda: loop_evidence(TOKENS % 2, gram=5, window=99),
        lambda: select_top(CACHE[0, 0], 7),
        lambda: moved(compact_, np.arange(0, 30, 3).reshape(1, 1, -1).repeat(2, 0), start=2, stop=35, length=40),
        lambda: moved(append_, *CACHE[::-1, :, :, :5].copy(), position=9),
        lambda: _core.parse_lz77(TOKENS[0], 99),
        lambda: _core.parse_lz78(TOKENS[0]),
        lambda: _core.find_loops(TOKENS[0] % 3, 2, 0.1, 99),
    ],
)
def test_every_function_at_each_level(call):
    """But for attention_scores, which test_scores.py has at each level."""
    first, *others = at_each_level(call)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_each_level_can_be_forced(level):
    assert _core.cpu_level() == level
