"""The real llama-cpp-python with SmolLM2: every token is the one that the formula in plain Python takes, given the scores
that llama.cpp had. `make test-llama-cpp`."""

import inspect

import numpy as np
import pytest
from llama_cpp import Llama, LogitsProcessor, LogitsProcessorList

import oracle
from engines.llama_model import load
from engines.sections import SKIPPED, THINKING
from lzpenalty import repetition_period
from lzpenalty.llama_cpp import LZPenalty

QUESTION = "Tell me a long story about a lighthouse keeper."


@pytest.fixture(scope="module")
def llama():
    return load(Llama, n_ctx=1024)


class Checked:
    """The penalty, with what it was given and what it made of it compared on the way."""

    def __init__(self, prompt_length, penalty, **options):
        self.prompt_length, self.penalty, self.options, self.calls = prompt_length, penalty, options, 0

    def __call__(self, input_ids, scores):
        assert input_ids.dtype == np.intc and scores.dtype == np.single and scores.strides == (12,)
        wanted = scores.copy()
        for token, penalty in oracle.penalties(
            input_ids.tolist(), len(scores), start=self.prompt_length, **self.options
        ).items():
            wanted[token] -= penalty
        got = self.penalty(input_ids, scores)
        assert got is scores
        np.testing.assert_allclose(got, wanted, atol=1e-4)
        self.calls += 1
        return got


def tokens(llama, question=QUESTION):
    return llama.tokenize(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n".encode(), special=True)


def answer(llama, prompt, processor=None, n=60):
    processors = None if processor is None else LogitsProcessorList([processor])
    completion = llama.create_completion(prompt, max_tokens=n, temperature=0, logits_processor=processors)
    return completion["choices"][0]["text"]


@pytest.mark.parametrize("options", [{}, dict(strength=0.4, min_match=2), THINKING, SKIPPED])
def test_every_step_is_the_formula(llama, options):
    prompt = tokens(llama)
    checked = Checked(len(prompt), LZPenalty(**options), **options)
    text = answer(llama, prompt, checked)
    assert checked.calls >= 20
    assert text != answer(llama, prompt)
    assert text == answer(llama, prompt, LZPenalty(**options))


def test_one_object_for_many_answers_and_cached_prefixes(llama):
    penalty = LZPenalty()
    prompt = tokens(llama)
    text = answer(llama, prompt, penalty, 30)
    longer = prompt + llama.tokenize(text.encode(), add_bos=False, special=True)
    for other in (longer, longer[:-1], tokens(llama, "What is a list?"), prompt, prompt):
        answer(llama, other, Checked(len(other), penalty), 12)
    assert answer(llama, prompt, penalty, 30) == text
    list(zip(range(5), llama.generate(prompt, temp=0, logits_processor=[Checked(len(prompt), penalty)]), strict=False))
    chat = [{"role": "user", "content": QUESTION}]
    llama.create_chat_completion(chat, max_tokens=5, temperature=0, logits_processor=LogitsProcessorList([penalty]))


def test_a_loop_ends(llama):
    prompt = tokens(llama, "Write a poem about the sea with eight verses.")
    periods = []
    for processor in (None, LZPenalty()):
        text = answer(llama, prompt, processor, 250)
        ids = llama.tokenize(text.encode(), add_bos=False)
        periods.append(int(repetition_period(np.array(ids, np.int64), ngram=8, count=3, max_period=200)))
    assert periods[1] == 0


def test_the_interface_is_the_one_that_the_fake_has():
    assert "input_ids" in inspect.signature(LogitsProcessorList.__call__).parameters
    assert LogitsProcessor.__args__[0].__args__ if hasattr(LogitsProcessor, "__args__") else True
    source = inspect.getsource(Llama._init_sampler)
    assert "def apply_func(" in source and "logit_processor(self._input_ids, recarray.logit)" in source
    assert "self._sampler = self._init_sampler(" in inspect.getsource(Llama.generate)
