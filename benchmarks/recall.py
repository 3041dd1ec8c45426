"""What does a model with a compressed cache still know?

    python benchmarks/recall.py [--model ID] [--trials 48] [--tokens 1024] [--interval 256] [--ratio 4]

Every selector with the same interval and ratio, so with the same number of tokens in the cache at all times, against the
full cache.

(a) Bits per token of real text (Python's manual), teacher-forced, counted from the first compression on; each row is
    another text. The difference to the full cache is paired: the same tokens, with a 95% interval over rows.
(b) A passcode that is stated once in the generated part, among other text, and asked for after more compressions. It counts
    as known if each of its tokens is the most likely one; 95% Wilson intervals.

What is generated is given here: tokens are fed `recent` at a time, as a model would that had written them. Writes
results/recall.json."""

import argparse
import contextlib
import math
import pydoc_data.topics
import random

import torch
from transformers import DynamicCache

from harness import write
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.commands.models import load_model
from lzpenalty.hf import RPCCache

PROMPT, CHUNK, ROWS = 64, 32, 8
PASSCODE_TOKENS = 768


def read(model, ids: torch.Tensor, options: dict | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Feeds rows of text; bits of each token but the first [B, T - 1], and whether it was the most likely one."""
    cache = DynamicCache(config=model.config) if options is None else RPCCache(model, **options)
    bits, hits = [], []
    with torch.inference_mode(), cache if options else contextlib.nullcontext():
        sizes = [PROMPT, 1, *([CHUNK] * ((ids.shape[1] - PROMPT) // CHUNK + 1))]
        at = 0
        for size in sizes:
            fed = ids[:, at : at + size]
            targets = ids[:, at + 1 : at + 1 + fed.shape[1]]
            if fed.shape[1] == 0 or targets.shape[1] == 0:
                break
            logits = model(fed, past_key_values=cache).logits[:, : targets.shape[1]].float()
            bits.append(-logits.log_softmax(-1).gather(2, targets[..., None])[..., 0] / math.log(2))
            hits.append(logits.argmax(-1) == targets)
            at += fed.shape[1]
    return torch.cat(bits, 1), torch.cat(hits, 1)


def prose(tokenizer) -> list[int]:
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    return tokenizer(text).input_ids


def passcode(tokenizer, rng: random.Random, filler: list[int], tokens: int) -> tuple[list[int], int]:
    """A text of that many tokens, and how many of them, at its end, are the code that was stated in its first part."""
    code = "".join(rng.choice("0123456789") for _ in range(5))
    stated = tokenizer(f"\n\nRemember this: the passcode is {code}. I will need it later.\n\n").input_ids
    question = tokenizer("\n\nNow, what was it? The passcode is").input_ids
    answer = tokenizer(f" {code}").input_ids
    room = tokens - len(stated) - len(question) - len(answer)
    start = rng.randrange(len(filler) - room)
    at = PROMPT + rng.randrange(16, 180)  # in the generated part, before the first compression
    text = filler[start : start + at] + stated + filler[start + at : start + room] + question + answer
    return text, len(answer)


def wilson(hits: int, n: int) -> tuple[float, float]:
    z, p = 1.96, hits / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--interval", type=int, default=256)
    parser.add_argument("--ratio", type=int, default=4)
    args = parser.parse_args()
    model, tokenizer = load_model(args.model)
    text, rng = prose(tokenizer), random.Random(0)

    step = (len(text) - args.tokens) // ROWS
    texts = torch.tensor([text[i * step : i * step + args.tokens] for i in range(ROWS)])
    codes = [passcode(tokenizer, rng, text, PASSCODE_TOKENS) for _ in range(args.trials)]
    length = max(answer for _, answer in codes)
    codes = [row for row, answer in codes if answer == length]  # as good as all: digits are tokens of their own
    asked = torch.tensor(codes).split(ROWS)

    rows, full = [], None
    for name in (None, *SELECTORS):
        options = None if name is None else dict(interval=args.interval, ratio=args.ratio, selector=name)
        bits = read(model, texts, options)[0][:, PROMPT + args.interval + CHUNK :].mean(1)
        known = sum(int(read(model, batch, options)[1][:, -length:].all(1).sum()) for batch in asked)
        full = bits if full is None else full
        worse = bits - full
        rows.append({
            "selector": name or "full cache",
            "bits_per_token": bits.mean().item(),
            "worse_by": worse.mean().item(),
            "interval": 1.96 * worse.std().item() / math.sqrt(len(worse)),
            "known": known,
            "trials": len(codes),
            "known_interval": wilson(known, len(codes)),
        })  # fmt: skip
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
    settings = {name: getattr(args, name) for name in ("tokens", "interval", "ratio")}
    write("recall", {"model": args.model or "SmolLM2-135M-Instruct", "texts": ROWS, **settings, "rows": rows})


if __name__ == "__main__":
    main()
