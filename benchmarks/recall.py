"""Does a model with a compressed cache still know what it knew?

    python benchmarks/recall.py [--model ID] [--half report] [--rows 8] [--rules echo,rpc] [--parts facts,text]

Every rule keeps as many keys and values as the others, at all times, and is held against the full cache. Four parts:

facts       Each interval of a text states one fact, of six kinds in turn. It is asked for at once and after 1, 2, 4 and 8
            compressions, and counts as known if each token of the answer is the most likely one. A kind comes again after
            six intervals, so that what is asked for after 8 compressions may have got another answer since: the full cache
            doesn't know it either, and it doesn't count.
text        Bits per token of 16 real texts, counted from the first compression on. The difference to the full cache is
            paired: the same tokens, with a 95% interval over texts.
passcode    The protocol of Random Attention (arXiv 2609.03430) at half its size: one passcode, 2,112 tokens before the
            question, 512 tokens and the newest 64 are kept. There it is 4,224 tokens, 1,024 and 64, and they are compressed
            each 64 tokens, here each 128.
generation  What the model writes on its own: does it repeat itself more?

In the first three parts what is generated is given: tokens are fed R = 32 at a time as if the model had written them, which
ends at each point where a compression is due and so leaves the cache as single tokens do. Whoever looks for a better rule
does it with `--half choose`, whose facts and texts have nothing in common with those of the other half. Results go to
results/recall.json (recall-choose.json; with the name of another model) after each piece; what is there already is not
measured again."""

import argparse
import contextlib
import copy
import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from corpus import prompts
from facts import AGES, HALVES, KINDS, difference, fact, shared, texts
from harness import RESULTS, write
from lzpenalty.analysis import find_loops, seq_rep, token_bits
from lzpenalty.cache import selectors
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.budgets import Budgets
from lzpenalty.cache.ragged import RaggedLayer
from lzpenalty.cache.selectors.base import attention
from lzpenalty.commands.models import load_model
from lzpenalty.hf import CompressedCache

PROMPT, RECENT, BATCH = 64, 32, 8
INTERVALS = 9
SETTINGS = {
    "P = 256, c = 4": dict(interval=256, ratio=4),
    "P = 128, c = 8": dict(interval=128, ratio=8),
    "P = 256, budget 288": dict(interval=256, ratio=4, budget=288),
}
PASSCODE = dict(interval=128, ratio=4, recent=64, budget=576)
BEFORE, BOX, BETWEEN = 224, 16, 2112  # tokens of text, with the passcode, and until its last digit is asked for
TEXT_TOKENS = 640
ANSWER_TOKENS = 384
FOUND_AMONG = 35  # rules and variants, by a simulator, before any that is reported here
CROWDED_AMONG = 45  # what heads could do that find more than fits, with Gemma 3 270M, before it was reported here
LIMITS = (0.5, 0.25, 0.15, 0.05)  # beside .1, which was chosen
PARTS = ("facts", "text", "passcode", "generation")


class Novelty(selectors.Selector):
    """What the sliding-window coder found new: the bits that it paid for a token when it came, the most of 7 neighbours,
    times the attention of the last R queries or alone."""

    def __init__(self, bits: torch.Tensor, times_attention: bool):
        self.bits = F.max_pool1d(bits, 7, 1, 3)
        self.times_attention, self.at, self.seen = times_attention, None, 0

    def score(self, layer):
        rows = layer.keys.shape[0]
        heads = layer.keys.shape[1] if self.times_attention else 1
        left = torch.empty(rows, heads, 0, dtype=torch.int64) if self.at is None else self.at
        new = torch.arange(self.seen, self.seen + layer.stop - layer.start - left.shape[2])
        self.at = torch.cat([left, new.expand(rows, heads, -1)], dim=2)
        self.seen += len(new)
        novelty = self.bits[:, None].expand(-1, heads, -1).gather(2, self.at)
        return novelty * attention(layer, aggregation="group") if self.times_attention else novelty

    def compacted(self, positions, region):
        self.at = self.at.gather(2, positions)


class EchoWithoutAgreement(selectors.Echo):
    """As it was before heads agreed; the variants below are of this."""

    agreed = selectors.Selector.agreed


class FoundAbove(EchoWithoutAgreement):
    """Echo with another share of attention above which an entry was found."""

    def __init__(self, found: float):
        super().__init__()
        self.certain = found


