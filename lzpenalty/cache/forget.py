"""Models that were trained to sum up what they thought, and a cache that forgets what has been summed up.

    with ForgetCache(model, Forget.lightthinker_qwen(tokenizer)) as cache:
        model.generate(**inputs, cache=cache, max_new_tokens=10240)

LightThinker (arXiv 2502.15589) writes a splitter behind each thought; a few tokens that are put behind it then take up what
the thought says. MEMENTO (arXiv 2604.09852) writes thoughts and summaries of them between tokens of their own. In both the
keys and values of a thought are dropped from all layers before the last token of its summary is computed, so those of the
summary's other tokens have seen the thought, and all that comes later sees what they kept of it. Positions go on counting as
if nothing had been dropped.

Which tokens go depends on what a row says, so rows of a batch have lengths of their own (rows.py). A selector's compression
counts on plans that all rows share, and no published method does both: that is why this is not an option of CompressedCache.
"""

import copy
from dataclasses import asdict, dataclass, field

import torch

from lzpenalty.cache.base import BaseCache, full_layers
from lzpenalty.cache.layer import Settings
from lzpenalty.cache.plan import Plan, check_integer
from lzpenalty.cache.rotary import examine
from lzpenalty.cache.rows import RowsLayer
from lzpenalty.engines.prompts import cache_prompt_length

__all__ = ["Forget", "ForgetCache"]


@dataclass(frozen=True)
class Forget:
    """Which tokens begin and end a thought, and how it is summed up. Give one of `then` and `summary`.

    Parameters
    ----------
    close : int
        The id that the model ends a thought with.
    open : int, optional
        The id that begins one. By default a thought begins behind the prompt or message, and behind each summary.
    then : sequence of int
        Ids that follow `close` whatever the model would say: the summary. The last one is computed without the thought.
    summary : (int, int), optional
        The ids that begin and end a summary which the model writes. The second is computed without the thought.
    keep_delimiters : bool, default False
        Whether `open` and `close` stay where the thought is dropped.

    Raises
    ------
    TypeError, ValueError
        Naming the option, what is wanted and what came.
    """

    close: int
    open: int | None = None
    then: tuple[int, ...] = ()
    summary: tuple[int, int] | None = None
    keep_delimiters: bool = False

    def __post_init__(self):
        for name in ("then", "summary"):
            value = getattr(self, name)
            if value is not None:
                if isinstance(value, str | int):
                    raise TypeError(f"{name}: expected ids, got {value!r}")
                object.__setattr__(self, name, tuple(value))
        for name, ids in self._ids():
            for i in ids:
                check_integer(name, i, 0)
        if self.summary is None and not self.then:
            raise ValueError("then: expected at least one id where there is no summary, got none")
        if self.summary is not None:
            if self.then:
                raise ValueError(f"then: expected none where the model writes the summary, got {self.then}")
            if len(self.summary) != 2:
                raise ValueError(f"summary: expected two ids, got {len(self.summary)}")
        if not isinstance(self.keep_delimiters, bool):
            raise TypeError(f"keep_delimiters: expected True or False, got {self.keep_delimiters!r}")
        if self.keep_delimiters and self.open is None:
            raise ValueError("open: expected an id where keep_delimiters is True, got None")
        taken = {}
        for name, ids in self._ids():
            for i in ids:
                if i in taken and not name == taken[i] == "then":
                    raise ValueError(f"{name}: expected ids that {taken[i]} has not, got {i}")
                taken[i] = name

    def _ids(self) -> list[tuple[str, tuple]]:
        opening = () if self.open is None else (self.open,)
        return [("close", (self.close,)), ("open", opening), ("then", self.then), ("summary", self.summary or ())]

    def check_vocabulary(self, size: int) -> None:
        """Raises ValueError for ids that a model with so many does not have."""
        for name, ids in self._ids():
            for i in ids:
                if i >= size:
                    raise ValueError(f"{name}: expected ids below the model's vocabulary size, {size}, got {i}")

    # The published settings. All raise ValueError if the tokenizer lacks one of the tokens that the method adds.

    @classmethod
    def lightthinker_qwen(cls, tokenizer) -> "Forget":
        """LightThinker with nine summary tokens, as zjunlp/LightThinker-Qwen."""
        return cls._lightthinker(tokenizer, 9)

    @classmethod
    def lightthinker_llama(cls, tokenizer) -> "Forget":
        """LightThinker with seven summary tokens, as zjunlp/LightThinker-Llama."""
        return cls._lightthinker(tokenizer, 7)

    @classmethod
    def memento_qwen(cls, tokenizer) -> "Forget":
        """MEMENTO as trained from Qwen3 and OLMo 3, whose later tokens see a thought's delimiters."""
        return cls._memento(tokenizer, True)

    @classmethod
    def memento_phi(cls, tokenizer) -> "Forget":
        """MEMENTO as trained from Phi-4, whose later tokens don't."""
        return cls._memento(tokenizer, False)

    @classmethod
    def _lightthinker(cls, tokenizer, gists: int) -> "Forget":
        words = ["<|splitter|>", *(f"<|o_{i}|>" for i in range(gists)), "<|continue|>"]
        close, *then = _find(tokenizer, words)
        return cls(close, then=then)

    @classmethod
    def _memento(cls, tokenizer, keep_delimiters: bool) -> "Forget":
        words = ["<|block_start|>", "<|block_end|>", "<|summary_start|>", "<|summary_end|>"]
        opening, close, *summary = _find(tokenizer, words)
        return cls(close, opening, summary=summary, keep_delimiters=keep_delimiters)


