"""A key/value cache for transformers that forgets what a reasoning model no longer looks at.

    with RPCCache(model, interval=4096, ratio=4) as cache:
        model.generate(**inputs, past_key_values=cache, max_new_tokens=32768)

As in Reasoning Path Compression (arXiv 2505.13866), 1 / `ratio` of the generated tokens stay each time that `interval` of
them have come; the prompt is never touched. That paper keeps what the last `recent` queries attended to, `selector="rpc"`.
The default keeps what would be found again, `selector="echo"`.

A cache is given keys and values but not queries: attention.py shows them to it.
"""

import copy
import warnings
import weakref
from functools import cached_property

import torch
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer

from lzpenalty.cache.attention import attention_modules, find_attention, watched
from lzpenalty.cache.budgets import Budgets
from lzpenalty.cache.compiled import new_ticket, note
from lzpenalty.cache.layer import ASKS_FOR_QUERY_OFFSET, RPCLayer, Settings, count
from lzpenalty.cache.plan import Plan
from lzpenalty.cache.ragged import RaggedLayer
from lzpenalty.cache.rotary import Attention, examine
from lzpenalty.cache.selectors import SELECTORS, Selector
from lzpenalty.engines.adaptor import callers

__all__ = ["RPCCache"]


class RPCCache(DynamicCache):
    """A preallocated cache of keys and values that is compressed as text is generated, as in arXiv 2505.13866.

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
    aggregation : {'layer', 'group'}, optional
        Whether all heads of a layer keep the same tokens, or each key head its own. By default they do if they have the same
        budget.
    selector : str or Selector, optional
        What decides: 'echo', 'rpc', 'tova', 'h2o', 'snapkv', 'streaming', 'random', 'rkv', 'vase', 'keydiff', 'lagkv',
        'expected', or an object of :mod:`lzpenalty.cache.selectors`, of which each layer gets a copy. By default 'echo', and
        'rpc', the rule of arXiv 2505.13866, for models that 'echo' can't serve; a warning says so.
    budget : int, optional
        At most so many generated tokens stay in a compression, `recent` ones included, however long the text gets: memory is
        bounded by prompt + budget + interval tokens. By default the cache grows by interval / ratio tokens an interval.
    max_new_tokens : int, optional
        Makes room for that many at once; by default buffers grow by an interval at a time.
    allocation : {'even', 'global'}, optional
        Whether every key head of every layer keeps the same number of tokens, or all share one budget: then what `budget`
        and `ratio` say is the mean of a head, and a head keeps as many as it has among the highest scores of all. 'global'
        is the default of the selector 'echo', 'even' of all others.

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
        aggregation: str | None = None,
        selector: str | Selector | None = None,
        budget: int | None = None,
        max_new_tokens: int | None = None,
        allocation: str | None = None,
    ):
        plan = Plan(interval, ratio, recent, budget)
        if selector is not None:
            selector = _check_selector(selector)
        _check_model(model)
        super().__init__(config=model.config)
        own = [i for i, layer in enumerate(self.layers) if type(layer) is DynamicLayer]
        if not own:
            raise ValueError(f"model: expected layers with full attention, {type(model).__name__} has none")
        attention = None if plan.interval is None else _examined(model)
        if selector is None:
            selector = _default_selector(model, attention)
        if allocation is None:
            allocation = "global" if selector.keeps_evidence else "even"
        if aggregation is None:
            aggregation = "group" if allocation == "global" or selector.keeps_evidence else "layer"
        settings = Settings(plan, kernel, aggregation, max_new_tokens, allocation)
        if selector.keeps_evidence and not settings.compresses:
            raise ValueError(f"interval: expected an integer with the selector {type(selector).__name__}, got None")
        self.settings = settings
        self._model = weakref.ref(model)
        self._entered = []
        if allocation == "global" or selector.keeps_evidence:
            if attention.special:
                raise ValueError(
                    f"model: expected attention to queries, keys and values of heads alone, {type(model).__name__} has "
                    f"{attention.special}, which caches with budgets by head can't compute; use allocation='even' and "
                    "another selector than 'echo'"
                )
            budgets = Budgets(plan, allocation)
            self._own = [
                RaggedLayer(settings, selector, i, budgets, turn) for i, turn in zip(own, attention.rotations, strict=True)
            ]
        else:
            self._own = [RPCLayer(settings, selector, i) for i in own]
            for layer, rotation in zip(self._own, attention.rotations, strict=True) if attention else ():
                layer.rotation = rotation
        if attention and (selector.keeps_evidence or selector.turns_queries):
            _say_what_cannot_be_turned(model, attention)
        for i, layer in zip(own, self._own, strict=True):
            self.layers[i] = layer
        self._indices, self._ticket = tuple(own), new_ticket(self)

    def __enter__(self) -> "RPCCache":
        watching = watched(self._model())
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
        twin._entered, twin._ticket = [], new_ticket(twin)
        return twin

    @property
    def selectors(self) -> list[Selector]:
        """Each layer's own copy of the selector, for those that have something to tell. Where heads have budgets of their
        own: each head's, layer by layer."""
        return [selector for layer in self._own for selector in layer.selectors]

    @cached_property
    def attention_modules(self) -> dict[int, tuple]:
        return attention_modules(self._model())

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if torch.compiler.is_compiling() and layer_idx in self._indices:
            note(self._ticket, layer_idx)
            return key_states, value_states
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def get_mask_sizes(self, query_length, *args, **kwargs):
        """Called when a forward begins: the time to refuse what can't be done."""
        if not torch.compiler.is_compiling():
            self._check(count(query_length))
        return super().get_mask_sizes(query_length, *args, **kwargs)

    def begins(self, layer_idx: int, new: int) -> None:
        """Called in a compiled forward, which only looks at sizes when it asks for them, before each layer's update."""
        if layer_idx == self._indices[0]:
            self._check(new)

    def _check(self, new: int) -> None:
        self._check_whole()
        if self.settings.compresses:
            first = self._own[0]
            if new == 1 and first.seen == 0:
                raise ValueError(
                    "prompt: expected at least 2 tokens in the first forward, got 1. RPCCache takes what comes before the "
                    "first single token for the prompt, which is never dropped"
                )
            if new > 1 and first.padded and first.length < first.seen and not ASKS_FOR_QUERY_OFFSET:
                raise RuntimeError(
                    "cache: a left-padded batch can't be continued by several tokens at once after a compression; this "
                    "needs transformers >= 5.14"
                )
        if new > 1:
            _refuse_assisted_decoding()

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        """Tokens seen. Models that ask in the middle of a forward say for which layer."""
        if layer_idx is None and not torch.compiler.is_compiling():
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
        """seen, kept, prompt: tokens a row; compressions; bytes of all buffers; seconds for appending and compressing.

        Where heads have budgets of their own, `kept` is the mean, and there are also kept_by_head, a list for each layer,
        and turned: of each layer how queries are turned to later positions, 'half' or 'interleaved' pairs, 'none' if they
        are the same at all positions, 'unknown' if that was not found out and they are used as they are."""
        first = self._own[0]
        tensors = [
            tensor
            for layer in self.layers
            for tensor in (
                layer.buffers
                if isinstance(layer, RPCLayer)
                else (getattr(layer, "keys", None), getattr(layer, "values", None))
            )
            if tensor is not None
        ]
        ragged = {}
        if isinstance(first, RaggedLayer):
            ragged["kept_by_head"] = [list(layer.entries) for layer in self._own]
            if first.own_selector.keeps_evidence:
                ragged["turned"] = [layer.rotation.pairs for layer in self._own]
        return {
            "seen": first.seen,
            "kept": first.length,
            "prompt": first.start,
            "compressions": first.compressions,
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "seconds": sum(layer.seconds for layer in self._own),
            **ragged,
        }

    def __repr__(self) -> str:
        return f"RPCCache({self.settings}, selector={type(self._own[0].selector).__name__}, {self.stats()})"


