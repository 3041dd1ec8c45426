"""vLLM: the LZ penalty for requests that ask for it, with either of vLLM's model runners.

    vllm serve MODEL --logits-processors lzpenalty.vllm:LZPenalty
    LLM(MODEL, logits_processors=["lzpenalty.vllm:LZPenalty"])

A request asks with `vllm_xargs={"lz_strength": 0.15}` over HTTP, with `SamplingParams(extra_args={"lz_strength": 0.15})` in
Python; all options of :func:`lzpenalty.lz_penalize_` have such names, and `lz_preset`, and one is enough. What opens and
closes a section of thinking, which the preset "reasoning" has to know, is that of `--reasoning-config`, or is looked up in
the served model's tokenizer. The environment variable LZPENALTY_DEFAULT, a JSON object of the same names, is what the server
does for requests that name none; `lz_strength` 0 switches it off again. Only generated tokens count.

vLLM has two interfaces for logits processors. One is for its first model runner (CPUs, older releases): a processor is told
which request is in which row, and holds on to their lists of tokens. One is for its second (GPUs, since 0.32): tokens of all
requests lie on the device, by slot. `LZPenalty` is a class of both. Nothing is remembered of a text from step to step, so
requests that are preempted, moved or recomputed need no care.
"""

import json
import logging
import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from lzpenalty._core import LZOptions
from lzpenalty.engines.serving import before, penalize_groups_, penalize_rows_, request_options, supported
from lzpenalty.presets import thinking_ids, tool_ids
from lzpenalty.vllm.checks import check_request, served_configuration

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as _SlotLogitsProcessor
except ImportError:  # before vLLM 0.32
    _INTERFACES: tuple[type, ...] = (LogitsProcessor,)
else:
    _INTERFACES = (LogitsProcessor, _SlotLogitsProcessor)

__all__ = ["LZPenalty"]

logger = logging.getLogger("lzpenalty")
DEFAULT = "LZPENALTY_DEFAULT"


@lru_cache(maxsize=1)
def _parse_default(text: str) -> dict[str, Any]:
    try:
        default = json.loads(text or "{}")
    except ValueError:
        default = None
    if not isinstance(default, dict):
        raise ValueError(f'{DEFAULT}: expected a JSON object such as {{"lz_strength": 0.15}}, got {text!r}')
    return default


def _default() -> dict[str, Any]:
    return _parse_default(os.environ.get(DEFAULT, ""))


def _check_default(marks: Callable[[], dict[str, Any]]) -> None:
    try:
        request_options(None, _default(), marks)
    except ValueError as error:
        raise ValueError(f"{DEFAULT}: {error}") from None


def _tokenizer(config):
    """The served model's, which vLLM keeps; None where it has none."""
    model = getattr(config, "model_config", None)
    if model is None:
        return None
    from vllm.tokenizers import cached_tokenizer_from_config

    return cached_tokenizer_from_config(model)


def _look_up_marks(config) -> dict[str, Any]:
    tokenizer = _tokenizer(config)
    found = thinking_ids(tokenizer) | tool_ids(tokenizer) if tokenizer else {}
    reasoning = getattr(config, "reasoning_config", None)
    start = getattr(reasoning, "reasoning_start_token_ids", None)
    end = getattr(reasoning, "natural_reasoning_end_token_ids", None) or getattr(reasoning, "reasoning_end_token_ids", None)
    return found | {"open": [list(start)], "release": [list(end)]} if start and end else found


_LOOKED_UP: list[tuple[Any, dict[str, Any]]] = [(None, {})]


def _marks(config) -> dict[str, Any]:
    """What opens and closes a section of thinking, and calls of tools: of `--reasoning-config`, and of the served model's
    tokenizer, which is asked once and not for each request. The natural end is what the model writes, where another may be
    forced."""
    known, marks = _LOOKED_UP[0]  # a configuration can't be hashed, and a process has one
    if known is not config:
        marks = _look_up_marks(config)
        _LOOKED_UP[0] = config, marks
    return marks


def _admitted(params, device: torch.device, marks: Callable[[], dict[str, Any]]) -> LZOptions | None:
    """The same where an exception would end the engine: releases that do not validate, devices that are too small."""
    try:
        options = request_options(params.extra_args, _default(), marks)
    except ValueError as error:
        logger.warning("a request goes without the penalty: %s", error)
        return None
    return options if options is not None and supported(options, device) else None


class _Lists:
    """The requests of the first runner, by row: options, and the list that the runner appends its tokens to."""

    def __init__(self, device: torch.device, marks: Callable[[], dict[str, Any]]):
        self.device, self.marks = device, marks
        self.rows: dict[int, tuple[LZOptions, list[int], tuple[int, ...]]] = {}

    def update(self, removed, added, moved) -> None:
        rows = self.rows
        for row in removed:
            rows.pop(row, None)
        for row, params, prompt, tokens in added:  # may take the place of another request
            rows.pop(row, None)
            options = _admitted(params, self.device, self.marks)
            if options is not None:
                rows[row] = options, tokens, before(options, prompt)
        for source, target, direction in moved:
            going, coming = rows.pop(source, None), rows.pop(target, None)
            if going is not None:
                rows[target] = going
            if coming is not None and direction is MoveDirectionality.SWAP:
                rows[source] = coming


