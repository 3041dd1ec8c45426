"""How fast is the LZ penalty?

    python benchmarks/lz.py [--quick | --presets | --sections | --processor]

Side by side in one process: lz_penalize_ in place, the transformers processor with its copy of the scores, transformers'
own RepetitionPenaltyLogitsProcessor on the same input, and the dense PyTorch formula. Texts: random ids, real prose
(Python's own manual), and a loop of one token, the worst case for matching. Writes results/lz.json.

--presets does another thing, and that alone: a row under each preset beside the default's and transformers' repetition
penalty, at each batch size. It writes results/lz-presets.json.

--sections, alone too: what it adds to a row that a section is looked for in all of a long text, at each level of
instructions. It writes results/lz-sections.json.

--processor, alone too: what transformers' processor takes beside lz_penalize_ on the same input, in place, where `generate`
calls it and outside of that. It prints a line for each length of text."""

import argparse
import pydoc_data.topics
import re
import statistics
import time
import zlib
from functools import partial
from itertools import product

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from dense import dense_penalize
from harness import median_ratio, side_by_side, write
from lzpenalty import LZOptions, _core, codelength_deltas, loop_evidence, lz_penalize_
from lzpenalty.hf import LZPenaltyLogitsProcessor
from lzpenalty.presets import PRESETS, resolve

VOCABULARIES = (32_000, 128_256, 151_936, 262_144)
WINDOWS = (128, 512, 4096)
BATCHES = (1, 8, 64, 256)
BUFFER = 32


def prose(vocab: int, size: int) -> torch.Tensor:
    """Words, spaces and signs of real English as ids spread over the vocabulary."""
    text = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    words = re.findall(r" ?\w+| ?[^\w\s]|\n+", text)[:size]
    return torch.tensor([zlib.crc32(word.encode()) % vocab for word in words])


def make_tokens(text: str, batch: int, length: int, vocab: int) -> torch.Tensor:
    torch.manual_seed(0)
    if text == "random":
        return torch.randint(0, vocab, (batch, length))
    if text == "loop":
        return torch.full((batch, length), 7)
    source = prose(vocab, 60_000)
    starts = torch.linspace(0, len(source) - length - 1, batch).long()
    return torch.stack([source[start : start + length] for start in starts])


def grid(rounds: int, vocabularies, windows, batches) -> list[dict]:
    rows = []
    repetition = RepetitionPenaltyLogitsProcessor(1.1)
    for vocab in vocabularies:
        for batch in batches:
            logits = torch.randn(batch, vocab)
            for window in windows:
                processor = LZPenaltyLogitsProcessor(window=window, buffer=BUFFER, prompt_length=0)
                for text in ("random", "prose", "loop"):
                    tokens = make_tokens(text, batch, window + BUFFER, vocab)
                    times = side_by_side(
                        {
                            "in place": lambda: lz_penalize_(logits, tokens, window=window, buffer=BUFFER),
                            "processor": lambda: processor(tokens, logits),
                            "repetition": lambda: repetition(tokens, logits),
                        },
                        rounds,
                    )
                    row = dict(vocab=vocab, window=window, batch=batch, text=text)
                    row["us_per_row"] = round(statistics.median(times["in place"]) / batch * 1e6, 2)
                    row["repetition_over_in_place"] = round(median_ratio(times["repetition"], times["in place"]), 1)
                    row["repetition_over_processor"] = round(median_ratio(times["repetition"], times["processor"]), 2)
                    rows.append(row)
                    print(row, flush=True)
    return rows


