"""lzpenalty sweep: its measures against plain loops with the formula, and a table that survives what a long run meets."""

import csv
import json
import math

import pytest
import torch

import oracle
from lzpenalty.commands import cli, models, penalties, sweep
from lzpenalty.commands.prompts import PROMPTS
from lzpenalty.hf import LZPenaltyLogitsProcessor
from thorough import thorough
from tiny import VOCAB, generate, prompt, tiny, tokenizer, words

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = [
    {},
    dict(strength=0.1, min_match=2),
    dict(strength=0.05, window=20),
    dict(strength=0.1, window=200),
]


def by_hand(model, ids, copied, options):
    """Bits of each token, and whether it is the most likely one, a forward for each."""
    fed = ids + ids[-copied:]
    bits, best = [], []
    for at in range(1, len(fed)):
        with torch.no_grad():
            logits = model(torch.tensor([fed[:at]])).logits[0, -1].double()
        for token, penalty in oracle.penalties(fed[:at], VOCAB, **options).items():
            logits[token] -= penalty
        bits.append(-float(logits.log_softmax(-1)[fed[at]]) / math.log(2))
        best.append(int(logits.argmax()) == fed[at])
    return bits, best


@pytest.mark.parametrize("given", OPTIONS)
def test_damage_is_that_of_a_plain_loop(given, monkeypatch):
    monkeypatch.setattr(sweep, "ROWS", 7)
    options = sweep.BASELINE | {"strength": 0.15} | given
    model = tiny(spread=0.15)
    own = generate(model, prompt(1, 5, 2), 40)[0].tolist()  # a random model knows no copies but of what it says itself
    texts = [tokenizer()(words(30, 1, of=9)).input_ids, own]
    tokens = copies = kept = 0
    total = lost = 0.0
    for ids in texts:
        (bits, best), (bits_without, best_without) = (by_hand(model, ids, 20, o) for o in (options, sweep.BASELINE))
        tokens += len(ids) - 1
        total += sum(bits[: len(ids) - 1])
        lost += sum(bits[: len(ids) - 1]) - sum(bits_without[: len(ids) - 1])
        known = [i for i, was in enumerate(best_without) if was and i >= len(ids) - 1]
        copies += len(known)
        kept += sum(best[i] for i in known)
    assert 0 < kept < copies
    found = sweep.damage([sweep.Reading(model, ids, 20) for ids in texts], options)
    wanted = {"bits_per_token": total / tokens, "bits_lost": lost / tokens, "copies_kept": kept / copies}
    assert found == pytest.approx(wanted, abs=2e-5)


def test_a_text_shorter_than_the_copy_is_read_twice():
    ids = tokenizer()(words(20, 3)).input_ids
    reading = sweep.Reading(tiny(), ids, 128)
    assert reading.tokens.tolist() == (ids + ids)[:-1] and int(reading.is_text.sum()) == 19
    assert math.isnan(sweep.damage([sweep.Reading(tiny(), [2, 3], 1)], sweep.BASELINE)["copies_kept"])


def by_processors(reading, processors):
    """Bits of each token, and whether it is the most likely one, with a call for each prefix."""
    bits, best = [], []
    for at, target in enumerate(reading.targets.tolist()):
        logits = reading.logits[at : at + 1].clone()
        for processor in processors:
            logits = processor(reading.tokens[None, : at + 1], logits)
        bits.append(-float(logits.log_softmax(-1)[0, target]) / math.log(2))
        best.append(int(logits.argmax()) == target)
    return bits, best


@pytest.mark.parametrize("name", ["gentle", "repetition=1.3", "ngram=3", "dry=0.8,1.75,2", "two"])
def test_penalties_of_others_read_texts_like_ours(name, monkeypatch):
    monkeypatch.setattr(sweep, "ROWS", 7)
    ids = generate(tiny(spread=0.15), prompt(1, 5, 2), 50)[0].tolist()
    reading = sweep.Reading(tiny(spread=0.15), ids, 20, times=2)
    assert reading.tokens.tolist() == (ids + ids[-20:] * 2)[:-1]
    if name == "two":
        penalty = penalties.lz(name, {"strength": 0.5, "min_match": 2}, {"strength": 0.1})
        given = [dict(strength=0.5, min_match=2), dict(strength=0.1)]
        processors = [LZPenaltyLogitsProcessor(**options) for options in given]
    else:
        penalty = penalties.named(name)
        processors = penalty.processors(0)
    bits, best = reading.under(penalty)
    wanted = by_processors(reading, processors)
    assert bits.tolist() == pytest.approx(wanted[0], abs=2e-5) and best.tolist() == wanted[1]
    assert bits.tolist() != reading.bits.tolist() or name == "gentle"


