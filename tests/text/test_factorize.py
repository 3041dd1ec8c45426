"""Parses are those of their definitions, and give the text back."""

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty import _core, codelength_deltas
from lzpenalty.analysis import codelength, factorize, lz78, running_rate, token_bits
from strategies import coders, fibonacci, histories
from thorough import examples

texts = histories().map(lambda text: [abs(token) for token in text])


def decode_lz77(phrases, new):
    """The text of the phrases, whose tokens that stand alone are given."""
    text, new = [], iter(new)
    for position, distance, length, _ in phrases.tolist():
        assert position == len(text)
        for _ in range(length):
            text.append(text[-distance] if distance else next(new))
    return text


def decode_lz78(phrases, text):
    """The same of words that begin with earlier words; their last tokens are looked up."""
    words = [[]]
    for position, parent, length, _ in phrases.tolist():
        assert position == sum(map(len, words))
        words.append(words[parent] + text[position + len(words[parent]) : position + length])
    return sum(words, [])


@given(texts, st.none() | st.integers(0, 100))
@examples(1000)
def test_lz77(text, window):
    phrases = factorize(text, window)
    expected = oracle.lz77(text, len(text) if window is None else window)
    assert list(zip(phrases["distance"].tolist(), phrases["length"].tolist(), strict=True)) == expected
    assert decode_lz77(phrases, [text[i] for i in phrases["position"][phrases["distance"] == 0]]) == text


@given(texts, st.none() | st.integers(0, 100), st.sampled_from([None, 41, 1000]))
@settings(max_examples=300, deadline=None)
def test_bits(text, window, vocab):
    phrases = factorize(text, window, vocab_size=vocab)
    literal = log2(vocab or max(text, default=0) + 1)
    expected = [min(length * literal, log2(d) + log2(length) if d else literal) for _, d, length, _ in phrases.tolist()]
    assert phrases["bits"].tolist() == pytest.approx(expected)
    assert codelength(text, window, vocab_size=vocab) == pytest.approx(sum(expected))


@given(texts)
@settings(max_examples=500, deadline=None)
def test_lz78(text):
    phrases = lz78(text, vocab_size=64)
    assert list(zip(phrases["parent"].tolist(), phrases["length"].tolist(), strict=True)) == oracle.lz78(text)
    assert decode_lz78(phrases, text) == text


