"""Shows the attention of a transformers model to a cache, which is given keys and values only.

While a model is watched, the attention function that it calls is replaced by one that shows each call to the cache layer
whose keys it got, which may compute it, or change the mask that it is computed with. Such keys carry a mark that says which
layer that is, so the replacement does nothing to other models and other caches. The model itself stays as it is: what is
replaced is the entry in transformers' table of attention functions, or the "eager" function of the model's Python module.
"""

import inspect
import threading
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps

import torch
from transformers.masking_utils import create_causal_mask

from lzpenalty.cache import compiled

__all__ = [
    "CACHE_ARGUMENT",
    "Call",
    "attention_modules",
    "find_attention",
    "is_watched",
    "looking_modules",
    "mark",
    "places",
    "watched",
]

# What models and generate call the argument that a cache is passed as: 'cache' from transformers 5.24 on.
CACHE_ARGUMENT = next(
    name for name in ("cache", "past_key_values") if name in inspect.signature(create_causal_mask).parameters
)

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


@dataclass
class Call:
    """A call of a model's attention function: queries [B, Hq, q, D], keys and values [B, Hkv, n, D], the mask, what else the
    model hands over, and the function's name. A layer may put another `mask` in its place. `output` is what came of it."""

    module: torch.nn.Module
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None
    options: dict
    name: str
    output: torch.Tensor | None = None

    @property
    def new(self) -> int:
        return self.queries.shape[2]

    @property
    def scale(self) -> float:
        """What products of queries and keys are multiplied with."""
        scale = self.options.get("scaling")
        return self.queries.shape[-1] ** -0.5 if scale is None else scale

    @property
    def softcap(self) -> float:
        return self.options.get("softcap") or 0.0

    @property
    def is_flash(self) -> bool:
        """Whether the function is FlashAttention's, whose mask is that of the tokens, [B, n]."""
        return self.name.startswith("flash")

    @property
    def wants_weights(self) -> bool:
        """Whether somebody asked for the weights of attention."""
        config = getattr(self.module, "config", None)
        return bool(self.options.get("output_attentions", getattr(config, "output_attentions", False)))

    def more(self, *names: str) -> list[str]:
        """The options that say something which neither these names nor `_NO_MATTER` cover."""
        given = (name for name, value in self.options.items() if value is not None and value is not False)
        return [name for name in given if name not in names and name not in _NO_MATTER]


# What models hand on to attention functions that changes nothing of what sdpa or the models' own functions compute.
_NO_MATTER = frozenset(
    {
        "scaling", "is_causal", "output_attentions", "output_hidden_states", "output_router_logits", "use_cache",
        "position_ids", "position_embeddings", "cache_position", "return_dict", "logits_to_keep", "input_ids",
    }
)  # fmt: skip


def mark(keys, layer) -> None:
    """Says whose keys these are. `layer.attend(call)` will be asked for the attention to them, [B, q, Hq, D]; where it
    returns None the model's own function is called. Then `layer.attended(call)` is told."""
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


def looking_modules(model) -> "weakref.WeakSet":
    """The modules that look their attention function up where it can be replaced."""
    implementation = model.config.get_text_config(decoder=True)._attn_implementation
    return weakref.WeakSet(module for module, *_ in _lookups(model, implementation))


def attention_modules(model) -> dict[int, tuple]:
    """Of each layer its attention module, and what has the function that the module calls under which name."""
    implementation = model.config.get_text_config(decoder=True)._attn_implementation
    return {
        module.layer_idx: (module, place, name)
        for module, _, name, place in _lookups(model, implementation)
        if hasattr(module, "layer_idx")
    }


def places(model) -> list[tuple[int, str]]:
    """What `is_watched` asks for."""
    return [(id(place), name) for place, name, _ in find_attention(model)]


def is_watched(places: list[tuple[int, str]]) -> bool:
    """Whether a block is open in which the model of these places is watched."""
    return all(place in _replaced for place in places)


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
    names = [*inspect.signature(function).parameters][5:]

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
        options = {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs
        call = Call(module, query, key, value, attention_mask, options, name)
        own = layer.attend(call)
        output = function(module, query, key, value, call.mask, *args, **kwargs) if own is None else (own, None)
        call.output = output[0]
        layer.attended(call)
        return output

    return attention


def _refuse_continuous_batching(*args, **kwargs):
    raise RuntimeError("continuous batching has a cache of its own and would not use this one; leave the `with` block first")
