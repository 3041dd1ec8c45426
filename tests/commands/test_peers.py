"""benchmarks/peers.py: contestants do what their names say, in processes that take turns."""

import sys
from pathlib import Path

import numpy as np
import pytest

import oracle

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import peers  # noqa: E402

VOCAB, LENGTH = 50, 60


@pytest.fixture
def inputs(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, (2, LENGTH))
    tokens[1] = np.arange(LENGTH) % 7
    logits = rng.standard_normal((2, VOCAB), np.float32)
    np.save(tmp_path / "prose-2.npy", tokens)
    np.save(tmp_path / "logits-2.npy", logits)
    return tmp_path, tokens, logits


def after(name, tokens, logits):
    """The logits after a second call: the first must have left nothing."""
    restore, call = peers.contestant(name, tokens, logits, None)
    for _ in range(2):
        restore()
        result = call()
    return result.numpy()


def test_ours_are_the_formulas(inputs, monkeypatch):
    monkeypatch.setattr(peers, "VOCAB", VOCAB)
    _, tokens, logits = inputs
    gentle = {"strength": 0.3, "min_match": 2, "gate": (20, 28)}
    thoughts = {"release": VOCAB - 1, "release_after": 16, "section_gate": (12, 20)}
    formulas = {
        "paper": lambda row: oracle.penalties(row, VOCAB),
        "gentle": lambda row: oracle.penalties(row, VOCAB, **gentle),
        "reasoning": lambda row: oracle.penalties(row, VOCAB, **gentle, **thoughts),
        "dry": lambda row: oracle.dry(row, VOCAB),
    }
    assert set(formulas) == set(peers.OURS)
    for name, formula in formulas.items():
        wanted = logits.copy()
        for row, text in zip(wanted, tokens.tolist(), strict=True):
            for token, penalty in formula(text).items():
                row[token] -= penalty
        np.testing.assert_allclose(after(name, tokens, logits), wanted, rtol=1e-4, atol=1e-4)


def test_the_frequency_penalty_is_a_tenth_of_the_count(inputs):
    _, tokens, logits = inputs
    counts = np.stack([np.bincount(row, minlength=VOCAB) for row in tokens])
    np.testing.assert_allclose(after("frequency", tokens, logits), logits - 0.1 * counts, rtol=1e-5, atol=1e-5)
    assert (after("repetition", tokens, logits) != logits).any() and np.isinf(after("ngram", tokens, logits)).any()


def test_a_process_answers_with_seconds_until_it_is_left(inputs):
    folder, _, _ = inputs
    with peers.Process(sys.executable, "paper", folder, None) as process:
        assert process.version.startswith("lzpenalty ")
        seconds = process.turn(2, "prose", 5)
        assert len(seconds) == 5 and all(second > 0 for second in seconds)
    assert process.process.returncode == 0
    with pytest.raises(SystemExit, match="ended early"):
        peers.Process(sys.executable, "llama-dry", folder, None).turn(2, "prose", 1)


def test_ratios_are_medians_over_rounds(monkeypatch):
    class Racer:
        def __init__(self, *turns):
            self.turns = [turns[0], *turns] * 4

        def turn(self, batch, text, calls):
            return [self.turns.pop(0)] * 3

    monkeypatch.setattr(peers, "TEXTS", ("prose",))
    monkeypatch.setattr(peers, "BATCHES", (2,))
    lines = peers.race({"reasoning": Racer(2e-6, 4e-6, 8e-6), "vllm": Racer(20e-6, 20e-6, 100e-6)}, 3)
    assert lines[0] == {
        "contestant": "reasoning", "batch": 2, "text": "prose", "us_per_row": 2, "contestant_over_reasoning": 1,
    }  # fmt: skip
    assert (lines[1]["us_per_row"], lines[1]["contestant_over_reasoning"]) == (10, 10)
