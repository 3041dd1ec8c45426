"""What a compressed cache saves over a whole generation.

    python benchmarks/generate.py [--tokens 8192] [--batches 1 4] [--models smollm2 random-1b] [--check] [--whole]

A step costs what its cached tokens cost, so a generation of 8,192 tokens need not be run step by step for every cache:
caches grow side by side, fed with random keys and values between the points where real single-token steps of the model are
timed, all caches in turn. Between those points the time of a step is interpolated by the number of tokens that the cache
holds; each compression is timed as it comes; the whole is the sum. `--check` runs a short generation for real and says how
far off that sum is. `--whole` runs all tokens for real with a fixed budget, whose steps the sum would call alike because
they hold alike. Bytes are those of all keys and values held, buffers at their full size. Writes results/generate.json and
docs/generate.png."""

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, StoppingCriteria

from harness import RESULTS, write
from lzpenalty.cache.attention import CACHE_ARGUMENT, Call
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.hf import CompressedCache

PROMPT, STRIDE, STEPS = 64, 480, 3  # 480 falls on all phases of an interval
POINTS = (1024, 2048, 4096, 8192)
OURS = {
    "CompressedCache, interval=None": dict(interval=None),
    "RPC, P = 1024": dict(interval=1024, selector="rpc"),
    "RPC, P = 256": dict(interval=256, selector="rpc"),
    "RPC, P = 256, budget 1024": dict(interval=256, budget=1024, selector="rpc"),
}
OURS |= {f"{name}, P = 1024": dict(interval=1024, selector=name) for name in SELECTORS if name != "rpc"}


def load(name: str):
    if name == "smollm2":
        from lzpenalty.commands.models import load_model

        return load_model()[0]
    torch.manual_seed(0)  # the sizes of Llama 3.2 1B, a smaller vocabulary
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=16_384, tie_word_embeddings=True,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


