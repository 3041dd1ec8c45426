"""vLLM with the compressed cache, where the pool of blocks holds a quarter of what full caches need. Needs the environment
of `make test-vllm`.

    python benchmarks/serving_cache.py MODEL [PART ...] [--tokens 1024]
    python benchmarks/serving_cache.py MODEL [PART ...] [--tokens 1024] --fits

One engine. First what the classes cost where no request asks: they are taken out of the engine and put back in turns. Then
the same requests with full caches and with compressed ones. Tokens are counted by CPU seconds of the process, which other
work on the machine changes little; steps, batches and preemptions it does not change at all.

With `--fits` the pool holds all full caches, so that a compressed one saves no step: what its own work costs. Each rule and
full caches take turns.

A part whose results are there already, from a machine like this one, is not measured again.
"""

import argparse
import json
import statistics
import time

from vllm_cpu import engine, greedy  # isort: skip  (sets what vllm reads when it is imported)
import vllm

from harness import RESULTS, machine, write

PROMPT, TOKENS, REQUESTS, BLOCK, WATERMARK = 128, 1024, 6, 32, 0.05
ROUNDS, SHORT, FITS = 5, 24, 3
MODES = {
    "full": None,
    "interval 64, ratio 4": {"cache_selector": "rpc", "cache_interval": 64, "cache_ratio": 4, "cache_recent": 16},
    "interval 64, budget 128": {"cache_selector": "rpc", "cache_interval": 64, "cache_budget": 128, "cache_recent": 16},
    "rpc, interval 256, ratio 4": {"cache_selector": "rpc", "cache_interval": 256, "cache_ratio": 4},
    "echo, interval 256, ratio 4": {"cache_selector": "echo", "cache_interval": 256, "cache_ratio": 4},
    "echo, interval 256, ratio 8": {"cache_selector": "echo", "cache_interval": 256, "cache_ratio": 8},
}
CLASSES = "classes"


class Without:
    """The engine as it is without the classes: objects are of the classes that they would have been of, and the scheduler,
    whose class can't be changed, has its own methods back."""

    def __init__(self, scheduler, worker):
        runner, self.scheduler = worker.model_runner, scheduler
        self.impls = [layer.impl for layer in runner.compressor.layers]
        self.plain = [(scheduler.compressed, 1), (worker, 1), (runner, 3)]  # so many classes are in front of vLLM's own
        added, own = type(scheduler).__mro__[1:3]
        self.methods = {
            name: getattr(own, name).__get__(scheduler)
            for name, value in vars(added).items()
            if callable(value) and hasattr(own, name) and not name.startswith("__")
        }

    def __enter__(self):
        self.kinds = [type(thing) for thing, _ in self.plain]
        for thing, added in self.plain:
            thing.__class__ = type(thing).__mro__[added]
        names = ("forward", "do_kv_cache_update")
        self.own = [{name: impl.__dict__.pop(name) for name in names if name in impl.__dict__} for impl in self.impls]
        vars(self.scheduler).update(self.methods)

    def __exit__(self, *exception):
        for (thing, _), kind in zip(self.plain, self.kinds, strict=True):
            thing.__class__ = kind
        for impl, own in zip(self.impls, self.own, strict=True):
            vars(impl).update(own)
        for name in self.methods:
            delattr(self.scheduler, name)


def middle(ratios) -> dict:
    """The median of some, and all of them, from the least on."""
    ratios = sorted(ratios)
    return {"median": statistics.median(ratios), "spread": ratios}


