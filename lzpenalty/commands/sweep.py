"""`lzpenalty sweep`: what the options of the penalty buy, and what they cost.

For each combination of options, and for each penalty of :mod:`lzpenalty.commands.penalties` that is asked for, the share of
greedy answers that end in a loop and how repetitive they are (:mod:`lzpenalty.commands.measures`), and the damage to texts
that are given:

    bits_lost     bits per token, teacher-forced, that a text takes more than without the penalty
    copies_kept   the end of a text stands there a second time, teacher-forced: of the tokens of this copy that are the most
                  likely ones without the penalty, the share that still are

A line of CSV is written when its combination is done, and those that are there are not computed again.
"""

import csv
import hashlib
import inspect
import json
import math
import pydoc_data.topics
import textwrap
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import pad

from lzpenalty import LZOptions, lz_penalize_, repetition_period
from lzpenalty.commands import models
from lzpenalty.commands.measures import describe
from lzpenalty.commands.output import Progress, reason
from lzpenalty.commands.penalties import Penalty, lz, named
from lzpenalty.commands.prompts import PROMPTS

BASELINE = {
    "strength": 0.0,
    "min_match": 1,
    "gate": None,
    "window": 512,
}
MEASURES = (
    "answers", "loop_rate", "approximate_loops", "seq_rep_4", "near_duplicates", "tokens", "cut", "bits_per_token",
    "bits_lost", "copies_kept",
)  # fmt: skip
COLUMNS = ("model", "inputs", "penalty", *BASELINE, *MEASURES)
OURS = "lz"  # what the column "penalty" calls a combination of the grid
HEADER = ",".join(COLUMNS) + "\n"
ROWS = 64  # of logits that are copied at a time


class SweepError(Exception):
    """The sweep can't be made of what was given; the message says why."""


class OptionError(SweepError):
    """An option can't be what it is."""


def _read(path: str | Path, encoding: str = "utf-8-sig") -> str:
    try:
        return Path(path).read_bytes().decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} can't be read: {reason(error)}") from error


def read_prompts(path: str | Path) -> list[str | list[dict]]:
    """Prompts of a file with one {"prompt": "..."} or {"messages": [{"role": ..., "content": ...}, ...]} a line."""
    prompts = []
    for number, line in enumerate(_read(path).split("\n"), 1):  # splitlines() would cut at signs that JSON lets stand
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            prompt = entry["prompt"] if "prompt" in entry else entry["messages"]
            said = [prompt] if "prompt" in entry else [message["content"] for message in prompt]
        except (ValueError, TypeError, KeyError):
            said = []
        if not said or not all(isinstance(text, str) and text for text in said):
            raise SweepError(f'{path}, line {number}: expected {{"prompt": "..."}} or {{"messages": [...]}}')
        prompts.append(prompt)
    if not prompts:
        raise SweepError(f"{path}: expected a prompt a line, there is none")
    return prompts


def default_texts() -> list[str]:
    """Prose and code that every Python brings."""
    return [pydoc_data.topics.topics["execmodel"], inspect.getsource(textwrap)]


def cell(value) -> str:
    """The value of an option as it stands in the table, and as it is typed."""
    if value is None:
        return "off"
    return ":".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def grid(values: dict[str, list]) -> list[dict]:
    """All combinations, each once. The first is that without the penalty, which has no other options."""
    combinations = [BASELINE]
    for chosen in product(*(values[name] for name in BASELINE)):
        options = dict(zip(BASELINE, chosen, strict=True))
        try:
            LZOptions(**options)
        except (TypeError, ValueError) as error:
            raise OptionError(str(error)) from error
        if options["strength"] and options not in combinations:
            combinations.append(options)
    return combinations


