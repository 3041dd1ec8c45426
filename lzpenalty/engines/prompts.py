"""Where does the prompt end? Engines hand over prompt and answer as one text. The call that is running knows, so its
frame is asked: of the functions below, for the variables that they are said to have.

What was seen in an earlier call could not tell: the next prompt may be the last answer and one token more. And what can't
be told is never taken for 0, which would count the prompt: where a function runs that has no such variable, an error asks
for `prompt_length`. Outside of any engine every token counts.

Needs neither torch nor an engine.
"""

import sys
import threading
from collections.abc import Iterator
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import FrameType
from weakref import WeakKeyDictionary

__all__ = [
    "cache_prompt_length",
    "callers",
    "generate_prompt_length",
    "llama_prompt",
    "llama_prompt_length",
    "mlx_prompt_length",
    "unfinished_rows",
]

_getframe = sys._getframe  # looked up once: every step of `generate` calls it

# transformers: `generate` prepares, and calls a loop of its module or of the user (`custom_generate`). A loop calls lists of
# processors and criteria, which call each of them.
_TRANSFORMERS = "transformers.generation.utils"
_LOOPS = {"_sample", "_beam_search", "_group_beam_search", "_constrained_beam_search", "_assisted_decoding"}
_FUNCTIONS = _LOOPS | {"generate"}
_LISTS = {"transformers.generation.logits_process", "transformers.generation.stopping_criteria"}
_LENGTH = "input_ids_length"  # 0 where the prompt is inputs_embeds and nothing else
_USERS = "prepared_logits_processor", "prepared_stopping_criteria"
_CONFIG = "generation_config"  # is_assistant: drafts for the `generate` outside of it, whose prompt is the user's
_GIVEN, _KWARGS = "kwargs", "model_kwargs"  # have the cache: what the caller gave, and what the model is given
_INPUTS, _INPUT_NAME = "inputs_tensor", "model_input_name"  # what the model reads as prompt
_SAMPLING, _UNFINISHED = "_sample", "unfinished_sequences"

# mlx-lm: a generator, whose `_step` calls processors. Nothing says it in speculative and batched generation.
_MLX = "mlx_lm.generate"
_STEPS = "generate_step"
_TOTAL, _PROMPT = "total_prompt_tokens", "prompt"  # the last token at least is left of it, unless it was embeddings

# llama-cpp-python: `Llama.generate`, a generator, makes a sampler, which calls `apply_func`, which calls processors. It
# keeps no length, but its first sample comes when the prompt has been read and nothing else.
_APPLY, _LLAMA, _SAMPLER = "apply_func", "self", "_sampler"
_TOKEN = "token"  # the newest, which there is none of before the first sample
_TOKENS = "tokens"  # the prompt, when the sampler is made


def callers() -> Iterator[FrameType]:
    """The frames that are running, from that of the caller outwards."""
    frame = _getframe(1)
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


def _among(owner: object, users) -> bool:
    return any(user is owner or (isinstance(user, list | tuple) and _among(owner, user)) for user in users)


def generate_prompt_length(owner: object) -> int:
    """Tokens of the prompt, padding included, in the running `generate` of transformers that calls `owner`.

    It is the innermost whose lists are calling it, alone or in something else, or that has it there. If there is none, it is
    the outermost. Where a `generate` drafts for another, it is the other.

    Parameters
    ----------
    owner : object
        The logits processor or stopping criterion whose method calls this function.

    Returns
    -------
    int
        0 outside of any `generate`.

    Raises
    ------
    RuntimeError
        If transformers is running and doesn't say it in the way that is known.
    """
    if _lengths:
        try:
            return _lengths[_getframe(4)]  # `owner`, its list, the loop, and then `generate`
        except (KeyError, ValueError):  # another, or fewer frames
            pass
    frame: FrameType | None = _getframe(2)
    caller = frame
    while frame is not None:
        if frame.f_code.co_name in _FUNCTIONS:
            return _search(owner, caller)
        frame = frame.f_back
    return 0


def _search(owner: object, frame: FrameType | None) -> int:
    outermost, loop, listed, passed = None, None, False, []
    while frame is not None:
        name = frame.f_code.co_name
        if name == "__call__":
            listed = listed or frame.f_globals.get("__name__") in _LISTS
        elif name in _LOOPS and _of_transformers(frame):
            _check_no(loop)
            loop = frame
        elif name == "generate" and _of_transformers(frame):
            if listed and frame in _lengths:
                return _lengths[frame]
            length, config, *users = _read(frame, "transformers", _LENGTH, _CONFIG, *_USERS)
            if length is not _UNBOUND:
                outermost = length
                if listed and loop is not None:
                    passed.append((frame, loop))
                holds = listed or any(_among(owner, some) for some in users if some is not _UNBOUND)
                if holds and not getattr(config, "is_assistant", False):
                    for outer, inner in passed:
                        _remember(_lengths, outer, inner, length)
                    return length
            elif outermost is None:
                raise RuntimeError(_untold(frame, "transformers", f"has not set {_LENGTH!r}"))
            loop = None
        frame = frame.f_back
    _check_no(loop)
    return outermost or 0