PUBLISHED = ("lightthinker_qwen", "lightthinker_llama", "memento_qwen", "memento_phi")


def _find(tokenizer, words: list[str]) -> list[int]:
    known = tokenizer.get_vocab()
    missing = [word for word in words if word not in known]
    if missing:
        raise ValueError(
            f"tokenizer: expected one with the tokens that the model was trained with, got one without {', '.join(missing)}"
        )
    return [known[word] for word in words]


@dataclass
class _Row:
    """What one row of the batch is in the middle of. Thoughts are ranges of the entries that it has in the cache."""

    opened: list[int] = field(default_factory=list)  # where thoughts began that have no end yet, the innermost last
    closed: list[tuple[int, int]] = field(default_factory=list)  # thoughts without a summary
    pending: tuple[int, int] | None = None  # the thought whose summary is being written, and where it began
    written: int = 0  # of the ids of `then`
    forgotten: int = 0  # thoughts

    def message(self, rule: Forget, at: int) -> None:
        """What ends before the entry `at` stays for good."""
        self.opened = [at] if rule.open is None else []
        self.closed, self.pending = [], None

    def forced(self, rule: Forget) -> int | None:
        """The id that has to come next."""
        return rule.then[self.written] if rule.then and self.pending is not None else None

    def feed(self, rule: Forget, token: int, at: int) -> tuple[int, int] | None:
        """Takes notice of a token that becomes the entry `at`. Returns the entries that are dropped before."""
        if rule.then and self.pending is not None:
            if token == rule.then[self.written]:
                self.written += 1
                return self._forget(rule, at) if self.written == len(rule.then) else None
            self.opened.append(self.pending[0])  # what was closed is open again: somebody else chose this token
            self.pending = None
        if token == rule.close and self.opened:
            thought = self.opened.pop(), at + 1
            if rule.then:
                self.pending, self.written = thought, 0
            else:
                self.closed.append(thought)
        elif token == rule.open:
            self.opened.append(at)
        elif rule.summary is not None and token == rule.summary[0] and self.closed:
            self.pending = self.closed.pop()
        elif rule.summary is not None and token == rule.summary[1] and self.pending is not None:
            return self._forget(rule, at)
        return None

    def _forget(self, rule: Forget, at: int) -> tuple[int, int] | None:
        first, end = self.pending
        if rule.keep_delimiters:
            first, end = first + 1, max(first + 1, end - 1)

        def moved(entry: int) -> int:
            return entry - min(max(entry - first, 0), end - first)

        self.opened = [*map(moved, self.opened)]
        self.closed = [(moved(a), moved(b)) for a, b in self.closed]
        self.pending = None
        self.forgotten += 1
        if rule.open is None:
            self.opened = [moved(at) + 1]
        return first, end


