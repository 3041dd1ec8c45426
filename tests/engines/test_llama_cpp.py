"""`lzpenalty.llama_cpp` as llama-cpp-python calls it: in a view of llama.cpp's candidates, prompt and answer in one."""

import gc
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from lzpenalty import LZOptions  # noqa: F401
from lzpenalty.engines import prompts
from lzpenalty.llama_cpp import LZPenalty

VOCAB = 23


class LlamaSampler:
    pass


class Llama:
    """The loop of llama-cpp-python's `generate`, on random scores; greedy."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.input_ids = np.zeros(500, np.intc)
        self.table = self.random.normal(size=(VOCAB, VOCAB)).astype(np.single)

    @property
    def _input_ids(self):
        return self.input_ids[: self.n_tokens]

    def _init_sampler(self, logits_processor):
        def apply_func(recarray):
            for logit_processor in logits_processor:
                recarray.logit[:] = logit_processor(self._input_ids, recarray.logit)

        sampler = LlamaSampler()
        sampler.apply = apply_func
        return sampler

    def generate(self, tokens, logits_processor, n):
        self._sampler = self._init_sampler(logits_processor)
        self.n_tokens = len(tokens)
        self.input_ids[: self.n_tokens] = tokens
        for _ in range(n):
            candidates = np.recarray(VOCAB, np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True))
            candidates.id, candidates.p = np.arange(VOCAB), 7
            candidates.logit = self.table[self.input_ids[self.n_tokens - 1]]
            self._sampler.apply(candidates)
            assert (candidates.id == np.arange(VOCAB)).all() and (candidates.p == 7).all()
            token = int(candidates.logit.argmax())
            yield token
            self.input_ids[self.n_tokens] = token
            self.n_tokens += 1


def formula(prompt_length, **options):
    def process(input_ids, scores):
        scores = scores.copy()
        for token, penalty in oracle.penalties(input_ids.tolist(), VOCAB, start=prompt_length, **options).items():
            scores[token] -= penalty
        return scores

    return process


def answer(llama, prompt, processor, n=60):
    return list(llama.generate(prompt, [processor], n))


@pytest.mark.parametrize(
    "options",
    [{}, dict(strength=0.4, min_match=2), dict(gate=(6, 9), release=[[3, 4], 5], open=[7, 2], skip=8, resume=6)],
)
def test_answers_are_those_of_the_formula(options):
    llama, prompt = Llama(), [1, 2, 3, 1, 2]
    got = answer(llama, prompt, LZPenalty(**options))
    assert got == answer(llama, prompt, formula(len(prompt), **options))
    assert got != answer(llama, prompt, lambda ids, scores: scores)


def test_one_object_for_many_answers():
    llama, other, penalty = Llama(), Llama(1), LZPenalty()
    prompt = [1, 2, 3]
    first = answer(llama, prompt, penalty)
    assert answer(llama, prompt, penalty) == first
    longer = prompt + first + [5]  # as if the first answer went on
    assert answer(llama, longer, penalty) == answer(llama, longer, formula(len(longer)))
    assert answer(llama, [4], penalty) == answer(llama, [4], formula(1))
    running = zip(llama.generate(prompt, [penalty], 40), other.generate([4, 5], [penalty], 40), strict=True)
    both = list(running)
    assert [a for a, _ in both] == first[:40]
    assert [b for _, b in both] == answer(other, [4, 5], formula(2), 40)
    del llama, other, running
    gc.collect()
    assert not prompts._samplers  # nothing is kept of those that are gone


def test_the_view_is_written_in_place():
    candidates = np.zeros(VOCAB, [("id", np.intc), ("logit", np.single), ("p", np.single)])
    view = candidates["logit"]
    assert view.strides == (12,)
    assert LZPenalty(strength=1)(np.array([5, 5], np.intc), view) is view
    assert candidates["logit"][5] < 0 and not candidates["id"].any() and not candidates["p"].any()


def test_prompt_length_can_be_given():
    ids = np.array([1, 2, 1], np.intc)
    for length in (0, 2, 3, 99):
        scores = LZPenalty(prompt_length=length)(ids, np.zeros(VOCAB, np.single))
        np.testing.assert_allclose(scores, formula(length)(ids, np.zeros(VOCAB, np.single)), atol=1e-6)
    outside = LZPenalty()(ids, np.zeros(VOCAB, np.single))
    np.testing.assert_allclose(outside, formula(0)(ids, np.zeros(VOCAB, np.single)), atol=1e-6)


@pytest.mark.parametrize(
    "bad", [dict(strength=-1), dict(buffer=0), dict(prompt_length=-1), dict(prompt_length=1.5), dict(sterngth=1)]
)
def test_bad_options_are_refused_at_construction(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        LZPenalty(**bad)
    assert eval(repr(LZPenalty(strength=0.25))).options == LZPenalty(strength=0.25).options


def test_needs_no_torch():
    import subprocess

    program = f"import sys; sys.path[:0] = {sys.path!r}; import lzpenalty.llama_cpp; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0


def test_a_llama_is_a_tokenizer():
    class Vocabulary:
        metadata = {"tokenizer.chat_template": "{{ '<think>' }} {{ '</think>' }}"}
        pieces = [*"</think>", "[THINK]", "[/THINK]"]

        def tokenize(self, text, add_bos, special):
            assert special and not add_bos
            text = text.decode()
            return [self.pieces.index(text)] if text in self.pieces else [*map("</think>".find, text)]

        def detokenize(self, ids, special):
            assert special
            return "".join(self.pieces[i] for i in ids).encode()  # a letter that it hasn't is another

    options = LZPenalty(preset="reasoning", tokenizer=Vocabulary()).options
    assert options.release == (9, (0, 1, 2, 3, 4, 5, 6, 7)) and options.open == (8, (0, 2, 3, 4, 5, 6, 7))
    assert LZPenalty(preset="gentle").options.gate == (20, 28)
    with pytest.raises(ValueError, match="preset: expected tokenizer="):
        LZPenalty(preset="reasoning")


WRAPPERS = {
    "function": lambda inner: lambda input_ids, scores: inner(input_ids, scores),
    "list": lambda inner: lambda input_ids, scores: [one(input_ids, scores) for one in [inner]][-1],
    "generator": lambda inner: lambda input_ids, scores: next(inner(input_ids, scores) for _ in range(1)),
}
PLANS = st.recursive(
    st.tuples(st.integers(1, 5), st.lists(st.sampled_from([*WRAPPERS]), max_size=4), st.none()),
    lambda inner: st.tuples(st.integers(1, 5), st.lists(st.sampled_from([*WRAPPERS]), max_size=4), inner),
    max_leaves=3,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PLANS, min_size=1, max_size=3))
def test_answers_side_by_side_and_within_each_other(plans):
    """One object for answers whose steps alternate, wrapped, and with answers of other models within a step."""
    penalty = LZPenalty(strength=1.0)

    def steps(plan):
        length, wrappers, inner = plan
        prompt, processor = list(range(1, 1 + length)) * 2, penalty
        for name in wrappers:
            processor = WRAPPERS[name](processor)

        def step(input_ids, scores):
            if inner is not None:
                for _ in steps(inner):
                    pass
            wanted = formula(len(prompt), strength=1.0)(input_ids, scores)
            got = processor(input_ids, scores)
            np.testing.assert_allclose(got, wanted, atol=1e-5)
            return got

        yield from Llama(length).generate(prompt, [step], 4)

    for _ in zip(*map(steps, plans), strict=True):
        pass


def test_a_wrapper_that_asks_late_is_an_error():
    """llama-cpp-python keeps no length of the prompt: it is what had been read before the first sample."""

    def late(processor, steps):
        def step(input_ids, scores):
            steps.append(0)
            return processor(input_ids, scores) if len(steps) > 2 else scores

        return step

    with pytest.raises(RuntimeError, match="prompt_length: .*llama-cpp-python.*begun"):
        answer(Llama(), [1, 2, 3], late(LZPenalty(), []), 4)
    wanted = answer(Llama(), [1, 2, 3], late(formula(3), []), 9)
    assert answer(Llama(), [1, 2, 3], late(LZPenalty(prompt_length=3), []), 9) == wanted
    both = [LZPenalty(strength=0), late(LZPenalty(), [])]  # the first asks in time
    assert list(Llama().generate([1, 2, 3], both, 9)) == wanted


def test_a_llama_that_does_not_say_it_is_an_error():
    class Other(Llama):
        def generate(self, tokens, logits_processor):
            self._tokens = tokens  # no `token`
            self.n_tokens, self._sampler = len(tokens), self._init_sampler(logits_processor)
            self._sampler.apply(np.recarray(VOCAB, np.dtype([("logit", np.single)])))

        def produce(self, tokens, logits_processor):
            self.n_tokens, self._sampler = len(tokens), self._init_sampler(logits_processor)
            self._sampler.apply(np.recarray(VOCAB, np.dtype([("logit", np.single)])))

        def without(self, tokens, logits_processor):
            self.n_tokens = len(tokens)
            self._init_sampler(logits_processor).apply(np.recarray(VOCAB, np.dtype([("logit", np.single)])))

    for name, why in (("generate", "'token'"), ("produce", "generate"), ("without", "_sampler")):
        for processor in (LZPenalty(), WRAPPERS["function"](LZPenalty())):
            with pytest.raises(RuntimeError, match=f"prompt_length: .*llama-cpp-python.*{why}"):
                getattr(Other(), name)([1, 2], [processor])
