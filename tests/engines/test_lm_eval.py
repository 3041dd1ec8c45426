"""lm-evaluation-harness on a tiny model and local files: what it gets is what transformers generates with our processor and
cache."""

import json
import runpy
import sys
from contextlib import nullcontext
from functools import partial

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'lzpenalty[eval]'")
datasets = pytest.importorskip("datasets")

from lm_eval.tasks import TaskManager  # noqa: E402

import lzpenalty.lm_eval as ours  # noqa: E402
from lzpenalty.cache.attention import CACHE_ARGUMENT  # noqa: E402
from lzpenalty.hf import CompressedCache, Forget, ForgetCache, LZPenaltyLogitsProcessor  # noqa: E402
from tiny import generate, tiny, tokenizer, words  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = [{"said": words(length, length), "answer": "w7"} for length in (9, 14, 11)]
PENALTY = dict(strength=0.15, min_match=2)
CACHE = dict(selector="rpc", interval=12, ratio=3, recent=4)  # whose rows don't share budgets
TASK = """
task: echo
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{said}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], do_sample: false, max_gen_toks: 40}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def model():
    return tiny(spread=0.05)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A task of the harness and its rows."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "echo.yaml").write_text(TASK)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return tmp_path


def answers(wrapped, folder):
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    results = lm_eval.simple_evaluate(model=wrapped, tasks=["echo"], task_manager=tasks)
    return [sample["resps"][0][0] for sample in results["samples"]["echo"]]


def expected(penalty, cache):
    """The same by transformers, one row at a time."""
    texts = []
    for row in ROWS:
        ids = tokenizer()(row["said"], return_tensors="pt").input_ids
        processors = [LZPenaltyLogitsProcessor(**penalty)] if penalty else []
        with CompressedCache(model(), **cache) if cache else nullcontext() as held:
            answer = generate(model(), ids, 40, logits_processor=processors, **{CACHE_ARGUMENT: held})[0, ids.shape[1] :]
        assert tokenizer().eos_token_id not in answer  # where the harness would stop
        texts.append(tokenizer().decode(answer, skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("cache", [{}, CACHE])
@pytest.mark.parametrize("penalty", [{}, PENALTY])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_of_transformers(folder, penalty, cache, batch_size):
    options = {f"lz_{name}": value for name, value in penalty.items()} | {
        f"cache_{name}": value for name, value in cache.items()
    }
    wrapped = ours.LZPenaltyLM(model(), tokenizer=tokenizer(), batch_size=batch_size, **options)
    wanted = expected(penalty, cache)
    assert answers(wrapped, folder) == wanted
    assert (wanted != expected({}, {})) is bool(penalty or cache)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_thoughts_are_dropped(folder, batch_size):
    """The answers are those of transformers with the cache, one row at a time."""
    said = generate(model(), tokenizer()(ROWS[0]["said"], return_tensors="pt").input_ids, 40)[0, -40:].tolist()
    close, forget = said[5], Forget(said[5], then=(3, 4, 6))  # something that the model says, and words
    wanted, dropped = [], []
    for row in ROWS:
        ids = tokenizer()(row["said"], return_tensors="pt").input_ids
        with ForgetCache(model(), forget) as cache:
            answer = generate(model(), ids, 40, **{CACHE_ARGUMENT: cache})[0, ids.shape[1] :]
        wanted.append(tokenizer().decode(answer, skip_special_tokens=True))
        dropped += cache.stats()["thoughts"]
    assert sum(dropped) > 0
    wrapped = ours.LZPenaltyLM(model(), tokenizer=tokenizer(), batch_size=batch_size, lt_close=close, lt_then="3:4:6")
    assert wrapped.forget == forget and answers(wrapped, folder) == wanted


class Knows:
    """A tokenizer's vocabulary with LightThinker's tokens."""

    def __init__(self):
        words = ["<|splitter|>", "<|continue|>", *(f"<|o_{i}|>" for i in range(9))]
        self.words = {word: 200 + i for i, word in enumerate(words)}


def test_published_settings_of_thoughts(monkeypatch):
    known = tokenizer()
    monkeypatch.setattr(known, "get_vocab", lambda: Knows().words, raising=False)
    wrapped = ours.LZPenaltyLM(model(), tokenizer=known, lt_setting="lightthinker_qwen")
    assert wrapped.forget == Forget(200, then=(*range(202, 211), 201))
    with pytest.raises(ValueError, match="tokenizer: expected one with the tokens that the model was trained with"):
        ours.LZPenaltyLM(model(), tokenizer=known, lt_setting="memento_phi")


def test_the_command(folder, monkeypatch):
    """--model by name, options among --model_args, a task of the harness's own on a local file, results on disk."""
    model().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    rows = [{"Problem": row["said"], "Answer": row["answer"]} for row in ROWS]
    (folder / "aime.json").write_text(json.dumps(rows))
    monkeypatch.setattr(sys, "argv", [])
    # Its own tasks, thousands of files, take long to read.
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False))
    options = "pretrained=model,lz_strength=0.15,lz_min_match=2,cache_interval=12,cache_ratio=3,cache_recent=4"
    command = f"--model lzpenalty --model_args {options} --tasks aime24 --data aime24=aime.json --device cpu"
    command += " --gen_kwargs max_gen_toks=40 --output_path out --log_samples"
    assert ours.main(command.split()) == 0
    (samples,) = folder.glob("out/*/samples_aime24_*.jsonl")
    samples = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert [sample["doc"]["Problem"] for sample in samples] == [row["said"] for row in ROWS]
    assert [sample["arguments"]["gen_args_0"]["arg_0"] for sample in samples] == [
        f"Question: {row['said']}\nAnswer:" for row in ROWS
    ]
    (results,) = folder.glob("out/*/results_*.json")
    results = json.loads(results.read_text())
    assert results["results"]["aime24"]["exact_match,none"] == 0
    assert results["config"]["model_args"]["lz_strength"] == 0.15


