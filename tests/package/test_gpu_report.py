"""The report of a GPU can be had on a machine without one: its parts run in small, fail by name, and go on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROOT = BENCHMARKS.parent


@pytest.fixture(scope="module")
def programs():
    """gpu.py and gpu_report.py, which import what lies beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu
        import gpu_report

        yield gpu, gpu_report


@pytest.fixture
def gpu(programs):
    return programs[0]


@pytest.fixture
def report(programs, monkeypatch):
    monkeypatch.setattr(programs[1], "sees_gpu", lambda: False)
    return programs[1]


# The benchmarks.

TIMED = {
    "penalty": {"lz_penalize_", "transformers, repetition", "dense formula, compiled"},
    "cache": {"attention_scores", "select_top", "compact_"},
    "attention": {"attend_heads", "echo_heads", "sdpa, enable_gqa"},
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("part", ["penalty", "cache", "attention", "generate-1b"])
def test_benchmarks_run_in_small(gpu, part, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert gpu.main([part, "--device", "cpu", "--tiny", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    cells = content["parts"][part]["cells"]
    assert cells and content["parts"][part]["left"] == 0 and content["parts"][part]["before"]["torch"]
    printed = capsys.readouterr().out
    for name, cell in cells.items():
        assert name in printed
        if part in TIMED:
            assert TIMED[part] <= cell.keys() and all(found["called_us"] > 0 for found in cell.values())
        else:
            assert cell["tokens_per_second"] > 0 and cell["cache_bytes"] > 0
    if part == "generate-1b":
        compressed = [cell for name, cell in cells.items() if "interval" in cell]
        assert compressed and all("compression_ms" in cell for cell in compressed)
        assert sum("StaticCache" in name for name in cells) == sum("DynamicCache" in name for name in cells)


def test_a_benchmark_goes_on_where_it_stopped(gpu, tmp_path, monkeypatch):
    measured, out = [], tmp_path / "gpu.json"

    def cells(clock):
        for name in ("first", "dies", "last"):
            yield name, lambda name=name: measure(name)

    def measure(name):
        measured.append(name)
        if name == "dies":
            raise KeyboardInterrupt
        return {"ms_per_token": 1 / 3}

    monkeypatch.setattr(gpu, "PARTS", {"some": cells})
    command = ["some", "--device", "cpu", "--tiny", "--out", str(out)]
    assert gpu.main([*command, "--seconds", "-1"]) == gpu.UNFINISHED and not measured
    with pytest.raises(KeyboardInterrupt):
        gpu.main(command)
    assert gpu.main(command) == 0
    found = json.loads(out.read_text())["parts"]["some"]["cells"]
    assert measured == ["first", "dies", "last"] and "failed" in found["dies"]
    assert found["first"] == found["last"] == {"ms_per_token": 0.3333}


def test_what_cannot_be_measured_says_why(gpu):
    def fails():
        raise RuntimeError("no room\nand more")

    clock = gpu.Clock("cpu", tiny=True)
    found = clock.measure({"fails": fails, "runs": lambda: None})
    assert found["fails"] == {"failed": "no room"} and found["runs"]["called_us"] > 0
    assert [*gpu.described(found)][0] == "fails: failed, no room"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["all"], "PART: expected one of penalty"), (["--device", "cpu"], "--device cpu: expected --tiny with it")],
)
def test_wrong_arguments(gpu, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        gpu.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


# The report.


def says(text, status=0):
    return (
        ("PYTHON", "-c", f"import os; print({text!r}, os.environ.get('LZPENALTY_TEST_GPU')); raise SystemExit({status})"),
    )


@pytest.fixture
def parts(report, monkeypatch):
    """Some that pass, fail, need a GPU, need a program, never end, or have more to do."""
    forever = (("PYTHON", "-c", "import time; print('begun', flush=True); time.sleep(60)"),)
    Part = report.Part
    parts = {
        "passes": Part("it does", says("fine")),
        "fails": Part("it doesn't", says("oh", 3) + says("never said")),
        "real": Part("needs a GPU", says("real"), real=True),
        "tool": Part("needs a program", says("tool"), tool="no-such-program"),
        "module": Part("is for what there is not", says("module"), module="no_such_package"),
        "forever": Part("does not end", forever),
        "more": Part("has more to do", says("later", 75)),
        "last": Part("runs all the same", says("end")),
    }
    monkeypatch.setattr(report, "PARTS", parts)
    monkeypatch.setattr(report, "LIMIT", 2)
    return parts


def test_parts_fail_by_name_and_the_others_go_on(report, parts, tmp_path, capfd):
    assert report.main([str(tmp_path)]) == 1
    content = json.loads((tmp_path / "report.json").read_text())
    states = {name: part["state"] for name, part in content["parts"].items()}
    assert states == {
        "passes": "passed",
        "fails": "failed (3)",
        "real": "no GPU",
        "tool": "no no-such-program",
        "module": "not installed",
        "forever": "out of time",
        "more": "unfinished",
        "last": "passed",
    }
    assert content["rehearsal"] and content["machine"]["python"] and content["benchmarks"] is None
    text = (tmp_path / "report.txt").read_text()
    assert text.startswith("A rehearsal: torch finds no GPU.") and "never said" not in text.split("$ ")[-1]
    assert all(f"==== {name}: {part.about}" in text for name, part in parts.items())
    assert "fine None" in text and "begun" in text and "real None" not in text
    last = capfd.readouterr().out.splitlines()[-5:]
    assert last[0].endswith("4 of 8 parts are done")
    assert last[1:] == ["  fails: failed (3)", "  tool: no no-such-program", "  forever: out of time", "  more: unfinished"]


def test_it_goes_on_where_it_stopped_and_runs_again_what_is_named(report, parts, tmp_path, monkeypatch):
    assert report.main([str(tmp_path), "passes", "last"]) == 0
    ran = []
    monkeypatch.setattr(report.Report, "run", lambda self, name, part: ran.append(name))
    report.main([str(tmp_path), "passes"])
    report.main([str(tmp_path)])
    assert ran == ["passes", "fails", "real", "tool", "module", "forever", "more"]


def test_a_rehearsal_counts_for_nothing_where_there_is_a_gpu(report, parts, tmp_path, monkeypatch):
    assert report.main([str(tmp_path), "passes", "real"]) == 0
    monkeypatch.setattr(report, "sees_gpu", lambda: True)
    assert report.main([str(tmp_path), "real"]) == 0
    content = json.loads((tmp_path / "report.json").read_text())
    assert not content["rehearsal"] and content["parts"].keys() == {"real"}
    assert "real 1" in (tmp_path / "report.txt").read_text()


def test_what_parts_call_is_there(report, gpu):
    for part in report.PARTS.values():
        for command in part.commands:
            files = [word for word in command if word.endswith(".py")]
            assert [name for name in files if not (ROOT / name).exists()] == []
            if "benchmarks/gpu.py" in command:
                assert command[2] in gpu.PARTS
    benchmarks = {
        command[2] for part in report.PARTS.values() for command in part.commands if "benchmarks/gpu.py" in command
    }
    assert benchmarks == gpu.PARTS.keys()
    page = (ROOT / "docs/project/gpu.md").read_text()
    assert [name for name in report.PARTS if f"`{name}`" not in page] == []


def test_the_script(tmp_path):
    script = BENCHMARKS / "gpu_report.sh"
    listed = subprocess.run([script, sys.executable, tmp_path, "--list"], capture_output=True, text=True)
    assert listed.returncode == 0 and listed.stdout.startswith("build ")
    assert subprocess.run([script, sys.executable], capture_output=True).returncode == 2