class Reading:
    """A text, and its last `copied` tokens another `times`, as the model reads them: logits that any penalty is tried on."""

    def __init__(self, model, ids: list[int], copied: int, times: int = 1):
        fed = torch.tensor(ids + ids[max(0, len(ids) - copied) :] * times, device=model.device)
        with torch.inference_mode():
            self.logits = model(fed[None, :-1]).logits[0].cpu()
        self.tokens, self.targets = fed[:-1].cpu(), fed[1:].cpu()
        self.bits, self.best = self.under(BASELINE)
        self.is_text = torch.arange(len(self.targets)) < len(ids) - 1
        self.known = self.best & ~self.is_text

    def under(self, penalty: dict | Penalty) -> tuple[torch.Tensor, torch.Tensor]:
        """Bits of each token but the first [T - 1], and whether it is the most likely one, under the penalty that the tokens
        before it bring. Of ours the options are enough."""
        ours = penalty.options if isinstance(penalty, Penalty) else (LZOptions(**penalty),)
        processors = [] if ours else penalty.processors(0)
        bits, best = [], []
        for at in range(0, len(self.tokens), ROWS):
            part = slice(at, at + ROWS)
            logits = self.logits[part].to(torch.float32, copy=True)
            for options in ours:
                self._lower(logits, part, options)
            for processor in processors:
                for row in range(len(logits)):
                    logits[row] = processor(self.tokens[None, : at + row + 1], logits[row : row + 1])[0]
            targets = self.targets[part, None]
            bits.append(-logits.log_softmax(-1).gather(1, targets)[:, 0].double() / math.log(2))
            best.append(logits.argmax(-1, keepdim=True) == targets)
        return torch.cat(bits), torch.cat(best)[:, 0]

    def _lower(self, logits: torch.Tensor, part: slice, options: LZOptions) -> None:
        rows = len(self.tokens)
        context = min(max(1, options.context), rows)
        seen = pad(self.tokens, (context - 1, 0)).unfold(0, context, 1)  # [rows, context], nothing is copied
        starts = (context - 1 - torch.arange(rows)).clamp(min=0)
        lz_penalize_(logits, seen[part], options, starts=starts[part])


def damage(readings: list[Reading], penalty: dict | Penalty) -> dict:
    """bits_per_token, bits_lost and copies_kept over all texts; the last is not a number if no token of a copy was known."""
    tokens = bits = lost = known = kept = 0
    for reading in readings:
        penalised, best = reading.under(penalty)
        tokens += int(reading.is_text.sum())
        bits += float(penalised[reading.is_text].sum())
        lost += float((penalised - reading.bits)[reading.is_text].sum())
        known += int(reading.known.sum())
        kept += int((best & reading.known).sum())
    return {
        "bits_per_token": bits / tokens,
        "bits_lost": lost / tokens,
        "copies_kept": kept / known if known else math.nan,
    }


def loops(answers: list[list[int]], ngram: int, count: int) -> float:
    """The share of answers that end in a loop."""
    periods = [int(repetition_period(np.array(row, np.int64), ngram=ngram, count=count)) for row in answers]
    return sum(period > 0 for period in periods) / len(answers)


