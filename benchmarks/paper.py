"""The main table of Reasoning Path Compression (arXiv 2505.13866), for whoever has the models and the data.

    python benchmarks/paper.py --out table --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B \\
        --lightthinker zjunlp/LightThinker-Qwen --model-args dtype=bfloat16,think_end_token=</think> --samples aime24=8 \\
        --samples livecodebench=4 --data aime24=aime.jsonl --data gpqa=gpqa_diamond.csv --data ifeval=ifeval.jsonl \\
        --data livecodebench=lcb.jsonl

AIME24, GPQA, IFEval and LiveCodeBench, in lm-evaluation-harness, by the full cache, RPC, H2O, TOVA, SnapKV and LightThinker;
GPQA and SnapKV are not in the paper. A task without a file is left out, and so is LightThinker, which is a model of its own,
without that.

Answers are sampled at temperature 0.6, top-p 0.95, of at most 32,768 tokens, as the paper's. RPC has its options, interval
4096, ratio 4, recent 32. H2O, TOVA and SnapKV keep a quarter of a task's mean length, as in the paper; here that is the mean
length of the full cache's answers, which are computed first. They are cut to it each `--every` tokens.

Each answer to all rows of a task is a file OUT/TASK/METHOD/SAMPLE.json, and is not computed again. What fails is named and
tried again the next time. The table is OUT/table.md. Needs lzpenalty[eval]."""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string

from lzpenalty.cache.forget import PUBLISHED
from lzpenalty.commands.cli import UserError, positive
from lzpenalty.lm_eval import LZPenaltyLM, local_task

TASKS = {  # the harness's name, the metric, and what it is called
    "aime24": ("aime24", "exact_match,none", "AIME24"),
    "gpqa": ("gpqa_diamond_cot_zeroshot", "exact_match,flexible-extract", "GPQA"),
    "ifeval": ("ifeval", "prompt_level_strict_acc,none", "IFEval"),
    "livecodebench": ("livecodebench", "pass@1,none", "LiveCodeBench"),
}
METHODS = {
    "full": "full cache",
    "rpc": "RPC",
    "h2o": "H2O",
    "tova": "TOVA",
    "snapkv": "SnapKV",
    "lightthinker": "LightThinker",
}
BUDGETED = ("h2o", "tova", "snapkv")


class Model(LZPenaltyLM):
    """Counts the tokens that it generates."""

    lengths: list[int]

    def _model_generate(self, context, max_length, stop, **generation_kwargs):
        out = super()._model_generate(context, max_length, stop, **generation_kwargs)
        self.lengths += (out[:, context.shape[1] :] != self.tokenizer.pad_token_id).sum(1).tolist()
        return out


def options_of(method: str, task: str, args) -> dict:
    """Of LZPenaltyLM, for the cache."""
    if method == "full":
        return {}
    if method == "lightthinker":
        return {"lt_setting": args.setting}
    if method == "rpc":
        return {
            "cache_selector": "rpc",
            "cache_interval": args.interval,
            "cache_ratio": args.ratio,
            "cache_recent": args.recent,
        }
    budget = args.budget.get(task)
    if budget is None:
        budget = round(mean_length(task, args) / 4)
    recent = min(args.recent, budget)
    return {
        "cache_selector": method,
        "cache_budget": budget,
        "cache_interval": args.every,
        "cache_recent": recent,
        "cache_ratio": 1,
    }


def mean_length(task: str, args) -> float:
    """Of the full cache's answers."""
    cells = [path_of(task, "full", sample, args) for sample in range(args.samples.get(task, 1))]
    missing = [str(path) for path in cells if not path.exists()]
    if missing:
        raise UserError(f"the budget is a quarter of the full cache's mean length, and {missing[0]} is not there")
    lengths = [length for path in cells for length in json.loads(path.read_text())["lengths"]]
    return sum(lengths) / len(lengths)


def path_of(task: str, method: str, sample: int, args) -> Path:
    return args.out / task / method / f"{sample}.json"


def check_scorer(task: str) -> None:
    """IFEval's would fetch what it needs from the network as soon as it is imported."""
    if task == "ifeval":
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            raise UserError("the scorer needs NLTK's punkt_tab: python -m nltk.downloader punkt_tab") from None


def make_model(args, method: str, options: dict, loaded: dict) -> Model:
    """With weights that are loaded once."""
    name = args.lightthinker if method == "lightthinker" else args.model
    given = simple_parse_args_string(args.model_args)
    if name not in loaded:
        loaded.clear()
        loaded[name] = Model(name, batch_size=args.batch_size, **given)
    base = loaded[name]
    weightless = {key: value for key, value in given.items() if key in ("think_end_token", "max_length", "enable_thinking")}
    model = Model(base.model, tokenizer=base.tokenizer, batch_size=args.batch_size, **weightless, **options)
    model.lengths = []
    return model


def evaluate(task: str, method: str, sample: int, settings: dict, args, loaded: dict) -> dict:
    """The score of one answer to each row, and their lengths in tokens."""
    check_scorer(task)
    name, metric, _ = TASKS[task]
    model = make_model(args, method, settings["cache"], loaded)
    with tempfile.TemporaryDirectory() as folder:
        for file, content in local_task(name, args.data[task], trust_pickles=args.trust_pickles).items():
            (Path(folder) / file).write_text(content, encoding="utf-8")
        results = simple_evaluate(
            model=model,
            tasks=[name],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            gen_kwargs=settings["generation"],
            limit=args.limit,
            apply_chat_template=bool(getattr(model.tokenizer, "chat_template", None)),
            torch_random_seed=1234 + sample,
            bootstrap_iters=0,
        )
    answers = [entry["resps"][0][0] for entry in results["samples"][name]]
    return {"score": float(results["results"][name][metric]), "lengths": model.lengths, "answers": answers}


