"""`lzpenalty demo`: a small real model answers a few prompts greedily, without and with the LZ penalty, and on demand with a
compressed key/value cache besides."""

import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers.generation.streamers import BaseStreamer

from lzpenalty import repetition_period
from lzpenalty.analysis import seq_rep, token_bits, zlib_ratio
from lzpenalty.commands.models import greedy
from lzpenalty.commands.output import Progress, say
from lzpenalty.commands.prompts import PROMPTS
from lzpenalty.hf import CompressedCache, LZPenaltyLogitsProcessor


class _Progress(BaseStreamer):
    """Counts the steps of `generate`, and shows what its cache holds."""

    def __init__(self, title: str, steps: int, rows: int, cache: CompressedCache | None, quiet: bool):
        self.progress = Progress(title, steps * rows, "tok", quiet=quiet)
        self.rows, self.cache, self.prompt_seen = rows, cache, False

    def put(self, value):
        if self.prompt_seen:
            note = None
            if self.cache:
                stats = self.cache.stats()
                note = f"seen {stats['seen']}, kept {stats['kept']}, {stats['bytes'] / 1e6:.0f} MB"
            self.progress.update(self.rows, note=note)
        self.prompt_seen = True

    def end(self):
        self.progress.close()


class _Timed(LZPenaltyLogitsProcessor):
    """Adds up the time that it takes."""

    seconds = 0.0

    def __call__(self, input_ids, scores):
        start = time.perf_counter()
        scores = super().__call__(input_ids, scores)
        self.seconds += time.perf_counter() - start
        return scores


@dataclass
class Run:
    """What one pass over the prompts gave."""

    title: str
    seconds: float
    penalty_seconds: float
    tokens: list[list[int]]
    texts: list[str]
    vocab: int
    cache: dict | None = None  # CompressedCache.stats()
    bits: list[np.ndarray] = field(init=False)
    periods: list[int] = field(init=False)

    def __post_init__(self):
        self.bits = [token_bits(row, self.vocab) for row in self.tokens]
        # In a text of a few hundred tokens, eight tokens that stand three times in a row are a loop.
        self.periods = [
            int(repetition_period(np.array(row, np.int64), ngram=8, count=3, max_period=200)) for row in self.tokens
        ]

    @property
    def loops(self) -> int:
        return sum(period > 0 for period in self.periods)


def answer(
    model,
    tokenizer,
    prompts,
    max_new_tokens: int,
    penalty: dict | None,
    compress: dict | None = None,
    quiet: bool = False,
) -> Run:
    """Greedy answers to all prompts as one batch, with a CompressedCache of these options if there are any."""
    processor = _Timed(**penalty) if penalty is not None else None
    title = "without" if processor is None else "with"
    cache = CompressedCache(model, **compress) if compress else None
    progress = _Progress(title, max_new_tokens, len(prompts), cache, quiet)
    start = time.perf_counter()
    rows = greedy(model, tokenizer, prompts, max_new_tokens, [processor] if processor else [], cache, progress)
    seconds = time.perf_counter() - start
    texts = [tokenizer.decode(row) for row in rows]
    spent = processor.seconds if processor else 0.0
    return Run(title, seconds, spent, rows, texts, model.config.vocab_size, cache.stats() if cache else None)


def table(prompts, runs: list[Run]) -> str:
    """The measures of each answer and of each run."""
    lines = [f"{'':42} {'penalty':8} {'tokens':>6} {'loop of':>8} {'seq-rep-4':>9} {'zlib':>5} {'bits/token':>10}"]
    for i, prompt in enumerate(prompts):
        for run in runs:
            period = str(run.periods[i]) if run.periods[i] else "-"
            bits = run.bits[i].mean() if len(run.bits[i]) else 0.0
            lines.append(
                f"{textwrap.shorten(prompt, 42) if run is runs[0] else '':42} {run.title:8} {len(run.tokens[i]):6} "
                f"{period:>8} {seq_rep(run.tokens[i]):9.2f} {zlib_ratio(run.texts[i]):5.2f} {bits:10.2f}"
            )
    for run in runs:
        tokens = sum(map(len, run.tokens))
        lines.append(
            f"\n{run.title:8} {run.loops} of {len(prompts)} answers end in a loop; {tokens} tokens, "
            f"{tokens / run.seconds:.1f} tokens/s"
            + (f", {run.penalty_seconds / run.seconds:.2%} of the time in the penalty" if run.penalty_seconds else "")
        )
        if run.cache:
            lines.append(
                f"{'':8} cache: kept {run.cache['kept']} of {run.cache['seen']} tokens a row, "
                f"{run.cache['bytes'] / 1e6:.0f} MB, {run.cache['compressions']} compressions, "
                f"{run.cache['seconds'] / run.seconds:.2%} of the time"
            )
    return "\n".join(lines)


def side_by_side(prompts, runs: list[Run], width: int = 58, height: int = 6) -> str:
    """The ends of the answers in two columns."""
    blocks = []
    for i, prompt in enumerate(prompts):
        columns = []
        for run in runs:
            wrapped = [line for part in run.texts[i].splitlines() for line in textwrap.wrap(part, width) if line]
            columns.append([f"[{run.title}]", *wrapped[-height:]] + [""] * (height - len(wrapped[-height:])))
        rows = [f"{left:{width}}   {right}".rstrip() for left, right in zip(*columns, strict=True)]
        blocks.append("\n".join([f"\n{prompt}", *rows]).rstrip())
    return "\n".join(blocks)


def draw(prompts, runs: list[Run], path: Path) -> None:
    """A picture of the bits per token over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from lzpenalty.plots import plot_bits

    columns = min(3, len(prompts))
    figure, axes = pyplot.subplots(
        -(-len(prompts) // columns), columns, figsize=(4.2 * columns, 2.4 * -(-len(prompts) // columns)),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, prompt, *bits in zip(axes.flat, prompts, *(run.bits for run in runs), strict=False):
        for run, series, colour in zip(runs, bits, ("tab:red", "tab:blue"), strict=True):
            plot_bits(series, axes=axis, color=colour, label=f"{run.title} penalty")
        axis.set_title(textwrap.shorten(prompt, 48), fontsize=9)
    for axis in axes.flat:
        axis.label_outer()
    axes.flat[0].legend(fontsize=8)
    figure.suptitle("What a Lempel-Ziv coder pays for each token: 0 is a loop")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def run(
    model,
    tokenizer,
    *,
    max_new_tokens: int,
    penalty: dict,
    picture: str | Path,
    compress: dict | None = None,
    quiet: bool = False,
) -> None:
    """Answers the prompts twice, prints and draws."""
    prompts = PROMPTS
    runs = [
        answer(model, tokenizer, prompts, max_new_tokens, None, None, quiet),
        answer(model, tokenizer, prompts, max_new_tokens, penalty, compress, quiet),
    ]
    say(f"{side_by_side(prompts, runs)}\n\n{table(prompts, runs)}")
    draw(prompts, runs, Path(picture))
    say(f"\nbits per token over time: {picture}")
