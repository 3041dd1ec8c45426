"""Shows the queries of a transformers model to a cache, which is given keys and values only.

While a model is watched, the attention function that it calls is replaced by one that calls it and then shows the queries to
the cache layer whose keys it got. Such keys carry a mark that says which layer that is, so the replacement does nothing to
other models and other caches. The model itself stays as it is: what is replaced is the entry in transformers' table of
attention functions, or the "eager" function of the model's Python module.
"""

import inspect
import threading
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache, wraps

import torch

from lzpenalty.cache import compiled

__all__ = ["attention_modules", "find_attention", "mark", "watched"]

_lock = threading.Lock()
_replaced: dict[tuple, "_Entry"] = {}
_ABSENT = object()


class _Entry:
    """An entry of a dictionary that is replaced for as long as anybody needs it."""

    def __init__(self, place: dict, name: str, replacement: Callable):
        self.place, self.name, self.replacement, self.users = place, name, replacement, 0
        self.before = place.get(name, _ABSENT)
        place[name] = replacement

    def put_back(self) -> None:
        if self.place.get(self.name) is not self.replacement:
            return  # somebody replaced the replacement, which does nothing without a mark
        if self.before is _ABSENT:
            del self.place[self.name]
        else:
            self.place[self.name] = self.before


def mark(keys, layer) -> None:
    """Says whose keys these are. `layer.attends(attention_mask, flash)` will be called before the attention to them, then
    `layer.attend(queries, attention_mask, scale, options)` for it, and `layer.attended(queries, scale)` after it. Where
    `attend` returns None the model's own function is called, else that one's result stands for it."""
    keys._lzpenalty_layer = weakref.ref(layer)


def find_attention(model) -> list[tuple[dict, str, Callable]]:
    """Where the attention functions that a model calls are looked up: dictionaries, names, and the functions.

    Raises ValueError for models that call others than those that can be watched."""
    implementation = model.config.get_text_config(decoder=True)._attn_implementation
    if implementation not in ("sdpa", "eager") and not implementation.startswith("flash_attention"):
        raise ValueError(f"model: expected attention 'sdpa', 'eager' or 'flash_attention_*', got {implementation!r}")
    found = {id(place): (place, name, place_of[name]) for _, place, name, place_of in _lookups(model, implementation)}
    if not found:
        raise ValueError(
            "model: expected one that looks its attention up in transformers' AttentionInterface, "
            f"{type(model).__name__} does not"
        )
    return list(found.values())


def _lookups(model, implementation: str):
    """Of each module that looks its attention function up: the module, the dictionary, the name, and what has all names."""
    for module in model.modules():
        forward = inspect.unwrap(type(module).forward)
        words = getattr(getattr(forward, "__code__", None), "co_names", ())
        if "ALL_ATTENTION_FUNCTIONS" not in words or "eager_attention_forward" not in words:
            continue
        if implementation == "eager":
            yield module, forward.__globals__, "eager_attention_forward", forward.__globals__
        else:
            table = forward.__globals__["ALL_ATTENTION_FUNCTIONS"]
            yield module, table._local_mapping, implementation, table


def attention_modules(model) -> dict[int, tuple]:
    """Of each layer its attention module, and what has the function that the module calls under which name."""
    implementation = model.config.get_text_config(decoder=True)._attn_implementation
    return {
        module.layer_idx: (module, place, name)
        for module, _, name, place in _lookups(model, implementation)
        if hasattr(module, "layer_idx")
    }


@contextmanager
def watched(model):
    """Marked keys get their queries shown for as long as the block lasts. Blocks may nest and overlap, in any threads."""
    entries = []
    with _lock:
        # Continuous batching brings a cache of its own. It would not use, and not be stopped by, one that is passed.
        refusal = (vars(model), "init_continuous_batching", None)
        for place, name, function in [*find_attention(model), refusal]:
            key = (id(place), name)
            if key not in _replaced:
                _replaced[key] = _Entry(
                    place, name, _show_queries(function, name) if function else _refuse_continuous_batching
                )
            _replaced[key].users += 1
            entries.append(key)
    try:
        yield
    finally:
        with _lock:
            for key in entries:
                _replaced[key].users -= 1
                if _replaced[key].users == 0:
                    _replaced.pop(key).put_back()


@lru_cache(maxsize=32)  # one function for all caches, or compilers would take each for another model
def _show_queries(function: Callable, name: str) -> Callable:
    flash = name.startswith("flash")

    @wraps(function)
    def attention(module, query, key, value, attention_mask, *args, **kwargs):
        if torch.compiler.is_compiling():
            output = compiled.attend(query, key, value, attention_mask, kwargs)
            if output is not None:
                return output, None
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        layer = getattr(key, "_lzpenalty_layer", None)
        layer = layer and layer()
        if layer is None:
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        layer.attends(attention_mask, flash)
        own = layer.attend(query, attention_mask, kwargs.get("scaling"), {**kwargs, "implementation": name})
        output = own, None
        if own is None:
            output = function(module, query, key, value, attention_mask, *args, **kwargs)
        layer.attended(query, kwargs.get("scaling"))
        return output

    return attention


def _refuse_continuous_batching(*args, **kwargs):
    raise RuntimeError("continuous batching has a cache of its own and would not use RPCCache; leave the `with` block first")