class Run:
    """One cache on its way: what its steps and compressions cost, and what it holds."""

    def __init__(self, model, batch: int, options: dict | None, stack: ExitStack):
        self.model, self.batch = model, batch
        self.ours = options is not None
        self.cache = (
            stack.enter_context(CompressedCache(model, **options)) if self.ours else DynamicCache(config=model.config)
        )
        self.generated, self.bytes = 0, []
        self.held, self.seconds = [], []  # of timed steps
        self.compressions, self.scores = [], []  # seconds of each, and of scores between them
        self.lengths = []  # tokens held at each step
        model(torch.full((batch, PROMPT), 7), **{CACHE_ARGUMENT: self.cache}, logits_to_keep=1)

    @property
    def length(self) -> int:
        return self.cache._own[0].length if self.ours else self.cache.get_seq_length()

    def step(self) -> None:
        """A token for real."""
        before, started = self.length, time.perf_counter()
        logits = self.model(torch.full((self.batch, 1), 7), **{CACHE_ARGUMENT: self.cache}, logits_to_keep=1).logits
        logits[:, -1].argmax(-1)
        seconds = time.perf_counter() - started
        if self.length == before + 1:  # compressions are counted apart
            self.held.append(self.length)
            self.seconds.append(seconds)
        self._count(before, 1)

    def advance(self, until: int) -> None:
        """Random keys and values, as many at once as the next compression allows, and each of those from a single token."""
        while self.generated < until:
            left = self._left()
            new = min(until - self.generated, max(1, left - 1))
            before, spent = self.length, self.cache.stats()["seconds"] if self.ours else 0
            for layer in self.cache.layers:
                keys = torch.randn(self.batch, *self._shape, dtype=self.model.dtype)[:, :, None].expand(-1, -1, new, -1)
                if self.ours and layer is self.cache.layers[0]:
                    layer.text.prompt = PROMPT  # or it would take these for a part of it
                    layer.text.begins(layer.seen, new, None, None)
                    layer.text.sees(None)
                layer.update(keys, keys)
                if self.ours and layer.settings.compresses:
                    scores = layer.selector.keeps_evidence  # of all queries, not of the last ones alone
                    queries = new if scores else min(new, layer.settings.plan.recent)
                    shape = (self.batch, self.model.config.num_attention_heads, queries, keys.shape[3])
                    queries = torch.randn(shape, dtype=keys.dtype)
                    layer.attended(Call(None, queries, keys, keys, None, {}, "sdpa"))
            if left == 1:
                self.compressions.append((self.generated + 1, self.cache.stats()["seconds"] - spent))
            elif self.ours and self.cache._own[0].selector.keeps_evidence:
                self.scores.append((self.generated + new, self.cache.stats()["seconds"] - spent))
            self._count(before, new)

    @property
    def _shape(self):
        config = self.model.config
        return config.num_key_value_heads, config.head_dim or config.hidden_size // config.num_attention_heads

    def _left(self) -> int:
        """Tokens until the one that brings a compression."""
        if not self.ours or not self.cache.settings.compresses:
            return 1 << 30
        return self.cache._own[0].until_due()

    def _count(self, before: int, new: int) -> None:
        self.lengths.extend(range(before + 1, before + new + 1))
        self.generated += new
        layers = self.cache.layers
        held = self.cache.stats()["bytes"] if self.ours else sum(x.nbytes for y in layers for x in (y.keys, y.values))
        self.bytes.append((self.generated, held))

    def seconds_until(self, tokens: int) -> np.ndarray:
        """Seconds after each of so many tokens."""
        order = np.argsort(self.held)
        held, seconds = np.array(self.held)[order], np.array(self.seconds)[order]
        points = np.unique(held // 64)  # steps at about the same length: their median
        x = [np.mean(held[held // 64 == p]) for p in points]
        y = [np.median(seconds[held // 64 == p]) for p in points]
        each = np.interp(self.lengths[:tokens], x, y)
        for at, spent in self.compressions + self.scores:
            if at <= tokens:
                each[at - 1] += spent
        return np.cumsum(each)

    def bytes_at(self, tokens: int) -> int:
        """The largest number of bytes held so far."""
        return max(held for generated, held in self.bytes if generated <= max(tokens, self.bytes[0][0]))


def measure(model, batch: int, tokens: int) -> list[dict]:
    makers = {"DynamicCache": None, **OURS}
    runs = {}
    with torch.inference_mode(), ExitStack() as stack:
        for name, options in makers.items():
            runs[name] = Run(model, batch, options, stack)
        names = list(runs)
        for at in [*range(0, tokens, STRIDE), tokens]:
            for i in range(STEPS):
                for name in names[i % len(names) :] + names[: i % len(names)]:
                    if i == 0:
                        runs[name].advance(at)
                    runs[name].step()
            print(f"  {at:,} tokens", flush=True)
    rows = []
    for name, run in runs.items():
        spent = run.seconds_until(tokens)
        flat = np.diff(spent, prepend=0)
        rows.append({
            "cache": name,
            "batch": batch,
            "tokens_per_second": {p: batch * p / spent[p - 1] for p in POINTS if p <= tokens},
            "megabytes": {p: run.bytes_at(p) / 1e6 for p in POINTS if p <= tokens},
            "ms_per_token": {p: 1e3 * float(flat[max(0, p - 512) : p].mean()) for p in POINTS if p <= tokens},
            "compression_ms": 1e3 * statistics.median(s for _, s in run.compressions) if run.compressions else None,
            "curve": {
                "tokens": list(range(256, tokens + 1, 256)),
                "tokens_per_second": [round(batch * p / spent[p - 1], 2) for p in range(256, tokens + 1, 256)],
                "megabytes": [round(run.bytes_at(p) / 1e6, 1) for p in range(256, tokens + 1, 256)],
            },
        })  # fmt: skip
    return rows


def check(model, batch: int, tokens: int) -> dict:
    """Whole generations for real, DynamicCache and RPC in turns, against the sum."""
    result = {}
    for name, options in (("DynamicCache", None), ("RPC, P = 256", OURS["RPC, P = 256"])):
        ids = torch.full((batch, PROMPT), 7)
        kwargs = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=None)
        with torch.inference_mode(), ExitStack() as stack:
            run = Run(model, batch, options, stack)
            for at in range(0, tokens + 1, 120):
                run.advance(at)
                for _ in range(STEPS):
                    run.step()
            cache = stack.enter_context(CompressedCache(model, **options)) if run.ours else DynamicCache(config=model.config)
            started = time.perf_counter()
            model.generate(ids, **{CACHE_ARGUMENT: cache}, **kwargs)
        whole = time.perf_counter() - started
        result[name] = {"batch": batch, "tokens": tokens, "seconds": whole, "sum": float(run.seconds_until(tokens)[-1])}
        print(f"  {name}: {whole:.1f} s for real, {result[name]['sum']:.1f} s by the sum")
    return result


class Clock(StoppingCriteria):
    """Never stops; notes when each step ended."""

    def __init__(self):
        self.times = [time.perf_counter()]

    def __call__(self, input_ids, scores, **kwargs):
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def whole(model, batch: int, tokens: int) -> dict:
    """Milliseconds of a token, compressions included, around each point of one `generate` call with a fixed budget."""
    name, clock = "RPC, P = 256, budget 1024", Clock()
    ids = torch.full((batch, PROMPT), 7)
    options = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=None)
    with CompressedCache(model, **OURS[name]) as cache:
        model.generate(ids, **{CACHE_ARGUMENT: cache}, stopping_criteria=[clock], **options)
    each = 1e3 * np.diff(clock.times)
    points = {p: float(each[p - 512 : p].mean()) for p in POINTS if p <= tokens}
    print(f"  {name}, every step for real: " + ", ".join(f"{ms:.0f} ms at {p:,}" for p, ms in points.items()))
    return {"cache": name, "batch": batch, "seconds": float(each.sum()) / 1e3, "ms_per_token": points}


def plot(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from lzpenalty.plots import plot_cache

    name = "smollm2" if "smollm2" in results["models"] else next(iter(results["models"]))
    rows = results["models"][name]["rows"]
    batch = max(row["batch"] for row in rows)
    shown = ("DynamicCache", *list(OURS)[:4], "echo, P = 1024")
    axes = plot_cache({row["cache"]: row["curve"] for row in rows if row["batch"] == batch and row["cache"] in shown})
    axes[0].set_title(f"Throughput, {name}, batch {batch}")
    axes[1].set_title("Keys and values")
    axes[0].figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--models", nargs="+", default=["smollm2", "random-1b"])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()
    path = RESULTS / "generate.json"  # models and batches that are not measured now stay as they are
    results = {"prompt": PROMPT, "models": json.loads(path.read_text())["models"] if path.exists() else {}}
    for name in args.models:
        model = load(name)
        measured = results["models"].setdefault(name, {"rows": []})
        threads = torch.get_num_threads()
        for batch in args.batches:
            print(f"{name}, batch {batch}")
            others = [row for row in measured["rows"] if row["batch"] != batch]
            rows = [{"threads": threads, **row} for row in measure(model, batch, args.tokens)]
            measured["rows"] = sorted(others + rows, key=lambda row: row["batch"])
            write("generate", results)
        if args.check:
            measured["check"] = check(model, max(args.batches, default=4), min(args.tokens, 480))
        if args.whole:
            measured["whole"] = {"threads": threads, **whole(model, max(args.batches, default=4), args.tokens)}
        del model
    write("generate", results)
    plot(results, Path(__file__).parent.parent / "docs" / "generate.png")


if __name__ == "__main__":
    main()
