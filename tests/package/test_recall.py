"""benchmarks/recall.py measures what it says: pieces leave the cache as tokens do, and facts are where they should be."""

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
facts = pytest.importorskip("facts")
recall = pytest.importorskip("recall")

from lzpenalty.cache import selectors  # noqa: E402
from lzpenalty.cache.attention import CACHE_ARGUMENT  # noqa: E402
from lzpenalty.hf import CompressedCache  # noqa: E402
from tiny import prompt, tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def letters(text, add_special_tokens=True):
    """A tokenizer whose tokens are code points."""
    return SimpleNamespace(input_ids=[*map(ord, text)])


@pytest.mark.parametrize("budget", [None, 24])
@pytest.mark.parametrize("name", selectors.SELECTORS)
def test_pieces_that_end_where_compressions_are_due_leave_the_cache_as_tokens_do(name, budget):
    recent, tokens = 8, recall.PROMPT + 8 + 5 * 16
    ids, left = prompt(2, tokens), []
    for sizes in (recall.sizes(tokens, recent), [recall.PROMPT] + [1] * (tokens - recall.PROMPT)):
        recorder = selectors.Recorder(selectors.SELECTORS[name]())
        with CompressedCache(tiny(), 16, 4, recent, selector=recorder, budget=budget) as cache, torch.inference_mode():
            for piece in ids.split(sizes, dim=1):
                logits = tiny()(piece, **{CACHE_ARGUMENT: cache}).logits
        left.append((logits[:, -1], [step for one in cache.selectors for step in one.history]))
    torch.testing.assert_close(left[0][0], left[1][0], rtol=1e-3, atol=1e-4)
    assert len(left[0][1]) == len(left[1][1]) >= 3 * 4
    assert all(torch.equal(a, b) for a, b in zip(left[0][1], left[1][1], strict=True))


@pytest.mark.parametrize("tokens", [96, 97, 127, 128, 2400])
def test_pieces_are_the_whole_text_and_end_at_multiples_of_r(tokens):
    sizes = recall.sizes(tokens)
    ends = [sum(sizes[: i + 1]) - recall.PROMPT for i in range(len(sizes))]
    assert ends[:3] == [0, 1, recall.RECENT] and ends[-1] == tokens - recall.PROMPT
    assert all(end % recall.RECENT == 0 for end in ends[2:-1])


@pytest.mark.parametrize("half", facts.HALVES)
def test_each_interval_states_one_fact(half):
    interval = 256
    row = recall.Row(letters, half, [0] * 4000, interval, number=2)
    for i, one in enumerate(row.facts):
        stated = [*map(ord, one.stated)]
        first = recall.PROMPT + i * interval
        found = [at for at in range(len(row.ids) - len(stated)) if row.ids[at : at + len(stated)] == stated]
        assert found and first <= found[0] and found[0] + len(stated) <= first + interval
        assert one.answer in one.stated and one.question.split()[-1] + one.answer in one.stated
    assert recall.Row(letters, half, [0] * 4000, interval, number=2).ids == row.ids


def test_halves_have_nothing_in_common():
    for kind in facts.KINDS:
        questions = [{facts.fact(half, kind, random.Random(i)).question[:14] for i in range(40)} for half in facts.HALVES]
        assert not questions[0] & questions[1]
    pytest.importorskip("sympy")
    words = [
        {" ".join(line) for several in facts.texts(half).values() for text in several for line in pairs(text.split())}
        for half in facts.HALVES
    ]
    assert not words[0] & words[1]


def pairs(words, n=30):
    return (words[i : i + n] for i in range(0, len(words) - n))


def test_what_is_known_counts_only_what_the_full_cache_knows():
    full, other = {"batch 0": {"code 1": "1101", "name 2": "01"}}, {"batch 0": {"code 1": "0111", "name 2": "11"}}
    assert facts.shared(full, other) == (3, 4)
    assert facts.shared(full, other, kind="code") == (2, 3)
    assert facts.shared(full, other, age=2) == (1, 1)
    assert facts.difference({"a": 1.0, "b": 2.0}, {"a": 1.1, "b": 2.3}) == pytest.approx((0.2, 0.196))


def test_novelty_is_the_coders_bits_wherever_a_token_has_moved():
    ids = torch.cat([torch.arange(60), torch.full((60,), 5), torch.tensor([77]), torch.full((40,), 5)])[None]
    rule = recall.novelty(ids, 100, times_attention=False)
    start = recall.PROMPT
    new = 120 - start  # where the only new token is
    layer = SimpleNamespace(keys=torch.zeros(1, 1, 161, 4), start=start, stop=150)
    scores = rule.score(layer)
    assert scores.argmax(-1).item() in range(new - 3, new + 4)
    rule.compacted(torch.tensor([[[0, new, 80]]]), 150 - start)
    layer.stop = start + 3 + 8
    later = rule.score(layer)
    assert later.shape == (1, 1, 11) and torch.equal(later[..., :3], scores[..., [0, new, 80]])