class EchoWithoutRivals(EchoWithoutAgreement):
    """As it was at first; so are the variants below."""

    certain = 0.5

    def __init__(self):
        super().__init__(rivals=0)


class EchoOf3(EchoWithoutRivals):
    """Echo by the largest evidence of a token and its two neighbours among those that are left."""

    def score(self, layer):
        return F.max_pool1d(super().score(layer), 3, 1, 1)


class EchoOf3AndBefore(EchoOf3):
    """A token also keeps the evidence of neighbours that have been dropped."""

    def score(self, layer):
        score = super().score(layer)
        layer.evidence[..., layer.start : layer.stop] = score
        return score


class EchoOfOthers(EchoWithoutRivals):
    """No query finds its own token: what is found must be what stood there before, or comes again."""

    def ask(self, track, queries, turned, behind):
        new = queries.shape[2]
        for cell in (cell for of_row in track.layer.cells(track) for cell in of_row):
            length = cell.length - behind
            products = cell.of_group(turned) @ cell.keys[:, :, :length].mT * cell.scale
            products[..., length - new :].diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
            evidence = cell.evidence[:, 0, :length]
            torch.maximum(evidence, products.softmax(-1).amax((1, 2)), out=evidence)


class EchoWithoutBound(EchoWithoutRivals):
    """A .99 counts for more than a .98, whatever there is of both."""

    certain = math.inf