@given(texts, st.integers(0, 100), st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_no_parse_has_fewer_phrases_and_a_larger_window_never_more(text, small, large):
    small, large = sorted((small, large))
    assert len(factorize(text, large)) <= len(factorize(text, small))
    least = [0] + [len(text)] * len(text)  # phrases that end here, by trying all
    for i in range(len(text)):
        copied = max(
            (length for length, _ in map(lambda d: (shared(text, i, d), d), range(1, min(i, small) + 1))), default=0
        )
        for length in range(1, max(1, copied) + 1):
            least[i + length] = min(least[i + length], least[i] + 1)
    assert len(factorize(text, small)) == least[len(text)]


def shared(text, i, distance):
    length = 0
    while i + length < len(text) and text[i + length - distance] == text[i + length]:
        length += 1
    return length


def test_published_examples():
    phrases = factorize("abcabcabcx", vocab_size=256)
    assert phrases.tolist() == [
        (0, 0, 1, 8.0), (1, 0, 1, 8.0), (2, 0, 1, 8.0), (3, 3, 6, pytest.approx(log2(3) + log2(6))), (9, 0, 1, 8.0),
    ]  # fmt: skip
    # A|AB|ABB|B|ABA|ABAB|BB|ABBA|BB, the last of them not new
    text = "AABABBBABAABABBBABBABB"
    words = lz78(text)
    assert [text[i : i + n] for i, n in zip(words["position"], words["length"], strict=True)] == (
        ["A", "AB", "ABB", "B", "ABA", "ABAB", "BB", "ABBA", "BB"]
    )
    assert words["bits"].tolist() == pytest.approx([log2(k) + log2(67) for k in range(1, 9)] + [log2(9)])


@pytest.mark.parametrize("window", [None, 5000, 300])
def test_long_texts(window):
    rng = np.random.default_rng(0)
    turn = rng.integers(0, 300, 37)
    text = np.concatenate([rng.integers(0, 300, 3000), np.tile(turn, 60), rng.integers(0, 2, 2000), turn])
    for ids in (text, np.array([ord(c) for c in fibonacci(16)]), np.zeros(3000, np.int64)):
        phrases = factorize(ids, window)
        i, d = phrases["position"], phrases["distance"]
        assert decode_lz77(phrases, ids[i[d == 0]]) == ids.tolist()
    assert len(factorize(fibonacci(24))) == len(factorize(fibonacci(23))) + 1


@given(texts.filter(bool), st.booleans())
def test_running_rate(text, second):
    phrases = lz78(text, vocab_size=41) if second else factorize(text, vocab_size=41)
    rate = running_rate(phrases)
    assert len(rate) == len(text)
    assert rate[-1] == pytest.approx(phrases["bits"].sum() / len(text))
    for position, _, length, _ in phrases.tolist():
        spent = phrases["bits"][phrases["position"] <= position].sum()
        assert rate[position + length - 1] * (position + length) == pytest.approx(spent)


def test_rates_of_noise_and_of_a_loop():
    noise = np.random.default_rng(0).integers(0, 2, 200_000)
    assert 1 < running_rate(lz78(noise))[-1] < 1.2
    assert running_rate(factorize(noise))[-1] > 0.9
    loop = np.tile(noise[:100], 2000)
    assert running_rate(factorize(loop))[-1] < 1e-3 < running_rate(lz78(loop))[-1] < 0.5


@given(histories(), coders, st.sampled_from([41, 1000]), st.sampled_from([np.int32, np.int64]))
@settings(max_examples=300, deadline=None)
def test_token_bits_are_the_deltas_of_what_came(text, coder, vocab, dtype):
    text, expected = np.abs(np.array(text, dtype)), []
    vocab += int(text.max(initial=0))
    for i, token in enumerate(text):
        ids, bits = codelength_deltas(text[:i], vocab, **coder)
        expected.append(np.min(bits[ids == token], initial=log2(vocab)))
    assert token_bits(text, vocab, **coder).tolist() == expected
    assert _core.token_bits(np.repeat(text, 2)[::2], vocab, **coder).tolist() == expected


def test_kinds_of_text():
    torch = pytest.importorskip("torch")
    ids = [ord(c) for c in "naïve naïve 🙂🙂🙂"]
    wanted = factorize(ids, vocab_size=1 << 17).tolist()
    for text in (
        "naïve naïve 🙂🙂🙂",
        np.array(ids, np.int32),
        np.array(ids * 2)[: len(ids)],
        torch.tensor(ids),
        tuple(ids),
    ):
        assert factorize(text, vocab_size=1 << 17).tolist() == wanted
    assert factorize(b"abab").tolist() == factorize("abab").tolist()
    assert factorize("\ud800\ud800")["length"].tolist() == [1, 1]
    for empty in ([], "", b"", np.zeros(0, np.int64)):
        assert len(factorize(empty)) == len(lz78(empty)) == len(running_rate(factorize(empty))) == 0
        assert codelength(empty) == 0 and len(token_bits(empty, 5)) == 0


@pytest.mark.parametrize("parse", [factorize, lz78])
@pytest.mark.parametrize(
    ("tokens", "options", "error", "message"),
    [
        ([1, -2], {}, ValueError, "tokens: expected ids from 0 on, got -2"),
        ([1.5], {}, TypeError, "tokens: expected ids that fit int64, a str or bytes, got dtype float64"),
        ([2**63], {}, TypeError, "tokens: .* got dtype uint64"),
        ([True], {}, TypeError, "tokens: .* got dtype bool"),
        ([[1]], {}, ValueError, r"tokens: expected shape \[length\], got 2 dimensions"),
        (3, {}, TypeError, "tokens: expected a sequence of ids, a str or bytes, got int"),
        ([1, 7], {"vocab_size": 7}, ValueError, "vocab_size: expected more than the largest id, 7, got 7"),
        ([], {"vocab_size": 0}, ValueError, "vocab_size: expected an integer from 1 on, got 0"),
        ([1], {"vocab_size": "many"}, TypeError, "vocab_size: expected an integer, got str"),
    ],
)
def test_bad_input(parse, tokens, options, error, message):
    with pytest.raises(error, match=message):
        parse(tokens, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: factorize([1], -1), ValueError, "window: expected an integer from 0 on, got -1"),
        (lambda: factorize([1], 2.0), TypeError, "window: expected an integer, got float"),
        (lambda: codelength([1], "all"), TypeError, "window: "),
        (lambda: token_bits([1.0], 5), TypeError, "tokens: "),
        (lambda: token_bits([1], 0), ValueError, "vocab_size: "),
        (lambda: token_bits([1], 5, cost="lz78"), ValueError, "cost: "),
        (lambda: _core.parse_lz77(np.array([0, 2]), 5), ValueError, r"tokens: expected ranks in \[0, 2\), .* got 2"),
        (lambda: _core.parse_lz78(np.array([[0]])), ValueError, "tokens: expected shape"),
        (lambda: _core.parse_lz77(np.array([0]), 2**31), ValueError, "window: "),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
