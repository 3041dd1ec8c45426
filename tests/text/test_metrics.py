"""The measures of the literature are what their definitions say."""

import zlib
from collections import Counter
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty.analysis import distinct_n, loop_evidence, ngram_entropy, seq_rep, suffix_extension_rate, zlib_ratio
from strategies import histories
from thorough import examples


def ngrams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


@given(histories(), st.integers(1, 35))
@settings(max_examples=500, deadline=None)
def test_ngrams(text, n):
    grams = ngrams(text, n)
    counts = Counter(grams)
    entropy = -sum(c / len(grams) * log2(c / len(grams)) for c in counts.values())
    assert ngram_entropy(text, n) == pytest.approx(entropy, abs=1e-9)
    assert seq_rep(text, n) == pytest.approx(1 - len(counts) / len(grams) if grams else 0)
    assert distinct_n(text, n) == pytest.approx(len(counts) / len(grams) if grams else 1)


@given(histories(40), st.integers(0, 9))
@examples(500)
def test_suffix_extension_rate(text, least):
    def extends(t):
        """Whether text[t] goes on with a suffix of at least `least` tokens as it went on before."""
        return any(text[j] == text[t] and text[j - least : j] == text[t - least : t] for j in range(least, t) if t >= least)

    expected = sum(map(extends, range(len(text)))) / max(1, len(text))
    assert suffix_extension_rate(text, least) == pytest.approx(expected)


def test_values_by_hand():
    # abab has the 2-grams ab, ba, ab
    assert distinct_n("abab", 2) == pytest.approx(2 / 3)
    assert seq_rep("abab", 2) == pytest.approx(1 / 3)
    assert ngram_entropy("abab", 2) == pytest.approx(2 / 3 * log2(3 / 2) + 1 / 3 * log2(3))
    assert ngram_entropy(range(66), 3) == pytest.approx(6)
    assert ngram_entropy([5] * 66, 3) == 0
    # of 10 tokens the 7th to the 10th go on with 4 that stood 2 before
    assert suffix_extension_rate([1, 2] * 5, 4) == pytest.approx(4 / 10)
    assert suffix_extension_rate([-9, 2**62, -9], 0) == pytest.approx(1 / 3)


def test_of_no_tokens():
    assert (seq_rep([]), distinct_n([]), ngram_entropy([]), suffix_extension_rate([])) == (0, 1, 0, 0)


def test_long_texts_in_no_time():
    text = np.random.default_rng(0).integers(0, 2**60, 200_000)
    assert seq_rep(text, 64) == 0
    assert ngram_entropy(np.tile(text[:1000], 100), 30) == pytest.approx(log2(1000), abs=1e-4)


@given(st.text(max_size=200))
def test_zlib_ratio(text):
    data = zlib.compress(text.encode())
    assert zlib_ratio(text) == len(zlib.decompress(data)) / len(data)


def test_whispers_threshold():
    assert zlib_ratio("I know. " * 20) > 2.4 > zlib_ratio("The quick brown fox jumps over the lazy dog.")


@pytest.mark.parametrize("measure", [ngram_entropy, seq_rep, distinct_n, suffix_extension_rate])
def test_bad_input(measure):
    with pytest.raises(TypeError, match="tokens: expected ids"):
        measure([0.5])
    with pytest.raises(ValueError, match="(n|length): expected an integer from"):
        measure([1], -1)
    with pytest.raises(TypeError, match="(n|length): expected an integer, got float"):
        measure([1], 2.0)


@given(histories(), st.integers(1, 7), st.integers(1, 100))
@settings(deadline=None)
def test_loop_evidence_after_each_token(text, gram, window):
    got = loop_evidence(text, gram=gram, window=window)
    assert got.tolist() == [oracle.loop_evidence(text[: i + 1], gram, window) for i in range(len(text))]


def test_loop_evidence_of_texts():
    assert loop_evidence("ha" * 10).tolist() == [0] * 9 + list(range(6, 17))
    assert loop_evidence(b"").shape == (0,)
    with pytest.raises(ValueError, match="window: expected an integer from 1 on, got 0"):
        loop_evidence("ha", window=0)
    with pytest.raises(ValueError, match="gram: expected an integer from 1 to 64, got 65"):
        loop_evidence("ha", gram=65)
