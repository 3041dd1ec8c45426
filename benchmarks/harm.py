"""Which loops do the penalties end, and what do they cost text that should stay as it is?

    python benchmarks/harm.py [--quick] [--model ID] [--tokens 600] [--copied 128] [--max-new-tokens 400]

Every way of `WAYS`, with the same model:

(a) Nats lost. A real text of `TEXTS` counts as generated, and is fed to the model as it stands. By how many nats a token is
    it less likely than without any penalty, counted from the 64th token on? The mean over texts, each of which has the same
    weight, with a 95% interval over texts.
(b) Copies kept. The last tokens of each text stand there a second time. How many of these are the most likely ones?
(c) Loops. Greedy answers to the prompts of the demo: how many end in an exact loop (their last 8 tokens three times in a
    row), seq-rep-4, and how long they are.

Nothing is sampled, so that a second run gives the same. Writes results/harm.json."""

import argparse
import importlib
import inspect
import math
import pydoc_data.topics
import statistics

import torch
from transformers import RepetitionPenaltyLogitsProcessor

from harness import write
from lzpenalty.commands.measures import describe
from lzpenalty.commands.models import greedy, load_model
from lzpenalty.commands.prompts import PROMPTS
from lzpenalty.commands.sweep import loops
from lzpenalty.hf import LZPenaltyLogitsProcessor

COUNTED_FROM = 64

# How the table calls it, and what makes the processor. transformers' penalty sees the prompt as well, where there is one.
WAYS = {
    "none": None,
    "LZ penalty, the paper's defaults": (LZPenaltyLogitsProcessor, {}),
    "`min_match=2`": (LZPenaltyLogitsProcessor, {"min_match": 2}),
    "`min_match=2, min_count=2`": (LZPenaltyLogitsProcessor, {"min_match": 2, "min_count": 2}),
    "`horizon=128`": (LZPenaltyLogitsProcessor, {"horizon": 128}),
    "repetition penalty 1.1": (RepetitionPenaltyLogitsProcessor, {"penalty": 1.1}),
}
# What every Python brings: chapters of its manual, modules of its library.
TEXTS = {
    "prose": ("execmodel", "import", "objects", "assignment", "customization", "try", "comparisons", "attribute-access"),
    "code": ("textwrap", "bisect", "csv", "calendar", "shlex", "fnmatch", "queue", "string"),
}


def text(kind: str, name: str) -> str:
    return pydoc_data.topics.topics[name] if kind == "prose" else inspect.getsource(importlib.import_module(name))


def processors(way) -> list:
    return [way[0](**way[1])] if way else []


class Reading:
    """A text and its last `copied` tokens a second time, as the model reads them."""

    def __init__(self, model, ids: list[int], copied: int):
        fed = torch.tensor(ids + ids[-copied:])
        with torch.inference_mode():
            self.logits = model(fed[None, :-1]).logits[0].float()
        self.fed, self.copied = fed, copied

    def under(self, way) -> tuple[float, float]:
        """Nats a token of the text, and the share of the copy's tokens that are the most likely ones."""
        nats, hits = [], []
        used = processors(way)
        for at in range(COUNTED_FROM, len(self.fed)):
            scores = self.logits[at - 1 : at].clone()
            for processor in used:
                scores = processor(self.fed[None, :at], scores)
            if at < len(self.fed) - self.copied:
                nats.append(-scores.log_softmax(-1)[0, self.fed[at]].item())
            else:
                hits.append(scores.argmax().item() == self.fed[at].item())
        return statistics.fmean(nats), statistics.fmean(hits)


def spread(values: list[float]) -> dict:
    return {"mean": statistics.fmean(values), "interval": 1.96 * statistics.stdev(values) / math.sqrt(len(values))}


def damage(readings: dict[str, list[Reading]], way, plain: dict) -> dict:
    found = {kind: [reading.under(way) for reading in of] for kind, of in readings.items()}
    plain.update({} if plain else found)  # the first way is none
    return {
        "nats_lost": {
            kind: spread([nats - free for (nats, _), (free, _) in zip(rows, plain[kind], strict=True)])
            for kind, rows in found.items()
        },
        "copies_kept": {kind: statistics.fmean(hits for _, hits in rows) for kind, rows in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few short texts and answers; nothing is written")
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--copied", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=400)
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.max_new_tokens = 256, 24
    model, tokenizer = load_model(args.model)

    def read(kind: str, name: str) -> Reading:
        return Reading(model, tokenizer(text(kind, name)).input_ids[: args.tokens], args.copied)

    readings = {kind: [read(kind, name) for name in names[: 2 if args.quick else None]] for kind, names in TEXTS.items()}
    rows, plain = [], {}
    for name, way in WAYS.items():
        answers = greedy(model, tokenizer, PROMPTS, args.max_new_tokens, processors(way))
        options = dict(way[1]) if way else {}
        row = {"way": name, "options": options, **damage(readings, way, plain)}
        row |= describe(answers, tokenizer.decode, args.max_new_tokens) | {"loop_rate": loops(answers, ngram=8, count=3)}
        rows.append(row)
        print(row, flush=True)
    if args.quick:
        return
    settings = {"tokens": args.tokens, "copied": args.copied, "max_new_tokens": args.max_new_tokens}
    write("harm", {"model": args.model or "SmolLM2-135M-Instruct", **settings, "texts": TEXTS, "rows": rows})


if __name__ == "__main__":
    main()
