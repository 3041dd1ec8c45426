"""A key/value cache for transformers that forgets what a reasoning model no longer looks at.

    with CompressedCache(model, interval=4096, ratio=4) as cache:
        model.generate(**inputs, cache=cache, max_new_tokens=32768)

As in Reasoning Path Compression (arXiv 2505.13866), 1 / `ratio` of the generated tokens stay each time that `interval` of
them have come; the prompt is never touched. That paper keeps what the last `recent` queries attended to (`RPCCache`). The
default keeps what would be found again, `selector="echo"`.

With `protect` the prompt is compressed as well, as it is read, and can be asked many questions:

    with CompressedCache(model, interval=256, ratio=4, protect=4) as cache:
        cache.read(document)
    twin = copy.deepcopy(cache)
    with twin:
        model.generate(torch.cat([document, question], dim=1), cache=twin)
"""

import inspect
import warnings

import torch

from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.base import BaseCache, full_layers
from lzpenalty.cache.budgets import Budgets
from lzpenalty.cache.even import EvenLayer
from lzpenalty.cache.layer import GROWTH, Settings
from lzpenalty.cache.plan import Plan, check_integer
from lzpenalty.cache.ragged import RaggedLayer
from lzpenalty.cache.rotary import Attention, examine
from lzpenalty.cache.selectors import SELECTORS, Selector

__all__ = ["CompressedCache"]

_RECENT = 32


class CompressedCache(BaseCache):
    """A preallocated cache of keys and values that is compressed as text is generated.

    Pass it to `generate(cache=cache)`, `past_key_values=cache` before transformers 5.24, inside of its `with` block; it can
    be used for further turns, in the same block or another. Where the model has layers with a sliding window, these stay as
    they are. Sampling, beam search, num_return_sequences and left-padded batches work as with transformers' own cache, and a
    row of a batch keeps what it would keep alone. What a mask takes out, and what generate puts behind a row that has ended,
    has no say in what is kept, and is the first to go.

    Parameters
    ----------
    model : PreTrainedModel
        Of transformers, with attention "sdpa", "eager" or "flash_attention_*".
    interval : int or None, default 4096
        P, tokens between compressions, a multiple of `ratio`. None never compresses: a plain preallocated cache.
    ratio : int, default 4
        c: 1 / c of the generated tokens are kept.
    recent : int, optional
        R, the newest queries that vote and the newest tokens that always stay; less than `interval`. By default 32.
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
        Whether every key head of every layer keeps the same number of tokens, or all heads of a row share one budget: then
        what `budget` and `ratio` say is the mean of a head, and a head keeps as many as it has among the highest scores of
        all. 'global' is the default of the selector 'echo', 'even' of all others.
    prompt_length : int, optional
        Tokens, padding included, that are never dropped. By default the prompt is what the caller of `generate` gave, in
        however many pieces it is fed; outside of `generate` it is what comes before the first single token.
    protect : int, optional
        Only the first so many tokens of each row, padding not counted, are never dropped. What follows, prompt, answer and
        further turns, is one text that is compressed as it comes: where this says "generated", it is meant. By default the
        whole prompt stays.

    Raises
    ------
    TypeError, ValueError
        For options that contradict each other, and models that can't be served. While generating: ValueError for a first
        forward of a single token outside of `generate`, for FlashAttention with left padding, for weights of attention and
        masks that can't be had any more once something has been dropped, and for tensors that require grad; RuntimeError for
        use outside of the block, for assisted decoding, for continuous batching, and for a cache in which an earlier forward
        was interrupted.
    """

    def __init__(
        self,
        model,
        interval: int | None = 4096,
        ratio: int = 4,
        recent: int | None = None,
        kernel: int = 7,
        aggregation: str | None = None,
        selector: str | Selector | None = None,
        budget: int | None = None,
        max_new_tokens: int | None = None,
        allocation: str | None = None,
        prompt_length: int | None = None,
        protect: int | None = None,
    ):
        plan = _plan(interval, ratio, recent, budget)
        if selector is not None:
            selector = _check_selector(selector)
        if protect is not None:
            _check_protect(protect, plan, prompt_length, max_new_tokens)
        super().__init__(model, prompt_length, protect)
        own = full_layers(model, self.layers)
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
        ragged = allocation == "global" or selector.keeps_evidence
        if ragged and attention.special:
            raise ValueError(
                f"model: expected attention to queries, keys and values of heads alone, {type(model).__name__} has "
                f"{attention.special}, which caches with budgets by head can't compute; use allocation='even' and "
                "another selector than 'echo'"
            )
        if attention and (selector.keeps_evidence or selector.turns_queries):
            _say_what_cannot_be_turned(model, attention)
        self.settings, self.selector, self.asks_for_prompt = settings, selector, settings.compresses and protect is None
        budgets = Budgets(plan, allocation)
        self._set_layers(
            {
                index: RaggedLayer(settings, selector, index, self.text, budgets, attention.rotations[number])
                if ragged
                else EvenLayer(
                    settings, selector, index, self.text,
                    attention and attention.rotations[number], attention.calls[number] if attention else 1,
                )
                for number, index in enumerate(own)
            }
        )  # fmt: skip

    @property
    def selectors(self) -> list[Selector]:
        """Each layer's own copy of the selector, for those that have something to tell. Where heads have budgets of their
        own: each head's of each row, layer by layer."""
        return [selector for layer in self._own for selector in layer.selectors]

    def selectors_of(self, row: int) -> list[Selector]:
        """Those of `selectors` that this row of the batch has to do with."""
        return [selector for layer in self._own for selector in layer.selectors_of(row)]

    def read(self, input_ids, attention_mask=None, chunk: int | None = None) -> None:
        """Feeds a text to the model that is to be asked about later. With `protect` it is compressed on the way: pieces end
        where compressions are due, so that as much is kept as if it came token by token, and the same, and no more is ever
        held than what is kept and an interval.

        Parameters
        ----------
        input_ids : torch.Tensor
            int64 [B, n], behind what the cache has seen.
        attention_mask : torch.Tensor, optional
            [B, seen + n], of all that has been seen and is new, where some of it is padding on the left.
        chunk : int, optional
            Pieces are no longer than this. By default an interval, 1,024 tokens if there is none.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As for any forward with this cache; for a mask of another shape.
        """
        model, seen = self._model(), self._own[0].seen
        if chunk is None:
            chunk = self.settings.plan.interval or GROWTH
        check_integer("chunk", chunk, 1)
        wanted = (input_ids.shape[0], seen + input_ids.shape[1])
        if attention_mask is not None and tuple(attention_mask.shape) != wanted:
            raise ValueError(
                f"attention_mask: expected {list(wanted)}, of all that the cache has seen and the new tokens, got "
                f"{list(attention_mask.shape)}"
            )
        given = {"use_cache": True, CACHE_ARGUMENT: self}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            given["logits_to_keep"] = 1
        with torch.no_grad(), self:
            while input_ids.shape[1]:
                size = min(chunk, self._own[0].until_due())
                ids, input_ids = input_ids[:, :size], input_ids[:, size:]
                seen += ids.shape[1]
                if attention_mask is not None:
                    mask = attention_mask[:, :seen]
                    positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                    given |= {"attention_mask": mask, "position_ids": positions}
                model(ids, **given)

    def stats(self) -> dict:
        """seen, kept, prompt: tokens a row; compressions; bytes of all buffers; seconds for appending and compressing.

        `prompt` is what is never dropped. Where rows of a batch are padded and `protect` is given, `kept`, `prompt` and
        `compressions` are the most of a row.

        Where heads have budgets of their own, `kept` is the mean, and there are also kept_by_head, for each layer a list of
        its heads' numbers for each row, and turned: of each layer how queries are turned to later positions, 'half' or
        'interleaved' pairs, 'none' if they are the same at all positions, 'unknown' if that was not found out and they are
        used as they are."""
        first, stats = self._own[0], super().stats()
        stats["compressions"] = first.compressions
        if isinstance(first, RaggedLayer):
            stats["kept_by_head"] = [
                [[layer.entries(row, head) for head in range(layer.heads)] for row in range(layer.rows)]
                for layer in self._own
            ]
            if first.selector.keeps_evidence:
                stats["turned"] = [layer.rotation.pairs for layer in self._own]
        return stats

    def _state(self) -> dict:
        names = {type_: name for name, type_ in SELECTORS.items()}
        if type(self.selector) not in names:
            raise TypeError(
                f"selector: expected one of lzpenalty's in a cache that is saved, got {type(self.selector).__name__}, which "
                "the file could not name"
            )
        plan, settings = self.settings.plan, self.settings
        options = {
            "interval": plan.interval, "ratio": plan.ratio, "recent": plan.recent, "budget": plan.budget,
            "kernel": settings.kernel, "aggregation": settings.aggregation, "max_new_tokens": settings.max_new_tokens,
            "allocation": settings.allocation, "prompt_length": self.text.prompt_length,
            "protect": self.text.protect,
        }  # fmt: skip
        selector = {"name": names[type(self.selector)], "state": self.selector.state()}
        return {**super()._state(), "options": options, "selector": selector}

    @classmethod
    def _of_state(cls, state: dict, model):
        selector = SELECTORS[state["selector"]["name"]]()
        selector.set_state(state["selector"]["state"])
        cache = cls.__new__(cls)
        CompressedCache.__init__(cache, model, selector=selector, **state["options"])
        cache._set_state(state)
        return cache

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings}, selector={type(self.selector).__name__}, {self.stats()})"


