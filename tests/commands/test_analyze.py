"""`lzpenalty analyze`: what it prints is what lzpenalty.analysis measures, and mistakes cost one line."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
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


def test_characters_for_people(tmp_path, capsys, typed):
    text = "Naïve café: " + "over and " * 5 + "out"
    typed(text)
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


@pytest.mark.parametrize("quiet", [False, True])
def test_long_texts_show_how_far_it_is(quiet, terminal, monkeypatch):
    looked_at = terminal()
    monkeypatch.setattr(analyze, "LONG", 20)
    found = analyze.analyze(texts.Source(np.arange(20), "tokens", str), quiet=quiet)
    assert found["length"] == 20
    names = [*analyze.measures(texts.Source(np.arange(20), "tokens", str), 512), "loops", "last_loop"]
    steps = [f"\r{name}: {number}/{len(names)}" in looked_at.getvalue() for number, name in enumerate(names)]
    assert all(steps) != quiet and (looked_at.getvalue() == "") == quiet


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
        ("[1, 2, 3", (), "not valid JSON: it is cut off; --characters takes it as a text"),
        ("[1, 2, 3]]", (), "not valid JSON: Extra data"),
        ('{"ids": [1]}', (), "not valid JSON of token ids: expected a list, got an object"),
        ("[1, 2, 3", ("--tokenizer", "no/such/folder"), "no/such/folder"),
        ("1 1 1", ("--picture", "no/such/folder/it.png"), "No such file or directory"),
    ],
)
def test_mistakes_cost_one_line(text, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "file"
    if text is not None:
        write(path, text)
    code, out, err = run(capsys, path, *arguments)
    assert code == 1 and message in err and err.startswith("lzpenalty: ") and err.count("\n") == 1 and out == ""
    assert err.count(str(path)) <= 1  # nothing is said twice


def test_a_file_that_is_no_text(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe\x00")
    assert run(capsys, path)[2] == f"lzpenalty: {path}: expected UTF-8, or UTF-16 with a byte-order mark\n"


TURNS = "Wait, " * 40
ENDS = ["\n", "\r\n", "\r\n\r\n", " \t\n", "\n\n\n", "\u00a0\u2029", "\x1a", "\0\n", "\ufeff", "\u200b \n"]


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_white_space_does_not_hide_the_loop_at_the_end(end, tmp_path, capsys, words):
    for number, text in enumerate((TURNS, TURNS.strip())):
        (tmp_path / f"{number}").write_bytes((text + end).encode())
        found = json.loads(run(capsys, tmp_path / f"{number}", "--json")[1])
        assert found["ends_in_loop_of"] == 6 and found["last_loop"] == {"period": 6, "after": 0}
    (tmp_path / "roses").write_bytes(("a rose is " * 9 + end).encode())
    found = json.loads(run(capsys, tmp_path / "roses", "--json", "--tokenizer", words)[1])
    assert found["ends_in_loop_of"] == 3


def test_a_loop_that_stopped(tmp_path, capsys):
    file = write(tmp_path / "text", "So: " + TURNS + "that is all.\n")
    found = json.loads(run(capsys, file, "--json")[1])
    assert found["ends_in_loop_of"] == 0 and found["last_loop"] == {"period": 6, "after": len("that is all.")}
    out = run(capsys, file)[1]
    assert f"{'ends in a loop of':46} {'none':>12}\n" in out
    assert f"{'the last one, of 6, stopped before the end by':46} {12:>12}\n" in out
    assert json.loads(run(capsys, write(file, "no loop at all"), "--json")[1])["last_loop"] is None


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(1, 6)), max_size=5),
    st.integers(1, 6),
    st.integers(2, 4),
)
def test_the_last_loop_by_its_definition(parts, ngram, count):
    """The longest beginning of the text that ends in a loop, by plain search."""
    tokens = list(itertools.chain.from_iterable(part * times for part, times in parts))
    found = analyze.last_loop(np.array(tokens, np.int64), ngram, count)

    def period(n):
        return oracle.period(tokens[:n], ngram, count, len(tokens) + 1)

    ends = [n for n in range(len(tokens), 0, -1) if period(n)]
    if ends and ends[0] == len(tokens):
        assert found == {"period": period(len(tokens)), "after": 0}
    elif count > 2 or found:  # of fewer than two turns only the one at the end is known
        assert (found is not None) == bool(ends)
        if found and count > 2:
            assert found == {"period": period(ends[0]), "after": len(tokens) - ends[0]}


def test_what_counts_as_a_loop_is_an_option(tmp_path, capsys):
    file = write(tmp_path / "ids", "1 2 3 " * 3)
    for options, period in (
        ((), 0),
        (("--ngram", 3), 3),
        (("--ngram", 6, "--count", 2), 3),
        (("--ngram", 3, "--count", 4), 0),
    ):
        assert json.loads(run(capsys, file, "--json", *options)[1])["ends_in_loop_of"] == period


def test_a_loop_of_a_long_turn(tmp_path, capsys):
    turn = " ".join(map(str, range(800)))
    assert json.loads(run(capsys, write(tmp_path / "ids", f"{turn} {turn} {turn}"), "--json")[1])["ends_in_loop_of"] == 800


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ["[1, 2, 3, 1, 2, 3]", "Na\u00efve \U0001f642\r\ntext"])
def test_a_byte_order_mark_is_no_character(encoding, text, tmp_path, capsys, typed):
    (tmp_path / "plain").write_bytes(text.encode())
    (tmp_path / "marked").write_bytes(text.encode(encoding))
    typed(text.encode(encoding))
    plain, marked, piped = (
        json.loads(run(capsys, name, "--json")[1]) for name in (tmp_path / "plain", tmp_path / "marked", "-")
    )
    assert plain.pop("file") != marked.pop("file") != piped.pop("file") and plain == marked == piped
    assert plain["length"] == (6 if text.startswith("[") else 12)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(
    st.dictionaries(st.text(max_size=3), JSON, max_size=3) | st.lists(JSON, max_size=3),
    st.sampled_from([None, 1]),
    st.data(),
)
def test_json_that_is_cut_off_or_no_list_of_ids(found, indent, data):
    """Whatever JSON is meant to be ids, and isn't, is refused; never taken as other ids or as a text."""
    text = json.dumps(found, indent=indent)
    cut = text[: data.draw(st.integers(1, len(text)))]
    ids = isinstance(found, list) and all(type(i) is int for i in found)
    if cut == text and ids:
        assert texts.read_ids(cut) == found
    else:
        with pytest.raises(ValueError, match="not valid JSON|not one of token ids"):
            texts.read_ids(cut)


