"""lm-evaluation-harness: its Hugging Face model with the penalty and the cache, and its tasks on files.

    python -m lzpenalty.lm_eval --model lzpenalty --model_args pretrained=MODEL,lz_strength=0.15,cache_interval=1024 \\
        --tasks aime24 --data aime24=aime24.jsonl

The harness's own command with a further model and a further option; works with lm_eval >= 0.4.10.
"""

import argparse
import re
import sys
import tempfile
from functools import cache
from pathlib import Path

try:
    import lm_eval
    import yaml
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"lzpenalty: this needs lm-evaluation-harness ({error}): pip install 'lzpenalty[eval]'")

from lzpenalty import livecodebench
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.forget import PUBLISHED
from lzpenalty.commands.cli import UserError, positive
from lzpenalty.hf import CompressedCache, Forget, ForgetCache, LZPenaltyLogitsProcessor

__all__ = ["LZPenaltyLM", "local_task", "main"]

FORMATS = {".csv": "csv", ".parquet": "parquet"}  # and JSON


def _numbers(value):
    """Of model_args, in which a list has no other form."""
    return [float(part) if "." in part else int(part) for part in value.split(":")] if _is_list(value) else value


def _is_list(value) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\d.]+(:[\d.]+)+", value) is not None


def _forget(options: dict) -> Forget | str | None:
    """What `lt_` options ask for; a published setting by its name, since it needs a tokenizer."""
    if not options:
        return None
    setting = options.pop("setting", None)
    if setting is None:
        ids = ("then", "summary")  # of which one may have come alone
        read = {name: _numbers(value) for name, value in options.items()}
        return Forget(**{name: [value] if name in ids and isinstance(value, int) else value for name, value in read.items()})
    if setting not in PUBLISHED or options:
        wanted = f"{' or '.join(PUBLISHED)} and no other option of lt_"
        raise ValueError(f"lt_setting: expected {wanted}, got {setting!r}" + "".join(f", lt_{name}" for name in options))
    return setting


@register_model("lzpenalty")
class LZPenaltyLM(HFLM):
    """The harness's `hf` with the LZ penalty and a compressed key/value cache for what it generates. Likelihoods of given
    texts are the model's own.

    Parameters
    ----------
    lz_strength, lz_window, ...
        Options of :class:`lzpenalty.hf.LZPenaltyLogitsProcessor` with `lz_` before their names; without any of them there is
        no penalty. Several numbers are joined by colons, `lz_gate=20:28`. The tokenizer of `lz_preset=reasoning` is the
        model's.
    cache_interval, cache_ratio, ...
        Options of :class:`lzpenalty.hf.CompressedCache` with `cache_` before their names; without any of them the cache is
        transformers' own.
    lt_setting, or lt_close, lt_then, ...
        One of `lightthinker_qwen`, `lightthinker_llama`, `memento_qwen`, `memento_phi`, with the ids that the model's
        tokenizer has, or options of :class:`lzpenalty.hf.Forget` with `lt_` before their names: thoughts are dropped once
        they have been summed up. Not together with options of CompressedCache.
    pretrained, ...
        As of `hf`.

    Raises
    ------
    TypeError, ValueError
        For options and models that the processor or the cache refuses.
    """

    def __init__(self, pretrained, **options):
        self.penalty, self.cache, forget = (
            {name.removeprefix(prefix): options.pop(name) for name in [*options] if name.startswith(prefix)}
            for prefix in ("lz_", "cache_", "lt_")
        )
        self.penalty = {name: _numbers(value) for name, value in self.penalty.items()}
        unknown = {"release": 0} if self.penalty.get("preset") == "reasoning" else {}
        LZPenaltyLogitsProcessor(**{**unknown, **self.penalty})  # raises before minutes are spent on loading
        if self.cache and forget:
            raise ValueError(f"lt_{[*forget][0]}: expected none together with cache_{[*self.cache][0]}, got {forget}")
        self.forget = _forget(forget)
        super().__init__(pretrained, **options)
        if isinstance(self.forget, str):
            self.forget = getattr(Forget, self.forget)(self.tokenizer)
        if self.forget:
            ForgetCache(self.model, self.forget)
        if unknown:
            self.penalty["tokenizer"] = self.tokenizer
            LZPenaltyLogitsProcessor(**self.penalty)
        if self.cache:
            CompressedCache(self.model, **self.cache)

    def _model_generate(self, context, max_length, stop, **generation_kwargs):
        if self.penalty:
            generation_kwargs["logits_processor"] = [LZPenaltyLogitsProcessor(**self.penalty)]
        if not self.cache and not self.forget:
            return super()._model_generate(context, max_length, stop, **generation_kwargs)
        held = ForgetCache(self.model, self.forget) if self.forget else CompressedCache(self.model, **self.cache)
        with held:
            return super()._model_generate(context, max_length, stop, **{CACHE_ARGUMENT: held}, **generation_kwargs)