class ForgetCache(BaseCache):
    """A preallocated cache from which a thought is dropped once it has been summed up (arXiv 2502.15589, 2604.09852).

    Pass it to `generate(cache=cache)`, `past_key_values=cache` before transformers 5.24, inside of its `with` block, in
    which the ids that have to follow the end of a thought are forced on the model's logits; they are part of the text and
    count as new tokens. Prompts, and messages of further turns that are fed several tokens at a time or to `generate`, are
    never dropped. Sampling, beam search, num_return_sequences and left-padded batches work as with transformers' own cache.
    Every forward reads the newest ids from the device.

    Parameters
    ----------
    model : PreTrainedModel
        Of transformers, with full attention in all layers and attention "sdpa", "eager" or "flash_attention_*".
    forget : Forget
        Which tokens begin, end and sum up a thought.

    Raises
    ------
    TypeError, ValueError
        For ids beyond the model's vocabulary, and models that can't be served. While generating: ValueError for a forward
        without input_ids, and for models whose attention has sinks or a position bias; RuntimeError for assisted decoding,
        for continuous batching, for use outside of the block, and for a cache in which an earlier forward was interrupted.
    """

    def __init__(self, model, forget: Forget):
        if not isinstance(forget, Forget):
            raise TypeError(f"forget: expected a Forget, got {type(forget).__name__}")
        super().__init__(model)
        forget.check_vocabulary(model.config.get_text_config(decoder=True).vocab_size)
        full = full_layers(model, self.layers)
        if len(full) < len(self.layers):
            raise ValueError(
                f"model: expected full attention in all layers, got {type(model).__name__}, of whose layers "
                f"{len(self.layers) - len(full)} have another"
            )
        attention = examine(model)
        what = (
            attention.placed
            or attention.special
            or ("keys that are made of those that it holds" if attention.unseen else None)
        )
        if what:
            raise ValueError(
                f"model: expected attention to queries, keys and values alone, got {type(model).__name__}, which has {what}"
            )
        self.forget = forget
        settings = Settings(Plan(None))
        self._set_layers({index: RowsLayer(settings, index, self.text) for index in full})
        self._rows: list[_Row] = []
        self._told = 0  # tokens whose ids have been shown
        self._prompt, self._began = None, 0  # of the `generate` that was running: its prompt, and what had come before

    def __deepcopy__(self, memo):
        twin = super().__deepcopy__(memo)
        twin._rows = copy.deepcopy(self._rows, memo)
        return twin

    def _state(self) -> dict:
        rows = [asdict(row) for row in self._rows]
        return {**super()._state(), "forget": asdict(self.forget), "rows": rows, "told": self._told}

    @classmethod
    def _of_state(cls, state: dict, model):
        cache = cls(model, Forget(**state["forget"]))
        cache._set_state(state)
        cache._rows, cache._told = [_Row(**row) for row in state["rows"]], state["told"]
        return cache

    # Around a forward of the model.

    def forward_begins(self, model, given: dict) -> None:
        """The time to drop what the new tokens must not see."""
        super().forward_begins(model, given)
        ids = given.get("input_ids")
        if ids is None:
            raise ValueError("input_ids: expected the tokens of every forward, got none: thoughts end where ids say so")
        seen, new = self._own[0].seen, ids.shape[1]
        self._check_whole()
        self._check(new)
        if self._told != seen:
            raise RuntimeError(
                "cache: an earlier forward ended before all layers were done, what it holds is not a text. Use a new "
                "ForgetCache, or reset() this one"
            )
        if self._rows and len(self._rows) != ids.shape[0]:
            raise ValueError(f"input_ids: expected {len(self._rows)} rows, as before, got {ids.shape[0]}")
        if self._is_message(seen, new):
            self._message(ids.shape[0], new)
            return
        self._told = seen + new
        for number, (row, token) in enumerate(zip(self._rows, ids[:, 0].tolist(), strict=True)):
            if dropped := row.feed(self.forget, token, self._own[0].entries[number]):
                for layer in self._own:
                    layer.drop(number, *dropped)

    def _message(self, rows: int, new: int) -> None:
        """What comes next is somebody else's."""
        first = self._own[0]
        self._rows = self._rows or [_Row() for _ in range(rows)]
        self._told = first.seen + new
        for number, row in enumerate(self._rows):
            row.message(self.forget, (first.entries[number] if first.seen else 0) + new)

    def _is_message(self, seen: int, new: int) -> bool:
        """Whether the new tokens are a part of what somebody else wrote. A text that is given to `generate` but for its last
        token is one that goes on."""
        prompt = cache_prompt_length(self)
        if prompt != self._prompt:
            self._prompt, self._began = prompt, seen
        part = prompt is not None and seen < prompt and prompt - self._began > 1
        return new > 1 or not seen or part

    def forward_ends(self, output) -> None:
        """Of the logits [B, q, V] the last ones leave nothing but the id that has to come next, where there is one."""
        logits = output[0] if isinstance(output, tuple) else output.logits
        for number, row in enumerate(self._rows):
            forced = row.forced(self.forget)
            if forced is not None:
                logits[number, -1] = -torch.inf
                logits[number, -1, forced] = 0

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        seen, new = self.layers[layer_idx].seen, key_states.shape[2]
        if not torch.compiler.is_compiling() and seen + new != self._told:
            # Up to transformers 5.3 generate calls a model's forward for the pieces of a prompt, past all hooks.
            prompt = cache_prompt_length(self)
            if layer_idx != self._indices[0] or prompt is None or seen + new > prompt or not self._is_message(seen, new):
                raise RuntimeError(
                    "cache: a forward whose tokens it was not shown. Use ForgetCache inside of its `with` block, and call "
                    "the model, not its forward"
                )
            self._message(key_states.shape[0], new)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    # Rows that are chosen, as by beam search.

    def _select(self, index: list[int]) -> None:
        self._rows = [copy.deepcopy(self._rows[i]) for i in index]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._select(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._select(torch.arange(len(self._rows))[indices.cpu()].tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._select([i for i in range(len(self._rows)) for _ in range(repeats)])

    def reset(self) -> None:
        super().reset()
        self._rows, self._told, self._prompt = [], 0, None

    def stats(self) -> dict:
        """seen, prompt: tokens a row; kept, peak: those that the longest row has, and has had; kept_by_row; thoughts: how
        many of each row have been dropped; bytes of all buffers; seconds for appending."""
        stats = super().stats()
        first = self._own[0]
        return {
            **stats,
            "peak": first.peak,
            "kept_by_row": list(first.entries),
            "thoughts": [row.forgotten for row in self._rows],
        }

    def __repr__(self) -> str:
        return f"ForgetCache({self.forget}, {self.stats()})"