def presets(rounds: int) -> list[dict]:
    """A row of each preset against the default's, and transformers' repetition penalty against it. In place; and by the
    processor, which copies the scores, as the repetition penalty does."""
    rows = []
    vocab, window, close = 151_936, 512, [1]
    repetition = RepetitionPenaltyLogitsProcessor(1.1)
    named = {
        "gentle": resolve("gentle", {}),
        "reasoning": resolve("reasoning", {"release": close}),
        "paper, gate and release": resolve("paper", {"gate": (20, 28), "release": close}),
    }
    for batch in BATCHES:
        logits, starts = torch.randn(batch, vocab), torch.zeros(batch, dtype=torch.int64)
        for text in ("random", "prose", "loop"):
            tokens = make_tokens(text, batch, window + BUFFER, vocab)
            functions = {
                "paper": partial(lz_penalize_, logits, tokens, starts=starts),
                "repetition": partial(repetition, tokens, logits),
            }
            for name, options in named.items():
                functions[name] = partial(lz_penalize_, logits, tokens, options, starts=starts)
            for name in ("paper", "reasoning"):
                processor = LZPenaltyLogitsProcessor(named.get(name), prompt_length=0)
                functions[f"{name}, the processor"] = partial(processor, tokens, logits)
            times = side_by_side(functions, 4 * rounds)
            for name in (*named, "reasoning, the processor"):
                paper = "paper, the processor" if name.endswith("processor") else "paper"
                row = dict(preset=name, batch=batch, text=text)
                row["us_per_row"] = round(statistics.median(times[name]) / batch * 1e6, 2)
                row["preset_over_paper"] = round(median_ratio(times[name], times[paper]), 2)
                row["repetition_over_preset"] = round(median_ratio(times["repetition"], times[name]), 2)
                rows.append(row)
                print(row, flush=True)
    return rows


def sections(rounds: int) -> list[dict]:
    """What marks add to a row of 32,768 tokens, of which all are looked at: the mark that opens stands before the answer, or
    nowhere. The ids are those of Qwen3. The fastest rounds count."""
    vocab, length, rows = 151_936, 32_768, []
    gentle = PRESETS["gentle"].keywords()
    thinking = {"open": [151_667], "release": [151_668]}
    cases = {"open, release": thinking, "open, release, skip, resume": {**thinking, "skip": [151_657], "resume": [151_658]}}
    logits, before = torch.randn(vocab), _core.cpu_level()
    for level, dtype in product(_core.cpu_levels(), (torch.int32, torch.int64)):
        _core.set_cpu_level(level)
        nowhere = make_tokens("random", 1, length, 150_000)[0].to(dtype)
        opened = torch.cat([torch.tensor([151_667], dtype=dtype), nowhere[1:]])
        for name, marks in cases.items():
            row = {"level": level, "ids": str(dtype).removeprefix("torch."), "marks": name}
            for place, tokens in (("before the answer", opened), ("nowhere", nowhere)):
                functions = {
                    which: partial(lz_penalize_, logits, tokens, LZOptions(**options), starts=1)
                    for which, options in (("plain", gentle), ("marked", gentle | marks))
                }
                best = {which: min(times) for which, times in side_by_side(functions, 8 * rounds, least=1e-3).items()}
                row[place] = round((best["marked"] - best["plain"]) * 1e6, 2)
            rows.append(row)
            print(row, flush=True)
    _core.set_cpu_level(before)
    return rows