class Sweep:
    """A grid of options on a model, prompts and texts; raises SweepError for what can be seen to be wrong without the model.

    Parameters
    ----------
    values : dict
        A list of values for each option of BASELINE; for one that is not there BASELINE's alone.
    others : list of str
        Further rows: names of :mod:`lzpenalty.commands.penalties`.
    table, picture : path
        CSV to write or to go on with; PNG, SVG or PDF to draw.
    model : str, optional
        As in :func:`lzpenalty.commands.models.load_model`.
    prompts, texts : optional
        A file for :func:`read_prompts`; text files. By default the prompts of the demo and :func:`default_texts`.
    max_new_tokens, batch_size : int
        Tokens of an answer at most; answers that are generated together.
    ngram, count : int
        What is called a loop, as in :func:`lzpenalty.repetition_period`.
    text_tokens, copy_tokens : int
        The beginning of each text that is read, and its end that is read twice. A copy from further back than a window is
        not seen by the penalty.
    """

    def __init__(
        self, values: dict[str, list], table: str | Path, picture: str | Path, *, model: str | None = None, prompts=None,
        texts=None, max_new_tokens: int = 400, batch_size: int = 8, ngram: int = 8, count: int = 3, text_tokens: int = 512,
        copy_tokens: int = 128, others=(), quiet: bool = False,
    ):  # fmt: skip
        self.combinations = grid({name: values.get(name, [BASELINE[name]]) for name in BASELINE})
        self.others = list(dict.fromkeys(others))
        for name in self.others:
            if not _asks_tokenizer(name):
                try:
                    named(name, None)
                except ValueError as error:
                    raise OptionError(str(error)) from error
        self.table, self.picture = Path(table), Path(picture)
        self.model, self.batch_size, self.quiet = model, batch_size, quiet
        self.prompts = read_prompts(prompts) if prompts else PROMPTS
        self.texts = [_read(path) for path in texts] if texts else default_texts()
        self.settings = {
            "max_new_tokens": max_new_tokens,
            "ngram": ngram,
            "count": count,
            "text_tokens": text_tokens,
            "copy_tokens": copy_tokens,
        }
        try:
            repetition_period(np.empty(0, np.int64), ngram=ngram, count=count)
        except ValueError as error:
            raise OptionError(str(error)) from error
        for path in (self.table, self.picture):
            if not path.parent.is_dir():
                raise SweepError(f"{path} can't be written: there is no folder {path.parent}")
        if self.picture.suffix not in (".png", ".svg", ".pdf"):
            raise OptionError(f"{self.picture}: expected a picture that ends in .png, .svg or .pdf")
        inputs = json.dumps([self.prompts, self.texts, self.settings], sort_keys=True)
        self.origin = {"model": model or "SmolLM2-135M-Instruct", "inputs": hashlib.sha256(inputs.encode()).hexdigest()[:16]}
        self.rows = self._finished()

    def _finished(self) -> list[dict]:
        """The rows that are in the table. Where a run was killed the last may be a part of one, and does not count."""
        text = _read(self.table, "utf-8") if self.table.exists() else ""
        if not text.startswith(HEADER) and not HEADER.startswith(text):
            raise SweepError(f"{self.table} is not the table of a sweep: expected the columns {HEADER.strip()}")
        text = text[: text.rfind("\n") + 1]
        self.whole = len(text.encode())
        rows = [*csv.DictReader(text.splitlines())]
        for name, value in self.origin.items():
            for row in rows:
                if row[name] != value:
                    raise SweepError(
                        f"{self.table} is of another sweep: its {name} is {row[name]}, not {value}. Give another --csv, or "
                        "the model, prompts, texts and lengths that it was made with"
                    )
        return rows

    def left(self) -> list[dict | str]:
        """The combinations and names that are not in the table."""
        there = {(row["penalty"], *(row[name] for name in BASELINE)) for row in self.rows}
        named = {row["penalty"] for row in self.rows}
        combinations = [
            options for options in self.combinations if (_name(options), *map(cell, options.values())) not in there
        ]
        return [*combinations, *(name for name in self.others if name not in named)]

    def run(self) -> None:
        """Computes what is left, and draws. Raises models.ModelMissing, and SweepError: before anything is written, or,
        where the picture can't be, when the table is whole."""
        if left := self.left():
            self._compute(left)
        try:
            plot(self.rows, self.picture)
        except OSError as error:
            raise SweepError(f"{self.picture} can't be written: {reason(error)}") from error

    def _compute(self, left: list[dict | str]) -> None:
        limit = self.settings["max_new_tokens"]
        size = len(self.prompts) * limit
        with Progress("loading", len(left) * size, "tok", quiet=self.quiet) as progress:
            model, tokenizer = models.load_model(self.model)
            penalties = [lz(OURS, row) if isinstance(row, dict) else _named(row, tokenizer) for row in left]
            progress.update(0, "reading")
            readings = self._read_texts(model, tokenizer)
            progress.restart()
            names = ["strength", *(name for name in varying(self.combinations) if name != "strength")]
            with self._open() as file:
                for number, (row, penalty) in enumerate(zip(left, penalties, strict=True), 1):
                    combination = isinstance(row, dict)
                    says = [f"{name} {cell(row[name])}" for name in names] if combination else [row]
                    progress.update(0, ", ".join(says))
                    answers = self._answers(model, tokenizer, penalty, progress)
                    found = describe(answers, tokenizer.decode, limit) | damage(readings, penalty)
                    found["loop_rate"] = loops(answers, self.settings["ngram"], self.settings["count"])
                    options = row if combination else dict.fromkeys(BASELINE, "")
                    line = self.origin | {"penalty": _name(row) if combination else row}
                    line |= {name: cell(value) for name, value in options.items()}
                    line |= {name: f"{found[name]:.6g}" for name in MEASURES}
                    csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(line)
                    file.flush()
                    self.rows.append(line)
                    progress.update(number * size - progress.done)  # answers may have ended early

    def _read_texts(self, model, tokenizer) -> list[Reading]:
        if not tokenizer.chat_template and not all(isinstance(prompt, str) for prompt in self.prompts):
            raise SweepError("prompts: messages need a chat template, which this model's tokenizer does not have")
        texts = [tokenizer(text).input_ids[: self.settings["text_tokens"]] for text in self.texts]
        if min(map(len, texts)) < 2:
            raise SweepError("text: expected at least 2 tokens in each")
        return [Reading(model, ids, self.settings["copy_tokens"]) for ids in texts]

    def _open(self):
        """The table, to be written behind its last whole row."""
        try:
            file = self.table.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise SweepError(f"{self.table} can't be written: {reason(error)}") from error
        file.truncate(self.whole)
        if not self.whole:
            file.write(HEADER)
        return file

    def _answers(self, model, tokenizer, penalty: Penalty, progress: Progress) -> list[list[int]]:
        answers = []
        for at in range(0, len(self.prompts), self.batch_size):
            batch = self.prompts[at : at + self.batch_size]
            answers += models.answers(
                model, tokenizer, batch, self.settings["max_new_tokens"], [penalty], step=progress.update
            )[0]
        return answers


