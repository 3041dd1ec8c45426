"""What all caches of this package share: layers with room, a model whose attention is watched, refusals, copies, files."""

import copy
import inspect
import threading
import warnings
import weakref
from contextlib import ExitStack, contextmanager

import torch
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lzpenalty.cache.attention import attention_modules, find_attention, is_watched, looking_modules, places, watched
from lzpenalty.cache.compiled import new_ticket, note
from lzpenalty.cache.layer import Layer, count, lasting
from lzpenalty.cache.plan import check_integer
from lzpenalty.cache.text import Text
from lzpenalty.engines.prompts import cache_prompt_length, callers, unfinished_rows

__all__ = ["BaseCache", "check_model", "full_layers"]


class BaseCache(DynamicCache):
    """A cache whose layers with full attention are of :mod:`lzpenalty.cache`; layers of other kinds are transformers' own.

    Made by `__init__` of those that inherit, which then give their layers to `_set_layers`."""

    asks_for_prompt = False  # whether it matters where the prompt ends

    def __init__(self, model, prompt_length: int | None = None, protect: int | None = None):
        check_model(model)
        if prompt_length is not None:
            check_integer("prompt_length", prompt_length, 1)
        super().__init__(config=model.config)
        self._model, self._places = weakref.ref(model), places(model)
        self._blocks: list[tuple[ExitStack, int]] = []  # that are open, and what had been seen when they were opened
        self.text = Text(prompt_length, looking_modules(model), protect)

    def _set_layers(self, layers: dict[int, Layer]) -> None:
        for index, layer in layers.items():
            layer.what = type(self).__name__
            self.layers[index] = layer
        self._own, self._indices, self._ticket = [*layers.values()], tuple(layers), new_ticket(self)

    def __enter__(self):
        model = self._model()
        if model is None:
            raise RuntimeError(f"model: expected the one that {type(self).__name__} was made for, which is gone")
        block = ExitStack()
        block.enter_context(watched(model))
        block.enter_context(_announced(model))
        self._places = places(model)
        self._blocks.append((block, self._own[0].seen))
        return self

    def __exit__(self, *exception) -> None:
        block, seen = self._blocks.pop()
        block.close()
        if not any(exception) and self._own[0].seen == seen == 0:
            warnings.warn(
                f"{type(self).__name__}: nothing was fed to it in its block; pass it to generate, unless the model has "
                "another cache of its own, as with prefix tuning, which can't be compressed",
                stacklevel=2,
            )

    # Copies and files.

    @lasting
    def __deepcopy__(self, memo):
        """A copy of the tensors, as for a prompt that several answers start from."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        memo[id(self.text)] = twin.text = self.text.copy()
        twin.layers = copy.deepcopy(self.layers, memo)
        twin._own = [twin.layers[index] for index in self._indices]
        twin._blocks, twin._ticket = [], new_ticket(twin)
        return twin

    def __reduce_ex__(self, protocol):
        raise TypeError(
            f"{type(self).__name__}: expected save(file) and load(file, model), since a cache belongs to a model, got a "
            "pickle or a shallow copy; copy.deepcopy makes a copy in memory"
        )

    def save(self, file) -> None:
        """Writes what the cache holds, and what it was told, to a file (a path or a file object), for `load`.

        Raises
        ------
        TypeError
            For a selector that is not one of those of :mod:`lzpenalty.cache.selectors`.
        RuntimeError
            For a cache in which an earlier forward was interrupted.
        """
        self._check_whole()
        torch.save({"cache": type(self).__name__, **_alone(self._state())}, file)

    @classmethod
    def load(cls, file, model, map_location=None):
        """The cache that `save` wrote, for the same model. `map_location` is as in ``torch.load``.

        Raises
        ------
        ValueError
            For a file of another kind of cache, or a model whose layers don't fit.
        """
        state = torch.load(file, map_location=map_location, weights_only=True)
        if not isinstance(state, dict) or state.get("cache") != cls.__name__:
            what = state.get("cache") if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"file: expected a {cls.__name__}'s, got {what}")
        return cls._of_state(state, model)

    def _state(self) -> dict:
        """What `_of_state` makes the cache of, in tensors, numbers, lists and dictionaries."""
        return {"text": self.text.state(), "layers": [_layer_state(layer) for layer in self.layers]}

    @lasting
    def _set_state(self, state: dict) -> None:
        kinds = [type(layer).__name__ for layer in self.layers]
        if kinds != [each["kind"] for each in state["layers"]]:
            raise ValueError(
                f"model: expected one whose cache has the layers of the file's, got {type(self._model()).__name__}"
            )
        self.text.set_state(state["text"])
        for layer, of_layer in zip(self.layers, state["layers"], strict=True):
            if isinstance(layer, Layer):
                layer.set_state(of_layer)
            else:
                vars(layer).update(of_layer["values"])

    # What transformers asks.

    @property
    def attention_modules(self) -> dict[int, tuple]:
        if "_attention_modules" not in self.__dict__:
            self._attention_modules = attention_modules(self._model())
        return self._attention_modules

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if layer_idx in self._indices:
            if torch.compiler.is_compiling():
                note(self._ticket, layer_idx)
                return key_states, value_states
            self.begins(layer_idx, key_states.shape[2])
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def begins(self, layer_idx: int, new: int) -> None:
        """Before each layer's update, so that the first one's may note what the forward brings."""
        if layer_idx == self._indices[0]:
            prompt = self._check(new)  # layers of other kinds that come before may have been updated
            self.text.begins(self._own[0].seen, new, prompt, unfinished_rows(self))

    def get_mask_sizes(self, query_length, *args, **kwargs):
        """Called when a forward begins: the time to refuse what can't be done."""
        if not torch.compiler.is_compiling():
            self._check_whole()
            self._check(count(query_length))
        return super().get_mask_sizes(query_length, *args, **kwargs)

    def _check(self, new: int) -> int | None:
        """Raises for what can't be done with so many new tokens. Returns the prompt's length by a `generate` that runs."""
        if any(layer.watches for layer in self._own) and not is_watched(self._places):
            name = type(self).__name__
            raise RuntimeError(
                f"{name}: expected to be used inside of its block, `with cache: model.generate(...)`, in which it sees the "
                "model's attention"
            )
        if new > 1:
            self._refuse_assisted_decoding()
        prompt = cache_prompt_length(self)
        if self.asks_for_prompt:
            self.text.check(self._own[0].seen, new, prompt)
        return prompt

    def _refuse_assisted_decoding(self) -> None:
        """Its drafts are rolled back, and what has been dropped can't come back. Older versions ask for that only later."""
        if any(frame.f_code is GenerationMixin._assisted_decoding.__code__ for frame in callers()):
            self.crop()

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        """Tokens seen. Models that ask in the middle of a forward say for which layer."""
        if layer_idx is None and not torch.compiler.is_compiling():
            self._check_whole()
        return super().get_seq_length(layer_idx or 0)

    def _check_whole(self) -> None:
        if any(layer.waiting for layer in self._own) or len({_seen(layer) for layer in self.layers} - {None}) > 1:
            name = type(self).__name__
            raise RuntimeError(
                f"cache: an earlier forward ended before all layers were done, or {name} could not see its attention; what "
                f"it holds is not a text. Use a new {name}, or reset() this one"
            )

    def activate_past_recording(self) -> None:
        self._own[0].activate_past_recording()

    def crop(self, *args) -> None:
        self._own[0].crop()

    def reset(self) -> None:
        super().reset()
        self.text.reset()

    # Rows that are chosen, as by beam search.

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self.text.select_rows(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.text.select_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = self._own[0].rows if self._own[0].is_initialized else 0
        super().batch_repeat_interleave(repeats)
        self.text.select_rows(torch.arange(rows).repeat_interleave(repeats))

    # Around a forward of the model, inside of a block.

    def forward_begins(self, model, given: dict) -> None:
        """The model is about to be called with these arguments."""
        if given.get("use_cache") is False:
            raise ValueError("use_cache: expected True where a cache is passed, got False")
        if model.training and getattr(model, _CHECKPOINTING, False):
            raise ValueError(
                "model: expected one without gradient checkpointing, which passes no cache on while it trains, got "
                f"{type(model).__name__} in training; call model.eval()"
            )

    def forward_ends(self, output) -> None:
        """The model has returned this."""

    # What users ask.

    def stats(self) -> dict:
        """seen, kept, prompt: tokens a row; bytes of all buffers; seconds for appending and compressing."""
        first = self._own[0]
        tensors = [
            tensor
            for layer in self.layers
            for tensor in (
                layer.buffers if isinstance(layer, Layer) else (getattr(layer, "keys", None), getattr(layer, "values", None))
            )
            if tensor is not None
        ]
        return {
            "seen": first.seen,
            "kept": first.length,
            "prompt": first.start,
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "seconds": sum(layer.seconds for layer in self._own),
        }


def check_model(model) -> None:
    """Raises TypeError and ValueError for what no cache of this package can serve."""
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise TypeError(f"model: expected a model of transformers, got {_words(model)}")
    config = model.config.get_text_config(decoder=True)
    name = type(model).__name__
    if model.config.is_encoder_decoder or getattr(config, "num_kv_shared_layers", 0):
        raise ValueError(
            f"model: expected a decoder whose layers have keys of their own, got {name}, which has an encoder or shares "
            "keys between layers"
        )
    if getattr(config, "cross_attention_layers", None):
        raise ValueError(f"model: expected attention to the text alone, got {name}, which has cross-attention to images")
    find_attention(model)  # raises for models that can't be served


def full_layers(model, layers: list) -> list[int]:
    """Which of transformers' own layers, made for the model, are those with full attention and nothing else.

    Raises ValueError where there are none."""
    full = [i for i, layer in enumerate(layers) if type(layer) is DynamicLayer]
    if not full:
        kinds = ", ".join(sorted({type(layer).__name__ for layer in layers})) or "no layers"
        raise ValueError(
            f"model: expected layers with full attention that hold keys and values alone, {type(model).__name__} has {kinds}"
        )
    return full


def _alone(state):
    """The same, with tensors that share no memory, of which a file would have all, and carry no marks."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {name: _alone(each) for name, each in state.items()}
    return type(state)(map(_alone, state)) if isinstance(state, list | tuple) else state


def _words(thing) -> str:
    return f"{type(thing).__name__} {thing!r}" if isinstance(thing, str) else type(thing).__name__


def _seen(layer) -> int | None:
    return layer.get_seq_length() if isinstance(layer, DynamicLayer) else None


def _layer_state(layer) -> dict:
    if isinstance(layer, Layer):
        return {"kind": type(layer).__name__, **layer.state()}
    plain = (torch.Tensor, int, float, bool, type(None), list, dict, torch.dtype, torch.device)
    return {
        "kind": type(layer).__name__,
        "values": {name: value for name, value in vars(layer).items() if isinstance(value, plain)},
    }


# What models call it: 'gradient' before transformers 5.24.
_CHECKPOINTING = next(
    name for name in ("is_activation_checkpointing", "is_gradient_checkpointing") if hasattr(PreTrainedModel, name)
)


# A model's forward is told to the cache that is passed to it, whichever that is, as long as any block is open.

_lock = threading.Lock()
_hooks: dict[int, list] = {}  # by model: how many blocks are open, and what removes the hooks


@contextmanager
def _announced(model):
    # What generates, not what wraps it: PEFT's generate never calls its own forward.
    model = next((module for module in model.modules() if isinstance(module, GenerationMixin)), model)
    with _lock:
        entry = _hooks.setdefault(id(model), [0, ()])
        if entry[0] == 0:
            entry[1] = (
                model.register_forward_pre_hook(_begin, with_kwargs=True),
                model.register_forward_hook(_end, with_kwargs=True),
            )
        entry[0] += 1
    try:
        yield
    finally:
        with _lock:
            entry[0] -= 1
            if entry[0] == 0:
                for handle in entry[1]:
                    handle.remove()
                del _hooks[id(model)]


def _cache(model, args: tuple, kwargs: dict) -> tuple[BaseCache | None, dict]:
    """Of a model's arguments its cache, if it is one of ours, and all of them by name."""
    if torch.compiler.is_compiling():
        return None, kwargs
    given = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments if args else kwargs
    given = {**given.pop("kwargs", {}), **given} if args else given
    found = [given.get(name) for name in ("cache", "past_key_values")]  # by transformers < 5.24 the latter
    return next((cache for cache in found if isinstance(cache, BaseCache)), None), given


def _begin(model, args, kwargs) -> None:
    cache, given = _cache(model, args, kwargs)
    if cache is not None:
        cache.forward_begins(model, given)


def _end(model, args, kwargs, output) -> None:
    cache, _ = _cache(model, args, kwargs)
    if cache is not None:
        cache.forward_ends(output)
