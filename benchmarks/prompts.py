"""What is left of a document that was read once, in one pass, before anybody asked?

    python benchmarks/prompts.py [--model ID] [--half report] [--contexts 16] [--tokens 1572,4132,7972] [--ratios 2,4,8,16]
                                 [--rules echo,rpc] [--parts facts,bits] [--task facts]

A document is real text that states six facts, one of each kind of recall.py, in an order and at places of chance, none in
its last 96 tokens. It is read with `CompressedCache(protect=4)`: the first 4 tokens stay, the newest 32, and 1 / ratio of
the rest. It ends where a compression is due. All rules keep the same number of keys and values, and are held against the
full cache on the same document.

facts   Each is asked for once, of a copy, by the beginning of its sentence, and counts as known if each token of the answer
        is the most likely one. Those that the full cache doesn't know don't count. Documents are the unit: intervals are of
        the paired differences between them.
bits    Per token of the 128 tokens that follow, the paired difference to the full cache.
        With `--task single` and others: what a chat's reply to questions holds, in documents of ruler.py.
seconds CPU time of reading, in pieces that end where compressions are due. `spent` is how many times what the full cache
        took for the same pieces in the same run.
peak    The most entries that a head held meanwhile, on average.

Rules are chosen with `--half choose`, whose facts and texts have nothing in common with those of the other half. Results go
to results/prompts.json (prompts-choose.json; with the name of another model) after each piece; what is there is not
measured again. With kvpress installed (`make bench-kvpress`) its presses are rules as well: they see the whole document at
once, and keep as many entries of it. Their results are in prompts-kvpress.json."""

import argparse
import copy
import functools
import json
import math
import random
import time
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from transformers import DynamicCache

import ruler
from facts import HALVES, KINDS, fact, known_of
from harness import RESULTS, with_model, write
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.plan import Plan
from lzpenalty.commands.models import load_model
from lzpenalty.hf import CompressedCache
from recall import EchoWithoutAgreement, fillers, watching

PROTECT, RECENT, INTERVAL = 4, 32, 256
LAST, NEXT = 96, 128  # tokens that state nothing at the end, and that follow it


def named(name: str, **options):
    return lambda: dict(selector=name, **options)


RULES = {
    "full cache": None,
    "echo": named("echo"),
    "echo without agreement": lambda: dict(selector=EchoWithoutAgreement()),
    "echo without rivals": lambda: dict(selector=EchoWithoutAgreement(rivals=0)),
    "echo with 64 rivals": lambda: dict(selector=EchoWithoutAgreement(rivals=64)),
    "echo with all rivals": lambda: dict(selector=EchoWithoutAgreement(rivals=1 << 30)),
    "rpc": named("rpc"),
    "snapkv": named("snapkv"),
    "snapkv global": named("snapkv", allocation="global"),
    "keydiff": named("keydiff"),
    "expected": named("expected"),
    "lagkv": named("lagkv"),
    "streaming": named("streaming"),
    "random": named("random"),
}
# Of kvpress: what makes each, of the share that goes.
PRESSES = {
    "kvpress SnapKV": lambda kvpress, gone: kvpress.SnapKVPress(gone),
    "kvpress ExpectedAttention": lambda kvpress, gone: kvpress.ExpectedAttentionPress(gone),
    "kvpress AdaKV": lambda kvpress, gone: kvpress.AdaKVPress(kvpress.ExpectedAttentionPress(gone, epsilon=1e-2)),
    "kvpress KeyDiff": lambda kvpress, gone: kvpress.KeyDiffPress(gone),
    "kvpress Compactor": lambda kvpress, gone: kvpress.CompactorPress(gone),
    "kvpress KVzip": lambda kvpress, gone: kvpress.KVzipPress(gone),
}


# Documents.