class Server:
    """An engine whose pool is a part, or all, of what the requests need with full caches."""

    def __init__(self, model: str, tokens: int, share: float):
        self.tokens = tokens
        self.needed = REQUESTS * -(-(PROMPT + tokens) // BLOCK)
        self.pool = int(self.needed * share)
        self.llm, self.scheduler, self.worker = engine(
            model, max_model_len=PROMPT + tokens, max_num_seqs=2 * REQUESTS, block_size=BLOCK, watermark=WATERMARK,
            num_gpu_blocks_override=self.pool + 1, worker_cls="lzpenalty.vllm.Worker",
            scheduler_cls="lzpenalty.vllm.Scheduler",
        )  # fmt: skip
        self.prompts = [
            {"prompt_token_ids": [(7 * i * i + 31 * n) % 40_000 + 100 for i in range(PROMPT)]} for n in range(REQUESTS)
        ]

    def run(self, extra: dict | None, tokens: int) -> tuple[float, float]:
        """CPU seconds and seconds."""
        self.scheduler.reset_prefix_cache()
        start, cpu = time.perf_counter(), time.process_time()
        self.llm.generate(self.prompts, greedy(tokens, extra), use_tqdm=False)
        return time.process_time() - cpu, time.perf_counter() - start

    def cost(self) -> dict:
        """CPU seconds with the classes against those without."""
        without = Without(self.scheduler, self.worker)

        def pair() -> float:
            own = self.run(None, SHORT)[0]
            with without:
                return own / self.run(None, SHORT)[0]

        pair()
        return middle(pair() for _ in range(ROUNDS))

    def fitting(self, extra: dict) -> dict:
        """CPU seconds with a rule against those with full caches."""
        before = self.scheduler.preemptions
        ratios = middle(self.run(extra, self.tokens)[0] / self.run(None, self.tokens)[0] for _ in range(FITS))
        assert self.scheduler.preemptions == before
        return ratios

    def measure(self, extra: dict | None) -> dict:
        steps, schedule, compressor = [], self.scheduler.schedule, self.worker.model_runner.compressor

        def counted(*args, **kwargs):
            output = schedule(*args, **kwargs)
            steps.append(len(output.num_scheduled_tokens))
            return output

        def state():
            now, freed = compressor.statistics(), self.scheduler.compressed.freed_blocks
            return (
                self.scheduler.preemptions,
                freed,
                *(now[name] for name in ("compressions", "seconds", "asking", "exploding")),
            )

        before = state()
        self.scheduler.schedule = counted
        cpu, seconds = self.run(extra, self.tokens)
        del self.scheduler.schedule
        preemptions, freed, compressions, *spent = (now - then for now, then in zip(state(), before, strict=True))
        return {
            "tokens_per_cpu_second": REQUESTS * self.tokens / cpu,
            "tokens_per_second": REQUESTS * self.tokens / seconds,
            "steps": len(steps),
            "mean_batch": statistics.mean(steps),
            "preemptions": preemptions,
            "compressions": compressions,
            "share_of_time": sum(spent) / seconds,
            "shares": dict(zip(("compressions", "asking", "metadata"), (part / seconds for part in spent), strict=True)),
            "freed_blocks": freed,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{CLASSES}, {', '.join(MODES)}; all if none is named")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--fits", action="store_true", help="with a pool that holds all full caches")
    args = parser.parse_args()
    name = "vllm-cache" if args.tokens == TOKENS else f"vllm-cache-{args.tokens}"
    every = [mode for mode in MODES if mode != "full"] if args.fits else [CLASSES, *MODES]
    name += "-fits" * args.fits
    results = {"modes": {}}
    if (RESULTS / f"{name}.json").exists():
        before, here = json.loads((RESULTS / f"{name}.json").read_text()), machine()
        if all(before["machine"][what] == here[what] for what in ("cpu", "level")):  # or else nothing could be compared
            results = {key: value for key, value in before.items() if key != "machine"}
    parts = [
        part
        for part in args.parts or every
        if part not in results["modes"] and not (part == CLASSES and "cpu_with_the_classes" in results)
    ]
    if not parts:
        return
    server = Server(args.model, args.tokens, 1 if args.fits else 1 / 4)
    results |= {
        "vllm": vllm.__version__,
        "prompt": PROMPT,
        "tokens": args.tokens,
        "requests": REQUESTS,
        "watermark": WATERMARK,
        "blocks": {"size": BLOCK, "needed": server.needed, "pool": server.pool},
        "rounds": FITS if args.fits else ROUNDS,
    }
    for part in parts:
        if part == CLASSES:
            results["cpu_with_the_classes"] = server.cost()
        else:
            results["modes"][part] = (server.fitting if args.fits else server.measure)(MODES[part])
            print(part, results["modes"][part], flush=True)
        write(name, results)


if __name__ == "__main__":
    main()
