"""CompressedCache beside kvpress's DecodingPress: the same interval and the same number of tokens kept.

    python benchmarks/decoding_press.py [--tokens 1280] [--batches 4] [--interval 256] [--target 512] [--facts 24]
                                        [--parts speed,recall] [--caches "CompressedCache, echo;..."]

speed   `generate` on the same prompt with each cache, in turns, for so many `--rounds`: tokens a second of the whole text
        and of its last quarter; megabytes are those of all keys and values at their largest.
recall  Facts of six kinds, those of recall.py, each stated once in the first half of what a row generates, and asked for at
        its end. Text is fed token by token, since DecodingPress compresses single steps only; the interval is 64, the
        target 256. A fact counts as known if each token of the answer is the most likely one.

Needs kvpress and a transformers that it allows (`make bench-kvpress`). Results go to results/decoding_press.json after each
part; `--parts` and `--caches` leave what they don't name as it was measured before."""

import argparse
import contextlib
import json
import random
import time
from importlib import metadata

import torch
from kvpress import DecodingPress, SnapKVPress
from transformers import DynamicCache, StoppingCriteria

from facts import KINDS, fact
from harness import RESULTS, write
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.commands.models import load_model
from lzpenalty.hf import CompressedCache
from recall import PROMPT, fillers

TOKENS = 512  # of a text at whose end a fact is asked for
PARTS = ("speed", "recall")


def contestants(model, interval: int, target: int) -> dict:
    """A maker of (context, cache) for each."""

    def dynamic():
        return contextlib.nullcontext(), DynamicCache(config=model.config)

    def press():
        base = SnapKVPress(window_size=32)
        return DecodingPress(base, compression_interval=interval, target_size=target)(model), dynamic()[1]

    def ours(**options):
        def make():
            cache = CompressedCache(model, interval=interval, budget=target - PROMPT, **options)
            return cache, cache

        return make

    return {
        "DynamicCache": dynamic,
        "DecodingPress, SnapKV": press,
        "CompressedCache, snapkv": ours(selector="snapkv"),
        "CompressedCache, rpc": ours(selector="rpc"),
        "CompressedCache, echo": ours(selector="echo"),
    }


def held(cache) -> int:
    """Bytes of all keys and values."""
    if isinstance(cache, CompressedCache):
        return cache.stats()["bytes"]
    return sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))


class Watch(StoppingCriteria):
    """Never stops; the most bytes that the cache has held, seen every 32 steps, and when three quarters were written."""

    def __init__(self, cache, tokens: int):
        self.cache, self.late, self.steps, self.most = cache, tokens * 3 // 4, 0, 0

    def __call__(self, input_ids, scores, **kwargs):
        self.steps += 1
        if self.steps == self.late:
            self.since = time.perf_counter()
        if self.steps % 32 == 0:
            self.most = max(self.most, held(self.cache))
        return torch.zeros(len(input_ids), dtype=torch.bool)


def speed(model, makers: dict, batch: int, tokens: int, rounds: int) -> dict:
    """Tokens a second and megabytes for each contestant, in turns."""
    ids = torch.full((batch, PROMPT), 7)
    options = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=None)
    found = {name: {"tokens_per_second": [], "at_the_end": [], "megabytes": 0} for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            context, cache = make()
            watch = Watch(cache, tokens)
            with context:
                started = time.perf_counter()
                model.generate(ids, **{CACHE_ARGUMENT: cache}, stopping_criteria=[watch], **options)
            done, one = time.perf_counter(), found[name]
            one["tokens_per_second"].append(batch * tokens / (done - started))
            one["at_the_end"].append(batch * (tokens - watch.late) / (done - watch.since))
            one["megabytes"] = max(one["megabytes"], watch.most / 1e6)
            print(f"  batch {batch}, {name}: {one}", flush=True)
    return found


def stating(tokenizer, trials: int) -> tuple[torch.Tensor, list[int]]:
    """Texts [trials, TOKENS] that state a fact in the first half of what comes behind the prompt and end with its question
    and the answer, and the tokens of each answer."""
    pool, rows, answers = fillers(tokenizer, "report", TOKENS), [], []
    for number in range(trials):
        rng = random.Random(f"decoding {number}")
        one = fact("report", KINDS[number % len(KINDS)], rng)
        stated, question, answer = (
            tokenizer(said, add_special_tokens=False).input_ids for said in (one.stated, one.question, one.answer)
        )
        filler = pool[number % len(pool)]
        first = rng.randrange(len(filler) - TOKENS)
        filler = filler[first : first + TOKENS - len(stated) - len(question) - len(answer)]
        at = rng.randrange(PROMPT + 1, PROMPT + (TOKENS - PROMPT) // 2 - len(stated))
        rows.append(filler[:at] + stated + filler[at:] + question + answer)
        answers.append(len(answer))
    return torch.tensor(rows), answers


def known(model, make, texts: torch.Tensor, answers: list[int]) -> list[bool]:
    """Which rows' last tokens, the answer, are all the most likely ones."""
    context, cache = make()
    hits = []
    with torch.inference_mode(), context:
        for at in [slice(0, PROMPT), *(slice(i, i + 1) for i in range(PROMPT, texts.shape[1] - 1))]:
            logits = model(texts[:, at], **{CACHE_ARGUMENT: cache}, logits_to_keep=1).logits[:, -1]
            hits.append(logits.argmax(-1) == texts[:, at.stop])
    hits = torch.stack(hits, 1)
    return [bool(row[-answer:].all()) for row, answer in zip(hits, answers, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 1280), ("interval", 256), ("target", 512), ("facts", 24), ("rounds", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batches", type=int, nargs="*", default=[4])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--caches", help="some of the contestants, separated by semicolons")
    args = parser.parse_args()
    model, tokenizer = load_model()
    settings = {name: getattr(args, name) for name in ("tokens", "interval", "target", "facts")}
    settings = {"kvpress": metadata.version("kvpress"), "prompt": PROMPT, **settings}
    makers = contestants(model, args.interval, args.target)
    names = [*makers] if args.caches is None else args.caches.split(";")
    path = RESULTS / "decoding_press.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    same = all(before.get(name) == value for name, value in settings.items())
    results = {**settings, **{part: before[part] if same else {} for part in PARTS}}

    def save(part: str, key: str, found: dict) -> None:
        """One part's results, or one batch's, in the order of the contestants."""
        place = results[part].setdefault(key, {})
        place |= found
        results[part][key] = {name: place[name] for name in makers if name in place}
        write("decoding_press", results)

    if "speed" in args.parts:
        for batch in args.batches:
            save("speed", str(batch), speed(model, {name: makers[name] for name in names}, batch, args.tokens, args.rounds))
    if "recall" in args.parts:
        texts, answers = stating(tokenizer, args.facts)
        small = contestants(model, 64, 256)
        for name in names:
            found = known(model, small[name], texts, answers)
            by_kind = {kind: "".join(str(int(one)) for one in found[i :: len(KINDS)]) for i, kind in enumerate(KINDS)}
            save("recall", "asked at the end", {name: by_kind})
            print(f"  {name}: {sum(found)} of {len(found)} facts", flush=True)


if __name__ == "__main__":
    main()
