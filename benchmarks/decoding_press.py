"""RPCCache beside kvpress's DecodingPress: the same interval and the same number of tokens kept, in one run.

    python benchmarks/decoding_press.py [--tokens 4096] [--batches 1 4] [--interval 256] [--target 1024] [--trials 16]

Speed and memory: `generate` on the same prompt with each cache, in turns, twice; megabytes are those of all keys and values
at their largest. Recall: a passcode stated once in the generated part, and
asked for behind it, fed token by token, since DecodingPress compresses single steps only (interval and target a quarter of
the above). Needs kvpress and a transformers that it allows (`make bench-kvpress`). Writes results/decoding_press.json."""

import argparse
import contextlib
import random
import statistics
import time
from importlib import metadata

import torch
from kvpress import DecodingPress, SnapKVPress
from transformers import DynamicCache, StoppingCriteria

from harness import write
from lzpenalty.commands.models import load_model
from lzpenalty.hf import RPCCache
from recall import passcode, prose, wilson

PROMPT = 64
ROUNDS = 2
TOKENS = 768  # of a text that a passcode is asked for at the end of


def contestants(model, interval: int, target: int) -> dict:
    """A maker of (context, cache) for each."""

    def dynamic():
        return contextlib.nullcontext(), DynamicCache(config=model.config)

    def press():
        base = SnapKVPress(window_size=32)
        return DecodingPress(base, compression_interval=interval, target_size=target)(model), dynamic()[1]

    def ours(**options):
        def make():
            cache = RPCCache(model, interval=interval, budget=target - PROMPT, **options)
            return cache, cache

        return make

    return {
        "DynamicCache": dynamic,
        "DecodingPress, SnapKV": press,
        "RPCCache, snapkv": ours(selector="snapkv"),
        "RPCCache, rpc": ours(),
        "RPCCache, echo": ours(selector="echo"),
    }


def held(cache) -> int:
    """Bytes of all keys and values."""
    if isinstance(cache, RPCCache):
        return cache.stats()["bytes"]
    return sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))


class Watch(StoppingCriteria):
    """Never stops; the most bytes that the cache has held, seen every 32 steps and after the last."""

    def __init__(self, cache):
        self.cache, self.steps, self.most = cache, 0, 0

    def __call__(self, input_ids, scores, **kwargs):
        self.steps += 1
        if self.steps % 32 == 0:
            self.most = max(self.most, held(self.cache))
        return torch.zeros(len(input_ids), dtype=torch.bool)


def speed(model, makers: dict, batch: int, tokens: int) -> dict:
    """Tokens a second and bytes for each contestant, in turns."""
    ids = torch.full((batch, PROMPT), 7)
    options = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=None)
    rates, most = {name: [] for name in makers}, dict.fromkeys(makers, 0)
    for _ in range(ROUNDS):
        for name, make in makers.items():
            context, cache = make()
            watch = Watch(cache)
            with context:
                started = time.perf_counter()
                model.generate(ids, past_key_values=cache, stopping_criteria=[watch], **options)
            rates[name].append(batch * tokens / (time.perf_counter() - started))
            most[name] = max(most[name], watch.most)
            print(f"  batch {batch}, {name}: {rates[name][-1]:.1f} tokens/s, {most[name] / 1e6:.0f} MB", flush=True)
    return {name: {"tokens_per_second": rates[name], "megabytes": most[name] / 1e6} for name in makers}


def known(model, make, texts: torch.Tensor, answer: int) -> int:
    """How many rows' answers, their last tokens, are all the most likely ones."""
    context, cache = make()
    hits = []
    with torch.inference_mode(), context:
        for at in [slice(0, PROMPT), *(slice(i, i + 1) for i in range(PROMPT, texts.shape[1] - 1))]:
            logits = model(texts[:, at], past_key_values=cache, logits_to_keep=1).logits[:, -1]
            if at.stop >= texts.shape[1] - answer:
                hits.append(logits.argmax(-1) == texts[:, at.stop])
    return int(torch.stack(hits).all(0).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 4096), ("interval", 256), ("target", 1024), ("trials", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4])
    args = parser.parse_args()
    model, tokenizer = load_model()
    makers = contestants(model, args.interval, args.target)
    speeds = {batch: speed(model, makers, batch, args.tokens) for batch in args.batches}

    filler, rng = prose(tokenizer), random.Random(7)
    texts, lengths = zip(*(passcode(tokenizer, rng, filler, TOKENS) for _ in range(args.trials)), strict=True)
    answer = statistics.mode(lengths)
    asked = torch.tensor([text for text, length in zip(texts, lengths, strict=True) if length == answer]).split(8)
    small = contestants(model, args.interval // 4, args.target // 4)
    rows = []
    for name in makers:
        hits = sum(known(model, small[name], batch, answer) for batch in asked)
        rows.append({
            "cache": name,
            "speed": {batch: speeds[batch][name] for batch in args.batches},
            "known": hits,
            "trials": sum(map(len, asked)),
            "known_interval": wilson(hits, sum(map(len, asked))),
        })  # fmt: skip
        print(f"  {name}: {hits} of {rows[-1]['trials']} passcodes", flush=True)
    settings = {name: getattr(args, name) for name in ("tokens", "interval", "target")}
    write("decoding_press", {"kvpress": metadata.version("kvpress"), "prompt": PROMPT, **settings, "rows": rows})


if __name__ == "__main__":
    main()
