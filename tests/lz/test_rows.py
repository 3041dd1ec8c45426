"""Rows of a batch with options and texts of their own: in C, and as tensors for other devices, against the formula."""

import array
import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty import LZOptions, gather_tokens_, lz_penalize_, lz_penalize_rows_
from lzpenalty.engines.serving import _send_rows_, before, penalize_rows_, request_options
from lzpenalty.presets import PRESETS

VOCAB = 12
IDS = st.integers(0, VOCAB - 1)
MARKS = st.none() | st.lists(IDS | st.lists(IDS, min_size=1, max_size=3), min_size=1, max_size=3)
OPTIONS = st.fixed_dictionaries(
    {
        "strength": st.sampled_from([0.0, 0.15, 2.0]),
        "window": st.integers(0, 20),
        "buffer": st.integers(1, 8),
        "cost": st.sampled_from(["lzss", "pair", "distance"]),
        "min_match": st.integers(1, 3),
        "gate": st.none() | st.tuples(st.integers(0, 9), st.integers(10, 15)),
        "release": MARKS,
        "release_rate": st.sampled_from([0.5, 2.0]),
        "release_after": st.integers(1, 12),
        "open": MARKS,
        "section_gate": st.none() | st.just((1, 8)),
        "skip": st.none() | MARKS,
        "resume": MARKS,
    }
)
TEXT = st.lists(st.integers(0, VOCAB), max_size=40)  # one id is not of the vocabulary
FORMS = [list, tuple, lambda ids: np.array(ids, np.int32), lambda ids: torch.tensor([*ids], dtype=torch.int64)]


def expected(logits, rows):
    """The formula in plain Python; placeholders are told apart."""
    logits = logits.clone()
    for row, (options, ids) in rows.items():
        known = [int(token) if int(token) >= 0 else -1 - at for at, token in enumerate(ids)]
        for token, penalty in oracle.penalties(known, logits.shape[1], **options.keywords()).items():
            logits[row, token] -= penalty
    return logits


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(OPTIONS, TEXT, st.sampled_from(FORMS), st.booleans()), max_size=5))
def test_every_row_is_the_formula_with_its_own_options(requests):
    logits = torch.randn(len(requests) + 1, VOCAB, dtype=torch.float64)
    rows = {i: (LZOptions(**options), form(ids)) for i, (options, ids, form, wanted) in enumerate(requests) if wanted}
    wanted = expected(logits, rows)
    for penalize in (lz_penalize_rows_, penalize_rows_, _send_rows_):
        if rows:
            got = logits.clone()
            assert penalize(got, rows) is got
            torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)


