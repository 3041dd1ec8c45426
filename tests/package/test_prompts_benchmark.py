"""benchmarks/prompts.py measures what it says: documents, what is asked of copies, and what is held."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
facts = pytest.importorskip("facts")
prompts = pytest.importorskip("prompts")
ruler = pytest.importorskip("ruler")

from lzpenalty.cache.attention import CACHE_ARGUMENT  # noqa: E402
from tiny import VOCAB, tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def letters(text, add_special_tokens=True):
    """A tokenizer whose tokens are code points, as far as the tiny model goes."""
    return SimpleNamespace(input_ids=[min(ord(each), VOCAB - 1) for each in text])


FILLER = torch.randint(2, VOCAB, (3000,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("half", facts.HALVES)
def test_a_document_states_one_fact_of_each_kind(half):
    documents = [prompts.Document(letters, half, FILLER, 1572, number) for number in range(2)]
    assert documents[0].ids != documents[1].ids
    for document in documents:
        assert (
            len(document.ids) == 1572
            and len(document.next) == prompts.NEXT
            and sorted(document.kinds) == sorted(facts.KINDS)
        )
        text = document.ids
        for question, answer in document.asked:
            said = question[-8:] + answer  # what is stated goes on as the question does
            found = [at for at in range(1572 - len(said)) if text[at : at + len(said)] == said]
            assert len(found) == 1 and 16 <= found[0] < 1572 - prompts.LAST or half == "choose"
    again = prompts.Document(letters, half, FILLER, 1572, 0)
    assert (again.ids, again.asked) == (documents[0].ids, documents[0].asked)


class Letters:
    """A tokenizer whose tokens are code points, with a chat's template."""

    def __call__(self, text, add_special_tokens=True):
        return SimpleNamespace(input_ids=[*map(ord, text)])

    def apply_chat_template(self, turns, add_generation_prompt, tokenize):
        assert [turn["role"] for turn in turns] == ["user"] and add_generation_prompt and not tokenize
        return f"<user>{turns[0]['content']}</user><assistant>"

    def decode(self, tokens):
        return "".join(map(chr, tokens))


@pytest.mark.parametrize("half", facts.HALVES)
@pytest.mark.parametrize("task", ruler.TASKS)
def test_a_message_states_what_its_task_asks_for(task, half):
    tokenizer, filler = Letters(), [*map(ord, "lorem ipsum " * 400)]
    made = [prompts.Message(tokenizer, half, filler, 2000, number, task) for number in (0, 0, 1)]
    assert made[0].ids == made[1].ids != made[2].ids
    message = made[2]
    text = tokenizer.decode(message.ids)
    assert len(message.ids) == 2000 and text.startswith("<user>") and "</user>" not in text
    for question, answers in message.asked:
        assert "?</user><assistant>" in tokenizer.decode(question)
        assert all(answer in text and answer not in tokenizer.decode(question) for answer in answers)
    answers = [answer for _, answers in message.asked for answer in answers]
    assert len(answers) == {"single": 1, "keys": 1, "values": 4, "variables": 4, "frequent": 3, "chat": 6}[task]
    if task == "variables":  # each one but the first is copied from the one before, and said before it is copied
        places = [text.index(f"VAR {name} = ") for name in answers]
        assert places == sorted(places)
        assert all(f"VAR {b} = VAR {a}\n" in text for a, b in zip(answers, answers[1:], strict=False))
    elif task == "frequent":
        words = text[len("<user>") :].split()[:-1]
        assert {*answers} == {*sorted({*words}, key=words.count)[-3:]}
    elif task == "keys":
        assert text.count("The locker number of the") == 4
    elif task in ("single", "values"):
        assert text.count("The locker number of the") == len(answers)


def test_a_reply_is_what_the_model_says_of_the_whole_text():
    model, ids, question = tiny(), FILLER[:300], FILLER[300:320]
    cache, _, _ = prompts.read(model, "full cache", 4, torch.tensor([ids]))
    whole = ids + question
    with torch.no_grad():
        for _ in range(6):
            whole.append(int(model(torch.tensor([whole])).logits[0, -1].argmax()))
    assert prompts.reply(model, cache, 300, question, 6) == whole[320:] and cache.get_seq_length() == 300
    said = SimpleNamespace(
        ids=ids, limit=6, decode=lambda tokens: " ".join(map(str, tokens)), asked=[(question, [str(whole[-1]), "x"])]
    )
    assert prompts.replies(model, cache, said) == {"0.0": "1", "0.1": "0"}


def test_documents_end_where_a_compression_is_due_and_all_keep_as_much():
    for tokens in (1572, 4132, 7972):
        sizes = prompts._sizes(tokens)
        assert sum(sizes) == tokens and set(sizes[1:]) == {prompts.INTERVAL}
        for ratio in (2, 4, 8, 16):
            assert prompts.kept_of(tokens, ratio) == 36 + (tokens - 36) // ratio
    ids = torch.tensor([FILLER[:1572]])
    for rule in ("echo", "echo without rivals", "rpc"):
        cache, seconds, peak = prompts.read(tiny(), rule, 8, ids)
        assert cache.stats()["kept"] == prompts.kept_of(1572, 8) and cache.stats()["seen"] == 1572 and seconds > 0
        assert peak == prompts.kept_of(1572 - prompts.INTERVAL, 8) + prompts.INTERVAL
    cache, _, peak = prompts.read(tiny(), "full cache", 8, ids)
    assert cache.get_seq_length() == peak == 1572