def against_dense(rounds: int) -> list[dict]:
    rows = []
    vocab, window = 151_936, 512
    logits = torch.randn(1, vocab)
    for text in ("random", "prose", "loop"):
        tokens = make_tokens(text, 1, window + BUFFER, vocab)
        times = side_by_side(
            {
                "dense": lambda: dense_penalize(logits, tokens, window=window, buffer=BUFFER),
                "lzss": lambda: lz_penalize_(logits, tokens, window=window, buffer=BUFFER),
                "pair": lambda: lz_penalize_(logits, tokens, window=window, buffer=BUFFER, cost="pair"),
            },
            max(3, rounds // 3),
        )
        row = {"text": text, "dense_ms": round(statistics.median(times["dense"]) * 1e3, 1)}
        for cost in ("lzss", "pair"):
            row[f"dense_over_{cost}"] = round(median_ratio(times["dense"], times[cost]))
        rows.append(row)
        print(row, flush=True)
    return rows


def parts(rounds: int) -> dict:
    """What a call is made of: its overhead, the matches and code lengths, the whole row; and what options cost. The fastest
    rounds count: what the machine does when its other users leave it alone."""
    vocab, window = 151_936, 512
    logits, starts = torch.randn(1, vocab), torch.tensor([0])
    empty = torch.empty(1, 0, dtype=torch.int64)
    result = {}
    for text in ("random", "prose", "loop"):
        tokens = make_tokens(text, 1, window + BUFFER, vocab)
        array, unwritten = tokens[0].numpy(), tokens + vocab
        functions = {
            "nothing": lambda: None,
            "call with three tensors": lambda: lz_penalize_(logits, empty, starts=starts),
            "row, all ids outside the vocabulary": lambda: lz_penalize_(logits, unwritten, starts=starts),
            "row": lambda: lz_penalize_(logits, tokens, starts=starts),
            "row, min_match=2": lambda: lz_penalize_(logits, tokens, starts=starts, min_match=2),
            "row, gate=(20, 28), release": lambda: lz_penalize_(logits, tokens, starts=starts, gate=(20, 28), release=[1]),
            "row, min_match=2, gate=(20, 28), release, open": lambda: lz_penalize_(
                logits, tokens, starts=starts, min_match=2, gate=(20, 28), release=[1], open=[2]
            ),
            "loop_evidence": lambda: loop_evidence(tokens, starts=starts),
            "logits.requires_grad, which is asked": lambda: logits.requires_grad,
            "logits.is_neg(), which is not": lambda: logits.is_neg(),
            "codelength_deltas, NumPy": lambda: codelength_deltas(array, vocab),
            "codelength_deltas of no tokens, NumPy": lambda: codelength_deltas(array[:0], vocab),
        }
        times = side_by_side(functions, 10 * rounds)
        best = {name: min(values) * 1e6 for name, values in times.items()}
        nothing = best.pop("nothing")
        result[text] = {name: round(value - nothing, 2) for name, value in best.items()}
        print(text, result[text], flush=True)
    return result


def processor(rounds: int) -> None:
    """In place, in `generate` and outside. Where the prompt ends is asked for in each call, so that it matters who calls: in
    the second step the list of processors is another, which does nothing but call and time."""
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=64, **sizes))
    prompt, vocab = torch.ones(1, 16, dtype=torch.int64), 151_936
    penalty, logits = LZPenaltyLogitsProcessor(inplace=True), torch.randn(1, vocab)
    now, calls, steps = time.perf_counter, LogitsProcessorList.__call__, []

    def timed(self, input_ids, scores, **kwargs):
        steps.append(0)
        if len(steps) == 1:
            return calls(self, input_ids, scores, **kwargs)
        where = "outside" if self is None else "in generate"
        for length in (64, 512 + BUFFER, 4096):
            tokens, best = make_tokens("prose", 1, length, vocab), [1.0] * 4
            options = penalty.options
            for _ in range(20 * rounds):
                start = now()
                for _ in range(500):
                    pass
                nothing = now()
                for _ in range(500):
                    lz_penalize_(logits, tokens, starts=16)
                row = now()
                for _ in range(500):
                    lz_penalize_(logits, tokens, options, starts=16)
                given = now()
                for _ in range(500):
                    penalty(tokens, logits)
                taken = [nothing - start, row - nothing, given - row, now() - given]
                best = [min(pair) for pair in zip(best, taken, strict=True)]
            row, given, ours = ((one - best[0]) / 500 * 1e6 for one in best[1:])
            print(f"{where}, {length} tokens: row {row:.2f} us, with all options {given:.2f} us, processor {ours:.2f} us: "
                  f"{ours / row:.2f} and {ours / given:.2f} times", flush=True)  # fmt: skip
        return scores

    LogitsProcessorList.__call__ = timed
    model.generate(prompt, do_sample=False, max_new_tokens=2, logits_processor=[penalty])
    timed(None, prompt, logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a corner of the grid, nothing written")
    parser.add_argument("--presets", action="store_true", help="the presets alone, into lz-presets.json")
    parser.add_argument("--sections", action="store_true", help="looking for sections alone, into lz-sections.json")
    parser.add_argument("--processor", action="store_true", help="the processor in place alone, nothing written")
    args = parser.parse_args()
    quick = args.quick
    torch.set_grad_enabled(False)
    rounds = 3 if quick else 9
    if args.processor:
        processor(rounds)
        return
    if args.sections:
        write("lz-sections", {"rows": sections(rounds)})
        return
    if args.presets:
        write("lz-presets", {"rows": presets(rounds)})
        return
    before = parts(rounds)
    dense = against_dense(rounds)
    cells = grid(rounds, *(((151_936,), (512,), (1, 8)) if quick else (VOCABULARIES, WINDOWS, BATCHES)))
    after = parts(rounds)
    best = {text: {name: min(us, after[text][name]) for name, us in row.items()} for text, row in before.items()}
    if not quick:
        write("lz", {"parts_us": best, "dense": dense, "grid": cells})


if __name__ == "__main__":
    main()