@pytest.fixture
def texts_of_letters(monkeypatch):
    draw = random.Random(0)
    filler = [draw.randrange(2, 200) for _ in range(9000)]
    monkeypatch.setattr(recall, "fillers", lambda *args: [filler])
    monkeypatch.setattr(recall, "BATCH", 2)


@pytest.mark.parametrize(
    "rule", ["echo of 3 and before", "echo of others", "echo by first budgets", "rpc", "lz x attention"]
)
def test_where_all_is_kept_all_is_as_with_the_full_cache(rule, texts_of_letters):
    setting, model, found, answers = dict(interval=128, ratio=1), tiny(), [], ([], [])
    for one, seen in zip(("full cache", rule), answers, strict=True):

        def see(module, given, logits, seen=seen):
            if logits.shape[1] > 1:  # a question, not a piece of the text
                seen.append(logits[:, -1])

        with model.lm_head.register_forward_hook(see):
            found.append(recall.facts(model, letters, "report", one, setting, 0))
    torch.testing.assert_close(*map(torch.stack, answers), rtol=1e-3, atol=1e-3)
    assert found[0].keys() == found[1].keys()
    ages = [int(key.split()[1]) for key, known in found[0].items() for _ in known]
    assert [ages.count(age) for age in recall.AGES] == [2 * 9, 2 * 9, 2 * 8, 2 * 6, 2 * 2]


def test_the_passcode_is_asked_for_as_random_attention_does(texts_of_letters, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        recall, "ask", lambda model, cache, tails, answers: asked.update(tails=tails, n=answers) or [True] * 2
    )
    setting = {**recall.PASSCODE, "interval": 1 << 14}
    assert recall.passcode(tiny(), letters, "report", "rpc", setting, 0) == "11"
    assert asked["n"] == [5, 5]  # a space and four digits


def test_a_question_leaves_a_cache_with_a_sliding_window_as_it_was():
    """Such layers can't take tokens back, so a copy is asked."""
    model, ids = tiny("gemma3_text"), prompt(2, 60)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(ids[:, :40], **{CACHE_ARGUMENT: cache})
        wanted = model(ids, use_cache=False).logits[:, 48:-1].argmax(-1)
        tails = torch.cat([ids[:, 40:49], wanted[:, :1]], dim=1)
        assert [recall.ask(model, cache, tails, [1, 1]) for _ in range(2)] == [[True, True]] * 2
    assert cache.get_seq_length() == 40


def test_who_finds_itself_alone_is_not_found_by_others():
    """Queries are the keys of their own tokens: with itself, each finds itself best; without, its only copy."""
    keys = 9 * torch.eye(8)[[0, 1, 2, 3, 4, 1, 5, 6]]  # token 5 is token 1 again
    cell = SimpleNamespace(
        length=8, keys=keys[None, None], evidence=torch.zeros(1, 1, 8), scale=1.0, of_group=lambda queries: queries
    )
    track = SimpleNamespace(layer=SimpleNamespace(cells=lambda track: [[cell]]))
    recall.EchoOfOthers().ask(track, keys[None, None, 4:], keys[None, None, 4:], behind=0)
    assert cell.evidence[0, 0, 1] > 0.9 and (cell.evidence[0, 0, [0, 2, 3, 4, 5, 6, 7]] < 0.2).all()


def test_first_budgets_are_kept_in_proportion(texts_of_letters):
    ids = prompt(2, recall.PROMPT + 1 + 128 * 3 + 40)
    cache = recall.open_cache(tiny(), ids, "echo by first budgets", recall.SETTINGS["P = 128, c = 8"])
    kept = []
    with cache, torch.inference_mode():
        for piece in ids.split(recall.sizes(ids.shape[1]), dim=1):
            tiny()(piece, **{CACHE_ARGUMENT: cache})
            if cache.stats()["compressions"] > len(kept):
                by_head = [entries for layer in cache.stats()["kept_by_head"] for row in layer for entries in row]
                kept.append([entries - recall.PROMPT - recall.RECENT for entries in by_head])
    assert len(set(kept[0])) > 1 and kept[1:] == [[n * i for n in kept[0]] for i in (2, 3)]
