"""What the adaptors for serving engines share: options of a request, and rows of a batch on whatever device.

A request names options by the names of :func:`lzpenalty.lz_penalize_` with `lz_` before them, in whatever dictionary its
engine lets through; `lz_preset` is one of :mod:`lzpenalty.presets`. One that names none is left alone.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lzpenalty._core import LZOptions, gather_tokens_, lz_penalize_, lz_penalize_rows_, request_limits
from lzpenalty.presets import resolve, thinking_ids, tool_ids

__all__ = ["before", "lz_params", "penalize_groups_", "penalize_rows_", "request_options", "supported"]

logger = logging.getLogger("lzpenalty")
PREFIX = "lz_"
NAMES = tuple(LZOptions().keywords())
_TOGETHER = dict.fromkeys(["release_rate", "release_after", "open", "section_gate"], "release") | {"resume": "skip"}
_SAID = {"release": "are released", "skip": "begin what is skipped"}


def request_options(
    params: Mapping[str, Any] | None,
    default: Mapping[str, Any] | None = None,
    marks: Callable[[], Mapping[str, Any]] | None = None,
) -> LZOptions | None:
    """The options that a request asks for; None if it is to be left alone.

    Parameters
    ----------
    params : mapping, optional
        What came with the request. Keys that do not begin with `lz_` belong to others.
    default : mapping, optional
        The same for requests that name no option, and for those that a request does not name. A request that names a preset
        gets nothing of it.
    marks : callable, optional
        Gives what opens and closes a section of thinking of the served model, and calls of tools, as options. It is called
        for the preset "reasoning" without `lz_release`.

    Raises
    ------
    ValueError
        For unknown names, values that :class:`lzpenalty.LZOptions` refuses, windows and buffers over 8192 tokens, since a
        stranger's request must not make a server work for seconds, the preset "reasoning" without `lz_release` where the
        server knows no marks, and what belongs to a release or a skip without it.
    """
    given = {key: value for key, value in (params or {}).items() if isinstance(key, str) and key.startswith(PREFIX)}
    if not given and not default:
        return None
    named = given if PREFIX + "preset" in given else {**(default or {}), **given}
    options = {}
    for key, value in named.items():
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX) or name not in (*NAMES, "preset"):
            known = ", ".join(PREFIX + name for name in (*NAMES, "preset"))
            raise ValueError(f"{key}: no such option, expected one of {known}")
        if isinstance(value, bool):
            raise ValueError(f"{key}: expected a value of {name}, got {value}")
        options[name] = value
    try:
        preset = options.pop("preset", None)
        if marks and preset == "reasoning" and options.get("release") is None:
            options |= {name: ids for name, ids in marks().items() if options.get(name) is None}
        if preset == "reasoning" and options.get("release") is None:
            raise ValueError(
                f"preset: expected {PREFIX}release with 'reasoning', the ids that close a section of thinking; those of the "
                "served model are not known"
            )
        compiled = LZOptions(**options) if preset is None else resolve(preset, options)
        for name, most in request_limits().items():
            if getattr(compiled, name) > most:
                raise ValueError(f"{name}: expected at most {most} tokens of a request, got {getattr(compiled, name)}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{PREFIX}{error}") from None
    for name, other in _TOGETHER.items():
        if options.get(name) is not None and not getattr(compiled, other):
            raise ValueError(f"{PREFIX}{name}: expected {PREFIX}{other} with it, the ids that {_SAID[other]}, got none")
    return compiled if compiled.context else None


def lz_params(*, tokenizer=None, **options) -> dict[str, Any]:
    """What a request brings to ask for the penalty, checked; all of it can be written as JSON.

    Parameters
    ----------
    options
        Of :func:`lzpenalty.lz_penalize_`, but `starts`: nats a bit, tokens, tokens, ... and `preset`.
    tokenizer : optional
        Of the model that is served: with `preset="reasoning"` and no `release`, the request names the tokenizer's ids that
        open and close a section of thinking and a call of a tool.

    Raises
    ------
    ValueError
        For options that are refused, naming one.
    """
    if options.get("preset") == "reasoning" and options.get("release") is None and tokenizer is not None:
        options = thinking_ids(tokenizer) | tool_ids(tokenizer) | options
    params = {PREFIX + name: value for name, value in options.items()} or {PREFIX + "strength": 0.15}
    request_options(params)
    return params


def _last_end(ids: np.ndarray, marks) -> int:
    """The newest position at which one of the marks ends, -1 if there is none."""
    last = -1
    for mark in marks or ():
        mark = (mark,) if isinstance(mark, int) else mark
        ends = np.flatnonzero(ids == mark[-1])
        ends = ends[ends >= len(mark) - 1]
        for back, token in enumerate(mark[::-1]):
            ends = ends[ids[ends - back] == token]
        last = max(last, *ends[-1:].tolist(), -1)
    return last


def before(options: LZOptions, prompt: Iterable[int] | None) -> tuple[int, ...]:
    """All of a prompt that the penalty depends on: a few tokens, as :func:`lzpenalty.lz_penalize_rows_` takes them.

    It depends on the last mark of each kind, and on the last tokens, with which a mark may begin. What is left out is
    replaced by an id that equals none.
    """
    if prompt is None or not (options.open or options.skip):
        return ()
    ids = np.asarray(prompt, dtype=np.int64)
    kinds = [(options.open, options.release), (options.skip, options.resume)]
    ends = {max(_last_end(ids, one), _last_end(ids, other)) + 1 for one, other in kinds} - {0} | {len(ids)}
    kept: list[int] = []
    for end in sorted(ends):
        kept += [-1, *ids[max(0, end - 8) : end].tolist()]  # no mark is longer
    return tuple(kept)


@lru_cache(maxsize=1024)  # says it once, not once a token
def _known(options: LZOptions, vocab: int) -> bool:
    if options.vocab_size > vocab:
        logger.warning("requests with %r go without the penalty: expected ids of a vocabulary of %d", options, vocab)
    return options.vocab_size <= vocab


@lru_cache(maxsize=1024)
def supported(options: LZOptions, device: torch.device) -> bool:
    """Whether the kernels for this device can do it; what a row needs has to fit what a GPU's core has. Logs why not.

    For the steps of an engine, where an exception would end the server.
    """
    if device.type == "cpu":
        return True
    logits = torch.empty(0, 2**31 - 1, device=device)
    tokens = torch.empty(0, options.context, dtype=torch.int32, device=device)
    try:
        lz_penalize_(logits, tokens, options)
    except (RuntimeError, ValueError) as error:
        logger.warning("requests with %r go without the penalty: %s", options, error)
        return False
    return True


def penalize_rows_(logits: torch.Tensor, rows: dict[int, tuple]) -> torch.Tensor:
    """:func:`lzpenalty.lz_penalize_rows_` on any device: `logits` [B, V] in place, `rows` {row: (options, tokens, before)}.

    On a GPU the tokens are sent along without waiting for it. Rows with ids that the model doesn't have are left alone, and
    that is logged: an exception would end the server.
    """
    if any(entry[0].vocab_size > logits.shape[-1] for entry in rows.values()):
        rows = {row: entry for row, entry in rows.items() if _known(entry[0], logits.shape[-1])}
    if not rows:
        return logits
    if logits.device.type == "cpu":
        return lz_penalize_rows_(logits, rows)
    return _send_rows_(logits, rows)


def _send_rows_(logits: torch.Tensor, rows: dict[int, tuple]) -> torch.Tensor:
    batch = logits.shape[0]
    length = max(min(options.context, sum(map(len, texts))) for options, *texts in rows.values())
    if length == 0:
        return logits
    pinned = logits.device.type == "cuda"  # or else the copy would wait for what the GPU is doing
    tokens = gather_tokens_(torch.full((batch, length), -1, dtype=torch.int32, pin_memory=pinned), rows)
    groups: dict[LZOptions, list[int]] = {}
    for row, (options, ids, *_) in rows.items():
        groups.setdefault(options, [length] * batch)[row] = length - min(length, options.context, len(ids))
    starts = torch.tensor(list(groups.values()), dtype=torch.int32, pin_memory=pinned)
    tokens, starts = (host.to(logits.device, non_blocking=True) for host in (tokens, starts))
    return penalize_groups_(logits, tokens, zip(groups, starts, strict=True))


def penalize_groups_(
    logits: torch.Tensor, tokens: torch.Tensor, groups: Iterable[tuple[LZOptions, torch.Tensor]]
) -> torch.Tensor:
    """One call of :func:`lzpenalty.lz_penalize_` for each set of options, in place.

    Parameters
    ----------
    logits, tokens : tensors [B, V] and [B, T]
        Each row's tokens end with its newest one.
    groups : pairs of options and int tensor [B]
        Where each row's tokens that count begin; at T none do, and the row is left alone. That spares the copies to and
        from a smaller batch, and needs no answer from the device.
    """
    for options, starts in groups:
        if _known(options, logits.shape[1]):
            lz_penalize_(logits, tokens, options, starts=starts)
    return logits