class Document:
    """`ids` of so many tokens, what follows, and of each fact its kind, the question and the answer."""

    def __init__(self, tokenizer, half: str, filler: list[int], tokens: int, number: int):
        rng = random.Random(f"prompts {half} {tokens} {number}")

        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False).input_ids

        self.kinds = rng.sample(KINDS, len(KINDS))
        facts = [fact(half, kind, rng) for kind in self.kinds]
        stated = [encode(one.stated) for one in facts]
        self.asked = [(encode(one.question), encode(one.answer)) for one in facts]
        text = tokens - sum(map(len, stated))
        start = rng.randrange(len(filler) - text - NEXT)
        self.next = filler[start + text : start + text + NEXT]
        self.ids = scattered(stated, filler[start : start + text], rng)


def scattered(stated: list[list[int]], filler: list[int], rng: random.Random) -> list[int]:
    """The filler with what is stated, in this order, at places of chance of which none is among the last."""
    ids, before = [], 0
    for at, said in zip(sorted(rng.sample(range(16, len(filler) - LAST), len(stated))), stated, strict=True):
        ids += filler[before:at] + said
        before = at
    return ids + filler[before:]


class Message:
    """`ids` of so many tokens, which begin a chat in which a task of ruler.py is stated, what is `asked` later, and what
    each reply should hold."""

    def __init__(self, tokenizer, half: str, filler: list[int], tokens: int, number: int, task: str):
        rng = random.Random(f"{task} {half} {tokens} {number}")

        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False).input_ids

        made, (before, behind) = ruler.Task(task, half, rng), ruler.chat(tokenizer)
        self.limit, self.decode = ruler.LIMITS[task], tokenizer.decode
        self.asked = [
            (encode(f"\n\n{question}{behind}{begins}"), [f"{each}" for each in answers])
            for question, begins, answers in made.asked
        ]
        self.ids = encode(before + "".join(made.whole))[:tokens]
        if not made.whole:
            stated = [encode(one) for one in made.stated]
            text = tokens - len(self.ids) - sum(map(len, stated))
            start = rng.randrange(len(filler) - text)
            self.ids += scattered(stated, filler[start : start + text], rng)
        assert len(self.ids) == tokens


def documents(tokenizer, half: str, tokens: int, count: int, task: str = "facts") -> list:
    pool = fillers(tokenizer, half, tokens + NEXT)
    made = Document if task == "facts" else functools.partial(Message, task=task)
    return [made(tokenizer, half, pool[number % len(pool)], tokens, number) for number in range(count)]


# Reading and asking.


def open_cache(model, rule: str, ratio: int):
    if RULES[rule] is None:
        return DynamicCache(config=model.config)
    return CompressedCache(model, INTERVAL, ratio, RECENT, protect=PROTECT, **RULES[rule]())


def read(model, rule: str, ratio: int, ids: torch.Tensor):
    """The cache that has read ids [1, n], its CPU seconds, and the most entries of a head meanwhile, on average."""
    cache, peak, begins = open_cache(model, rule, ratio), ids.shape[1], time.process_time()
    if isinstance(cache, CompressedCache):
        held = _Held(cache)
        with held:
            cache.read(ids)
        peak = held.most
    else:
        with torch.inference_mode():
            for piece in ids.split(_sizes(ids.shape[1]), dim=1):
                model(piece, **{CACHE_ARGUMENT: cache}, logits_to_keep=1)
    return cache, time.process_time() - begins, peak


