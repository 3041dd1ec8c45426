"""Tokens a second of `generate()` as texts get longer: the paper's figure (arXiv 2505.13866), with models of random weights.

A cache is brought to where it would be after so many generated tokens, by random keys and values, each as from a single
token, with all compressions; then `generate` itself goes on for some tokens from there and is clocked. A compression is
clocked apart, as what the step that brings one takes beyond a common step."""

import copy
import gc
import statistics
import time
from contextlib import ExitStack

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, StaticCache, StoppingCriteria

from generate import PROMPT, Run
from lzpenalty.cache.attention import CACHE_ARGUMENT

__all__ = ["cells"]

STEPS = 32
CONFIGS = {
    "tiny": LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=4096,
    ),
    "1b": LlamaConfig(  # the sizes of Llama 3.2 1B
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=65_536, tie_word_embeddings=True,
    ),
    "7b": Qwen2Config(  # the sizes of Qwen2.5-7B
        vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, head_dim=128, max_position_embeddings=65_536,
    ),
}  # fmt: skip
INTERVAL = 4096
CACHES = {
    "DynamicCache": None,
    "CompressedCache, rpc": dict(interval=INTERVAL, selector="rpc"),
    "CompressedCache, rpc, compiled": dict(interval=INTERVAL, selector="rpc"),
    "CompressedCache, echo": dict(interval=INTERVAL, selector="echo"),
    "CompressedCache, rpc, budget 4096": dict(interval=1024, budget=4096, selector="rpc"),
    "CompressedCache, interval=None": dict(interval=None),
    "StaticCache, compiled": None,
}
TINY = {"interval": 64, "budget": 128}


class Models:
    """One at a time on the device, and its twin, of the same weights, whose forward goes through torch.compile. transformers
    itself compiles for a StaticCache."""

    def __init__(self, clock):
        self.device, self.tiny = clock.device, clock.tiny
        self.name = self.model = self.twin = None

    def get(self, name: str, cache: str):
        if name != self.name:
            self.name = self.model = self.twin = None
            release(self.device)
            torch.manual_seed(0)
            with torch.device(self.device):
                self.model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16).eval()
            self.model.generation_config.eos_token_id = None
            self.name, self.twin = name, copy.copy(self.model)
            forward = type(self.model).forward.__get__(self.twin)
            self.twin.forward = torch.compile(forward, backend="eager" if self.tiny else "inductor")
        return self.twin if cache.startswith("CompressedCache") and cache.endswith("compiled") else self.model


def release(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def cells(clock, name: str):
    models = Models(clock)
    name, points, batches = (
        ("tiny", (80, 200), (2,)) if clock.tiny else (name, (4096, 32_768, 1024, 16_384, 8192), (1, 32, 8))
    )
    for batch in batches:
        for point in points:
            for cache in CACHES:
                yield (
                    f"generate, {name}, B {batch}, {point} tokens, {cache}",
                    lambda b=batch, p=point, c=cache: measure(clock, models.get(name, c), b, p, c),
                )


class Steps(StoppingCriteria):
    """Never stops; notes when the device has done each step."""

    def __init__(self, clock):
        self.clock, self.times = clock, []

    def __call__(self, input_ids, scores, **kwargs):
        self.clock.synchronize()
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def full_static_cache(model, batch: int, point: int) -> StaticCache:
    """A cache that `generate` is compiled for by transformers itself on a GPU. Steps attend to the whole of it, so it is as
    large as the text and no larger."""
    config = model.config
    cache = StaticCache(config=config, max_cache_len=PROMPT + point + STEPS)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer in cache.layers:
        keys = torch.randn(batch, config.num_key_value_heads, 1, size, dtype=model.dtype, device=model.device)
        keys = keys.expand(-1, -1, PROMPT + point, -1)
        layer.update(keys, keys)
    return cache


def options_of(cache: str, tiny: bool) -> dict | None:
    options = CACHES[cache]
    return (
        {name: TINY.get(name, value) if value else value for name, value in options.items()} if options and tiny else options
    )


def measure(clock, model, batch: int, point: int, cache: str) -> dict:
    release(clock.device)
    try:
        with ExitStack() as stack:
            if cache.startswith("StaticCache"):
                return _clocked(clock, model, full_static_cache(model, batch, point), None, batch, point)
            with torch.device(clock.device):  # not for what is clocked: the host pays for it at each operation
                run = Run(model, batch, options_of(cache, clock.tiny), stack)
                run.advance(point)
            return _clocked(clock, model, run.cache, run, batch, point)
    except torch.OutOfMemoryError as error:
        return {"failed": str(error).splitlines()[0]}


def _clocked(clock, model, cache, run, batch: int, point: int) -> dict:
    steps, seen = Steps(clock), PROMPT + point
    ids = torch.full((batch, seen + 1), 7, device=clock.device)
    new = 4 if clock.tiny else STEPS
    started = time.perf_counter()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), **{CACHE_ARGUMENT: cache}, max_new_tokens=new, do_sample=False,
        stopping_criteria=[steps],
    )  # fmt: skip
    each = [after - before for before, after in zip(steps.times, steps.times[1:], strict=False)]
    common = statistics.median(each)
    found = {
        "ms_per_token": common * 1e3,
        "tokens_per_second": batch / common,
        "first_step_s": steps.times[0] - started,  # compiling, where that is done
        "kept": run.length if run else seen + new,
    }
    buffers = [x for layer in cache.layers for x in (layer.keys, layer.values)] if run is None or not run.ours else None
    found["cache_bytes"] = sum(x.nbytes for x in buffers) if buffers else cache.stats()["bytes"]
    if clock.device == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    if run and run.ours and cache.settings.compresses:
        run.generated = point + new
        left = run._left()
        if left > 1:
            with torch.device(clock.device):
                run.advance(run.generated + left - 1)
        before = cache.stats()["compressions"]
        whole = clock.seconds(lambda: model(ids[:, :1], **{CACHE_ARGUMENT: cache}, logits_to_keep=1))
        if cache.stats()["compressions"] == before + 1:
            found |= {"compression_ms": (whole - common) * 1e3, "interval": cache.settings.plan.interval}
    return found