@cache
def _source(task: str) -> Path | None:
    """The harness's file of a task, among thousands."""
    line = re.compile(rf"^task: *['\"]?{re.escape(task)}['\"]? *$", re.MULTILINE)
    folder = Path(lm_eval.__file__).parent / "tasks"
    return next((path for path in sorted(folder.rglob("*.yaml")) if line.search(path.read_text(encoding="utf-8"))), None)


def local_task(task: str, file: str | Path, samples: int = 1, trust_pickles: bool = False) -> dict[str, str]:
    """The files, {name: content}, of a task on the rows of a local file: the harness's own of that name, whose data set has
    the same fields, or `livecodebench`, which is :mod:`lzpenalty.livecodebench`'s.

    The file is the split that is evaluated, and the one that examples are drawn from where the task shows some. `samples`
    and `trust_pickles` are for livecodebench.

    Raises
    ------
    UserError
        If there is no such file or task, or its rows can't be used.
    """
    file = Path(file).absolute()
    if not file.is_file():
        raise UserError(f"--data {task}={file}: there is no such file")
    if task == "livecodebench":
        try:
            return livecodebench.task(file, samples, trust_pickles)
        except ValueError as error:
            raise UserError(f"--data {task}={file}: {error}") from error
    source = _source(task)
    if source is None:
        raise UserError(f"--data {task}={file}: the harness has no task of that name in a file of its own")
    changes = {
        "include": str(source),
        "dataset_path": FORMATS.get(file.suffix, "json"),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "test",
    }
    return {f"{task}.yaml": yaml.safe_dump(changes)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lzpenalty.lm_eval",
        usage="%(prog)s [--data TASK=FILE] ... and what lm-eval takes, which follows",
        description="lm-evaluation-harness with the model `lzpenalty`, whose --model_args are those of `hf`, options of the "
        "penalty (lz_strength=0.15, ...) and of the cache (cache_interval=1024, ... or lt_setting=lightthinker_qwen).",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data", metavar="TASK=FILE", action="append", default=[], help="rows for a task: JSON, JSON lines, CSV or Parquet"
    )
    parser.add_argument(
        "--samples",
        metavar="N",
        type=positive,
        default=1,
        help="answers to each problem of livecodebench (default 1: greedy)",
    )
    parser.add_argument(
        "--trust-pickles",
        action="store_true",
        help="read private tests of livecodebench that are pickles, which can run any code when they are read",
    )
    parser.add_argument("--include_path", help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args(argv)
    if {"-h", "--help"} & {*rest}:
        parser.print_help()
        print()
    if args.data and args.include_path:
        parser.error("--data and --include_path don't go together")
    if bad := [pair for pair in args.data if not re.fullmatch(r"[^=]+=.+", pair)]:
        parser.error(f"argument --data: expected TASK=FILE, got {bad[0]}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            for task, _, file in (pair.partition("=") for pair in args.data):
                for name, content in local_task(task, file, args.samples, args.trust_pickles).items():
                    (Path(folder) / name).write_text(content, encoding="utf-8")
        except UserError as error:
            print(f"lzpenalty: {error}", file=sys.stderr)
            return 1
        include = folder if args.data else args.include_path
        sys.argv = ["lm-eval", *rest, *(["--include_path", include] if include else [])]
        cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