def _check_no(loop: FrameType | None) -> None:
    """Of a loop that nothing is known of that could have called it."""
    if loop is not None:
        raise RuntimeError(_untold(loop, "transformers", "was not called by its generate()"))


def _given(frame: FrameType, loop: FrameType | None) -> tuple[dict, int | None]:
    """What this `generate` passes on, and the length of the prompt: None if it leaves that to a function of the user."""
    found = _caches.get(frame)
    if found is None:
        length, kwargs, inputs, name = _read(frame, "transformers", _LENGTH, _KWARGS, _INPUTS, _INPUT_NAME)
        if length is _UNBOUND:
            return _read(frame, "transformers", _GIVEN)[0], None
        found = kwargs, inputs.shape[1] if name == "inputs_embeds" else length
        if loop is not None:
            _remember(_caches, frame, loop, found)
    return found


def _generate_with(cache) -> tuple[int, FrameType | None] | None:
    """Of the innermost `generate` that was given this cache: the prompt's length, and the frame of the loop that it runs."""
    loop, frame = None, _getframe(2)
    while frame is not None:
        name = frame.f_code.co_name
        if name in _LOOPS and _of_transformers(frame):
            loop = frame
        elif name == "generate" and _of_transformers(frame):
            kwargs, length = _given(frame, loop)
            if any(value is cache or getattr(value, "self_attention_cache", None) is cache for value in kwargs.values()):
                if length is None:
                    raise RuntimeError(_untold(frame, "transformers", f"has not set {_LENGTH!r}"))
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


# mlx-lm and llama-cpp-python. Generators may go on under another caller, and each of their steps is another frame: nothing
# could end what is remembered of them. They are next to what they call, and are asked each time.


def mlx_prompt_length() -> int:
    """Tokens of the prompt in the `generate_step` of mlx-lm that is running; 0 outside of mlx-lm.

    Raises
    ------
    RuntimeError
        If mlx-lm is running and doesn't say it in the way that is known, as in speculative and in batched generation.
    """
    frame: FrameType | None = _getframe(2)
    last = None
    while frame is not None:
        if frame.f_code.co_name == _STEPS:
            total, prompt = _read(frame, "mlx-lm", _TOTAL, _PROMPT)
            if total is _UNBOUND:
                raise RuntimeError(_untold(frame, "mlx-lm", f"has not set {_TOTAL!r}"))
            return total if len(prompt) else 0  # embeddings are not among the tokens that processors are given
        if frame.f_globals.get("__name__") == _MLX:
            last = frame
        elif last is not None:
            break
        frame = frame.f_back
    if last is not None:
        raise RuntimeError(_untold(last, "mlx-lm", f"is not {_STEPS}()"))
    return 0


_samplers: WeakKeyDictionary = WeakKeyDictionary()  # how long the prompt was that each began with
_lock = threading.Lock()


def llama_prompt_length() -> int:
    """Tokens of the prompt in the `Llama.generate` of llama-cpp-python that is running; 0 outside of any.

    Raises
    ------
    RuntimeError
        If llama-cpp-python is running and doesn't say it in the way that is known, or is asked for the first time when an
        answer has begun.
    """
    frame: FrameType | None = _getframe(2)
    while frame is not None:
        if frame.f_code.co_name == _APPLY:
            (llama,) = _read(frame, "llama-cpp-python", _LLAMA)
            sampler = getattr(llama, _SAMPLER, None)
            if sampler is None:
                raise RuntimeError(_untold(frame, "llama-cpp-python", f"has no {_LLAMA}.{_SAMPLER}"))
            with _lock:
                length = _samplers.get(sampler)
                if length is None:
                    length = _samplers[sampler] = _first_length(llama, frame)
            return length
        frame = frame.f_back
    return 0


def _llama_generate(llama, frame: FrameType | None) -> FrameType | None:
    """The innermost running `generate` of this `Llama`, from a frame outwards."""
    while frame is not None:
        if frame.f_code.co_name == "generate" and frame.f_locals.get("self") is llama:
            return frame
        frame = frame.f_back
    return None


def _first_length(llama, applying: FrameType) -> int:
    """Tokens that `llama` has read, if it is about to take the first sample of an answer."""
    frame = _llama_generate(llama, applying.f_back)
    if frame is None:
        raise RuntimeError(_untold(applying, "llama-cpp-python", "was not called by its generate()"))
    (token,) = _read(frame, "llama-cpp-python", _TOKEN)
    if token is not _UNBOUND:
        raise RuntimeError(_untold(frame, "llama-cpp-python", "had begun an answer when it was asked first"))
    return len(llama._input_ids)


def llama_prompt(llama) -> list[int]:
    """The prompt of the `generate` of this `Llama` that is making its sampler; nothing outside of any.

    Raises
    ------
    RuntimeError
        If it doesn't say it in the way that is known.
    """
    frame = _llama_generate(llama, _getframe(2))
    return [] if frame is None else [*_read(frame, "llama-cpp-python", _TOKENS)[0]]
