"""The real mlx-lm with SmolLM2: every token is the one that the formula in plain Python takes. `make test-mlx`."""

import os

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load, stream_generate

import oracle
from engines.sections import SKIPPED, THINKING
from lzpenalty.mlx import LZPenalty

QUESTION = "Tell me a long story about a lighthouse keeper."


@pytest.fixture(scope="module")
def model():
    return load(os.environ["LZPENALTY_MODEL"])


class Checked:
    """The penalty, with what it was given and what it made of it compared on the way."""

    def __init__(self, prompt_length, penalty, **options):
        self.prompt_length, self.penalty, self.options, self.calls = prompt_length, penalty, options, 0

    def __call__(self, tokens, logits):
        wanted = np.array(logits.astype(mx.float32))
        text, start = np.array(tokens).tolist(), self.prompt_length
        for token, penalty in oracle.penalties(text, wanted.shape[1], start=start, **self.options).items():
            wanted[0, token] -= penalty
        got = self.penalty(tokens, logits)
        assert got.shape == logits.shape and got.dtype == logits.dtype
        np.testing.assert_allclose(np.array(got.astype(mx.float32)), wanted, atol=1e-4)
        self.calls += 1
        return got


def answer(model, prompt, *processors, n=30):
    steps = stream_generate(*model, prompt, max_tokens=n, logits_processors=list(processors))
    return [step.token for step in steps]


@pytest.mark.parametrize("options", [{}, dict(strength=0.4, min_match=2), THINKING, SKIPPED])
def test_every_step_is_the_formula(model, options):
    tokenizer, penalty = model[1], LZPenalty(**options)
    for question in (QUESTION, "Say hello again and again."):
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        checked = Checked(len(prompt), penalty, **options)
        got = answer(model, prompt, checked)
        assert checked.calls >= len(got) > 0
        assert got == answer(model, prompt, LZPenalty(**options))


def test_it_changes_what_is_said(model):
    prompt = model[1].apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True)
    assert answer(model, prompt, LZPenalty(strength=0.4)) != answer(model, prompt)
