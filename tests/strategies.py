"""Inputs that tests of several folders share: texts and options for Hypothesis, instruction sets."""

from hypothesis import strategies as st

from lzpenalty import _core

COSTS = ("lzss", "pair", "distance")


@st.composite
def histories(draw, most=90):
    """Random texts, texts of few tokens, and loops; with ids that no vocabulary has."""
    kind = draw(st.sampled_from(["random", "few", "loop", "quote"]))
    ids = st.integers(-3, 40)
    if kind == "random":
        return draw(st.lists(ids, max_size=most))
    if kind == "few":
        return draw(st.lists(st.integers(0, 2), max_size=most))
    turn = draw(st.lists(ids, min_size=1, max_size=12))
    if kind == "loop":
        return (draw(st.lists(ids, max_size=10)) + turn * (most // len(turn)))[: draw(st.integers(0, most))]
    return turn + draw(st.lists(ids, max_size=20)) + turn[: draw(st.integers(0, 12))]


coders = st.fixed_dictionaries(
    {
        "window": st.integers(0, 100),
        "buffer": st.integers(1, 40),
        "cost": st.sampled_from(COSTS),
        "min_match": st.integers(1, 5),
    }
)
marks = st.none() | st.integers(0, 15) | st.lists(st.integers(0, 12) | st.lists(st.integers(0, 12), min_size=1, max_size=4),
                                                   min_size=1, max_size=4)  # fmt: skip
gates = st.none() | st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda pair: (pair[0], sum(pair)))
options = st.fixed_dictionaries(
    {
        "strength": st.floats(0, 3, width=32).map(lambda x: x if x > 1e-6 else 0.0),
        "gate": st.none() | gates,
        "release": marks,
        "release_rate": st.sampled_from([0.0, 0.25, 2.0, 30.0]),
        "release_after": st.integers(1, 30),
        "open": marks,
        "section_gate": st.none() | gates,
        "skip": st.none() | st.none() | marks,
        "resume": marks,
    }
)


def within(option, vocab):
    """Options whose ids are all of a vocabulary."""

    def fold(ids):
        return None if ids is None else ids % vocab if isinstance(ids, int) else [fold(i) for i in ids]

    return option | {name: fold(option[name]) for name in ("release", "open", "skip", "resume")}


dry_options = st.fixed_dictionaries(
    {
        "multiplier": st.floats(0.125, 4, width=32),
        "base": st.floats(1, 2, width=32),
        "allowed_length": st.integers(1, 5),
        "window": st.integers(0, 100),
        "sequence_breakers": st.lists(st.integers(0, 8), max_size=3),
    }
)


def fibonacci(n):
    a, b = "b", "a"
    for _ in range(n):
        a, b = b, b + a
    return b


def at_each_level(function):
    before, results = _core.cpu_level(), []
    try:
        for level in _core.cpu_levels():
            _core.set_cpu_level(level)
            results.append(function())
    finally:
        _core.set_cpu_level(before)
    return results
