"""`lzpenalty view`: it writes the page of lzpenalty.view.Text, and mistakes cost one line."""

import json

import pytest

from lzpenalty.commands import cli
from lzpenalty.view import Text

TEXT = "Naïve café: " + "over and " * 5 + "<out>\n"


def run(capsys, *arguments):
    code = cli.main(["view", *map(str, arguments)])
    return code, *capsys.readouterr()


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def characters(**options):
    return Text(TEXT, lambda ids: "".join(map(chr, ids)), unit="characters", **options)


@pytest.mark.parametrize("flags", [(), ("--characters",)])
def test_characters(flags, tmp_path, capsys):
    file, page = write(tmp_path / "a text", TEXT), tmp_path / "page.html"
    code, out, err = run(capsys, file, "--html", page, "--window", 30, "--repeats", 4, *flags)
    expected = characters(title="a text", window=30, min_repeats=4)
    assert code == 0 and out == f"{expected.facts}\n{page.as_uri()}\n" and bool(err) == (not flags)
    assert page.read_text(encoding="utf-8") == expected.html()


def test_from_standard_input_to_standard_output(capsys, typed):
    typed(TEXT)
    code, out, err = run(capsys, "-", "--characters", "--html", "-")
    assert code == 0 and out == characters(title="standard input").html() and err == ""


def test_the_page_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, write(tmp_path / "ids", "1 2 1 2"))[0] == 0
    assert "1 2 1 2</div>" in (tmp_path / "lzpenalty-view.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["a rose is a rose", json.dumps([1, 2, 3, 1, 2])])
def test_a_tokenizer(text, tmp_path, capsys, words):
    code, out, _ = run(capsys, write(tmp_path / "file", text), "--tokenizer", words, "--html", "-")
    assert code == 0 and ">a rose is a rose</div>" in out and '"literal":2.0' in out


def test_nothing_is_no_mistake(tmp_path, capsys):
    code, out, _ = run(capsys, write(tmp_path / "file", ""), "--html", "-")
    assert code == 0 and "There is no token in it." in out


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, (), "No such file or directory"),
        ("1 2 -3", (), "a token id is a number from 0 to 2^31 - 1"),
        ('["a"]', (), "a JSON list, but not one of token ids"),
        ("hello", ("--tokenizer", "no/such/folder"), "no/such/folder"),
        ("1 1 1", ("--html", "no/such/folder/it.html"), "No such file or directory"),
        ("1 1 1", ("--html", "file"), "the page would take the place of its own text"),
    ],
)
def test_mistakes_cost_one_line(text, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    if text is not None:
        write(path, text)
    code, _, err = run(capsys, path, *arguments)
    assert code == 1 and message in err and err.startswith("lzpenalty: ") and err.count("\n") == 1
    assert text is None or path.read_text(encoding="utf-8") == text
