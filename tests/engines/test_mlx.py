"""`lzpenalty.mlx` as mlx-lm calls it: arrays that do not change, prompt and answer in one of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from engines import fake_mlx
from engines.load import adaptor, installed

mlx = adaptor("mlx", fake_mlx)
if installed("mlx"):
    import mlx.core as mx
else:
    from engines import fake_mlx as mx

VOCAB = 12


def formula(text, start=0, **options):
    wanted = np.zeros((1, VOCAB), np.float32)
    for token, penalty in oracle.penalties(text, VOCAB, start=start, **options).items():
        if token < VOCAB:
            wanted[0, token] -= penalty
    return wanted


def generate_step(prompt, processor, n):
    """The parts of mlx-lm's function of that name that a processor can see."""
    tokens = list(prompt)
    total_prompt_tokens = len(prompt)
    prompt = prompt[total_prompt_tokens - 1 :]

    def _step():
        logits = mx.array(np.cos(np.arange(VOCAB) * (1 + tokens[-1])).astype(np.float32)[None])
        return np.array(processor(mx.array(np.array(tokens, np.int32)), logits))

    for _ in range(n):
        scores = _step()
        yield tokens, scores
        tokens.append(int(scores.argmax()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(strength=1.0, min_match=2, window=9),
        dict(
            gate=(1e6, 2e6),
            release=[[VOCAB - 2, VOCAB - 1], VOCAB - 3],
            release_after=7,
            open=[[5], [2, 1, 2]],
            section_gate=(3, 9),
        ),
        dict(strength=1.0, skip=1, resume=3),
    ],
)
def test_every_step_is_the_formula(options):
    penalty, changed = mlx.LZPenalty(**options), False
    for prompt in ([1, 2, 1, 2], [5], [1, 2, 1, 2]):
        plain = generate_step(prompt, lambda tokens, logits: logits, 40)
        for text, scores in generate_step(prompt, penalty, 40):
            logits = np.cos(np.arange(VOCAB) * (1 + text[-1])).astype(np.float32)[None]
            np.testing.assert_allclose(scores, logits + formula(text, len(prompt), **options), atol=1e-5)
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


def test_embeddings_are_not_among_the_tokens():
    """mlx-lm hands processors the answer alone, if the prompt is embeddings and no tokens."""
    for text, scores in embedded_step([0.0] * 6, [3, 3, 3, 3, 7], mlx.LZPenalty(strength=1.0)):
        np.testing.assert_allclose(scores, formula(text, strength=1.0), atol=1e-5)


def embedded_step(input_embeddings, answer, processor):
    """`generate_step` whose prompt is embeddings: the first token comes without processors."""

    def generate_step(prompt, input_embeddings):
        total_prompt_tokens = len(input_embeddings)

        def _step(tokens):
            return np.array(processor(mx.array(np.array(tokens, np.int32)), mx.array(np.zeros((1, VOCAB), np.float32))))

        for n in range(1, len(answer) + 1):
            yield answer[:n], _step(answer[:n])
        assert total_prompt_tokens and not prompt

    return generate_step([], input_embeddings)


WRAPPERS = {
    "function": lambda inner: lambda tokens, logits: inner(tokens, logits),
    "list": lambda inner: lambda tokens, logits: [one(tokens, logits) for one in [inner]][-1],
    "generator": lambda inner: lambda tokens, logits: next(inner(tokens, logits) for _ in range(1)),
}
PLANS = st.recursive(
    st.tuples(st.integers(1, 5), st.lists(st.sampled_from([*WRAPPERS]), max_size=4), st.none()),
    lambda inner: st.tuples(st.integers(1, 5), st.lists(st.sampled_from([*WRAPPERS]), max_size=4), inner),
    max_leaves=3,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PLANS, min_size=1, max_size=3))
def test_answers_side_by_side_and_within_each_other(plans):
    """One object for answers whose steps alternate, wrapped, and with further answers within a step."""
    penalty = mlx.LZPenalty(strength=1.0)

    def steps(plan):
        length, wrappers, inner = plan
        prompt, processor = list(range(1, 1 + length)) * 2, penalty
        for name in wrappers:
            processor = WRAPPERS[name](processor)

        def step(tokens, logits):
            if inner is not None:
                for _ in steps(inner):
                    pass
            got = processor(tokens, logits)
            text = np.array(tokens)[len(prompt) :].tolist()
            np.testing.assert_allclose(np.array(got), np.array(logits) + formula(text, strength=1.0), atol=1e-5)
            return got

        yield from generate_step(prompt, step, 4)

    for _ in zip(*map(steps, plans), strict=True):
        pass


def engine(name, body):
    """A function of mlx-lm's module that hands a processor five tokens."""
    namespace = {"__name__": "mlx_lm.generate", "mx": mx, "np": np, "VOCAB": VOCAB}
    exec(body, namespace)
    return namespace[name]


STEP = """
def {name}(prompt, processor):
    {total} = len(prompt)

    def _step():
        return processor(mx.array(np.array([1, 2, 1, 2, 1])), mx.array(np.zeros((1, VOCAB), np.float32)))

    yield _step(), {total}, prompt
"""


@pytest.mark.parametrize(
    "name, total",
    [("generate_step", "total"), ("speculative_generate_step", "total_prompt_tokens"), ("_next", "total_prompt_tokens")],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_engine_that_does_not_say_it_is_an_error(name, total, wrapped):
    step, penalty = engine(name, STEP.format(name=name, total=total)), mlx.LZPenalty()
    processor = WRAPPERS["function"](penalty) if wrapped else penalty
    with pytest.raises(RuntimeError, match=f"prompt_length: .*mlx-lm.*{name}"):
        next(step([1, 2], processor))
    outer = generate_step([1, 2], lambda tokens, logits: next(step([1, 2], processor))[0], 1)
    with pytest.raises(RuntimeError, match=f"prompt_length: .*mlx-lm.*{name}"):
        next(outer)
    given_length = mlx.LZPenalty(prompt_length=2)
    np.testing.assert_allclose(np.array(next(step([1, 2], given_length))[0]), formula([1, 2, 1]), atol=1e-5)
