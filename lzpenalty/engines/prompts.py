"""Where does the prompt end? Engines hand over prompt and answer as one text. The call that is running knows, so its
frame is asked: of the functions below, for the variables that they are said to have.

What was seen in an earlier call could not tell: the next prompt may be the last answer and one token more. And what can't
be told is never taken for 0, which would count the prompt: where a function runs that has no such variable, an error asks
for `prompt_length`. Outside of any engine every token counts.

Needs neither torch nor an engine.
"""

import sys
from collections.abc import Iterator
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import FrameType

__all__ = ["cache_prompt_length", "callers", "unfinished_rows"]

# transformers: `generate` prepares, and calls a loop of its module or of the user (`custom_generate`).
_TRANSFORMERS = "transformers.generation.utils"
_LENGTH = "input_ids_length"  # 0 where the prompt is inputs_embeds and nothing else
_KWARGS = "model_kwargs"  # has the cache
_INPUTS, _INPUT_NAME = "inputs_tensor", "model_input_name"  # what the prompt is read from
_SAMPLING, _UNFINISHED = "_sample", "unfinished_sequences"
_LOOPS = {_SAMPLING, "_beam_search", "_group_beam_search", "_constrained_beam_search", "_assisted_decoding"}


def callers() -> Iterator[FrameType]:
    """The frames that are running, from that of the caller outwards."""
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


# What frames say.

_UNBOUND = object()  # the function has such a variable, and hasn't come to it


def _drop_snapshot(variables: dict) -> None:
    """Before Python 3.13 a frame keeps what it has shown once, and with it alive tensors that the function lets go of."""
    if sys.version_info < (3, 13):
        end = variables.get(_END)
        variables.clear()
        if end is not None:
            variables[_END] = end


def _read(frame: FrameType, engine: str, *names: str) -> list:
    """The values of these variables. Raises RuntimeError where the function has none of such a name."""
    variables = frame.f_locals
    values = [variables.get(name, _UNBOUND) for name in names]
    _drop_snapshot(variables)
    if any(value is _UNBOUND for value in values):
        code = frame.f_code
        for name in names:
            if name not in code.co_varnames + code.co_cellvars + code.co_freevars:
                raise RuntimeError(_untold(frame, engine, f"has no variable {name!r}"))
    return values


def _untold(frame: FrameType, engine: str, why: str) -> str:
    return (
        f"prompt_length: expected an integer, got None, and {engine} does not say where the prompt ends in the way that is "
        f"known: {frame.f_code.co_name}() {why}"
    )


# What is remembered of a frame, for as long as it runs.

_lengths: dict[FrameType, int] = {}
_caches: dict[FrameType, tuple[dict, int]] = {}


class _End:
    """Lives among the variables of a function that runs inside of `outer`, and dies with them. Until then `outer` runs and
    is held here, so that no other frame can be where it is in memory."""

    __slots__ = ("outer",)

    def __init__(self, outer: FrameType):
        self.outer = outer

    def __del__(self):
        _lengths.pop(self.outer, None)
        _caches.pop(self.outer, None)


_END = "lzpenalty: the call that is running"
_SUSPENDED = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR  # may go on under another caller


def _remember(memory: dict, outer: FrameType, loop: FrameType, what) -> None:
    """`loop` is one of transformers, none of which hands on its variables as they are."""
    if loop.f_code.co_flags & _SUSPENDED:
        return
    memory[outer] = what
    variables = loop.f_locals
    if _END not in variables:
        variables[_END] = _End(outer)
    _drop_snapshot(variables)


# transformers.


def _of_transformers(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == _TRANSFORMERS


def _given(frame: FrameType, loop: FrameType | None) -> tuple[dict, int] | None:
    """What this `generate` passes on to its model, and how many tokens of prompt that reads. None if it has left all to
    another."""
    found = _caches.get(frame)
    if found is None:
        length, kwargs, inputs, name = _read(frame, "transformers", _LENGTH, _KWARGS, _INPUTS, _INPUT_NAME)
        if length is _UNBOUND:
            return None
        found = kwargs, inputs.shape[1] if name == "inputs_embeds" else length
        if loop is not None:
            _remember(_caches, frame, loop, found)
    return found


def _generate_with(cache) -> tuple[int, FrameType | None] | None:
    """Of the innermost `generate` that was given this cache: the prompt's length, and the frame of the loop that it runs."""
    loop, frame = None, sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_name
        if name in _LOOPS and _of_transformers(frame):
            loop = frame
        elif name == "generate" and _of_transformers(frame):
            given = _given(frame, loop)
            if given is not None:
                kwargs, length = given
                if any(value is cache or getattr(value, "self_attention_cache", None) is cache for value in kwargs.values()):
                    return length, loop
            loop = None
        frame = frame.f_back
    return None


def cache_prompt_length(cache) -> int | None:
    """Tokens of the prompt in the running `generate` of transformers that was given this cache.

    Returns
    -------
    int or None
        Columns of the `input_ids`, or of the `inputs_embeds`, that `generate` was called with, padding included. None if
        no `generate` with this cache is running.

    Raises
    ------
    RuntimeError
        If a `generate` is running that doesn't say it in the way that is known.
    """
    found = _generate_with(cache)
    return None if found is None else found[0]


def unfinished_rows(cache):
    """Which rows are still being generated by the running `generate` of transformers that was given this cache.

    Returns
    -------
    torch.Tensor or None
        int64 [B], 1 for rows that go on and 0 for those that ended, of greedy decoding and sampling. It is the loop's own:
        not to be written to. None in beam search, in other loops, and if no `generate` with this cache is running.

    Raises
    ------
    RuntimeError
        If the loop doesn't say it in the way that is known.
    """
    found = _generate_with(cache)
    if found is None:
        return None
    loop = found[1]
    if loop is None or loop.f_code.co_name != _SAMPLING:
        return None
    (rows,) = _read(loop, "transformers", _UNFINISHED)
    return None if rows is _UNBOUND else rows