@settings(deadline=None, max_examples=200)
@given(OPTIONS, st.lists(st.integers(-1, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
def test_what_matters_of_a_prompt_is_a_few_tokens(options, prompt, text):
    """Which stand before the text, and do not count: as if all of the prompt did."""
    made, row = LZOptions(**options), 1
    short = before(made, prompt)
    assert len(short) <= 27 and before(made, None) == ()
    known = [token if token >= 0 else -100 - at for at, token in enumerate(prompt)]
    wanted = torch.zeros(2, VOCAB, dtype=torch.float64)
    for token, nats in oracle.penalties(known + text, VOCAB, start=len(prompt), **made.keywords()).items():
        wanted[row, token] -= nats
    for penalize in (lz_penalize_rows_, penalize_rows_, _send_rows_):
        for stands in (short, tuple(prompt)):
            got = penalize(torch.zeros(2, VOCAB, dtype=torch.float64), {row: (made, text, stands)})
            torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(-2, 4), max_size=30))
def test_placeholders_match_nothing(ids):
    rows = {0: (LZOptions(strength=1.0, window=20), ids)}
    logits = torch.zeros(1, 5, dtype=torch.float64)
    for penalize in (lz_penalize_rows_, _send_rows_):
        torch.testing.assert_close(penalize(logits.clone(), rows), expected(logits, rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rows_equal_calls_on_each(dtype):
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 30, n).tolist() for n in (900, 3, 0, 544, 545)]
    logits = torch.randn(9, 2 * 40, dtype=dtype)[:, ::2]
    rows = {2 * i: (LZOptions(min_match=1 + i % 2), text) for i, text in enumerate(texts)}
    wanted = logits.clone()
    for row, (options, text) in rows.items():
        lz_penalize_(wanted[row], torch.tensor(text, dtype=torch.int64), **options.keywords())
    assert torch.equal(lz_penalize_rows_(logits, rows), wanted)
    assert torch.equal(lz_penalize_rows_(logits[3], {0: rows[2]}), lz_penalize_rows_(wanted[3:4], {0: rows[2]})[0])


def test_ids_that_are_large():
    ids = [2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**80, -(2**80), 0, -1]
    out = np.zeros((1, 8), np.int32)
    gather_tokens_(out, {0: (LZOptions(), ids)})
    assert out[0, [0, 1, 2, 6]].tolist() == [2**30 - 1, 2**30, 2**31 - 1, 0]
    assert (out[0, [3, 4, 5, 7]] < 0).all() and len(set(out[0].tolist())) == 8


def test_gathered_tokens_end_the_rows():
    out = torch.full((4, 5), 77, dtype=torch.int32)
    rows = {0: (LZOptions(), [1, 2, 3]), 2: (LZOptions(), []), 3: (LZOptions(), list(range(9)))}
    assert gather_tokens_(out, rows) is out
    assert out.tolist() == [[77, 77, 1, 2, 3], [77] * 5, [77] * 5, [4, 5, 6, 7, 8]]
    gather_tokens_(out, {1: (LZOptions(window=1, buffer=1), [1, 2, 3])})
    assert out[1].tolist() == [77, 77, 77, 2, 3]


@settings(deadline=None)
@given(OPTIONS, st.lists(st.integers(0, 3), max_size=80), st.integers(0, 30))
def test_nothing_but_the_context_matters(options, text, more):
    compiled = LZOptions(**options)
    tail = text[max(0, len(text) - compiled.context - more) :] if compiled.context else []
    a, b = np.zeros((1, VOCAB)), np.zeros((1, VOCAB))
    assert (lz_penalize_rows_(a, {0: (compiled, text)}) == lz_penalize_rows_(b, {0: (compiled, tail)})).all()
    assert (compiled.context == 0) == (options["strength"] == 0 or options["window"] == 0)


@pytest.mark.parametrize("name", ["release", "open", "skip", "resume"])
def test_sequences_are_a_set(name):
    one = LZOptions(**{name: [3, [1, 2], 1, [1, 2], (3,), np.int64(3)]})
    assert one == LZOptions(**{name: [[1, 2], 1, 3]}) and hash(one) == hash(LZOptions(**{name: [1, [1, 2], 3]}))
    assert sorted(map(str, one.keywords()[name])) == ["(1, 2)", "1", "3"]
    assert LZOptions(**{name: 3}) == LZOptions(**{name: (3,)}) == LZOptions(**{name: [[3]]})
    assert LZOptions(**{name: None}) == LZOptions()


def test_skip_needs_the_whole_text():
    text = [3, *[1, 2] * 3000]
    for penalize in (lz_penalize_rows_, _send_rows_):
        assert not penalize(torch.zeros(1, 9), {0: (LZOptions(skip=3), text)}).any()
        assert penalize(torch.zeros(1, 9), {0: (LZOptions(skip=4), text)}).any()


@pytest.mark.parametrize("name", ["release", "open", "skip", "resume"])
def test_ids_beyond_the_vocabulary_are_refused_everywhere(name, caplog):
    text, known, unknown = [1, 2, 4] * 30, LZOptions(), LZOptions(**{name: [[5, 9], 6]})
    logits = torch.zeros(2, 9)
    with pytest.raises(ValueError, match=rf"{name}: expected ids in \[0, 9\), the vocabulary, got 9"):
        lz_penalize_rows_(logits, {0: (known, text), 1: (unknown, text)})
    with pytest.raises(ValueError, match=rf"{name}: expected ids in \[0, 9\), the vocabulary, got 9"):
        lz_penalize_(logits[0], torch.tensor(text), unknown)
    assert unknown.vocab_size == 10 and not logits.any()
    penalize_rows_(logits, {0: (known, text), 1: (unknown, text)})  # a server goes on without
    assert logits[0].any() and not logits[1].any() and "expected ids of a vocabulary of 9" in caplog.text


@pytest.mark.parametrize("name", ["release", "open", "skip", "resume"])
def test_the_least_vocabulary_is_beyond_the_largest_id(name):
    """Also of the largest id that there can be: servers look at it, so that a step never has to raise."""
    other = {"skip": {"resume": [3]}, "resume": {"skip": [3]}}.get(name, {})
    assert LZOptions(**{name: [2**31 - 1]}, **other).vocab_size == 2**31
    assert LZOptions(**{name: [7, [1, 9]]}, **other).vocab_size == 10 and LZOptions().vocab_size == 0


@given(OPTIONS, OPTIONS)
def test_options_are_values(left, right):
    a, b = LZOptions(**left), LZOptions(**right)
    assert a == LZOptions(**left) and hash(a) == hash(LZOptions(**left))
    assert (a == b) == (a.keywords() == b.keywords())
    assert LZOptions(**a.keywords()) == a == eval(repr(a))
    assert a != 3 and len({a, LZOptions(**left)}) == 1


OTHERS = {"window": 9, "buffer": 9, "strength": 0.3, "cost": "pair", "min_match": 2,
          "gate": (3, 4), "release": [(1, 2)], "release_rate": 3.0, "release_after": 9,
          "open": [1], "section_gate": (1, 2), "skip": [1], "resume": [1]}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_each_option_counts(name):
    other = LZOptions(**{name: OTHERS[name]})
    assert set(LZOptions().keywords()) <= set(OTHERS) and (other == LZOptions()) is False
    assert (other != LZOptions()) is True
    assert other == LZOptions(**{name: OTHERS[name]})


@given(OPTIONS)
def test_options_can_be_pickled_and_copied(options):
    made = LZOptions(**options)
    copies = [copy.copy(made), copy.deepcopy(made), *(pickle.loads(pickle.dumps(made, n)) for n in range(6))]
    assert all(other == made and hash(other) == hash(made) for other in copies)


@given(OPTIONS, st.lists(st.integers(0, 9), max_size=40))
def test_options_are_what_their_keywords_are(options, text):
    made, tokens = LZOptions(**options), np.array(text, np.int64)
    wanted = lz_penalize_(np.zeros(VOCAB), tokens, **options)
    assert (lz_penalize_(np.zeros(VOCAB), tokens, made) == wanted).all()
    assert (lz_penalize_(np.zeros(VOCAB), tokens, LZOptions(window=1), **made.keywords()) == wanted).all()
    assert all(a is b for a, b in zip(made.keywords(), LZOptions().keywords(), strict=True))  # interned


def test_other_options_are_refused():
    with pytest.raises(TypeError, match="options: expected LZOptions or None, got dict"):
        lz_penalize_(np.zeros(3), np.array([1]), {"strength": 1})
    assert (lz_penalize_(np.zeros(3), np.array([1, 1]), None) == lz_penalize_(np.zeros(3), np.array([1, 1]))).all()


def test_numbers_of_numpy_are_numbers():
    logits, text = np.zeros((1, 9)), np.array([[1, 2, 1, 2, 1]])
    wanted = lz_penalize_(np.zeros((1, 9)), text, starts=2)
    assert (lz_penalize_(logits, text, starts=np.int32(2)) == wanted).all()
    got = lz_penalize_rows_(np.zeros((1, 9)), {np.int64(0): (LZOptions(), [*text[0, 2:]])})
    assert (got == wanted).all()


def test_memory_that_is_written_is_not_read():
    memory = np.zeros(8, np.int64)
    for tokens, starts in ((memory, None), (np.array([1, 1]), memory[:1].reshape(()))):
        with pytest.raises(ValueError, match="expected memory apart from that of logits"):
            lz_penalize_(memory.view(np.float64), tokens, starts=starts)
    with pytest.raises(ValueError, match="tokens: expected memory apart from that of logits"):
        lz_penalize_rows_(memory.view(np.float64), {0: (LZOptions(), memory)})


def test_options_are_immutable():
    options = LZOptions()
    for change in (
        lambda: setattr(options, "context", 3),
        lambda: setattr(options, "new", 3),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()
    with pytest.raises(TypeError, match="takes at most 0 positional arguments"):
        LZOptions(0.15)
    with pytest.raises(TypeError):
        LZOptions(**{f"x{i}": 0 for i in range(20)})


GOOD = (LZOptions(), [1, 2, 1])


@pytest.mark.parametrize(
    "logits, rows, message",
    [
        (np.zeros((2, 9)), [1], "rows: expected a dict"),
        (np.zeros((2, 9)), {0: GOOD, 2: GOOD}, "rows: expected row numbers in \\[0, 2\\) as keys, got 2"),
        (np.zeros((2, 9)), {0: GOOD, -1: GOOD}, "got -1"),
        (np.zeros((2, 9)), {0: GOOD, 2**70: GOOD}, "rows: expected row numbers"),
        (np.zeros((2, 9)), {0: GOOD, "1": GOOD}, "rows: expected row numbers"),
        (np.zeros((2, 9)), {0: GOOD, 1: GOOD[0]}, r"rows: expected \(LZOptions, tokens\) or .* for row 1"),
        (np.zeros((2, 9)), {0: GOOD, 1: (*GOOD, [1])}, r"rows: expected .* or \(LZOptions, tokens, tuple\) for row 1"),
        (np.zeros((2, 9)), {0: GOOD, 1: (*GOOD, ("1",))}, "rows: expected tokens that are integers, got str in row 1"),
        (np.zeros((2, 9)), {0: GOOD, 1: ({}, [1])}, r"rows: expected \(LZOptions, tokens\)"),
        (np.zeros((2, 9)), {0: GOOD, 1: (GOOD[0], [1, "2"])}, "rows: expected tokens that are integers, got str in row 1"),
        (np.zeros((2, 9)), {0: GOOD, 1: (GOOD[0], 3)}, "tokens: expected a tensor"),
        (np.zeros((2, 9)), {0: GOOD, 1: (GOOD[0], np.zeros(3))}, "tokens: expected dtype int32 or int64"),
        (np.zeros((2, 9)), {0: GOOD, 1: (GOOD[0], np.zeros((3, 1), int))}, r"tokens: expected shape \[length\] in row 1"),
        (np.zeros((2, 9), int), {0: GOOD}, "logits"),
        (np.zeros((2, 9, 1)), {0: GOOD}, "logits"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(logits, rows, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lz_penalize_rows_(logits, rows)
    assert not logits.any()


def test_bad_tokens_to_gather_into():
    for out in (np.zeros((2, 9)), np.zeros(9, np.int32), np.zeros((2, 9), np.int64), array.array("i", [0])):
        with pytest.raises((TypeError, ValueError), match="tokens"):
            gather_tokens_(out, {0: GOOD})


def test_a_request_names_its_options():
    assert request_options(None) is None
    assert request_options({}) is None
    assert request_options({"top_n": 3, "strength": 9}) is None
    assert request_options({"lz_window": 64}) == LZOptions(window=64)
    everything = dict(strength=0.3, window=9, buffer=2, cost="pair", min_match=2)
    given = {f"lz_{name}": value for name, value in everything.items()} | {"other": None}
    assert request_options(given) == LZOptions(**everything)
    assert request_options({"lz_strength": 0}) is None and request_options({"lz_window": 0}) is None


def test_a_default_is_for_what_a_request_does_not_name():
    default = {"lz_strength": 0.3, "lz_min_match": 2}
    assert request_options(None, default) == request_options({"x": 1}, default) == LZOptions(strength=0.3, min_match=2)
    assert request_options({"lz_strength": 0.1}, default) == LZOptions(strength=0.1, min_match=2)
    assert request_options({"lz_strength": 0}, default) is None


def test_a_request_names_a_preset():
    gentle = PRESETS["gentle"]
    assert request_options({"lz_preset": "paper"}) == LZOptions() != gentle
    assert request_options({"lz_preset": "gentle"}) == gentle
    assert request_options({"lz_preset": "gentle", "lz_window": 64}) == LZOptions(
        **PRESETS["gentle"].keywords() | {"window": 64}
    )
    reasoning = request_options({"lz_preset": "reasoning", "lz_release": [7, [8, 9]]})
    assert reasoning == LZOptions(**PRESETS["reasoning"].keywords() | {"release": [7, [8, 9]]})
    default = {"lz_preset": "gentle"}
    assert request_options({"lz_preset": "paper"}, default) == LZOptions()
    assert request_options({"lz_min_match": 3}, default) == LZOptions(**PRESETS["gentle"].keywords() | {"min_match": 3})


@pytest.mark.parametrize(
    "params, message",
    [
        ({"lz_strenght": 0.1}, "lz_strenght: no such option, expected one of lz_strength, lz_window"),
        ({"lz_starts": 3}, "lz_starts: no such option"),
        ({"lz_strength": -1}, "lz_strength: expected a number from 0"),
        ({"lz_strength": float("nan")}, "lz_strength: expected a number"),
        ({"lz_strength": "0.1"}, "lz_strength: expected a number, got str"),
        ({"lz_strength": True}, "lz_strength: expected a value of strength, got True"),
        ({"lz_window": 1.5}, "lz_window: expected an integer"),
        ({"lz_window": 8193}, "lz_window: expected at most 8192 tokens of a request, got 8193"),
        ({"lz_buffer": 0}, "lz_buffer: expected an integer from 1"),
        ({"lz_buffer": 10**6}, "lz_buffer: expected at most 8192"),
        ({"lz_gate": [28, 20]}, r"lz_gate: expected \(from, to\) with 0 <= from < to"),
        ({"lz_gate": "20"}, "lz_gate: expected a number, got str"),
        ({"lz_release": []}, "lz_release: expected 1 to 16 ids"),
        ({"lz_release": list(range(17))}, "lz_release: expected 1 to 16 ids or sequences of ids, or None, got 17"),
        ({"lz_release": [[1] * 9]}, "lz_release: expected sequences of 1 to 8 ids, got 9 in one"),
        ({"lz_release": [1], "lz_release_rate": -2}, "lz_release_rate: expected a number from 0"),
        ({"lz_release": [1], "lz_release_after": 0}, "lz_release_after: expected an integer from 1"),
        ({"lz_release_rate": 3}, "lz_release_rate: expected lz_release with it, the ids that are released, got none"),
        ({"lz_release_after": 3}, "lz_release_after: expected lz_release with it"),
        ({"lz_skip": [-1]}, "lz_skip: expected ids"),
        ({"lz_preset": "strong"}, "lz_preset: expected one of 'paper', 'gentle', 'reasoning', got 'strong'"),
        ({"lz_preset": ["gentle"]}, "lz_preset: expected one of"),
        ({"lz_preset": "reasoning"}, "lz_preset: expected lz_release with 'reasoning', the ids that close"),
        ({"lz_cost": "zip"}, "lz_cost: expected 'lzss', 'pair' or 'distance', got 'zip'"),
    ],
)
def test_bad_options_of_a_request(params, message):
    with pytest.raises(ValueError, match=message):
        request_options(params)
    with pytest.raises(ValueError, match=message):
        request_options(None, params)