def run(args) -> dict[str, str]:
    """Fills the cells that are not there. Returns which failed, and why."""
    failed, loaded = {}, {}
    for method in args.methods:
        for task in args.data:
            for sample in range(args.samples.get(task, 1)):
                path = path_of(task, method, sample, args)
                cell = f"{task}/{method}/{sample}"
                try:
                    settings = settings_of(task, method, args)
                    if path.exists():
                        if (had := json.loads(path.read_text())["settings"]) != settings:
                            raise UserError(f"{path} has other settings, {had}; take another --out, or remove it")
                        continue
                    print(f"{cell} ...", flush=True)
                    found = {"settings": settings, **evaluate(task, method, sample, settings, args, loaded)}
                except KeyboardInterrupt:
                    raise
                except Exception as error:
                    if not isinstance(error, UserError):
                        traceback.print_exc()
                    failed[cell] = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)
                    print(f"{cell}: {failed[cell]}", file=sys.stderr, flush=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".part")
                partial.write_text(json.dumps(found))
                os.replace(partial, path)
                print(f"{cell}: {found['score']:.3f}", flush=True)
    return failed


def digest(file: str) -> str:
    """Of the rows, so that a cell is never taken for one of others."""
    if not Path(file).is_file():
        raise UserError(f"{file}: there is no such file")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def settings_of(task: str, method: str, args) -> dict:
    """What a cell depends on."""
    sampled = args.samples.get(task, 1) > 1 or not args.greedy
    generation = {"do_sample": sampled, "max_gen_toks": args.max_gen_toks}
    generation |= {"temperature": 0.6, "top_p": 0.95} if sampled else {"temperature": 0.0}
    return {
        "model": args.lightthinker if method == "lightthinker" else args.model,
        "model_args": args.model_args,
        "data": digest(args.data[task]),
        "limit": args.limit,
        "generation": generation,
        "cache": options_of(method, task, args),
    }


def table(args, failed: dict[str, str]) -> str:
    """Markdown: the mean score of a cell in percent, and how many tokens an answer has."""
    tasks = [task for task in TASKS if task in args.data]
    header = ["", *(f"{TASKS[task][2]}, {args.samples.get(task, 1)} x" for task in tasks)]
    lines = [header, ["---", *["---:"] * len(tasks)]]
    for method in args.methods:
        line = [METHODS[method]]
        for task in tasks:
            paths = [path_of(task, method, sample, args) for sample in range(args.samples.get(task, 1))]
            cells = [json.loads(path.read_text()) for path in paths if path.exists()]
            if len(cells) < len(paths):
                line.append(f"{len(cells)} of {len(paths)} done")
                continue
            lengths = [length for cell in cells for length in cell["lengths"]]
            score = sum(cell["score"] for cell in cells) / len(cells)
            line.append(f"{100 * score:.1f} ({sum(lengths) / len(lengths):,.0f})")
        lines.append(line)
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    text += f"\n\n{args.model}" + (f"; LightThinker: {args.lightthinker}" if args.lightthinker else "")
    text += ". Percent, and in brackets tokens an answer."
    if failed:
        text += "\n\nFailed:\n\n" + "\n".join(f"* {cell}: {why.splitlines()[0]}" for cell, why in failed.items())
    return text + "\n"


def pairs(convert, names=TASKS):
    """The type of an option TASK=VALUE."""

    def parse(text: str):
        name, equals, value = text.partition("=")
        if not equals or name not in names:
            raise argparse.ArgumentTypeError(f"expected TASK=VALUE with one of {', '.join(names)}, got {text!r}")
        return name, convert(value)

    return parse


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--lightthinker", metavar="MODEL", help="its trained model")
    parser.add_argument("--setting", choices=PUBLISHED, default="lightthinker_qwen", help="that model's")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--data", metavar="TASK=FILE", type=pairs(str), action="append", required=True)
    parser.add_argument(
        "--samples", metavar="TASK=N", type=pairs(positive), action="append", default=[], help="answers a row, default 1"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all of them")
    parser.add_argument("--model-args", default="", help="further arguments of the harness's model `hf`")
    parser.add_argument("--batch-size", default=1)
    parser.add_argument("--limit", type=positive, help="rows of each task")
    parser.add_argument("--greedy", action="store_true", help="for tasks with one answer a row")
    parser.add_argument("--max-gen-toks", type=positive, default=32768)
    parser.add_argument("--interval", type=positive, default=4096, help="of RPC")
    parser.add_argument("--ratio", type=positive, default=4, help="of RPC")
    parser.add_argument("--recent", type=positive, default=32)
    parser.add_argument("--every", type=positive, default=128, help="tokens between cuts to the budget")
    parser.add_argument("--budget", metavar="TASK=TOKENS", type=pairs(positive), action="append", default=[])
    parser.add_argument("--trust-pickles", action="store_true", help="see python -m lzpenalty.lm_eval --help")
    args = parser.parse_args(argv)
    for name in ("data", "samples", "budget"):
        setattr(args, name, dict(getattr(args, name)))
    if args.methods is None:
        args.methods = [method for method in METHODS if method != "lightthinker" or args.lightthinker]
    if "lightthinker" in args.methods and not args.lightthinker:
        parser.error("--methods lightthinker: expected --lightthinker MODEL with it")
    args.methods = [method for method in METHODS if method in args.methods]  # the full cache first: budgets need it
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    failed = run(args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(table(args, failed))
    print("\n" + table(args, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