def test_what_is_asked_is_what_the_model_says_of_the_whole_text(monkeypatch):
    """By the full cache, in one forward without any cache; and the cache stays as it is."""
    model, document = tiny(), prompts.Document(letters, "report", FILLER, 700, 1)
    with torch.no_grad():
        said = []
        for question, answer in document.asked[:3]:
            text = document.ids + question
            for _ in answer:
                text = text + [int(model(torch.tensor([text])).logits[0, -1].argmax())]
            said.append((question, text[-len(answer) :]))
        whole = model(torch.tensor([document.ids + document.next])).logits[0, len(document.ids) : -1]
    document.asked[:3] = said
    cache, _, _ = prompts.read(model, "full cache", 4, torch.tensor([document.ids]))
    known = prompts.ask(model, cache, document)
    assert [known[kind] for kind in document.kinds[:3]] == ["1"] * 3
    document.asked[0] = document.asked[0][0], [(each + 1) % VOCAB for each in document.asked[0][1]]
    assert prompts.ask(model, cache, document)[document.kinds[0]] == "0"
    bits = torch.nn.functional.cross_entropy(whole, torch.tensor(document.next[1:])) / torch.log(torch.tensor(2.0))
    assert prompts.bits_of_next(model, cache, document) == pytest.approx(float(bits), rel=1e-3)
    assert cache.get_seq_length() == 700


@pytest.fixture
def of_tiny(tmp_path, monkeypatch):
    """The benchmark of a tiny model, with its results in tmp_path."""
    monkeypatch.setattr(prompts, "RESULTS", tmp_path)
    monkeypatch.setattr(prompts, "load_model", lambda name: (tiny(), letters))
    monkeypatch.setattr(prompts, "fillers", lambda *options: [FILLER])
    monkeypatch.setattr(prompts, "write", lambda name, results: (tmp_path / f"{name}.json").write_text(json.dumps(results)))


@pytest.mark.usefixtures("of_tiny")
def test_results_are_kept_and_not_measured_again(tmp_path, monkeypatch):
    call = ["prompts.py", "--contexts", "1", "--tokens", "700", "--ratios", "4", "--rules", "echo,rpc"]
    monkeypatch.setattr(sys, "argv", call)
    prompts.main()
    results = json.loads((tmp_path / "prompts.json").read_text())
    found = results["documents"]["700"]
    assert [*found] == ["full cache", "echo, 1/4", "rpc, 1/4"] and results["half"] == "report"
    assert {*found["full cache"]["0"]} == {"kept", "peak", "seconds", "facts", "bits"}
    assert all({*found[rule]["0"]} == {*found["full cache"]["0"], "spent"} for rule in ("echo, 1/4", "rpc, 1/4"))
    monkeypatch.setattr(prompts, "measure", None)
    prompts.main()
    assert json.loads((tmp_path / "prompts.json").read_text()) == results


@pytest.mark.usefixtures("of_tiny")
def test_a_rule_that_is_measured_later_is_clocked_beside_a_full_cache_of_that_run(tmp_path, monkeypatch):
    """Machines differ: not beside the one of the first run."""
    seconds, read = {"full cache": 4.0}, prompts.read

    def clocked(model, rule, *arguments):
        cache, _, peak = read(model, rule, *arguments)
        return cache, seconds.get(rule, 6.0), peak

    monkeypatch.setattr(prompts, "read", clocked)
    for rules in ("echo", "echo,rpc,random"):
        call = ["prompts.py", "--contexts", "1", "--tokens", "700", "--ratios", "4", "--rules", rules]
        monkeypatch.setattr(sys, "argv", call)
        prompts.main()
        seconds["full cache"] = 12.0
    found = json.loads((tmp_path / "prompts.json").read_text())["documents"]["700"]
    assert found["full cache"]["0"]["seconds"] == 4.0
    spent = {rule: of["0"]["spent"] for rule, of in found.items() if rule != "full cache"}
    assert spent == {"echo, 1/4": 1.5, "rpc, 1/4": 0.5, "random, 1/4": 0.5}


def test_rules_that_there_are_not_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prompts.py", "--contexts", "1", "--tokens", "700", "--rules", "nothing"])
    with pytest.raises(SystemExit):
        prompts.main()
    assert "expected some of full cache, echo" in capsys.readouterr().err


def test_counts_are_of_what_the_full_cache_knows():
    full = {"0": {"facts": {"code": "1", "name": "0"}}, "1": {"facts": {"code": "1", "name": "1"}}, "2": {"bits": 3}}
    other = {"1": {"facts": {"code": "0", "name": "1"}}, "0": {"facts": {"code": "1", "name": "1"}}}
    assert facts.known_of(full, other) == (2, 3) and facts.known_of(full, full) == (3, 3)


def test_presses_find_positions_that_were_given():
    """A press leaves fewer entries than tokens: what is asked stands behind the document all the same."""
    model, document = tiny(), prompts.Document(letters, "report", FILLER, 700, 2)
    full = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([document.ids]), **{CACHE_ARGUMENT: full})
        wanted = prompts.logits_of(model, full, document, document.next)
        for layer in full.layers:  # the first entry twice: as many entries more, and little else
            layer.keys, layer.values = (torch.cat([each[:, :, :1], each], dim=2) for each in (layer.keys, layer.values))
        got = prompts.logits_of(model, full, document, document.next)
    assert (got - wanted).abs().max() < (wanted.max() - wanted.min()) / 2