def _with_drafts(tokens: torch.Tensor, behind: torch.Tensor, drafts: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Histories of rows whose last tokens are drafts, [B, T]: of speculative decoding, which has a row for each. `behind`
    [B, T] is how far a token is behind the text; draft j is the input of its request's row j + 1."""
    first = torch.arange(1, len(drafts) + 1, device=drafts.device) - drafts
    rows = (first[:, None] + behind).clamp_(0, len(drafts) - 1)
    return torch.where(behind < 0, tokens, inputs[rows].to(tokens.dtype))


class _Slots:
    """The requests of the second runner, by slot. What a step does stays on the device: no value is waited for."""

    def __init__(self, state, marks: Callable[[], dict[str, Any]]):
        self.state, self.marks = state, marks
        self.options: dict[int, LZOptions] = {}
        self.groups: dict[LZOptions, int] = {}  # equal options have one number, from 1 on
        self.group_of_slot = [0] * state.max_num_reqs
        self.staged = True

    def add(self, slot: int, params) -> bool:
        options = _admitted(params, self.state.device, self.marks)
        self.options.pop(slot, None)
        if options is not None:
            self.options[slot] = options
            if options not in self.groups:
                in_use = set(self.options.values())
                self.groups = {known: group for known, group in self.groups.items() if known in in_use}
                self.groups[options] = max(self.groups.values(), default=0) + 1
        group = self.groups[options] if options is not None else 0
        self.staged |= self.group_of_slot[slot] != group
        self.group_of_slot[slot] = group
        return options is not None

    def apply_staged_writes(self) -> None:
        if self.staged:
            device = self.state.device
            host = torch.tensor(self.group_of_slot, pin_memory=device.type == "cuda")
            self.group_on_device = host.to(device, non_blocking=True)
            self.staged = False

    def apply(self, logits: torch.Tensor, context) -> torch.Tensor:
        wanted = {self.options[slot] for slot in context.idx_mapping_np.tolist() if slot in self.options}
        if not wanted:
            return logits
        self.apply_staged_writes()
        state = self.state
        slots = context.expanded_idx_mapping.long()
        length = max(1, min(max(options.context for options in wanted), int(context.seq_lens_upper_bound_np.max())))
        texts, ends = state.all_token_ids.gpu, state.total_len.gpu[slots].long()
        drafts = context.expanded_local_pos.long()  # that come before each row
        columns = (ends + drafts)[:, None] - torch.arange(length, 0, -1, device=logits.device)
        tokens = texts[slots[:, None], columns.clamp(0, texts.shape[1] - 1)].masked_fill(columns < 0, -1)
        if len(slots) > len(context.idx_mapping_np):
            tokens = _with_drafts(tokens, columns - ends[:, None], drafts, context.input_ids)
        starts = (length - ends - drafts + state.prompt_len.gpu[slots]).clamp_(0, length)
        group = self.group_on_device[slots]
        return penalize_groups_(
            logits,
            tokens,
            [(options, torch.where(group == self.groups[options], starts, length)) for options in wanted],
        )


class LZPenalty(*_INTERFACES):
    """The logits processor; vLLM makes one for each worker.

    Raises
    ------
    ValueError
        At start-up with speculative decoding in vLLM's first model runner, which doesn't show drafts, and if
        LZPENALTY_DEFAULT is malformed. At admission of a request, which vLLM answers with HTTP status 400, if its options
        are.
    """

    def __init__(self, vllm_config, device_or_state, is_pin_memory: bool | None = None):
        if is_pin_memory is not None and getattr(vllm_config, "speculative_config", None) is not None:
            raise ValueError(
                "lzpenalty.vllm:LZPenalty does not support speculative decoding in vLLM's first model runner, start without "
                "one of them"
            )
        marks = partial(_marks, vllm_config)
        _check_default(marks)
        if is_pin_memory is None:
            self.slots = _Slots(device_or_state, marks)
        else:
            self.lists = _Lists(torch.device(device_or_state), marks)

    @classmethod
    def validate_params(cls, sampling_params) -> None:
        """Raises ValueError for options that are refused, those of a compressed cache included."""
        request_options(sampling_params.extra_args, _default(), lambda: _marks(served_configuration()))
        check_request(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update) -> None:
        """First runner: which requests came, went and moved."""
        if batch_update is not None:
            self.lists.update(batch_update.removed, batch_update.added, batch_update.moved)

    def add_request(self, req_idx: int, sampling_params) -> bool:
        """Second runner: a request takes a slot. Whether it wants the penalty."""
        return self.slots.add(req_idx, sampling_params)

    def apply_staged_writes(self) -> None:
        self.slots.apply_staged_writes()

    def apply(self, logits: torch.Tensor, ctx=None) -> torch.Tensor:
        """Subtracts the penalty from the rows of requests that want it, in place."""
        return penalize_rows_(logits, self.lists.rows) if ctx is None else self.slots.apply(logits, ctx)
