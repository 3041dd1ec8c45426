"""`lzpenalty.mlx` as mlx-lm calls it: arrays that do not change, prompt and answer in one of them."""

import numpy as np
import pytest

import oracle
from engines import fake_mlx
from engines.load import adaptor, installed

mlx = adaptor("mlx", fake_mlx)
if installed("mlx"):
    import mlx.core as mx
else:
    from engines import fake_mlx as mx

VOCAB = 12


def formula(text, **options):
    wanted = np.zeros((1, VOCAB), np.float32)
    for token, penalty in oracle.penalties(text, VOCAB, **options).items():
        if token < VOCAB:
            wanted[0, token] -= penalty
    return wanted


def generate_step(prompt, processor, n):
    """The parts of mlx-lm's function of that name that a processor can see."""
    total_prompt_tokens = len(prompt)
    tokens = list(prompt)

    def _step():
        logits = mx.array(np.cos(np.arange(VOCAB) * (1 + tokens[-1])).astype(np.float32)[None])
        return np.array(processor(mx.array(np.array(tokens, np.int32)), logits))

    for _ in range(n):
        scores = _step()
        yield tokens[total_prompt_tokens:], scores
        tokens.append(int(scores.argmax()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(strength=1.0, min_match=2, window=9),
        dict(gate=(1e6, 2e6), release=[[VOCAB - 2, VOCAB - 1], VOCAB - 3], release_after=7, reset=[[VOCAB - 2, VOCAB - 1]]),
        dict(strength=1.0, until=1),
    ],
)
def test_every_step_is_the_formula(options):
    penalty, changed = mlx.LZPenalty(**options), False
    for prompt in ([1, 2, 1, 2], [5], [1, 2, 1, 2]):
        plain = generate_step(prompt, lambda tokens, logits: logits, 40)
        for text, scores in generate_step(prompt, penalty, 40):
            logits = np.cos(np.arange(VOCAB) * (1 + (prompt + text)[-1])).astype(np.float32)[None]
            np.testing.assert_allclose(scores, logits + formula(text, **options), atol=1e-5)
            changed |= next(plain)[0] != text
    assert changed


def test_prompt_length_can_be_given():
    text = [1, 2, 1, 2, 1, 50]
    for length in (0, 3, 6, 99):
        got = mlx.LZPenalty(prompt_length=length)(mx.array(np.array(text)), mx.array(np.zeros((1, VOCAB), np.float32)))
        np.testing.assert_allclose(np.array(got), formula(text[length:]), atol=1e-5)
    outside = mlx.LZPenalty()(mx.array(np.array(text)), mx.array(np.zeros((1, VOCAB), np.float32)))
    np.testing.assert_allclose(np.array(outside), formula(text), atol=1e-5)


def test_logits_do_not_change_and_need_no_batch():
    logits = mx.array(np.zeros(VOCAB, np.float32))
    got = mlx.LZPenalty()(mx.array(np.array([3, 3])), logits)
    assert np.array(got).any() and not np.array(logits).any() and got.shape == (VOCAB,)
    assert mlx.LZPenalty(strength=0)(mx.array(np.array([3, 3])), logits) is logits


@pytest.mark.parametrize("bad", [dict(strength=-1), dict(buffer=0), dict(prompt_length=-1), dict(sterngth=1)])
def test_bad_options_are_refused_at_construction(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        mlx.LZPenalty(**bad)