def _name(options: dict) -> str:
    return OURS if options["strength"] else "none"


def _asks_tokenizer(name: str) -> bool:
    """Whether only a tokenizer can say what this penalty is."""
    return name == "reasoning" or name.startswith("dry-breakers=")


def _named(name: str, tokenizer) -> Penalty:
    try:
        return named(name, tokenizer)
    except ValueError as error:
        raise SweepError(str(error)) from error


def varying(rows: list[dict]) -> list[str]:
    """The options that rows of the grid with a penalty differ in."""
    rows = [row for row in rows if row.get("penalty", OURS) == OURS and float(row["strength"])]
    return [name for name in BASELINE if len({row[name] for row in rows}) > 1]


def summary(rows: list[dict]) -> str:
    """The table for people: a line for each combination, with the options that differ, and for each other penalty."""
    names = ["strength", *(name for name in varying(rows) if name != "strength")]
    titles = {
        "loop_rate": "loops",
        "seq_rep_4": "seq-rep-4",
        "near_duplicates": "near dupl.",
        "tokens": "tokens",
        "bits_lost": "bits lost",
        "copies_kept": "copies",
    }
    wide = max(len(row["penalty"]) for row in rows)
    lines = [" " * wide + "".join(f"{title:>11}" for title in [*names, *titles.values()])]
    for row in rows:
        options = [row[name] if row["penalty"] == OURS or name == "strength" else "" for name in names]
        measures = [f"{float(row[name]):.3g}" for name in titles]
        lines.append(f"{row['penalty']:{wide}}" + "".join(f"{value:>11}" for value in [*options, *measures]))
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Loop rate against both kinds of damage; a line joins the strengths of otherwise equal options."""
    names = [name for name in varying(rows) if name != "strength"]
    lines = {}
    for row in sorted(rows, key=lambda row: float(row["strength"] or 0)):
        label = ", ".join(f"{name} {row[name]}" for name in names) or "with the penalty"
        others = "without" if row["penalty"] == "none" else row["penalty"]
        lines.setdefault(label if row["penalty"] == OURS else others, []).append(row)
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name, title in zip(
        axes, ("bits_lost", "copies_kept"), ("bits per token lost on given text", "share of copied tokens kept"), strict=True
    ):
        for label, line in lines.items():
            x, y = ([float(row[column]) for row in line] for column in (name, "loop_rate"))
            axis.plot(x, y, "kx" if label == "without" else "o-", label=label)
            for row, *point in zip(line, x, y, strict=True):
                if label != "without" and all(map(math.isfinite, point)):
                    axis.annotate(row["strength"], point, textcoords="offset points", xytext=(4, 4), fontsize=7)
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    axes[1].invert_xaxis()
    axes[0].set(ylabel="answers that end in a loop", ylim=(-0.03, 1.03))
    axes[0].legend(fontsize=8)
    figure.suptitle("Loops against damage, which grows to the right; figures at the points are strengths")
    figure.savefig(path, dpi=110)