def _plan(interval, ratio, recent, budget) -> Plan:
    plan = Plan(interval, ratio, 1, budget)  # what else is wrong is said first
    if recent is None and plan.interval is not None and plan.interval <= _RECENT:
        raise ValueError(
            f"interval: expected more than recent, which is {_RECENT} where it is not given, got {interval}; give a smaller "
            "recent as well"
        )
    return Plan(interval, ratio, _RECENT if recent is None else recent, budget)


def _check_protect(protect, plan: Plan, prompt_length, max_new_tokens) -> None:
    check_integer("protect", protect, 0)
    if plan.interval is None:
        raise ValueError("interval: expected an integer where protect is given, got None")
    for name, value in (("prompt_length", prompt_length), ("max_new_tokens", max_new_tokens)):
        if value is not None:
            raise ValueError(f"{name}: expected None where protect is given, which counts the prompt as text, got {value!r}")


def _examined(model) -> Attention:
    """How it attends, if keys may be dropped from that."""
    attention = examine(model)
    name = type(model).__name__
    if attention.placed:
        raise ValueError(
            f"model: expected attention that doesn't ask where keys stand, {name} has {attention.placed}, which can't do "
            "without any; use interval=None"
        )
    if attention.unseen:
        raise ValueError(
            f"model: expected attention to the keys that the cache holds, {name} makes others of them "
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


def _check_selector(selector: str | Selector) -> Selector:
    if isinstance(selector, Selector):
        return selector
    if not isinstance(selector, str):
        raise TypeError(f"selector: expected a name or a Selector, got {type(selector).__name__}")
    if selector not in SELECTORS:
        raise ValueError(f"selector: expected one of {', '.join(map(repr, SELECTORS))}, got {selector!r}")
    return SELECTORS[selector]()
