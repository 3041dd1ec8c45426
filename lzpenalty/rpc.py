"""A key/value cache for transformers that forgets what a reasoning model no longer looks at.

    with RPCCache(model, interval=4096, ratio=4) as cache:
        model.generate(**inputs, past_key_values=cache, max_new_tokens=32768)

Reasoning Path Compression (arXiv 2505.13866): each time `interval` tokens have been generated, every layer keeps the
1 / `ratio` of its generated tokens that the last `recent` queries attended to. The prompt is never touched.

A cache is given keys and values but not queries: attention.py shows them to it.
"""

import copy
import time
import weakref
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import Cache, DynamicLayer

from lzpenalty._core import append_, compact_, select_top
from lzpenalty.adaptor import callers
from lzpenalty.attention import find_attention, mark, watched
from lzpenalty.selectors import SELECTORS, Selector

__all__ = ["RPCCache", "RPCLayer"]

_ASKS_FOR_QUERY_OFFSET = hasattr(Cache, "get_query_offset")  # transformers >= 5.14
_GROWTH = 1024  # tokens that a buffer grows by where no interval says how many


@dataclass(frozen=True)
class _Settings:
    """What RPCCache was told, for its layers."""

    interval: int | None
    ratio: int
    recent: int
    kernel: int
    aggregation: str
    budget: int | None
    max_new_tokens: int | None

    def kept(self, intervals: int) -> int:
        """Tokens of the region that stay once so many intervals have been compressed."""
        return intervals * self.interval // self.ratio if self.budget is None else self.budget - self.recent

    def due(self, intervals: int) -> int:
        """Tokens that the region reaches before the next compression."""
        return self.kept(intervals) + self.interval

    def capacity(self, prompt: int) -> int:
        """Tokens to make room for at first: all that there will be, if that is known."""
        if self.max_new_tokens is None:
            return prompt + (_GROWTH if self.interval is None else self.due(0) + self.recent)
        new = self.max_new_tokens
        if self.interval is not None:
            new = min(new, self.recent + self.due(max(0, new - self.recent - 1) // self.interval))
        return prompt + new


class RPCLayer(DynamicLayer):
    """The keys and values of one layer, at the beginning of buffers that are larger. `keys`, `values`, `queries`, `start`,
    `stop`, `length`, `keep`, `scale`, `kernel`, `aggregation` and `index` are what selectors look at."""

    is_croppable = False

    def __init__(self, settings: _Settings, selector: Selector, index: int):
        super().__init__()
        self.settings, self.selector, self.index = settings, selector, index
        self.kernel, self.aggregation = settings.kernel, settings.aggregation
        self.reset()

    def reset(self) -> None:
        self.keys = self.values = self._key_buffer = self._value_buffer = None
        self.is_initialized = False
        self.seen = self.length = self.start = 0
        self.intervals = self.compressions = 0
        self.answering = self.waiting = self.padded = False
        self.seconds = 0.0
        self.scale = self.keep = None
        self._recent = deque()
        self.own_selector = copy.deepcopy(self.selector)

    # What transformers asks.

    def lazy_initialization(self, key_states, *args) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens seen, so that positions go on counting when tokens are dropped."""
        return self.seen

    def get_mask_sizes(self, query_length) -> tuple[int, int]:
        """The number of keys that attention gets, and the column of the attention mask that the first one stands for.

        That is column 0, where the prompt's padding is. Before 5.14 a query's row counts from the tokens seen: then several
        new tokens see the right ones of each other only if columns count from as many more."""
        queries = _count(query_length)
        shift = queries > 1 and not _ASKS_FOR_QUERY_OFFSET
        return self.length + queries, self.seen - self.length if shift else 0

    def update(self, key_states, value_states, *args, **kwargs):
        started = time.perf_counter()
        if self.waiting:
            raise RuntimeError(
                f"layer {self.index} was updated twice without attention in between that RPCCache could see. Use the cache "
                "inside of its `with` block; if it was, this model's attention can't be wrapped"
            )
        new = key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        self._reserve(key_states, value_states)
        append_(self._key_buffer, self._value_buffer, key_states, value_states, position=self.length)
        self.waiting = self.settings.interval is not None  # first: what interrupts the rest leaves a broken cache
        self.length += new
        self.seen += new
        self.answering = self.answering or new == 1
        if not self.answering:
            self.start = self.length
        self._view()
        if self.waiting:
            mark(self.keys, self)
        self.seconds += time.perf_counter() - started
        return self.keys, self.values

    def select_rows(self, index: torch.Tensor) -> None:
        """The rows of the batch become these of the present ones: beams that go on, or are dropped, or multiply."""
        if not self.is_initialized:
            return
        keys, values = self.keys[index], self.values[index]
        if keys.shape[0] != self._key_buffer.shape[0]:
            self._key_buffer = self._like(keys, self._key_buffer.shape[2])
            self._value_buffer = self._like(values, self._value_buffer.shape[2])
        self._key_buffer[:, :, : self.length] = keys
        self._value_buffer[:, :, : self.length] = values
        self._view()
        self._recent = deque(queries[index] for queries in self._recent)
        self.own_selector.select_rows(index)

    def reorder_cache(self, beam_idx) -> None:
        self.select_rows(beam_idx.to(self.device) if self.is_initialized else beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.select_rows(torch.arange(self.keys.shape[0], device=self.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices) -> None:
        self.select_rows(indices)

    def crop(self, *args) -> None:
        raise RuntimeError("RPCCache can't take tokens back, so assisted decoding is not supported")

    activate_past_recording = crop

    # What the attention function says.

    @property
    def stop(self) -> int:
        """The end of the region that may be dropped; the `recent` tokens behind it may not."""
        return self.length - self.settings.recent

    @property
    def queries(self) -> torch.Tensor:
        return torch.cat(tuple(self._recent), dim=2)[:, :, -self.settings.recent :]

    def attends(self, attention_mask, flash: bool) -> None:
        """Attention to all keys is about to be computed. In the first of them the mask shows the padding."""
        if self.start < self.length or attention_mask is None:
            return
        if flash:  # which takes the mask's last columns, whatever has been dropped
            raise ValueError(
                "attention_mask: expected no left padding with FlashAttention, got a padded batch; use sdpa instead"
            )
        if not _ASKS_FOR_QUERY_OFFSET:
            oldest = attention_mask[:, :, -1, 0]
            self.padded = bool((~oldest if oldest.dtype == torch.bool else oldest < 0).any())

    def attended(self, queries: torch.Tensor, scale: float | None) -> None:
        """The step's queries [B, Hq, q, D] have attended to all keys: now is the time to drop some."""
        if self.answering:
            self.scale = queries.shape[-1] ** -0.5 if scale is None else scale
            self.own_selector.observe(self, queries)
            left = self.settings.due(self.intervals) - (self.stop - self.start)
            if left < self.settings.recent:  # only these queries will be asked for
                recent = queries[:, :, -self.settings.recent :]
                self._recent.append(recent if recent.shape[2] == queries.shape[2] else recent.clone())
            if left <= 0:
                self._compress()
        self.waiting = False

    def _compress(self) -> None:
        started = time.perf_counter()
        region = self.stop - self.start
        # Several intervals may come at once, as when a user's long message follows.
        intervals = self.intervals + (region - self.settings.kept(self.intervals)) // self.settings.interval
        self.keep = self.settings.kept(intervals)
        if self.keep:
            positions = select_top(self.own_selector.score(self), self.keep)
        else:
            positions = torch.empty((self.keys.shape[0], 1, 0), dtype=torch.int64, device=self.device)
        self.length = compact_(
            self._key_buffer, self._value_buffer, positions, start=self.start, stop=self.stop, length=self.length
        )
        self._view()
        self.own_selector.compacted(positions, region)
        self.intervals = intervals
        self.compressions += 1
        self._recent.clear()
        self.positions = positions
        self.seconds += time.perf_counter() - started

    # Memory.

    @staticmethod
    def _like(states: torch.Tensor, capacity: int) -> torch.Tensor:
        return states.new_empty((*states.shape[:2], capacity, states.shape[3]))

    def _reserve(self, key_states, value_states) -> None:
        """Makes room for the new tokens. Both buffers are there before either is used."""
        needed = self.length + key_states.shape[2]
        if self._key_buffer is None:
            capacity = self.settings.capacity(needed)
        elif needed > self._key_buffer.shape[2]:
            capacity = max(needed, self._key_buffer.shape[2] + (self.settings.interval or _GROWTH))
        else:
            return
        key_buffer, value_buffer = self._like(key_states, capacity), self._like(value_states, capacity)
        if self._key_buffer is not None:
            key_buffer[:, :, : self.length] = self.keys
            value_buffer[:, :, : self.length] = self.values
        self._key_buffer, self._value_buffer = key_buffer, value_buffer

    def _view(self) -> None:
        self.keys = self._key_buffer[:, :, : self.length]
        self.values = self._value_buffer[:, :, : self.length]


class RPCCache(DynamicCache):
    """A preallocated cache of keys and values that is compressed as text is generated (arXiv 2505.13866).

    Pass it to `generate(past_key_values=cache)` inside of its `with` block; it can be used for further turns, in the same
    block or another. The prompt is what is fed before the first single token. Where the model has layers with a sliding
    window, these stay as they are. Sampling, beam search, num_return_sequences and left-padded batches work as with
    transformers' own cache.

    Parameters
    ----------
    model : PreTrainedModel
        Of transformers, with attention "sdpa", "eager" or "flash_attention_*".
    interval : int or None, default 4096
        P, tokens between compressions, a multiple of `ratio`. None never compresses: a plain preallocated cache.
    ratio : int, default 4
        c: 1 / c of the generated tokens are kept.
    recent : int, default 32
        R, the newest queries that vote and the newest tokens that always stay; less than `interval`.
    kernel : int, default 7
        Neighbouring tokens that scores are averaged over, odd.
    aggregation : {'layer', 'group'}
        Whether all heads of a layer keep the same tokens, or each key head its own.
    selector : str or Selector, default 'rpc'
        What decides: 'rpc', 'tova', 'h2o', 'snapkv', 'streaming', 'random', 'rkv', 'vase', or an object of
        :mod:`lzpenalty.selectors`, of which each layer gets a copy.
    budget : int, optional
        At most so many generated tokens stay in a compression, `recent` ones included, however long the text gets: memory is
        bounded by prompt + budget + interval tokens. By default the cache grows by interval / ratio tokens an interval.
    max_new_tokens : int, optional
        Makes room for that many at once; by default buffers grow by an interval at a time.

    Raises
    ------
    TypeError, ValueError
        For options that contradict each other, and models that can't be served. While generating: ValueError for a first
        forward of a single token (it can't be told from an answer) and for FlashAttention with left padding; RuntimeError
        for assisted decoding, for continuous batching, and for a cache in which an earlier forward was interrupted.
    """

    def __init__(
        self,
        model,
        interval: int | None = 4096,
        ratio: int = 4,
        recent: int = 32,
        kernel: int = 7,
        aggregation: str = "layer",
        selector: str | Selector = "rpc",
        budget: int | None = None,
        max_new_tokens: int | None = None,
    ):
        settings = _check_settings(_Settings(interval, ratio, recent, kernel, aggregation, budget, max_new_tokens))
        selector = _check_selector(selector)
        config = model.config.get_text_config(decoder=True)
        if model.config.is_encoder_decoder or getattr(config, "num_kv_shared_layers", 0):
            raise ValueError(
                f"model: expected a decoder whose layers have keys of their own, got {type(model).__name__}, which has an "
                "encoder or shares keys between layers"
            )
        super().__init__(config=model.config)
        self.layers = [
            RPCLayer(settings, selector, i) if type(layer) is DynamicLayer else layer for i, layer in enumerate(self.layers)
        ]
        self.settings = settings
        self._own = [layer for layer in self.layers if isinstance(layer, RPCLayer)]
        if not self._own:
            raise ValueError(f"model: expected layers with full attention, {type(model).__name__} has none")
        self._model = weakref.ref(model)
        self._entered = []
        find_attention(model)  # raises for models that can't be served

    def __enter__(self) -> "RPCCache":
        watching = watched(self._model()) if self.settings.interval is not None else nullcontext()
        watching.__enter__()
        self._entered.append(watching)
        return self

    def __exit__(self, *exception) -> None:
        self._entered.pop().__exit__(*exception)

    def __deepcopy__(self, memo):
        """A copy of the tensors, as for a prompt that several answers start from."""
        twin = copy.copy(self)
        twin.layers = copy.deepcopy(self.layers, memo)
        twin._own = [layer for layer in twin.layers if isinstance(layer, RPCLayer)]
        twin._entered = []
        return twin

    @property
    def selectors(self) -> list[Selector]:
        """Each layer's own copy of the selector, for those that have something to tell."""
        return [layer.own_selector for layer in self._own]

    def get_mask_sizes(self, query_length, *args, **kwargs):
        """Called when a forward begins: the time to refuse what can't be done."""
        new = _count(query_length)
        self._check_whole()
        if self.settings.interval is not None:
            first = self._own[0]
            if new == 1 and first.seen == 0:
                raise ValueError(
                    "prompt: expected at least 2 tokens in the first forward, got 1. RPCCache takes what comes before the "
                    "first single token for the prompt, which is never dropped"
                )
            if new > 1 and first.padded and first.length < first.seen and not _ASKS_FOR_QUERY_OFFSET:
                raise RuntimeError(
                    "cache: a left-padded batch can't be continued by several tokens at once after a compression; this "
                    "needs transformers >= 5.14"
                )
        if new > 1:
            _refuse_assisted_decoding()
        return super().get_mask_sizes(query_length, *args, **kwargs)

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        """Tokens seen. Models that ask in the middle of a forward say for which layer."""
        if layer_idx is None:
            self._check_whole()
        return super().get_seq_length(layer_idx or 0)

    def _check_whole(self) -> None:
        if any(layer.waiting for layer in self._own) or len({_seen(layer) for layer in self.layers} - {None}) > 1:
            raise RuntimeError(
                "cache: an earlier forward ended before all layers were done, or RPCCache could not see its attention; what "
                "it holds is not a text. Use a new RPCCache, or reset() this one"
            )

    def get_query_offset(self, layer_idx: int = 0) -> int:
        layer = self.layers[layer_idx] if layer_idx < len(self.layers) else None
        return layer.length if isinstance(layer, RPCLayer) else self.get_seq_length(layer_idx)

    def activate_past_recording(self) -> None:
        self._own[0].activate_past_recording()

    def crop(self, *args) -> None:
        self._own[0].crop()

    def stats(self) -> dict:
        """seen, kept, prompt: tokens a row; compressions; bytes of all buffers; seconds for appending and compressing."""
        first = self._own[0]
        tensors = [
            tensor
            for layer in self.layers
            for tensor in (
                (layer._key_buffer, layer._value_buffer)
                if isinstance(layer, RPCLayer)
                else (getattr(layer, "keys", None), getattr(layer, "values", None))
            )
            if tensor is not None
        ]
        return {
            "seen": first.seen,
            "kept": first.length,
            "prompt": first.start,
            "compressions": first.compressions,
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "seconds": sum(layer.seconds for layer in self._own),
        }

    def __repr__(self) -> str:
        return f"RPCCache({self.settings}, selector={type(self._own[0].selector).__name__}, {self.stats()})"


def _count(query_length) -> int:
    """Queries of a forward, which transformers < 5.4 passes as their positions."""
    return query_length if isinstance(query_length, int) else query_length.shape[0]


def _seen(layer) -> int | None:
    return layer.get_seq_length() if isinstance(layer, DynamicLayer) else None


def _check_settings(s: _Settings) -> _Settings:
    def check(name: str, least: int, optional: bool = False):
        value = getattr(s, name)
        if value is None and optional:
            return
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}: expected an integer, got {value!r}")
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")

    check("interval", 1, optional=True)
    for name in ("ratio", "recent", "kernel"):
        check(name, 1)
    check("budget", 1, optional=True)
    check("max_new_tokens", 1, optional=True)
    if s.kernel % 2 == 0:
        raise ValueError(f"kernel: expected an odd number, got {s.kernel}")
    if s.aggregation not in ("layer", "group"):
        raise ValueError(f"aggregation: expected 'layer' or 'group', got {s.aggregation!r}")
    if s.interval is None:
        if s.budget is not None:
            raise ValueError(f"budget: expected None where interval is None, got {s.budget}")
        return s
    if s.interval % s.ratio:
        raise ValueError(f"interval: expected a multiple of ratio, {s.ratio}, got {s.interval}")
    if s.recent >= s.interval:
        raise ValueError(f"recent: expected less than interval, {s.interval}, got {s.recent}")
    if s.budget is not None and s.budget < s.recent:
        raise ValueError(f"budget: expected at least recent, {s.recent}, got {s.budget}")
    return s


def _check_selector(selector: str | Selector) -> Selector:
    if isinstance(selector, Selector):
        return selector
    if not isinstance(selector, str):
        raise TypeError(f"selector: expected a name or a Selector, got {type(selector).__name__}")
    if selector not in SELECTORS:
        raise ValueError(f"selector: expected one of {', '.join(map(repr, SELECTORS))}, got {selector!r}")
    return SELECTORS[selector]()


def _refuse_assisted_decoding() -> None:
    """Its drafts are rolled back, and what has been dropped can't come back. Older versions ask for that only afterwards."""
    if any(frame.f_code is GenerationMixin._assisted_decoding.__code__ for frame in callers()):
        raise RuntimeError("RPCCache can't take tokens back, so assisted decoding is not supported")
