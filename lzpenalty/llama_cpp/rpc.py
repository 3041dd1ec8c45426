"""A llama.cpp that forgets what it no longer looks at, by way of llama-cpp-python.

    llama = RPCLlama("model.gguf", n_ctx=32768, interval=1024, ratio=4, budget=2048)
    llama.create_chat_completion(messages, logits_processor=LogitsProcessorList([LZPenalty()]))

Reasoning Path Compression (arXiv 2505.13866), with one choice for all layers: llama.cpp can remove a token from its cache,
but only from all layers at once. Tokens that come later fill the holes and go on counting positions. Nothing of llama.cpp
is changed: tap.py reads its attention, cells.py knows where it puts what.
"""

import time
from collections.abc import Generator, Sequence

import llama_cpp
import numpy as np
from llama_cpp import Llama, llama_chat_format

from lzpenalty._core import select_top
from lzpenalty.cache.plan import Plan, check_integer
from lzpenalty.llama_cpp.cells import Cells
from lzpenalty.llama_cpp.tap import Tap, ggml_functions

__all__ = ["SELECTORS", "RPCLlama"]

SELECTORS = ("rpc", "streaming", "random")
_SINKS = 4  # StreamingLLM's


class RPCLlama(Llama):
    """llama-cpp-python's `Llama` with a cache of fixed size for a text of any length (arXiv 2505.13866).

    Used as `Llama` is. The prompt is what the first call read, and stays. All that follows, answers and further turns, is
    compressed whenever `interval` more tokens have been computed. A text that goes on from all that was read keeps its
    cache, with its holes. One that was changed is read again from the first hole, or from the change if that comes first;
    if it was changed before the first generated token, all of it is the new prompt.

    Parameters
    ----------
    model_path : str
        A GGUF file.
    n_ctx : int, default 0
        Tokens of text, which is not what the cache holds. 0: as many as the model was trained on.
    interval : int, default 1024
        P, tokens between compressions, a multiple of `ratio`.
    ratio : int, default 4
        c: 1 / c of the tokens behind the prompt are kept, if there is no budget.
    recent : int, default 32
        R, the newest queries that vote and the newest tokens that always stay; less than `interval`.
    kernel : int, default 7
        Neighbouring tokens that scores are averaged over, odd.
    budget : int or None, default 2048
        At most so many tokens behind the prompt stay in a compression, `recent` ones included. None: the cache grows by
        interval / ratio tokens an interval, and has room for that.
    selector : {'rpc', 'streaming', 'random'}
        What stays: what the last R queries attended to, mean over all heads and layers; the 4 oldest tokens behind the
        prompt and the newest (StreamingLLM, arXiv 2309.17453); chance, the same each time. The last two work with
        `flash_attn=True` as well.
    max_prompt : int, default 1024
        Tokens of a prompt that there is room for. The cache has max_prompt + budget + interval cells, rounded up by
        llama.cpp to a multiple of 256.
    **options
        As for `Llama`.

    Raises
    ------
    TypeError, ValueError
        For options that contradict each other, and for what can't be: `draft_model`, `logits_all`, `embedding`, images,
        `flash_attn` with 'rpc'; models with a sliding window, an encoder or recurrent layers; texts longer than the model
        was trained on, if no option of RoPE says otherwise. While generating: ValueError for a prompt or a text that is too
        long, before anything is computed; RuntimeError where llama.cpp doesn't do what is expected of it. Then the text is
        forgotten, and the next call reads all of its own.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_ctx: int = 0,
        interval: int = 1024,
        ratio: int = 4,
        recent: int = 32,
        kernel: int = 7,
        budget: int | None = 2048,
        selector: str = "rpc",
        max_prompt: int = 1024,
        **options,
    ):
        check_integer("interval", interval, 1)
        self.plan = Plan(interval, ratio, recent, budget)
        check_integer("kernel", kernel, 1)
        if kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, got {kernel}")
        if selector not in SELECTORS:
            raise ValueError(f"selector: expected one of {', '.join(map(repr, SELECTORS))}, got {selector!r}")
        check_integer("max_prompt", max_prompt, 1)
        check_integer("n_ctx", n_ctx, 0)
        if n_ctx == 0 and budget is None:
            raise ValueError("n_ctx: expected the tokens of a text where budget is None, so that there is room, got 0")
        _check_options(options, selector)
        self.kernel, self.selector = kernel, selector
        self._text = n_ctx
        self._tap = Tap(ggml_functions(llama_cpp)) if selector == "rpc" else None
        self._seconds, self._prompt, self._region = 0.0, 0, None

        more = self.plan.peak(max(n_ctx - max_prompt, 0)) if n_ctx else budget + interval
        super().__init__(model_path, n_ctx=(min(n_ctx, max_prompt) if n_ctx else max_prompt) + more, **options)
        size = llama_cpp.llama_n_ctx(self.ctx)
        try:
            _check_model(self, size, options)
        except ValueError:
            self.close()
            raise
        self._text = self.n_ctx()
        self.input_ids = np.zeros(self._text, np.intc)
        self._cells = Cells(size, llama_cpp.llama_n_ubatch(self.ctx))
        if self._tap:
            self._tap.resize(size)

    # What Llama asks.

    @property
    def context_params(self):
        return self._context_params

    @context_params.setter
    def context_params(self, parameters) -> None:
        """Llama has no option for this one, but sets what it will make the context with."""
        if self._tap:
            parameters.cb_eval = llama_cpp.ggml_backend_sched_eval_callback(self._tap.callback)
            parameters.cb_eval_user_data = self._tap.user_data
        self._context_params = parameters

    def n_ctx(self) -> int:
        """Tokens of text; `stats()["cells"]` is what the cache has room for."""
        return self._text or self._model.n_ctx_train()

    def generate(
        self, tokens: Sequence[int], *, reset: bool = True, **options
    ) -> Generator[int, Sequence[int] | None, None]:
        """As `Llama.generate`; raises ValueError for a prompt that there is no room for."""
        tokens = list(tokens)
        if reset and self.n_tokens and tokens:
            self._resume(tokens)
        return (yield from super().generate(tokens, reset=reset, **options))

    def eval(self, tokens: Sequence[int]) -> None:
        """Computes the next tokens of the text, as `Llama.eval`. The first ones are the prompt."""
        tokens, start = list(tokens), self.n_tokens
        if start == 0:
            self._check_room(len(tokens))
            self._prompt = len(tokens)
        if start + len(tokens) > self._text:
            raise ValueError(
                f"tokens: expected at most {self._text - start} more, so that n_ctx holds them, got {len(tokens)}"
            )
        if self._cells.remove(start):  # as Llama.eval is going to do: n_tokens was lowered
            self._close()
        if start and not len(self._cells.held(start - 1, start)):
            raise ValueError(f"n_tokens: expected the token before position {start} in the cache, it was dropped")
        try:
            if not tokens:
                super().eval(tokens)
            for piece in self._pieces(tokens):
                self._read(piece)
        except BaseException:
            self._forget()
            raise

    def set_cache(self, cache) -> None:
        """Raises RuntimeError unless it is None."""
        if cache is not None:
            raise RuntimeError("set_cache: expected None, states that are loaded put tokens into cells that can't be known")
        super().set_cache(cache)

    def save_state(self):
        """Raises RuntimeError."""
        raise RuntimeError("save_state: RPCLlama can't save states, they lack what was dropped and when")

    def load_state(self, state) -> None:
        """Raises RuntimeError."""
        raise RuntimeError("load_state: RPCLlama can't load states, they put tokens into cells that can't be known")

    def __getstate__(self):
        raise TypeError("RPCLlama can't be pickled; make another one")

    def close(self) -> None:
        """Frees model and cache."""
        if hasattr(self, "_stack"):  # not if an option was refused
            super().close()

    # Which tokens are read again.

    def _resume(self, tokens: list[int]) -> None:
        """Another text follows: `n_tokens` is lowered to where it must be read again from. Llama lowers it further where
        the texts differ before that."""
        common = min(self.n_tokens, len(tokens))
        differ = np.flatnonzero(self.input_ids[:common] != np.asarray(tokens[:common]))
        same = int(differ[0]) if len(differ) else common
        if same == self.n_tokens == len(tokens) and not self._requires_eval:
            return  # the logits are there
        cut = min(same, len(tokens) - 1)
        if cut <= self._prompt:
            self._check_room(len(tokens))
            self._prompt = len(tokens)
        elif cut < self.n_tokens:
            cut = self._cells.first_hole(cut)
            # Queries that have voted already are asked again.
            self.n_tokens = min(cut, self._prompt + self._opens(cut - self._prompt))

    def _check_room(self, prompt: int) -> None:
        size = len(self._cells.positions)
        needed = prompt + self.plan.peak(max(self._text - prompt, 0))
        if needed > size:
            raise ValueError(
                f"max_prompt: expected room for a prompt of {prompt} tokens, which needs {needed} cells, got {size} cells"
            )

    def _forget(self) -> None:
        """Something went wrong on the way: what the cache holds is not known."""
        self._ctx.kv_cache_clear()
        self._cells = Cells(len(self._cells.positions), self._cells.ubatch)
        self.n_tokens, self._requires_eval = 0, True
        self._close()

    # When tokens vote, and when some are dropped.

    def _opens(self, generated: int) -> int:
        """The tokens behind the prompt after which votes are counted next."""
        return self.plan.next_due(generated) - self.plan.recent

    def _pieces(self, tokens: list[int]):
        """The tokens in batches that go past neither the opening nor the end of a vote."""
        while tokens:
            generated = self.n_tokens - self._prompt
            if generated < 0:
                room = -generated
            else:
                opens = self._opens(generated)
                room = (opens if generated < opens else opens + self.plan.recent) - generated
            room = min(room, self.n_batch)
            yield tokens[:room]
            tokens = tokens[room:]

    def _read(self, tokens: list[int]) -> None:
        start = self.n_tokens
        generated = start - self._prompt
        if generated >= 0 and self._region is None and generated >= (opens := self._opens(generated)):
            self._region = self._cells.held(self._prompt, self._prompt + opens)
            if self._tap:
                self._tap.arm(self._cells.of(self._region))
        super().eval(tokens)
        self._cells.add(start, len(tokens))
        if generated >= 0 and generated + len(tokens) == self.plan.next_due(generated):
            self._compress(self.plan.compressions(generated + len(tokens)))

    def _close(self) -> None:
        self._region = None
        if self._tap:
            self._tap.disarm()

    def _compress(self, intervals: int) -> None:
        started = time.perf_counter()
        region, keep = self._region, self.plan.kept(intervals)
        self._close()
        scores = self._rank(len(region), intervals)
        stay = select_top(scores[None, None], keep)[0, 0] if keep else np.zeros(0, np.int64)
        gone = np.delete(region, stay)
        for run in np.split(gone, np.flatnonzero(np.diff(gone) != 1) + 1):
            if len(run):
                first, last = int(run[0]), int(run[-1])
                if not self._ctx.kv_cache_seq_rm(0, first, last + 1):
                    raise RuntimeError(
                        "llama.cpp: expected a cache from which single tokens can be removed, this one refuses"
                    )
                self._cells.remove(first, last + 1)
        self._seconds += time.perf_counter() - started

    def _rank(self, region: int, intervals: int) -> np.ndarray:
        """float32 [region]; the highest stay."""
        if self.selector == "random":
            return np.random.default_rng(intervals).random(region, np.float32)
        if self.selector == "streaming":
            age = np.arange(region, dtype=np.float32)
            age[:_SINKS] = np.inf
            return age
        scores = self._tap.scores()
        if (self._cells.positions[self._tap.visible()] < 0).any():
            raise RuntimeError("llama.cpp: expected empty cells where it attended to some, it places tokens in another way")
        reach = self.kernel // 2
        return np.convolve(scores, np.full(self.kernel, 1 / self.kernel, np.float32))[reach : reach + region]

    def stats(self) -> dict:
        """seen, kept, prompt: tokens; compressions; cells of the cache; seconds for choosing and dropping."""
        return {
            "seen": self.n_tokens,
            "kept": len(self._cells.held(0, self.n_tokens)),
            "prompt": min(self._prompt, self.n_tokens),
            "compressions": self.plan.compressions(max(self.n_tokens - self._prompt, 0)),
            "cells": len(self._cells.positions),
            "seconds": self._seconds,
        }


def _check_options(options: dict, selector: str) -> None:
    """Of those that Llama takes."""
    reasons = {
        "draft_model": "drafts are taken back, and what was dropped can't come back",
        "logits_all": "there would be a row of logits for each token of the text",
        "embedding": "it reads several texts at once",
    }
    for name, reason in reasons.items():
        if options.get(name):
            raise ValueError(f"{name}: expected nothing, got {options[name]!r}; {reason}")
    if options.get("flash_attn") and selector == "rpc":
        raise ValueError("flash_attn: expected False where selector is 'rpc', it shows no attention; 'streaming' needs none")
    if isinstance(options.get("chat_handler"), (llama_chat_format.Llava15ChatHandler, llama_chat_format.MTMDChatHandler)):
        raise ValueError("chat_handler: expected one for text, got one for images")


def _check_model(llama: RPCLlama, cells: int, options: dict) -> None:
    model = llama.model
    for refused, what in (
        (llama_cpp.llama_model_n_swa(model) > 0, "sliding windows"),
        (llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model), "recurrent layers"),
        (llama_cpp.llama_model_has_encoder(model), "an encoder"),
    ):
        if refused:
            raise ValueError(f"model_path: expected a model with full attention in all layers, this one has {what}")
    trained, text = llama._model.n_ctx_train(), llama.n_ctx()
    scaled = any(name.startswith(("rope_", "yarn_")) for name in options)
    if text > trained and not scaled:
        raise ValueError(
            f"n_ctx: expected at most {trained} tokens, which the model was trained on, got {text}; dropping tokens does "
            "not make it understand longer texts"
        )
    # LongRoPE has factors for long and for short texts. llama.cpp goes by the cells, which say nothing about the text.
    found = {
        name.rpartition("rope.scaling.")[2]: value for name, value in llama.metadata.items() if ".rope.scaling." in name
    }
    short = int(found.get("original_context_length", 0))
    if short and found.get("type") not in ("linear", "yarn") and cells <= short < text:
        raise ValueError(
            f"n_ctx: expected at most {short} tokens with a cache of {cells} cells, got {text}: the model turns positions "
            "otherwise in longer texts, and llama.cpp would not"
        )