def test_loops():
    answers = [[5, 6] * 20, [7] * 30 + [8], [*range(40)], []]
    assert sweep.loops(answers, ngram=8, count=3) == sum(oracle.period(row, 8, 3, 512) > 0 for row in answers) / 4 == 0.25


def test_the_grid_is_the_product_and_the_penalty_switched_off():
    values = {name: [value] for name, value in sweep.BASELINE.items()} | {
        "strength": [0.0, 0.1, 0.2, 0.1],
        "min_match": [1, 2],
    }
    combinations = sweep.grid(values)
    assert combinations[0] == sweep.BASELINE
    assert [(o["strength"], o["min_match"]) for o in combinations[1:]] == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]


def looping():
    return tiny(spread=0.05)


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """A sweep of five combinations on a tiny model."""
    monkeypatch.setattr(models, "load_model", lambda name: (looping(), tokenizer()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(words(50, 4, of=9))
    lines = [json.dumps({"prompt": words(5 + i, i), "id": i}) for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n\n")
    sizes = "--batch-size 2 --max-new-tokens 30 --text-tokens 40 --copy-tokens 10 --ngram 4 --count 3"
    return f"sweep --prompts prompts.jsonl --text text {sizes} --strength 0.2 0.5 --min-match 1 2".split()


def rows(path="lzpenalty-sweep.csv"):
    with open(path) as file:
        return [*csv.DictReader(file)]


def test_rows_are_what_transformers_generates(arguments, capsys):
    assert cli.main(arguments) == 0
    found = rows()
    assert [(row["strength"], row["min_match"]) for row in found] == [
        ("0.0", "1"), ("0.2", "1"), ("0.2", "2"), ("0.5", "1"), ("0.5", "2")
    ]  # fmt: skip
    for row in found:
        answers = []
        for i in range(3):
            ids = tokenizer()(words(5 + i, i)).input_ids
            start = len(ids)
            for _ in range(30):
                with torch.no_grad():
                    logits = looping()(torch.tensor([ids])).logits[0, -1]
                assert row["gate"] == "off"
                options = {
                    name: float(row[name]) if name in ("strength",) else int(row[name])
                    for name in sweep.BASELINE
                    if name != "gate"
                }
                for token, penalty in oracle.penalties(ids[start:], VOCAB, **options).items():
                    logits[token] -= penalty
                ids.append(int(logits.argmax()))
            answers.append(ids[start:])
        wanted = sum(oracle.period(answer, 4, 3, 512) > 0 for answer in answers) / 3
        assert float(row["loop_rate"]) == pytest.approx(wanted, abs=1e-5)
        assert row["answers"] == "3" and row["tokens"] == "30"
    assert float(found[0]["loop_rate"]) > float(found[-1]["loop_rate"])
    assert float(found[0]["bits_lost"]) == 0 and float(found[-1]["bits_lost"]) > 0
    with open("lzpenalty-sweep.png", "rb") as file:
        assert file.read(4) == b"\x89PNG"
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 8 and "min_match" in printed.out and "gate" not in printed.out
    assert printed.err == ""  # a log hears of it once a minute


def test_a_killed_sweep_goes_on_and_computes_nothing_twice(arguments, tmp_path, monkeypatch):
    assert cli.main([*arguments, "--csv", "whole.csv"]) == 0
    done, answers, left = [], models.answers, 4  # calls of answers: two for each combination

    def interrupted(*args, **kwargs):
        if len(done) == left:
            raise KeyboardInterrupt
        done.append(args[4])
        return answers(*args, **kwargs)

    monkeypatch.setattr(models, "answers", interrupted)
    assert cli.main(arguments) == 130
    table = tmp_path / "lzpenalty-sweep.csv"
    whole = (tmp_path / "whole.csv").read_text()
    assert table.read_text() == "".join(whole.splitlines(keepends=True)[:3])
    table.write_text(table.read_text() + whole.splitlines()[3][:-4])  # what a kill in the middle of a line leaves
    left = 10
    assert cli.main(arguments) == 0
    assert table.read_text() == whole and len(done) == 10
    monkeypatch.setattr(models, "load_model", None)
    (tmp_path / "lzpenalty-sweep.png").unlink()
    assert cli.main(arguments) == 0 and len(done) == 10  # nothing is left, but the picture is
    assert (tmp_path / "lzpenalty-sweep.png").exists()


def test_more_values_later(arguments):
    assert cli.main(arguments) == 0
    before = rows()
    assert cli.main([*arguments, "--strength", "0.5", "0.7", "--window", "512", "8"]) == 0
    assert rows()[:5] == before and len(rows()) == 5 + 2 + 4  # 0.5 with a short window, 0.7 with all


def test_gates_are_rows_like_others(arguments):
    arguments += ["--strength", "0.5", "--min-match", "1", "--gate", "off", "6:9"]
    assert cli.main(arguments) == 0
    without, ungated, gated = rows()
    assert [row["gate"] for row in (without, ungated, gated)] == ["off", "off", "6:9"]
    assert float(gated["bits_lost"]) < float(ungated["bits_lost"])
    assert cli.main([*arguments, "20:28.5"]) == 0
    assert rows()[:3] == [without, ungated, gated] and rows()[3]["gate"] == "20:28.5"


@pytest.mark.parametrize("text", ["on", "20", "20:x", "1:2:3"])
def test_gates_that_are_none(arguments, text, capsys):
    for gate, message in (
        (text, f"argument --gate: expected FROM:TO or off, got {text}"),
        ("28:20", "error: gate: expected (from, to) with 0 <= from < to"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([*arguments, "--gate", gate])
        assert stop.value.code == 2 and message in capsys.readouterr().err


def test_other_penalties_are_rows_of_the_same_table(arguments, capsys):
    names = ["gentle", "repetition=1.3", "ngram=3", "dry=0.8,1.75,2"]
    assert cli.main([*arguments, "--others", *names, "gentle"]) == 0
    found = rows()
    assert [row["penalty"] for row in found] == ["none", *["lz"] * 4, *names]
    for row, name in zip(found[5:], names, strict=True):
        assert {row[option] for option in sweep.BASELINE} == {""}
        answers = [
            models.greedy(looping(), tokenizer(), [words(5 + i, i)], 30, penalties.named(name).processors(5 + i))[0]
            for i in range(3)
        ]
        assert float(row["loop_rate"]) == pytest.approx(sum(oracle.period(a, 4, 3, 512) > 0 for a in answers) / 3, abs=1e-5)
        assert row["cut"] == str(sum(len(answer) == 30 for answer in answers))
    assert all(name in capsys.readouterr().out for name in names[:1])
    before = rows()
    assert cli.main([*arguments, "--others", "paper", *names]) == 0
    assert rows()[:-1] == before and rows()[-1]["penalty"] == "paper"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "another"], "its model is SmolLM2-135M-Instruct, not another"),
        (["--ngram", "5"], "its inputs is"),
        (["--max-new-tokens", "31"], "its inputs is"),
        (["--text", "prompts.jsonl"], "its inputs is"),
        (["--prompts", "other.jsonl"], "its inputs is"),
    ],
)
def test_the_table_of_another_sweep_is_refused(arguments, changes, message, tmp_path, monkeypatch, capsys):
    assert cli.main(arguments) == 0
    (tmp_path / "other.jsonl").write_text('{"prompt": "w5 w6"}')
    before = (tmp_path / "lzpenalty-sweep.csv").read_bytes()
    monkeypatch.setattr(models, "load_model", None)
    capsys.readouterr()
    assert cli.main([*arguments, "--strength", "0.9", *changes]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lzpenalty: lzpenalty-sweep.csv is of another sweep: ") and message in error
    assert error.count("\n") == 1 and (tmp_path / "lzpenalty-sweep.csv").read_bytes() == before


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "notes without a newline", sweep.HEADER.replace("\n", "\r\n"), "m"])
def test_other_files_are_not_written_to(arguments, content, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "load_model", None)
    (tmp_path / "mine").write_bytes(content.encode())
    if sweep.HEADER.startswith(content):  # what a kill in the middle of the header leaves
        monkeypatch.setattr(models, "load_model", lambda name: (looping(), tokenizer()))
        assert cli.main([*arguments, "--csv", "mine"]) == 0 and len(rows("mine")) == 5
        return
    assert cli.main([*arguments, "--csv", "mine"]) == 1
    assert capsys.readouterr().err.startswith("lzpenalty: mine is not the table of a sweep: expected the columns model,")
    assert (tmp_path / "mine").read_bytes() == content.encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--prompts", "none"], "none can't be read: No such file or directory"),
        (["--text", "none"], "none can't be read: No such file or directory"),
        (["--text", "binary"], "binary can't be read: 'utf-8'"),
        (["--text", "text", "short"], "text: expected at least 2 tokens in each"),
        (["--prompts", "empty"], "empty: expected a prompt a line, there is none"),
        (["--prompts", "wrong"], 'wrong, line 2: expected {"prompt": "..."} or {"messages": [...]}'),
        (["--prompts", "messages"], "prompts: messages need a chat template"),
        (["--csv", "no/such.csv"], "no/such.csv can't be written: there is no folder no"),
        (["--csv", "folder"], "folder can't be read: Is a directory"),
    ],
)
def test_mistakes_cost_one_line(arguments, changes, message, tmp_path, capsys):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    (tmp_path / "short").write_text("w5")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "wrong").write_text('{"prompt": "w5"}\n{"prompts": "w5"}\n')
    (tmp_path / "messages").write_text('{"messages": [{"role": "user", "content": "w5"}]}')
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    assert cli.main([*arguments, *changes]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"lzpenalty: {message}")
    assert sorted(tmp_path.iterdir()) == before


