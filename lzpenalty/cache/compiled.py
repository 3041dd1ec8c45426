"""Caches under torch.compile: what a layer does in a step is one operation, which the compiler does not look into.

A compiler records what a model does with tensors, not that a cache remembers, counts and drops. So while it records, update
only notes whose turn it is, and the attention function that follows puts `lzpenalty::cached_attention` into the graph. When
the graph runs, that operation does what both do without a compiler. Of the cache the graph knows a number in a tensor, on
which nothing is specialised: other caches run the same graph, and lengths that grow and shrink don't show in it.
"""

import itertools
import threading
import weakref

import torch

__all__ = ["attend", "new_ticket", "note"]

_tickets = itertools.count()
_caches: "weakref.WeakValueDictionary[int, object]" = weakref.WeakValueDictionary()
_lock = threading.Lock()


class _Turn:
    """What `update` tells the attention function while a compiler records."""

    ticket = layer = None


_turn = _Turn()


def new_ticket(cache) -> torch.Tensor:
    """By which graphs find a cache."""
    with _lock:
        number = next(_tickets)
        _caches[number] = cache
    return torch.tensor(number)


def note(ticket: torch.Tensor, layer: int) -> None:
    """While a compiler records: the next attention is that of this layer."""
    _turn.ticket, _turn.layer = ticket, layer


def attend(query, key, value, attention_mask, options: dict) -> torch.Tensor | None:
    """While a compiler records: the noted layer's attention, [B, q, Hq, D], with the new keys and values; None if none is
    noted."""
    ticket, layer = _turn.ticket, _turn.layer
    if ticket is None:
        return None
    _turn.ticket = _turn.layer = None
    more = [name for name, value in options.items() if name not in _PASSED and value is not None and value is not False]
    if more:
        raise NotImplementedError(f"caches under torch.compile: the model's attention has {more[0]}, which is not passed on")
    return cached_attention(ticket, layer, query, key, value, attention_mask, options.get("scaling"), options.get("softcap"))


# What the operation takes, or nothing that it computes depends on.
_PASSED = frozenset(
    {"scaling", "softcap", "is_causal", "position_ids", "cache_position", "use_cache", "dropout", "logits_to_keep"}
)

# Types are in words, since old versions of torch don't understand all of Python's.
_SCHEMA = "(Tensor ticket, int layer, Tensor query, Tensor key, Tensor value, Tensor? mask, float? scaling, float? softcap)"


# A CUDA graph would replay the launches of one step, and remember nothing.
_TAGS = {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


@torch.library.custom_op("lzpenalty::cached_attention", mutates_args=(), schema=f"{_SCHEMA} -> Tensor", **_TAGS)
def cached_attention(
    ticket: torch.Tensor, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    mask: torch.Tensor | None, scaling: float | None, softcap: float | None,
) -> torch.Tensor:  # fmt: skip
    cache = _caches[int(ticket)]
    cache.begins(layer, query.shape[2])
    module, place, name = cache.attention_modules[layer]
    # Layers keep queries; those of a graph are in memory that it uses again.
    query = query.clone()
    keys, values = cache.layers[layer].update(key, value)
    options = {} if softcap is None else {"softcap": softcap}
    return place[name](module, query, keys, values, mask, scaling=scaling, dropout=0.0, **options)[0].contiguous()


@cached_attention.register_fake
def _(ticket, layer, query, key, value, mask, scaling, softcap):
    rows, heads, new, _ = query.shape
    return query.new_empty((rows, new, heads, value.shape[-1]))
