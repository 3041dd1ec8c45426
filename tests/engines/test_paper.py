"""benchmarks/paper.py: all cells of the paper's table on a tiny model and made-up rows with the published fields. What is
done is kept, what fails is named and tried again."""

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'lzpenalty[eval]'")
datasets = pytest.importorskip("datasets")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import paper  # noqa: E402
from tiny import VOCAB, tiny, tokenizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
GPQA = ["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
PROBLEM = {
    "question_content": "Say w7.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "", "output": "w7", "testtype": "stdin"}]),
    "private_test_cases": "[]",
    "metadata": "{}",
}
ROWS = {
    "aime24": ("aime.jsonl", "\n".join(json.dumps({"Problem": f"w{i} w9 w4", "Answer": "7"}) for i in (5, 6))),
    "gpqa": ("gpqa.csv", "\n".join([",".join(GPQA), "w3 w4,w5,w6,w7,w8"])),
    "ifeval": (
        "ifeval.jsonl",
        json.dumps({"key": 1, "prompt": "w4 w9", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}),
    ),
    "livecodebench": ("lcb.jsonl", json.dumps(PROBLEM)),
}
LIGHTTHINKER = ["<|splitter|>", "<|continue|>", *(f"<|o_{i}|>" for i in range(9))]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Models and rows, and the arguments that name them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("nltk.data.path", [str(tmp_path / "nltk")])
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # asks pip for seconds
    monkeypatch.chdir(tmp_path)
    for name in ("model", "thinker"):
        tiny(spread=0.05).save_pretrained(name)
        tokenizer().save_pretrained(name)
    known = (tmp_path / "thinker" / "tokenizer.json").read_text()
    for i, word in enumerate(LIGHTTHINKER):
        known = known.replace(f'"w{VOCAB - 1 - i}"', f'"{word}"')
    (tmp_path / "thinker" / "tokenizer.json").write_text(known)
    arguments = ["--model", "model", "--lightthinker", "thinker", "--out", "out", "--max-gen-toks", "24"]
    arguments += ["--interval", "8", "--recent", "4", "--every", "8", "--batch-size", "2", "--samples", "aime24=2"]
    arguments += ["--model-args", "device=cpu"]
    for task, (file, content) in ROWS.items():
        (tmp_path / file).write_text(content)
        arguments += ["--data", f"{task}={file}"]
    return arguments


def computed(out):
    return [line.removesuffix(" ...") for line in out.splitlines() if line.endswith(" ...")]


def test_the_table(command, tmp_path, capsys, monkeypatch):
    # Without what IFEval's scorer would fetch, its cells fail by name, and all others are there.
    assert paper.main(command) == 1
    out, err = capsys.readouterr()
    cells = {f"{task}/{method}/{i}" for task in ROWS for method in paper.METHODS for i in range(1 + (task == "aime24"))}
    missing = {cell for cell in cells if cell.startswith("ifeval/")}
    assert {*computed(out)} >= cells - missing
    done = {str(path.relative_to("out").with_suffix("")) for path in Path("out").rglob("*.json")}
    assert done == cells - missing
    text = Path("out/table.md").read_text()
    assert "* ifeval/full/0: the scorer needs NLTK's punkt_tab: python -m nltk.downloader punkt_tab" in text
    assert text.count("0 of 1 done") == len(paper.METHODS)

    # The second time only these are computed.
    (tmp_path / "nltk" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    assert paper.main(command) == 0
    assert {*computed(capsys.readouterr().out)} == missing
    text = Path("out/table.md").read_text()
    assert "done" not in text and "Failed" not in text
    header, _, *lines = text.splitlines()[: len(paper.METHODS) + 2]
    assert header == "|  | AIME24, 2 x | GPQA, 1 x | IFEval, 1 x | LiveCodeBench, 1 x |"
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [*paper.METHODS.values()]
    assert all("100.0" in line.split(" | ")[3] for line in lines)  # no commas in these words

    # Then nothing; a cell of other settings is no cell of these.
    monkeypatch.setattr(paper, "evaluate", None)
    assert paper.main(command) == 0
    assert not computed(capsys.readouterr().out)
    assert paper.main([*command, "--max-gen-toks", "25", "--methods", "rpc"]) == 1
    assert "out/gpqa/rpc/0.json has other settings" in capsys.readouterr().err

    # What was asked for: budgets of a quarter of the full cache's mean length, and two answers that differ.
    cell = {name: json.loads(Path(f"out/aime24/{name}.json").read_text()) for name in ("full/0", "full/1", "tova/0")}
    lengths = cell["full/0"]["lengths"] + cell["full/1"]["lengths"]
    budget = round(sum(lengths) / len(lengths) / 4)
    assert cell["tova/0"]["settings"]["cache"]["cache_budget"] == budget and budget >= 1
    assert cell["full/0"]["answers"] != cell["full/1"]["answers"] and len(cell["full/0"]["answers"]) == 2
    assert json.loads(Path("out/gpqa/lightthinker/0.json").read_text())["settings"]["cache"] == {
        "lt_setting": "lightthinker_qwen"
    }


def test_what_fails_costs_its_cell_alone(command, capsys):
    Path("lcb.jsonl").write_text("no JSON")
    small = [*command, "--methods", "tova", "--budget", "aime24=6", "--samples", "aime24=1", "--limit", "1"]
    assert paper.main(small) == 1
    err = capsys.readouterr().err
    assert "livecodebench/tova/0: the budget is a quarter of the full cache's mean length, and out/" in err
    assert Path("out/aime24/tova/0.json").exists() and not Path("out/gpqa").exists()
    assert paper.main([*small, "--budget", "livecodebench=6"]) == 1
    assert "livecodebench/tova/0: --data livecodebench=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data", "aime25=rows"],
            "expected TASK=VALUE with one of aime24, gpqa, ifeval, livecodebench, got 'aime25=rows'",
        ),
        (["--data", "aime24=rows", "--methods", "lightthinker"], "expected --lightthinker MODEL with it"),
        (["--data", "aime24=rows", "--samples", "aime24=0"], "expected an integer >= 1, got 0"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit):
        paper.main(["--model", "m", "--out", "o", *arguments])
    assert re.search(message, capsys.readouterr().err)