def _check_model(model) -> None:
    config = model.config.get_text_config(decoder=True)
    if model.config.is_encoder_decoder or getattr(config, "num_kv_shared_layers", 0):
        raise ValueError(
            f"model: expected a decoder whose layers have keys of their own, got {type(model).__name__}, which has an "
            "encoder or shares keys between layers"
        )
    find_attention(model)  # raises for models that can't be served


def _examined(model) -> Attention:
    """How it attends, if keys may be dropped from that."""
    attention = examine(model)
    if attention.placed:
        raise ValueError(
            f"model: expected attention that doesn't ask where keys stand, {type(model).__name__} has {attention.placed}, "
            "which can't do without any; use interval=None"
        )
    if attention.unseen:
        raise ValueError(
            f"model: expected attention to the keys that the cache holds, {type(model).__name__} makes others of them "
            f"({attention.special or 'after the cache returned them'}), so that none can be dropped; use interval=None"
        )
    return attention


def _default_selector(model, attention: Attention | None) -> Selector:
    """'echo' wherever it can be had, and anything where nothing is ever dropped."""
    if attention is None:
        return SELECTORS["rpc"]()
    if attention.special:
        warnings.warn(
            f"{type(model).__name__} has {attention.special}, which the selector 'echo' can't serve; 'rpc' is used instead",
            stacklevel=3,
        )
        return SELECTORS["rpc"]()
    return SELECTORS["echo"]()


def _say_what_cannot_be_turned(model, attention: Attention) -> None:
    turns = attention.rotations
    unknown = sum(turn.pairs == "unknown" for turn in turns)
    if unknown:
        warnings.warn(
            f"{type(model).__name__}: how queries of {unknown} of {len(turns)} layers change with their positions was not "
            "found out; they are compared as they are",
            stacklevel=3,
        )


def _seen(layer) -> int | None:
    return layer.get_seq_length() if isinstance(layer, DynamicLayer) else None


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