GPQA = {"Question": "1 + 1?", "Correct Answer": "a", **{f"Incorrect Answer {i}": f"b{i}" for i in (1, 2, 3)}}
IFEVAL = {"key": 1, "prompt": "1 + 1?", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
FILES = {  # task: file, its content, a metric, answers and what they score
    "aime24": ("rows.jsonl", json.dumps({"Problem": "1 + 1", "Answer": "2"}), "exact_match", {"so $2$": 1, "so $3$": 0}),
    "aime25": ("rows.json", json.dumps([{"problem": "1 + 1", "answer": "2"}]), "exact_match", {r"\boxed{2}": 1, "3": 0}),
    "gpqa_diamond_cot_zeroshot": (
        "rows.csv",
        ",".join(GPQA) + "\n" + ",".join(GPQA.values()) + "\n",
        "exact_match",
        {"(E)": 0},
    ),
    "ifeval": ("rows.json", json.dumps([IFEVAL]), "prompt_level_strict_acc", {"It is 2.": True, "Well, 2.": False}),
}


@pytest.mark.parametrize("task", FILES)
def test_tasks_of_the_harness_on_files(task, folder, monkeypatch):
    (folder / "nltk" / "tokenizers" / "punkt_tab").mkdir(parents=True)  # or the scorer of ifeval would fetch it
    monkeypatch.setattr("nltk.data.path", [str(folder / "nltk")])
    file, content, metric, answers = FILES[task]
    (folder / file).write_text(content)
    (folder / "tasks").mkdir()
    for name, content in ours.local_task(task, file).items():
        (folder / "tasks" / name).write_text(content)
    loaded = TaskManager(include_path=str(folder / "tasks"), include_defaults=False).load([task])["tasks"][task]
    (row,) = loaded.eval_docs
    assert "1 + 1" in loaded.doc_to_text(row)
    assert {answer: loaded.process_results(row, [answer])[metric] for answer in answers} == answers


def test_options_are_checked_before_the_model_is_loaded():
    for options, message in (
        (dict(lz_strength=-1), "strength: expected"),
        (dict(lz_strenght=0.1), "strenght"),
        (dict(lz_gate="28:20"), "gate: expected"),
        (dict(lz_preset="strong"), "preset: expected"),
        (dict(lz_preset="reasoning", lz_gate="20"), "gate: expected"),
        (dict(lt_setting="best"), "lt_setting: expected lightthinker_qwen or .*, got 'best'"),
        (dict(lt_setting="memento_phi", lt_close=3), "lt_setting: expected .* no other option .*, lt_close"),
        (dict(lt_close=3), "then: expected at least one id"),
        (dict(lt_close=3, lt_then="3:4"), "then: expected ids that close has not, got 3"),
        (dict(lt_closed=3), "closed"),
        (dict(lt_close=3, lt_then=4, cache_interval=8), "lt_close: expected none together with cache_interval"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            ours.LZPenaltyLM("no/such/model", **options)
    with pytest.raises(ValueError, match="interval: expected a multiple of ratio"):
        ours.LZPenaltyLM(tiny(), tokenizer=tokenizer(), cache_interval=10)
    with pytest.raises(ValueError, match="close: expected ids below the model's vocabulary size"):
        ours.LZPenaltyLM(tiny(), tokenizer=tokenizer(), lt_close=5000, lt_then=4)


def test_presets_and_lists():
    wrapped = ours.LZPenaltyLM(model(), tokenizer=tokenizer(), lz_preset="gentle", lz_gate="20:28.5", lz_skip="3:4")
    assert wrapped.penalty == {"preset": "gentle", "gate": [20, 28.5], "skip": [3, 4]}
    wrapped = ours.LZPenaltyLM(model(), tokenizer=tokenizer(), lz_preset="reasoning", lz_release=5)
    assert wrapped.penalty["release"] == 5
    with pytest.raises(ValueError, match="tokenizer: expected one that knows"):
        ours.LZPenaltyLM(model(), tokenizer=tokenizer(), lz_preset="reasoning")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "aime24=none.jsonl"], "there is no such file"),
        (["--data", "no_such_task=rows.jsonl"], "the harness has no task of that name"),
    ],
)
def test_mistakes_cost_one_line(folder, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(ours, "cli_evaluate", None)
    assert ours.main([*arguments, "--tasks", "aime24"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"lzpenalty: {arguments[0]} ") and message in error and error.count("\n") == 1


def test_without_the_harness(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit, match=r"^lzpenalty: this needs lm-evaluation-harness .*pip install 'lzpenalty\[eval\]'$"):
        runpy.run_path(ours.__file__, run_name="__main__")


@pytest.mark.parametrize("arguments", [["--data", "aime24"], ["--data", "aime24=rows.jsonl", "--include_path", "tasks"]])
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        ours.main(arguments)
    assert stop.value.code == 2 and "python -m lzpenalty.lm_eval: error" in capsys.readouterr().err


def test_help_and_what_is_passed_on(monkeypatch, capsys):
    passed = []
    monkeypatch.setattr(ours, "cli_evaluate", lambda: passed.append(sys.argv))
    monkeypatch.setattr(sys, "argv", [])
    assert ours.main(["--model", "lzpenalty", "--help"]) == 0 and "TASK=FILE" in capsys.readouterr().out
    assert ours.main(["--tasks", "x", "--include_path", "mine"]) == 0
    assert passed == [["lm-eval", "--model", "lzpenalty", "--help"], ["lm-eval", "--tasks", "x", "--include_path", "mine"]]