class FirstBudgets(Budgets):
    """What the first compression gave each head of a row is what it gets for every interval."""

    first = None

    def of_rows(self, scores, keep):
        if self.first is None:
            self.first = super().of_rows(scores, keep), keep
        budgets, at_first = self.first
        assert keep % at_first == 0
        return [[budget * keep // at_first for budget in of_row] for of_row in budgets]


def novelty(ids: torch.Tensor, vocab: int, times_attention: bool) -> Novelty:
    bits = torch.stack([torch.tensor(token_bits(row.tolist(), vocab), dtype=torch.float32) for row in ids])
    return Novelty(bits[:, PROMPT:], times_attention)


def named(name: str, **options):
    return lambda ids, vocab: dict(selector=name, **options)


RULES = {
    "full cache": None,
    "echo": named("echo"),
    "echo without agreement": lambda ids, vocab: dict(selector=EchoWithoutAgreement()),
    "echo of 3": lambda ids, vocab: dict(selector=EchoOf3()),
    "echo of 3 and before": lambda ids, vocab: dict(selector=EchoOf3AndBefore()),
    "echo of others": lambda ids, vocab: dict(selector=EchoOfOthers()),
    "echo without rivals": lambda ids, vocab: dict(selector=EchoWithoutRivals()),
    "echo without bound": lambda ids, vocab: dict(selector=EchoWithoutBound()),
    **{f"echo found above {found}": lambda ids, vocab, found=found: dict(selector=FoundAbove(found)) for found in LIMITS},
    "echo even": lambda ids, vocab: dict(selector=EchoWithoutRivals(), allocation="even"),
    "echo by first budgets": lambda ids, vocab: dict(selector=EchoWithoutRivals(), budgets=FirstBudgets),
    "rpc": named("rpc"),
    "rkv": named("rkv"),
    "rkv .5": lambda ids, vocab: dict(selector=selectors.RKV(0.5)),
    "keydiff": named("keydiff"),
    "random": named("random"),
    "vase": named("vase"),
    "snapkv": named("snapkv"),
    "snapkv global": named("snapkv", allocation="global"),
    "expected": named("expected"),
    "lagkv": named("lagkv"),
    "h2o": named("h2o"),
    "tova": named("tova"),
    "streaming": named("streaming"),
    "lz": lambda ids, vocab: dict(selector=novelty(ids, vocab, False)),
    "lz x attention": lambda ids, vocab: dict(selector=novelty(ids, vocab, True)),
}


# Feeding.


def open_cache(model, ids: torch.Tensor, rule: str, setting: dict):
    if RULES[rule] is None:
        return DynamicCache(config=model.config)
    options = {"recent": RECENT, **setting, **RULES[rule](ids, model.config.get_text_config().vocab_size)}
    budgets = options.pop("budgets", None)
    cache = CompressedCache(model, **options)
    if budgets:
        next(layer for layer in cache.layers if isinstance(layer, RaggedLayer)).budgets.__class__ = budgets
    return cache


def watching(cache):
    return cache if isinstance(cache, CompressedCache) else contextlib.nullcontext()


def sizes(tokens: int, recent: int = RECENT) -> list[int]:
    """Of the pieces that a text is fed in: the prompt, the single token that says that it has ended, and then so that each
    piece ends at a multiple of R generated tokens."""
    rest = tokens - PROMPT - recent
    return [PROMPT, 1, recent - 1, *[recent] * (rest // recent), *([rest % recent] if rest % recent else [])]


def sizes_to_questions(interval: int) -> list[int]:
    """Larger pieces, from question to question, for a cache that copies all that it has with each piece."""
    return [PROMPT, 1, RECENT - 1, *[interval - RECENT, RECENT] * INTERVALS]


def ask(model, cache, tails: torch.Tensor, answers: list[int]) -> list[bool]:
    """Whether each row's tail ends as the model would end it; the cache stays as it is."""
    longest = max(answers)
    croppable = not isinstance(cache, CompressedCache) and not any(cache.is_sliding)
    twin = cache if croppable else copy.deepcopy(cache)
    with watching(twin):
        logits = model(tails, **{CACHE_ARGUMENT: twin}, logits_to_keep=longest + 1).logits
    hits = logits[:, :-1].argmax(-1) == tails[:, -longest:]
    if twin is cache:
        cache.crop(-tails.shape[1])
    return [bool(row[longest - answer :].all()) for row, answer in zip(hits, answers, strict=True)]


# Facts.


class Row:
    """A text that states a fact in each interval, at a random place of it, and the questions."""

    def __init__(self, tokenizer, half: str, filler: list[int], interval: int, number: int):
        rng = random.Random(f"{half} {interval} {number}")
        self.facts = [fact(half, KINDS[(number + i) % len(KINDS)], rng) for i in range(INTERVALS)]
        start = rng.randrange(len(filler) - PROMPT - INTERVALS * interval - 3 * RECENT)
        filler = iter(filler[start:])
        self.ids = [next(filler) for _ in range(PROMPT)]
        for one in self.facts:
            stated = tokenizer(one.stated, add_special_tokens=False).input_ids
            before = rng.randrange(interval - len(stated) + 1)
            self.ids += [next(filler) for _ in range(before)]
            self.ids += stated
            self.ids += [next(filler) for _ in range(interval - len(stated) - before)]
        self.ids += [next(filler) for _ in range(2 * RECENT)]
        self.questions = [tokenizer(one.question, add_special_tokens=False).input_ids for one in self.facts]
        self.answers = [tokenizer(one.answer, add_special_tokens=False).input_ids for one in self.facts]


def fillers(tokenizer, half: str, tokens: int) -> list[list[int]]:
    """Texts that are long enough to state facts in, of all sorts in turn."""
    of_sort = [
        [ids for text in several if len(ids := tokenizer(text, add_special_tokens=False).input_ids) > tokens + 100]
        for sort, several in texts(half).items()
        if sort != "dialogue"
    ]
    return [long[i % len(long)] for i in range(4) for long in of_sort if long]


def facts(model, tokenizer, half: str, rule: str, setting: dict, batch: int) -> dict[str, str]:
    """{"kind age": a 1 or 0 for each fact of that kind that was asked for at that age}."""
    interval = setting["interval"]
    end = INTERVALS * interval + RECENT
    pool = fillers(tokenizer, half, PROMPT + end + 2 * RECENT)
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    rows = [Row(tokenizer, half, pool[n % len(pool)], interval, n) for n in numbers]
    ids = torch.tensor([row.ids for row in rows])
    cache, fed, known = open_cache(model, ids, rule, setting), 0, {}
    with torch.inference_mode(), watching(cache):
        for size in sizes(PROMPT + end) if isinstance(cache, CompressedCache) else sizes_to_questions(interval):
            model(ids[:, fed : fed + size], **{CACHE_ARGUMENT: cache}, logits_to_keep=1)
            fed += size
            generated = fed - PROMPT
            due = [(generated // interval - 1, 0)] if generated and generated % interval == 0 else []
            if generated > interval and generated % interval == RECENT:
                done = generated // interval  # compressions
                due += [(done - age, age) for age in AGES[1:] if age <= done]
            for which, age in due:
                longest = max(len(row.questions[which] + row.answers[which]) for row in rows)
                tails = [row.questions[which] + row.answers[which] for row in rows]
                # The text goes on until the question comes, so that all rows are of one length.
                tails = [row.ids[fed : fed + longest - len(tail)] + tail for row, tail in zip(rows, tails, strict=True)]
                found = ask(model, cache, torch.tensor(tails), [len(row.answers[which]) for row in rows])
                for number, one in zip(numbers, found, strict=True):
                    key = f"{KINDS[(number + which) % len(KINDS)]} {age}"
                    known[key] = known.get(key, "") + str(int(one))
    return known


# Text.


def text(model, tokenizer, half: str, rule: str, setting: dict) -> dict[str, float]:
    """Bits per token of each text after the first compression."""
    pieces = {
        f"{sort} {i + 1}": tokenizer(one, add_special_tokens=False).input_ids[:TEXT_TOKENS]
        for sort, several in texts(half).items()
        for i, one in enumerate(several)
    }
    assert {len(piece) for piece in pieces.values()} == {TEXT_TOKENS}
    bits = {}
    for names in [[*pieces][i : i + BATCH] for i in range(0, len(pieces), BATCH)]:
        ids = torch.tensor([pieces[name] for name in names])
        read = bits_of(model, ids, open_cache(model, ids, rule, setting))[:, PROMPT + setting["interval"] + RECENT :]
        bits |= dict(zip(names, read.mean(1).tolist(), strict=True))
    return bits


def bits_of(model, ids: torch.Tensor, cache) -> torch.Tensor:
    """[B, T - 1], of each token but the first."""
    bits, fed = [], 0
    with torch.inference_mode(), watching(cache):
        for size in sizes(ids.shape[1]):
            logits = model(ids[:, fed : fed + size], **{CACHE_ARGUMENT: cache}).logits.float()
            targets = ids[:, fed + 1 : fed + 1 + size]
            logits = logits[:, : targets.shape[1]]
            bits.append(F.cross_entropy(logits.transpose(1, 2), targets, reduction="none") / math.log(2))
            fed += size
    return torch.cat(bits, dim=1)


# Random Attention's passcode.


def passcode(model, tokenizer, half: str, rule: str, setting: dict, batch: int) -> str:
    """A 1 or 0 for each row."""
    length = BEFORE + BOX + BETWEEN
    pool = fillers(tokenizer, half, PROMPT + length)
    rows, answers = [], []
    for number in range(batch * BATCH, (batch + 1) * BATCH):
        rng = random.Random(f"{half} passcode {number}")
        code = f"{rng.randrange(5000, 10_000)}"
        stated, question, answer = (
            tokenizer(said, add_special_tokens=False).input_ids
            for said in (
                f"\nIMPORTANT: the passcode is {code}. Remember it.\n",
                "\nWhat was the passcode again? The passcode is",
                f" {code}",
            )
        )
        filler = pool[number % len(pool)]
        start = rng.randrange(len(filler) - PROMPT - length)
        filler = iter(filler[start:])
        row = [next(filler) for _ in range(PROMPT + BEFORE)] + stated
        row += [next(filler) for _ in range(BOX - len(stated) + BETWEEN - len(question) - len(answer))] + question + answer
        rows.append(row)
        answers.append(len(answer))
    ids = torch.tensor(rows)
    cache, fed, tail = open_cache(model, ids, rule, setting), 0, max(answers) + 1
    with torch.inference_mode(), watching(cache):
        for size in sizes(ids.shape[1] - tail, setting["recent"]):
            model(ids[:, fed : fed + size], **{CACHE_ARGUMENT: cache}, logits_to_keep=1)
            fed += size
        return "".join(str(int(one)) for one in ask(model, cache, ids[:, fed:], answers))


# Generation.


def generation(model, tokenizer, half: str, rule: str, setting: dict, greedy: bool) -> list[dict]:
    """Of each answer its seq-rep-4, and whether it ends in a loop: three turns and 48 tokens at least."""
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts(half)[:BATCH]]
    asked = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in asked]
    inputs = tokenizer(asked, return_tensors="pt", padding=True, add_special_tokens=False)
    cache = open_cache(model, inputs.input_ids, rule, setting)
    torch.manual_seed(0)
    how = dict(do_sample=False) if greedy else dict(do_sample=True, temperature=0.6, top_p=0.95, top_k=0)
    with watching(cache):
        out = model.generate(**inputs, **how, max_new_tokens=ANSWER_TOKENS, **{CACHE_ARGUMENT: cache})
    found = []
    for answer in out[:, inputs.input_ids.shape[1] :].tolist():
        if tokenizer.eos_token_id in answer:
            answer = answer[: answer.index(tokenizer.eos_token_id)]
        loops = find_loops(answer, min_repeats=3)
        last = [loop for loop in loops if loop["start"] + loop["length"] == len(answer) and loop["length"] >= 48]
        found.append({"tokens": len(answer), "seq_rep_4": seq_rep(answer, 4), "loop": bool(last)})
    return found


# All of it.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--half", choices=HALVES, default="report")
    parser.add_argument("--rows", type=int, default=BATCH, help="texts with facts, and passcodes")
    parser.add_argument("--rules", help=f"of {', '.join(RULES)}")
    parser.add_argument("--settings", help=f"of {'; '.join(SETTINGS)}, separated by semicolons")
    parser.add_argument("--parts", default=",".join(PARTS))
    args = parser.parse_args()
    rules = [*RULES] if args.rules is None else args.rules.split(",")
    wanted = [*SETTINGS] if args.settings is None else args.settings.split("; ")
    parts = args.parts.split(",")
    for given, known in ((rules, RULES), (wanted, SETTINGS), (parts, PARTS)):
        if unknown := set(given) - set(known):
            parser.error(f"expected some of {', '.join(known)}, got {', '.join(unknown)}")

    name = "recall" if args.half == "report" else f"recall-{args.half}"
    if args.model:
        name += f"-{Path(args.model).name.removesuffix('.gguf')}"
    called = Path(args.model).name if args.model and Path(args.model).exists() else args.model
    about = {"model": called or "SmolLM2-135M-Instruct", "half": args.half, "recent": RECENT}
    compared = {
        "reported here": len(RULES) - 1,
        "to find echo, on the other half": FOUND_AMONG,
        "to find what crowded heads do, on the other half, with gemma-3-270m": CROWDED_AMONG,
    }
    path = RESULTS / f"{name}.json"

    def so_far() -> dict:
        """Read anew each time: others may be measuring other pieces."""
        before = json.loads(path.read_text()) if path.exists() else {}
        same = all(before.get(key) == value for key, value in about.items())
        return {**about, "rules": compared, **{part: before[part] if same else {} for part in PARTS}}

    model, tokenizer = load_model(args.model)

    def piece(part: str, setting: str, rule: str, key: str, measure, *options) -> None:
        """Measures it, unless it is there. What the full cache does depends on the interval alone."""
        results = so_far()[part]
        if key in results.get(setting, {}).get(rule, {}):
            return
        alike = [one for one in results if rule == "full cache" and one.split(", ")[0] == setting.split(", ")[0]]
        found = next((results[one][rule][key] for one in alike if key in results[one].get(rule, {})), None)
        if found is None:
            found = measure(model, tokenizer, args.half, rule, *options)
        results = so_far()
        by_rule = results[part].setdefault(setting, {})
        by_rule.setdefault(rule, {})[key] = found
        results[part][setting] = {one: by_rule[one] for one in RULES if one in by_rule}
        write(name, results)
        print(f"{part}, {setting}, {rule}, {key}: {found}", flush=True)

    for batch in range(-(-args.rows // BATCH)):
        for title in wanted:
            for rule in rules:
                if "facts" in parts:
                    piece("facts", title, rule, f"batch {batch}", facts, SETTINGS[title], batch)
                if "text" in parts and batch == 0 and "budget" not in title:
                    piece("text", title, rule, "bits", text, SETTINGS[title])
        for rule in rules:
            if "passcode" in parts:
                piece("passcode", "K = 512 + 64", rule, f"batch {batch}", passcode, PASSCODE, batch)
            if "generation" in parts and batch == 0:
                for how in ("greedy", "sampled"):
                    piece(
                        "generation", "P = 128, c = 4", rule, how, generation, dict(interval=128, ratio=4), how == "greedy"
                    )
    print(summary(so_far()))


def summary(results: dict) -> str:
    """What is known of what the full cache knows, and the bits, in words."""
    lines = []
    for setting, by_rule in results["facts"].items():
        for rule in by_rule if "full cache" in by_rule else ():
            shares = {age: shared(by_rule["full cache"], by_rule[rule], age=age) for age in AGES}
            lines.append(f"{setting}, {rule}: " + ", ".join(f"after {age}: {a} of {b}" for age, (a, b) in shares.items()))
    for setting, by_rule in results["text"].items():
        for rule in by_rule if "full cache" in by_rule else ():
            worse, spread = difference(by_rule["full cache"]["bits"], by_rule[rule]["bits"])
            lines.append(f"{setting}, {rule}: {worse:+.3f} +- {spread:.3f} bits")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
