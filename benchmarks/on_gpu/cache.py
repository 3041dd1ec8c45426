"""The routines of the cache beside PyTorch's operations, as shares of the memory's bandwidth.

What must be moved: keys once for scores, keys and values once for attention, scores and positions for a selection, each kept
key and value read and written for a compaction. Our scores read the keys twice, so half is what they could reach."""

import inspect

import torch
from torch.nn.functional import avg_pool1d, scaled_dot_product_attention

from lzpenalty import attention_scores, compact_, select_top
from lzpenalty.cache.attend import attend_heads, echo_heads
from lzpenalty.cache.attention import Call
from lzpenalty.cache.budgets import Budgets
from lzpenalty.cache.layer import Settings
from lzpenalty.cache.plan import Plan
from lzpenalty.cache.ragged import RaggedLayer
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.cache.text import Text

__all__ = ["attention_cells", "cells", "ragged_layer"]

MODELS = {"Qwen2.5-7B": (28, 4, 128), "Llama-3.1-8B": (32, 8, 128)}  # query heads, key heads, size
RECENT = 32


def sizes(clock):
    for n in (64,) if clock.tiny else (4096, 32_768, 8192, 16_384):
        for batch in (2,) if clock.tiny else (1, 8):
            for name, (heads, key_heads, size) in {"tiny": (4, 2, 16)}.items() if clock.tiny else MODELS.items():
                yield name, batch, heads, key_heads, size, n


def cells(clock):
    for name, *shape in sizes(clock):
        batch, heads, key_heads, size, n = shape
        yield f"cache, {name}, B {batch}, n {n}", lambda s=shape: measure(clock, *s)


def attention_cells(clock):
    for name, *shape in sizes(clock):
        batch, heads, key_heads, size, n = shape
        yield f"attention, {name}, B {batch}, n {n}", lambda s=shape: measure_attention(clock, *s)


def random(clock, *shape) -> torch.Tensor:
    return torch.randn(shape, device=clock.device, dtype=torch.bfloat16)


def measure(clock, batch: int, heads: int, key_heads: int, size: int, n: int) -> dict:
    queries = random(clock, batch, heads, RECENT, size)
    keys, values = (random(clock, batch, key_heads, n + RECENT, size) for _ in range(2))
    k, group = n // 4, heads // key_heads
    scores = attention_scores(queries, keys, start=0, stop=n)
    positions = select_top(scores, k)

    def in_torch():
        weights = torch.matmul(queries.unflatten(1, (key_heads, group)), keys[:, :, None, :n].mT) * size**-0.5
        mean = weights.float().softmax(-1).mean((1, 2, 3))
        return avg_pool1d(mean[:, None], 7, 1, 3)

    def gathered():
        index = positions[..., None].expand(batch, key_heads, k, size)
        return [torch.cat([x[:, :, :n].gather(2, index), x[:, :, n:]], 2) for x in (keys, values)]

    times = clock.measure({
        "attention_scores": lambda: attention_scores(queries, keys, start=0, stop=n),
        "scores in torch": in_torch,
        "select_top": lambda: select_top(scores, k),
        "torch.topk": lambda: scores.topk(k),
        "compact_": lambda: compact_(keys, values, positions, start=0, stop=n, length=n + RECENT),
        "gather and cat": gathered,
    })  # fmt: skip
    row = batch * key_heads * size * 2  # bytes of one token's keys
    moved = {"attention_scores": n * row, "scores in torch": n * row, "select_top": batch * (4 * n + 8 * k)}
    moved |= {
        "torch.topk": moved["select_top"],
        "compact_": 4 * (k + RECENT) * row,
        "gather and cat": 4 * (k + RECENT) * row,
    }
    clock.shares(times, moved, clock.bandwidth())
    return times


def ragged_layer(keys: torch.Tensor, values: torch.Tensor) -> RaggedLayer:
    """A layer as the selector echo keeps them, with these keys and values in it and room for an interval."""
    settings = Settings(Plan(256, 4, RECENT, None), 7, "group", None, "global")
    text = Text(None)
    text.begins(0, keys.shape[2], None, None)
    text.sees(None)
    layer = RaggedLayer(settings, SELECTORS["echo"](), 0, text, Budgets(settings.plan, "global"))
    layer.update(keys, values)
    layer.scale = keys.shape[-1] ** -0.5
    return layer


def measure_attention(clock, batch: int, heads: int, key_heads: int, size: int, n: int) -> dict:
    """One new token to all keys, and echo's evidence, which comes once in RECENT tokens."""
    queries, keys, values = random(clock, batch, heads, 1, size), *(random(clock, batch, key_heads, n, size) for _ in "kv")
    grouped, layer = queries.view(batch, key_heads, heads // key_heads, size), ragged_layer(keys, values)
    call = Call(None, queries, keys, values, None, {}, "sdpa")
    several = random(clock, batch, heads, RECENT + 1, size)
    functions = {
        "sdpa, enable_gqa": lambda: scaled_dot_product_attention(queries, keys, values, enable_gqa=True),
        "sdpa, groups as tokens": lambda: scaled_dot_product_attention(grouped, keys, values),
        "attend_heads": lambda: attend_heads(call, layer, None),
        "echo_heads": lambda: echo_heads(layer, several, 0, asked=several),
    }
    if clock.device == "cuda" and (own := variable_length(layer, grouped)):
        functions["varlen_attn"] = own
    times = clock.measure(functions)
    row = 2 * batch * key_heads * size  # bytes of one token's keys
    clock.shares(times, {name: (1 if name == "echo_heads" else 2) * n * row for name in functions}, clock.bandwidth())
    return times


def variable_length(layer, grouped: torch.Tensor):
    """torch's variable-length attention to the same slots, a key head of a row being a sequence; None where this torch has
    none that knows of unused room behind a sequence."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if "seqused_k" not in inspect.signature(varlen_attn).parameters:
        return None
    batch, key_heads, group, size = grouped.shape
    queries = grouped.transpose(0, 1).reshape(key_heads * batch, group, size)
    keys, values = layer.key_slots[:, None], layer.value_slots[:, None]
    starts = layer.starts.T.flatten().int()
    ends = torch.cat([starts, starts.new_tensor([len(keys)])])
    used = layer.lengths.T.flatten().int()
    rows = torch.arange(key_heads * batch + 1, dtype=torch.int32, device=queries.device)
    return lambda: varlen_attn(queries, keys, values, rows, ends, 1, layer.longest, seqused_k=used, enable_gqa=True)
