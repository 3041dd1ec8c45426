"""`lzpenalty analyze`: what it prints is what lzpenalty.analysis measures, and mistakes cost one line."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest

from lzpenalty import analysis
from lzpenalty.commands import analyze, cli, texts

LOOP = list(range(40, 60)) + [7, 8, 9] * 20


def run(capsys, *arguments):
    code = cli.main(["analyze", *map(str, arguments)])
    return code, *capsys.readouterr()


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", [json.dumps, lambda ids: " ".join(map(str, ids)), lambda ids: ",\n".join(map(str, ids))])
def test_measures_of_ids(form, tmp_path, capsys):
    code, out, _ = run(capsys, write(tmp_path / "ids", form(LOOP)), "--json", "--window", 32)
    found = json.loads(out)
    assert code == 0 and found["unit"] == "tokens" and found["length"] == len(LOOP)
    assert found["ends_in_loop_of"] == 3
    measures = found["measures"]
    assert measures["distinct"] == 23 and "zlib_ratio" not in measures
    assert measures["seq_rep_4"] == analysis.seq_rep(LOOP, 4)
    assert measures["lz77_rate"] == analysis.codelength(LOOP) / len(LOOP)
    assert measures["lz77_rate_window_32"] == analysis.codelength(LOOP, 32) / len(LOOP)
    assert measures["ser_8"] == analysis.suffix_extension_rate(LOOP, 8)
    assert found["loops"] == [{"start": 20, "length": 60, "period": 3, "repeats": 20.0, "turn": "7 8 9"}]


def test_characters_for_people(tmp_path, capsys, monkeypatch):
    text = "Naïve café: " + "over and " * 5 + "out"
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    code, out, _ = run(capsys, "-", "--characters", "--picture", tmp_path / "it.png")
    assert code == 0 and (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
    assert f"{'characters':46} {len(text):12}" in out
    assert f"{analysis.zlib_ratio(text):.3f}" in out and "ends in a loop of" in out
    assert any(line.split()[2] == "9" and "over and" in line for line in out.splitlines()[-2:])


def test_text_with_a_tokenizer(tmp_path, capsys, words):
    text = write(tmp_path / "text", "a rose is a rose is a rose is a rose")
    code, out, _ = run(capsys, text, "--tokenizer", words, "--json")
    found = json.loads(out)
    assert code == 0 and found["length"] == 11
    assert [(loop["period"], loop["turn"]) for loop in found["loops"]] == [(3, "a rose is")]


def test_ids_that_a_tokenizer_explains(tmp_path, capsys, words):
    ids = write(tmp_path / "ids", "[1, 2, 3, 1, 2, 3, 1, 2, 3]\n")
    code, out, _ = run(capsys, ids, "--tokenizer", words, "--json")
    found = json.loads(out)
    assert code == 0 and found["length"] == 9 and found["loops"][0]["turn"] == "a rose is"


def test_a_text_without_a_word_about_it(tmp_path, capsys):
    """Its characters are taken, and that is said where it disturbs no program."""
    text = write(tmp_path / "text", "hello there, " * 4)
    code, out, err = run(capsys, text, "--json")
    assert code == 0 and json.loads(out) == json.loads(run(capsys, text, "--json", "--characters")[1])
    assert err == f"lzpenalty: {text}: no token ids, so each character is taken as a token; --tokenizer ID takes a model's\n"
    assert run(capsys, text, "--characters")[2] == "" == run(capsys, write(tmp_path / "ids", "1 2 3"))[2]
    assert json.loads(run(capsys, write(tmp_path / "ids", "1 2 3"), "--characters", "--json")[1])["unit"] == "characters"


def test_loops_within_longer_ones_are_left_out():
    text = texts.Source(np.array([1, 1, 1, 2] * 6 + [5] + [3] * 4), "tokens", str)
    found = analyze.loops(text, most=5, repeats=3, tolerance=0.0)
    assert [(loop["start"], loop["period"]) for loop in found] == [(0, 4), (25, 1)]
    assert len(analyze.loops(text, most=1, repeats=3, tolerance=0.0)) == 1


def test_long_texts_show_how_far_it_is(capsys):
    rng = np.random.default_rng(0)
    found = analyze.analyze(texts.Source(rng.integers(0, 50, 200_000), "tokens", str))
    assert found["length"] == 200_000 and "measures" in capsys.readouterr().err


def test_nothing_is_no_mistake(tmp_path, capsys):
    code, out, _ = run(capsys, write(tmp_path / "ids", "[]"), "--picture", tmp_path / "it.png")
    assert code == 0 and "none" in out


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, (), "No such file or directory"),
        ("1 2 -3", (), "a token id is a number from 0 to 2^31 - 1"),
        ("[1, 2.5]", (), "a JSON list, but not one of token ids"),
        ("hello", ("--tokenizer", "no/such/folder"), "no/such/folder"),
        ("1 1 1", ("--repeats", 1), "min_repeats: expected"),
        ("1 1 1", ("--tolerance", 2), "tolerance: expected"),
        ("1 1 1", ("--picture", "no/such/folder/it.png"), "No such file or directory"),
    ],
)
def test_mistakes_cost_one_line(text, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "file"
    if text is not None:
        write(path, text)
    code, _, err = run(capsys, path, *arguments)
    assert code == 1 and message in err and err.startswith("lzpenalty: ") and err.count("\n") == 1


def test_a_file_that_is_no_text(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe\x00")
    assert run(capsys, path)[2] == f"lzpenalty: {path}: expected UTF-8\n"


def test_a_reader_that_goes_away(tmp_path):
    ids = write(tmp_path / "ids", "1 2 1 2")
    command = f"set -o pipefail; '{sys.executable}' -m lzpenalty analyze '{ids}' | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode in (0, 1) and not done.stderr  # 0 if it was quicker


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["analyze", "file", "--window", "0"])
    assert stop.value.code == 2 and "--window" in capsys.readouterr().err
