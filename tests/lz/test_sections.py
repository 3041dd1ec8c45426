"""Sections: what opens and closes thinking, the prompt included, and where nothing is changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty import LZOptions, lz_penalize_
from lzpenalty.presets import PRESETS

OPEN, CLOSE, CALL, RETURN = [20, 21], [22, 21], [30], [31]  # "<think", ">"; "</think", ">"; "<tool_call>"; "</tool_call>"
MARKS = dict(open=[OPEN], release=[CLOSE], skip=[CALL], resume=[RETURN])
LOOP = [5, 6, 7] * 30


def penalized(device, text, start=0, **options):
    return device.of(lz_penalize_)(np.zeros(64), np.array(text, np.int64), starts=start, strength=1.0, **options)


def wanted(text, start=0, **options):
    row = np.zeros(64)
    for token, nats in oracle.penalties(text, 64, start=start, strength=1.0, **options).items():
        row[token] -= nats
    return row


def gain(device, text, start=0, **options):
    """What a release adds, with the gates shut."""
    shut = (1e6, 2e6)
    return penalized(device, text, start, gate=shut, section_gate=shut, **options)


# Few ids, so that marks of any kind meet, overlap, and stand in loops.
ids = st.integers(0, 5)
sequences = st.lists(ids, min_size=1, max_size=3)
marks = st.none() | st.lists(sequences, min_size=1, max_size=2)
texts = st.builds(
    lambda turn, times, around: [*around[0], *turn * times, *around[1]],
    st.lists(ids, min_size=1, max_size=7), st.integers(0, 9), st.tuples(*2 * [st.lists(ids, max_size=20)]),
)  # fmt: skip


@given(texts, st.integers(0, 80), marks, marks, marks, marks, st.integers(1, 14), st.none() | st.just((3, 9)))
@settings(max_examples=400, deadline=None)
def test_any_marks_anywhere(device, text, start, release, open, skip, resume, after, section_gate):
    start = min(start, len(text))
    options = dict(release=release, open=open, skip=skip, resume=resume, release_after=after, gate=(1, 20))
    got = penalized(device, text, start, section_gate=section_gate, **options)
    np.testing.assert_allclose(got, wanted(text, start, section_gate=section_gate, **options), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("open", [[OPEN], None])
def test_a_section_is_open_until_its_first_close(device, open):
    """Without marks that open, it is so from the start on."""
    for text, is_open in ((LOOP, open is None), (OPEN + LOOP, True), (OPEN + LOOP + CLOSE + LOOP, False),
                          (OPEN + LOOP + CLOSE + OPEN + LOOP, open is not None)):  # fmt: skip
        got = gain(device, text, release=[CLOSE], open=open)
        assert got[CLOSE[0]] == (20 if is_open else 0) and np.count_nonzero(got) == is_open


def test_the_prompt_says_what_is_open(device):
    options = dict(release=[CLOSE], open=[OPEN])
    for prompt, is_open in (([], False), (OPEN, True), (CLOSE, False), (OPEN + CLOSE, False), (OPEN + CLOSE + OPEN, True),
                            (OPEN + [1] * 5000, True), (OPEN + CLOSE + [1] * 5000, False)):  # fmt: skip
        got = gain(device, prompt + LOOP, len(prompt), **options)
        assert got[CLOSE[0]] == (20 if is_open else 0), prompt[:6]


def test_a_close_in_the_prompt_closes_nothing_where_thinking_begins_with_the_answer(device):
    for start in (2, 0):
        assert gain(device, CLOSE + LOOP, start, release=[CLOSE])[CLOSE[0]] == (20 if start else 0)


def test_after_the_close_the_answer_counts_alone(device):
    prompt, thought, answer = [1, 2, 3, *OPEN], [4, 5, *LOOP], [8, 9, 8, 9, 8]
    for options in (dict(gate=(1, 2)), dict(cost="pair"), {}):
        got = penalized(device, prompt + thought + CLOSE + answer, len(prompt), **MARKS, **options)
        np.testing.assert_array_equal(got, penalized(device, answer, **options))
    assert not penalized(device, prompt + thought + CLOSE, len(prompt), **MARKS).any()


def test_a_section_counts_alone(device):
    before, thought = [4, 5, *LOOP], [8, 9, 8, 9, 8]
    got = penalized(device, before + OPEN + thought, **MARKS, section_gate=(0, 1))
    np.testing.assert_array_equal(got, penalized(device, thought, gate=(0, 1)))


def test_a_loop_that_holds_the_closing_tag_is_seen(device):
    """Nothing was open when it came: it pays."""
    turn = [8, 9, 10, 11, 12, *CLOSE]
    for opened in ([], OPEN + [1, 2, 3, *CLOSE]):
        text = opened + turn * 8
        got = penalized(device, text + turn[:5], **MARKS, gate=(20, 28))
        assert got[CLOSE[0]] < -3 and (got <= 0).all()
        np.testing.assert_array_equal(got, penalized(device, text[len(opened) :] + turn[:5], gate=(20, 28)))


def test_so_is_a_loop_of_opening_tags(device):
    got = penalized(device, (OPEN + [8, 9, 10]) * 12 + OPEN, **MARKS, gate=(20, 28))
    assert got[8] < -3


def test_without_an_open_section_reasoning_is_gentle_to_the_digit(device):
    """Whatever the text, and with tags that close nothing in it."""
    rng = np.random.default_rng(0)
    gentle = PRESETS["gentle"].keywords() | {"strength": 1.0}
    reasoning = PRESETS["reasoning"].keywords() | {"strength": 1.0, **MARKS}
    for _ in range(40):
        text = np.tile(rng.integers(0, 20, rng.integers(1, 40)), 20)[: rng.integers(0, 400)]
        text = [*text, *(CLOSE * int(rng.integers(0, 3))), *text[:40]]
        got = device.of(lz_penalize_)(np.zeros(64), np.array(text), LZOptions(**reasoning))
        np.testing.assert_array_equal(got, device.of(lz_penalize_)(np.zeros(64), np.array(text), LZOptions(**gentle)))


def test_the_gate_of_a_section_is_its_own(device):
    text = np.tile([5, 6, 7], 50)[:20].tolist()  # of evidence 14
    for section_gate, share in (((10, 14), 1.0), ((10, 18), 0.5), ((14, 16), 0.0), (None, 0.25)):
        options = dict(release=[CLOSE], open=[OPEN], gate=(12, 20), section_gate=section_gate, release_after=99)
        inside, outside = (penalized(device, prompt + text, len(prompt), **options) for prompt in (OPEN, CLOSE))
        np.testing.assert_allclose(inside, share * penalized(device, text), rtol=1e-6)
        np.testing.assert_allclose(outside, 0.25 * penalized(device, text), rtol=1e-6)


def test_in_a_call_of_a_tool_nothing_is_changed(device):
    for text, is_skipped in ((LOOP, False), (CALL + LOOP, True), (CALL + LOOP + RETURN, False), (OPEN + LOOP + CALL, True),
                             (RETURN + LOOP, False), (CALL + LOOP + RETURN + LOOP + CALL + LOOP, True)):  # fmt: skip
        assert penalized(device, text, **MARKS).any() != is_skipped
        assert penalized(device, text, 1, **MARKS).any() != is_skipped
    assert not penalized(device, CALL + LOOP + RETURN + LOOP, skip=[CALL]).any()  # with nothing that ends it


def test_what_a_call_says_counts_behind_it(device):
    text = CALL + [8, 9] * 3 + RETURN + [8]
    np.testing.assert_array_equal(penalized(device, text, **MARKS), penalized(device, text))
    assert penalized(device, text, **MARKS)[9]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("step", [1, 3, -1])
@pytest.mark.parametrize("window", [30, 512])  # of a small one the device's blocks have few threads
def test_marks_are_found_in_any_layout(device, dtype, step, window):
    """Wherever they stand, in rows of whatever strides, the nearest of each kind."""
    places = [2, 3, 254, 255, 256, 257, 511, 512, 700, 1030, 1058, None]
    tokens = np.full((len(places), 1060 * abs(step)), 5, dtype)[:, ::step]
    for row, place in zip(tokens, places, strict=True):
        row[:2] = OPEN
        if place is not None:
            row[place : place + 2] = CLOSE
    for release, open in ((CLOSE, OPEN), ([22], [20])):
        options = dict(release=[release], open=[open], release_after=8, window=window)
        got = device.of(lz_penalize_)(np.zeros((len(places), 64)), tokens, starts=2, **options)
        assert (got[:, 22] > 0).tolist() == [place is None for place in places]


@pytest.mark.parametrize("step", [1, -1])
def test_marks_of_all_kinds_in_one_text(device, step):
    """Wherever those of one kind stand, those of the other are found before and behind them, and where there are none."""
    places = [2, 255, 256, 511, 512, 1030, 1050, None]
    pairs = [(close, call) for close in places for call in places if close is None or close != call]
    tokens = np.full((len(pairs), 1062), 5)[:, ::step]
    for row, (close, call) in zip(tokens, pairs, strict=True):
        row[:2] = OPEN
        if call is not None:
            row[call] = CALL[0]
        if close is not None:
            row[close + 2 : close + 4] = CLOSE
    got = device.of(lz_penalize_)(np.zeros((len(pairs), 64)), tokens, starts=2, release_after=8, **MARKS)
    assert (got[:, CLOSE[0]] > 0).tolist() == [close is None and call is None for close, call in pairs]
    assert got.any(axis=1).tolist() == [call is None for _, call in pairs]


def test_many_marks_of_one_kind(device):
    """Of each kind the oldest counts that none of the other follows."""
    for marks, is_open in ((OPEN * 300, True), (OPEN + CLOSE * 300, False), (CLOSE * 300, False)):
        text = [1, 2, *marks, *LOOP]
        got = penalized(device, text, **MARKS, window=2000)
        np.testing.assert_allclose(got, wanted(text, **MARKS, window=2000), atol=2e-5, rtol=1e-5)
        assert (got[CLOSE[0]] > 0) == is_open


def test_how_much_of_a_text_matters():
    whole = 2**31 - 1
    assert LZOptions().context == LZOptions(open=3, resume=4, section_gate=(1, 2)).context == 544
    assert LZOptions(release=3).context == LZOptions(skip=3).context == whole and LZOptions(skip=3, strength=0).context == 0