def test_a_picture_that_can_not_be_written_costs_no_rows(arguments, tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    assert cli.main([*arguments, "--picture", "folder.png"]) == 1 and len(rows()) == 5
    assert capsys.readouterr().err.splitlines()[-1].startswith("lzpenalty: folder.png can't be written: Is a directory")


@pytest.mark.parametrize(
    "line", ["[]", "5", "nonsense", "{}", '{"prompt": 5}', '{"prompt": ""}', '{"messages": []}', '{"messages": "w5"}',
             '{"messages": [5]}', '{"messages": [{"role": "user"}]}'],
)  # fmt: skip
def test_lines_that_are_no_prompts(line, tmp_path):
    (tmp_path / "prompts").write_text(line)
    with pytest.raises(sweep.SweepError, match="line 1: expected"):
        sweep.read_prompts(tmp_path / "prompts")


def test_lines_that_are(tmp_path):
    lines = [
        '{"prompt": "a\u2028b"}',
        '{"messages": [{"role": "user", "content": "c"}]}\r',
        "  ",
        '{"prompt": "d", "id": 1}',
    ]
    (tmp_path / "prompts").write_bytes("\n".join(lines).encode())
    assert sweep.read_prompts(tmp_path / "prompts") == ["a\u2028b", [{"role": "user", "content": "c"}], "d"]


def test_messages_are_what_their_only_user_says(monkeypatch):
    monkeypatch.setattr(tokenizer(), "chat_template", "{% for m in messages %}w9 {{ m.content }} w10{% endfor %}")
    said = words(6, 5)
    plain, messages = (models.greedy(tiny(), tokenizer(), [p], 20) for p in (said, [{"role": "user", "content": said}]))
    ids = tokenizer()(f"w9 {said} w10", return_tensors="pt").input_ids
    expected = tiny().generate(ids, do_sample=False, max_new_tokens=20, attention_mask=torch.ones_like(ids))
    assert plain == messages == [expected[0, 8:].tolist()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--strength"], "expected at least one argument"),
        (["--strength", "x"], "invalid float value"),
        (["--strength", "0.1", "nan"], "strength: expected"),
        (["--window", "1.5"], "argument --window: invalid"),
        (["--window", "0"], "argument --window: expected an integer >= 1, got 0"),
        (["--window", "4294967296"], "argument --window: expected an integer from 0 to 2^31 - 1, got 4294967296"),
        (["--ngram", "0"], "argument --ngram: expected an integer >= 1, got 0"),
        (["--count", "1"], "count: expected"),
        (["--others", "no"], "expected one of none, paper, gentle, reasoning, repetition=1.1, "),
        (["--others", "repetition=x"], "repetition: expected repetition=float, got repetition=x"),
        (["--others", "dry=0.8,1.75"], "dry: expected dry=float,float,int, got dry=0.8,1.75"),
        (["--others", "ngram=0"], "`ngram_size` has to be a strictly positive integer"),
        (["--picture", "x.jpeg"], "expected a picture that ends in .png, .svg or .pdf"),
        (["more"], "invalid int value: 'more'"),
    ],
)
def test_usage_errors(arguments, changes, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, *changes])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("usage: lzpenalty") and message in error


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "lzpenalty.commands.sweep", None)
    monkeypatch.delattr("lzpenalty.commands.sweep")
    assert cli.main(["sweep"]) == 1
    assert "pip install 'lzpenalty[demo]'" in capsys.readouterr().err


@thorough
def test_the_defaults_with_the_real_model(smollm2, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda name: smollm2)
    monkeypatch.setattr(sweep, "PROMPTS", PROMPTS[1:3])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "--strength", "0.15", "--max-new-tokens", "200", "--text-tokens", "200"]) == 0
    without, penalised = rows()
    assert float(without["loop_rate"]) >= 0.5 and float(penalised["loop_rate"]) == 0
    assert 0 < float(penalised["bits_lost"]) < 1 and 0.5 < float(penalised["copies_kept"]) < 1
    assert without["copies_kept"] == "1"