@pytest.mark.parametrize(
    "text",
    ["[INST] Hello", "[1] Smith says", "{\\bf x}", "{ int x; }", "[a link](there)", "{{ name }}", "1_000", "a 1", "1.5"],
)
def test_texts_that_look_like_ids_at_first(text):
    assert texts.read_ids(text) is None


def test_numbers_as_numpy_prints_them():
    assert texts.read_ids(str(np.arange(50))) == [*range(50)]


def test_a_model_may_write_json(tmp_path, capsys, words):
    """With a tokenizer a text that is JSON, and cut off, is what a model said."""
    found = run(capsys, write(tmp_path / "answer", '{"a": ["a rose is a rose", "a'), "--json", "--tokenizer", words)[1]
    assert json.loads(found)["measures"]["zlib_ratio"] > 0


def test_several_files(tmp_path, capsys):
    ids, text, missing = write(tmp_path / "ids", "1 2 1 2"), write(tmp_path / "text", "abc"), tmp_path / "missing"
    code, out, err = run(capsys, ids, missing, text, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and [one["file"] for one in found] == [str(ids), str(text)]
    assert err.splitlines()[0] == f"lzpenalty: {missing}: No such file or directory" and err.count("\n") == 2
    code, out, err = run(capsys, ids, text, text)
    assert code == 0 and err.count("no token ids") == 1
    singles = [run(capsys, name)[1] for name in (ids, text, text)]
    assert out == "\n".join(f"{name}:\n{single}" for name, single in zip((ids, text, text), singles, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "0"], "argument --window: expected an integer >= 1, got 0"),
        (["--window", "4294967296"], "argument --window: expected an integer from 0 to 2^31 - 1, got 4294967296"),
        (["--repeats", "1"], "argument --repeats: expected an integer >= 2, got 1"),
        (["--tolerance", "1"], "argument --tolerance: expected a number from 0 to less than 1, got 1"),
        (["--tolerance", "nan"], "argument --tolerance: expected a number"),
        (["--ngram", "0"], "argument --ngram: expected an integer >= 1, got 0"),
        (["--count", "1"], "argument --count: expected an integer >= 2, got 1"),
        (["--picture", "x.gif"], "argument --picture: expected a picture that ends in .png, .svg or .pdf, got x.gif"),
        (["another", "--picture", "x.png"], "argument --picture: expected one FILE, got 2"),
        (["-", "-"], "argument FILE: expected - once"),
    ],
)
def test_usage_errors_exit_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["analyze", "file", *arguments])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and message in printed.err and printed.out == ""
