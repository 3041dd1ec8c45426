"""Which of transformers' architectures do the caches serve, and what keeps the others from it?

    python benchmarks/architectures.py

A tiny random model of each (tests/every_architecture.py) is fed the same tokens with each cache as with transformers' own,
by both attention functions, plain, with left padding, in chunks and in two turns (tests/served.py). Nothing is timed: logits
and what is kept are right or not. Writes results/architectures.json, from which docs/reference/architectures.md is made.
Takes about ten minutes on one core."""

import sys
import time
import warnings
from pathlib import Path

import torch
import transformers

from harness import write

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from every_architecture import names, text_part  # noqa: E402
from served import CACHES, INTERVAL, RATIO, RECENT, TOLERANCE, Report, examine  # noqa: E402


def verdict(report: Report, kind: str) -> dict:
    """What became of one cache: 'served', 'refused', 'own' if transformers' own can't do it, or 'wrong', and why. What was
    not so everywhere is an exception."""
    found = {f"{attention}, {situation}": one for (attention, of, situation), one in report.found.items() if of == kind}
    statuses = {one.status for one in found.values()}
    status = next(one for one in ("wrong", "same", "refused", "own") if one in statuses)
    cases = {case: one for case, one in found.items() if one.status == status}
    says = next(iter(cases.values())).says.replace(report.model, "the model")
    notes = {note.replace(report.model, "the model") for one in cases.values() for note in one.notes}
    others = {case: one.says for case, one in found.items() if case not in cases}
    optional = {"says": says, "notes": sorted(notes), "exceptions": others}
    cell = {"status": "served" if status == "same" else status, **{key: value for key, value in optional.items() if value}}
    return {**cell, "error": max(one.error for one in cases.values())} if status == "same" else cell


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    rows, started = {}, time.perf_counter()
    for name in names():
        report = examine(name)
        caches = {kind: verdict(report, kind) for kind in CACHES} if report.found else {}
        rows[name] = {
            "model": report.model,
            "attention": sorted({attention for attention, _, _ in report.found}),
            "caches": caches,
            **({} if report.found else {"untried": "; ".join(sorted(set(report.untried.values())))}),
            **({"text": part} if (part := text_part(name)) else {}),
        }
        print(f"{name:40}", {kind: cell["status"] for kind, cell in caches.items()} or rows[name]["untried"], flush=True)
    write(
        "architectures",
        {
            "interval": INTERVAL,
            "ratio": RATIO,
            "recent": RECENT,
            "tolerance": TOLERANCE,
            "seconds": round(time.perf_counter() - started),
            "architectures": rows,
        },
    )


if __name__ == "__main__":
    main()
