"""What all commands promise of their output: statuses, pipes and disks that end, bars on terminals alone, completion."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Terminal
from lzpenalty.commands import cli
from lzpenalty.commands.output import Progress, reason

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text("over and over and " * 20, encoding="utf-8")
    return path


def call(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **options.pop("env", {})}
    command = [sys.executable, "-m", "lzpenalty", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, env=environment, timeout=300, **options)


COMMANDS = [["analyze", "-q"], ["analyze", "-q", "--json"], ["view", "-q", "--html", "-"]]


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["--help"], ["--version"], ["analyze", "--help"], *COMMANDS])
def test_a_full_disk_is_said_in_a_line(command, unbuffered, text):
    file = [text] if "-q" in command else []
    with FULL.open("w") as full:
        done = call(*command, *file, stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 1 and done.stderr == b"lzpenalty: standard output: No space left on device\n"


@pytest.mark.parametrize("command", [["--help"], ["doctor", "--help"], *COMMANDS])
def test_a_reader_that_has_gone_hears_nothing_more(command, text):
    file = [text] if "-q" in command else []
    read, write = os.pipe()
    os.close(read)
    done = call(*command, *file, stdout=write)
    os.close(write)
    assert done.returncode == 1 and done.stderr == b""


def test_output_that_is_closed(text):
    done = call("analyze", "-q", text, preexec_fn=lambda: os.close(1))
    assert done.returncode == 1 and done.stderr == b"lzpenalty: standard output: it is closed\n"


@needs_full
def test_errors_that_nobody_can_read():
    command = [sys.executable, "-m", "lzpenalty", "analyze", "no/such/file"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with FULL.open("w") as full:
        assert subprocess.run(command, stdout=full, stderr=full, env=environment, timeout=300).returncode == 1


def test_a_terminal_that_knows_no_accents(tmp_path):
    path = tmp_path / "text"
    path.write_text("Z\u00fcrich " * 20, encoding="utf-8")
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    assert b"Z\\xfcrich" in call("analyze", "-q", path, stdout=subprocess.PIPE, env=ascii_only).stdout
    page = call("view", "-q", path, "--html", "-", stdout=subprocess.PIPE, env=ascii_only).stdout
    assert "Z\u00fcrich" in page.decode("utf-8")  # as it says in its head


def test_quiet_is_known_to_all_and_says_nothing_but_results(text, tmp_path, capsys):
    for command in ("demo", "analyze", "view", "sweep", "bench", "doctor"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "--quiet" in capsys.readouterr().out
    assert cli.main(["view", "-q", str(text), "--html", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr() == ("", "") and (tmp_path / "page.html").exists()
    assert cli.main(["analyze", "-q", "no/such/file"]) == 1
    assert capsys.readouterr().err == "lzpenalty: no/such/file: No such file or directory\n"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_log_gets_a_line_a_minute_at_most():
    clock, log = Clock(), io.StringIO()
    with Progress("work", 1000, "tok", stream=log, clock=clock) as progress:
        for _ in range(500):
            clock.now += 0.25
            progress.update(2, title="work", note="kept 3")
    assert log.getvalue() == (
        "work: 480/1,000 tok, 8.0 tok/s, 0:01:05 left, kept 3\nwork: 960/1,000 tok, 8.0 tok/s, 0:00:05 left, kept 3\n"
    )


def test_a_terminal_gets_one_line_after_a_second_and_keeps_none(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    clock, stream = Clock(), Terminal()
    with Progress("a long title", 90, stream=stream, clock=clock) as progress:
        progress.update()
        assert stream.getvalue() == ""
        clock.now = 1.5
        progress.update()
        progress.update()  # within a tenth of a second
        assert stream.getvalue() == "\ra long title: 2/90"
        progress.update(0, title="short")
        progress.update(0, title="x" * 99)
    lines = stream.getvalue().split("\r")[2:]
    assert lines == ["short: 3/90".ljust(18), "x" * 29, " " * 29, ""]


def test_quiet_and_broken_streams_get_nothing():
    for stream in (Terminal(), io.StringIO()):
        with Progress("work", quiet=True, stream=stream, clock=Clock()) as progress:
            progress.update(0, title="more")
        assert stream.getvalue() == ""
    stream = Terminal()
    stream.close()
    stream.isatty = lambda: True
    with Progress("work", stream=stream) as progress:
        progress.update(0, title="more")
        progress.update(0, title="still more")


def test_reasons_are_a_line_without_the_name_of_the_file():
    with pytest.raises(OSError) as caught:
        Path("no/such/file").read_text()
    assert reason(caught.value) == "No such file or directory"
    assert reason(ValueError("one\ntwo")) == "one" and reason(MemoryError()) == "MemoryError"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell, capsys):
    pytest.importorskip("shtab", reason="shtab is not installed: pip install 'lzpenalty[completion]'")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--print-completion", shell])
    printed = capsys.readouterr()
    assert stop.value.code == 0 and printed.err == ""
    assert all(word in printed.out for word in ("analyze", "doctor", "tokenizer", "ngram"))


def test_completion_without_its_library(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["--print-completion", "bash"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "lzpenalty: completion needs shtab: pip install 'lzpenalty[completion]'\n"


def test_completion_of_a_shell_that_nobody_knows(monkeypatch, capsys):
    pytest.importorskip("shtab", reason="shtab is not installed: pip install 'lzpenalty[completion]'")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--print-completion", "none"])
    assert stop.value.code == 2 and "expected one of bash" in capsys.readouterr().err