def _sizes(tokens: int) -> list[int]:
    """Of the pieces in which `CompressedCache.read` feeds a text."""
    first = min(tokens, PROTECT + RECENT + INTERVAL)
    rest = tokens - first
    return [first, *[INTERVAL] * (rest // INTERVAL), *([rest % INTERVAL] if rest % INTERVAL else [])]


class _Held:
    """Watches how many entries a head has when attention is computed: before anything is dropped."""

    def __init__(self, cache):
        self.cache, self.most, self.begins = cache, 0, cache.begins

    def __enter__(self):
        first = self.cache._own[0]

        def begins(layer, new):
            self.begins(layer, new)
            if layer == first.index:
                self.most = max(self.most, (first.length if first.seen else 0) + new)

        self.cache.begins = begins
        return self

    def __exit__(self, *exception):
        del self.cache.begins


def ask(model, cache, document: Document) -> dict[str, str]:
    """{kind: 1 or 0}: whether each answer is what a copy of the cache says."""
    known = {}
    for kind, (question, answer) in zip(document.kinds, document.asked, strict=True):
        hits = (logits_of(model, cache, document, question + answer).argmax(-1))[-len(answer) :]
        known[kind] = str(int(hits.tolist() == answer))
    return known


def replies(model, cache, message: Message) -> dict[str, str]:
    """{answer: 1 or 0}: which answers the model's greedy replies hold, each to a copy of the cache."""
    found = {}
    for number, (question, answers) in enumerate(message.asked):
        said = message.decode(reply(model, cache, len(message.ids), question, message.limit))
        found |= {f"{number}.{which}": str(int(answer in said)) for which, answer in enumerate(answers)}
    return found


def reply(model, cache, begins: int, question: list[int], limit: int) -> list[int]:
    """So many tokens that the model says to a question, which comes behind so many tokens. Positions are given, as in
    logits_of."""
    twin, said, ids, at = copy.deepcopy(cache), [], torch.tensor([question]), begins
    with torch.inference_mode(), watching(twin):
        for _ in range(limit):
            positions = torch.arange(at, at + ids.shape[1])[None]
            logits = model(ids, position_ids=positions, **{CACHE_ARGUMENT: twin}, logits_to_keep=1).logits
            at += ids.shape[1]
            ids = logits[:, -1:].argmax(-1)
            said.append(int(ids))
    return said


def bits_of_next(model, cache, document: Document) -> float:
    """Bits per token of what follows, but for its first token."""
    logits = logits_of(model, cache, document, document.next)
    return float(F.cross_entropy(logits, torch.tensor(document.next[1:]))) / math.log(2)


def logits_of(model, cache, document: Document, tokens: list[int]) -> torch.Tensor:
    """What a copy of the cache says behind each of the tokens but the last, float32 [n - 1, V]. A press leaves no trace of
    how many tokens there were, so positions are given."""
    ids, twin = torch.tensor([tokens[:-1]]), copy.deepcopy(cache)
    positions = torch.arange(len(document.ids), len(document.ids) + ids.shape[1])[None]
    with torch.inference_mode(), watching(twin):
        return model(ids, position_ids=positions, **{CACHE_ARGUMENT: twin}).logits[0].float()


# kvpress, in an environment of its own.


def pressed(model, press: str, ratio: int, ids: torch.Tensor):
    """As `read`, by a press that sees the whole document and keeps as many of its entries as the others."""
    import kvpress
    from kvpress.presses import kvzip_press

    kvzip_press.AutoTokenizer = _Tokenizers  # KVzip looks for the tokenizer where the model's file is
    n = ids.shape[1]
    gone, cache, begins = 1 - kept_of(n, ratio) / n, DynamicCache(), time.process_time()
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None  # what presses with budgets by head leave
    with torch.inference_mode(), PRESSES[press](kvpress, gone)(model):
        model.model(input_ids=ids, **{CACHE_ARGUMENT: cache})
    return cache, time.process_time() - begins, n


class _Tokenizers:
    """The tokenizer of the model, wherever that came from. Documents are raw text: no chat comes before them."""

    tokenizer = None

    @classmethod
    def from_pretrained(cls, name):
        return cls.tokenizer


def kept_of(tokens: int, ratio: int) -> int:
    """Entries that a head keeps of a document, on average: what is left behind the last compression is kept as well."""
    plan = Plan(INTERVAL, ratio, RECENT)
    return tokens - plan.dropped(tokens - PROTECT)


# All of it.


def measure(model, document, rule: str, ratio: int, parts: list[str]) -> dict:
    ids = torch.tensor([document.ids])
    reading = pressed(model, rule, ratio, ids) if rule in PRESSES else read(model, rule, ratio, ids)
    cache, seconds, peak = reading
    found = {
        "kept": ids.shape[1] if RULES.get(rule, rule) is None else kept_of(ids.shape[1], ratio),
        "peak": peak,
        "seconds": round(seconds, 3),
    }
    if isinstance(document, Message):
        found["facts"] = replies(model, cache, document)
        return found
    if "facts" in parts:
        found["facts"] = ask(model, cache, document)
    if "bits" in parts:
        found["bits"] = bits_of_next(model, cache, document)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--half", choices=HALVES, default="report")
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--tokens", default="1572,4132,7972")
    parser.add_argument("--ratios", default="2,4,8,16")
    parser.add_argument("--rules", help=f"of {', '.join([*RULES, *PRESSES])}")
    parser.add_argument("--parts", default="facts,bits")
    parser.add_argument("--task", choices=("facts", *ruler.TASKS), default="facts")
    args = parser.parse_args()
    every = [*RULES, *(PRESSES if find_spec("kvpress") else ())]
    rules, parts = args.rules.split(",") if args.rules else [*RULES], args.parts.split(",")
    parts = parts if args.task == "facts" else ["facts"]
    if unknown := set(rules) - set(every):
        parser.error(f"expected some of {', '.join(every)}, got {', '.join(unknown)}")
    if unknown := set(parts) - {"facts", "bits"}:
        parser.error(f"expected some of facts, bits, got {', '.join(unknown)}")

    name = "prompts-kvpress" if {*rules} & {*PRESSES} else "prompts"
    name, called = with_model(name if args.half == "report" else f"{name}-{args.half}", args.model)
    about = {
        "model": called, "half": args.half, "protect": PROTECT, "recent": RECENT, "interval": INTERVAL,
        "compared": len(RULES) - 1,
    }  # fmt: skip
    path = RESULTS / f"{name}.json"
    model, tokenizer = load_model(args.model)
    _Tokenizers.tokenizer = copy.deepcopy(tokenizer)
    _Tokenizers.tokenizer.chat_template = None

    def so_far() -> dict:
        """Read anew each time: others may be measuring other pieces."""
        before = json.loads(path.read_text()) if path.exists() else {}
        same = all(before.get(key) == value for key, value in about.items() if key != "compared")
        return {**about, "documents": before["documents"] if same else {}}

    for tokens in map(int, args.tokens.split(",")):
        cell = str(tokens) if args.task == "facts" else f"{tokens}, {args.task}"
        for number, document in enumerate(documents(tokenizer, args.half, tokens, args.contexts, args.task)):
            plain = None  # seconds of the full cache, beside which others are clocked
            for ratio in map(int, args.ratios.split(",")):
                for rule in ("full cache", *(rule for rule in rules if rule != "full cache")):
                    title = "full cache" if rule == "full cache" else f"{rule}, 1/{ratio}"
                    results = so_far()
                    there = results["documents"].get(cell, {}).get(title, {}).get(str(number), {})
                    if {*parts} <= {*there}:
                        continue
                    if rule != "full cache" and plain is None:
                        plain = read(model, "full cache", ratio, torch.tensor([document.ids]))[1]
                    found = measure(model, document, rule, ratio, parts)
                    if rule == "full cache":
                        plain = found["seconds"]
                    else:
                        found["spent"] = round(found["seconds"] / plain, 3)
                    results = so_far()
                    place = results["documents"].setdefault(cell, {}).setdefault(title, {})
                    place[str(number)] = {**there, **found}
                    write(name, results)
                    print(f"{cell} tokens, {title}, document {number}: {found}", flush=True)
    print(summary(so_far()))


def summary(results: dict) -> str:
    lines = []
    for tokens, by_rule in results["documents"].items():
        full = by_rule.get("full cache", {})
        for rule, found in by_rule.items():
            known, of = known_of(full, found)
            lines.append(f"{tokens} tokens, {rule}: {known} of {of} facts")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
