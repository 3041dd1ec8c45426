"""Greedy answers under several penalties at once are those that transformers generates under each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lzpenalty.commands import models, penalties
from tiny import tiny, tokenizer, words

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("none", "paper", "gentle", "repetition=1.3", "ngram=3", "dry=0.8,1.75,2", "dry-breakers=0.8,1.75,2")


@pytest.mark.parametrize(("architecture", "ended"), [("llama", None), ("llama", 5), ("llama", 20), ("gemma3_text", 20)])
def test_together_they_are_what_generate_says(architecture, ended):
    """In gemma3_text all layers but one see less than the answers' length."""
    model = tiny(architecture, spread=0.15)
    prompts = [words(4 + 3 * i, i) for i in range(4)]
    end = None if ended is None else models.greedy(model, tokenizer(), prompts, 40)[1][ended]
    used = [penalties.named(name, tokenizer()) for name in NAMES]
    used.append(penalties.lz("two", {"strength": 0.5, "gate": (8, 12), "min_match": 2}, {"strength": 0.01}))
    model.generation_config.eos_token_id, before = end, model.generation_config.eos_token_id
    steps = []
    try:
        found = models.answers(model, tokenizer(), prompts, 40, used, step=steps.append)
        width = tokenizer()(prompts, return_tensors="pt", padding=True).input_ids.shape[1]
        wanted = [models.greedy(model, tokenizer(), prompts, 40, penalty.processors(width)) for penalty in used]
    finally:
        model.generation_config.eos_token_id = before
    assert found == wanted
    lengths = [len(answer) for answers in found for answer in answers]
    assert steps[0] == len(lengths) and sum(steps) == sum(lengths) + sum(length < 40 for length in lengths)
    if end is not None:
        assert min(lengths) < 40
    assert len({str(answers) for answers in found}) > 4  # they do differ


def test_the_model_is_left_as_it_was(monkeypatch):
    model = tiny()
    before = model.config._attn_implementation
    assert models.answers(model, tokenizer(), ["w5 w6"], 3) == [models.greedy(model, tokenizer(), ["w5 w6"], 3)]
    monkeypatch.setattr(models, "_go_on", None)
    with pytest.raises(TypeError):
        models.answers(model, tokenizer(), ["w5 w6"], 3)
    assert model.config._attn_implementation == before


def test_an_opening_is_part_of_the_prompt():
    ours, whole = (
        models.answers(tiny(), tokenizer(), [prompt], 20, [penalties.named("paper")], opening=opening)
        for prompt, opening in (("w5 w6 w7", " w8 w9"), ("w5 w6 w7 w8 w9", ""))
    )
    assert ours == whole


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2)), min_size=1, max_size=4), max_size=6))
def test_rows_go_on_from_where_they_were(ways):
    """Whatever splits and ends: each way goes on once, in places without a gap, from a row that is not yet overwritten."""
    rows, choices, kind = [], [], 0
    for at, of in enumerate(ways):
        kinds, choice = [], {}
        for token, count in of:
            for _ in range(count):
                kinds.append(kind)
                choice.setdefault(token, []).append(kind)
                kind += 1
        rows.append((at, kinds))
        choices.append(choice)
    sources, follow, chosen = models._go_on(rows, choices, {0})
    wanted = sorted((at, tuple(k), t) for (at, _), c in zip(rows, choices, strict=True) for t, k in c.items() if t != 0)
    assert sorted((at, tuple(kinds), token) for (at, kinds), token in zip(follow, chosen, strict=True)) == wanted
    held = [*range(len(rows)), *[None] * len(follow)]  # what the cache holds, row by row
    for to, source in enumerate(sources):
        if to != source:
            held[to] = held[source]
    assert held[: len(follow)] == [at for at, _ in follow] and len(sources) == len(follow)


def test_one_token_over_several_heads_is_sdpa():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 1, 8, generator=generator)
    key, value = torch.randn(2, 3, 2, 5, 8, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]], dtype=torch.bool)[:, None, None]
    found, _ = models._grouped(None, query, key, value, mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, wanted)
