"""The keys and values of one layer, at the beginning of buffers with room to grow. What all layers of ours share."""

import functools
import time
import weakref
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicLayer

from lzpenalty._core import append_, compact_
from lzpenalty.cache.attend import attend_one, check_call, is_ours, special
from lzpenalty.cache.attention import Call, mark
from lzpenalty.cache.masks import follow
from lzpenalty.cache.plan import Plan, check_integer
from lzpenalty.cache.text import Text

__all__ = ["GROWTH", "Layer", "Settings", "compact", "count", "lasting", "promoted"]

_COUNTS = ("seen", "length", "dropped", "seconds")
GROWTH = 1024  # tokens that a buffer grows by where no interval says how many


@dataclass(frozen=True)
class Settings:
    """What a cache was told, for its layers. Raises TypeError and ValueError for what can't be."""

    plan: Plan
    kernel: int = 7
    aggregation: str | None = "layer"
    max_new_tokens: int | None = None
    allocation: str = "even"

    def __post_init__(self):
        check_integer("kernel", self.kernel, 1)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, got {self.kernel}")
        if self.allocation not in ("even", "global"):
            raise ValueError(f"allocation: expected 'even' or 'global', got {self.allocation!r}")
        if self.allocation == "global" and not self.compresses:
            raise ValueError("interval: expected an integer where allocation is 'global', got None")
        if self.aggregation not in ("layer", "group"):
            raise ValueError(f"aggregation: expected 'layer' or 'group', got {self.aggregation!r}")
        if self.allocation == "global" and self.aggregation == "layer":
            raise ValueError("aggregation: expected 'group' where allocation is 'global', got 'layer'")
        if self.max_new_tokens is not None:
            check_integer("max_new_tokens", self.max_new_tokens, 1)

    @property
    def compresses(self) -> bool:
        return self.plan.interval is not None

    def room(self, generated: int) -> int:
        """Tokens that will come before the next compression, or to the end, if that is known and earlier, once so many have
        come behind the prompt."""
        room = self.plan.next_due(generated) - generated
        return room if self.max_new_tokens is None else max(0, min(room, self.max_new_tokens - generated))

    def capacity(self, prompt: int) -> int:
        """Tokens to make room for at first: all that there will be, if that is known."""
        if self.max_new_tokens is not None:
            return prompt + self.plan.peak(self.max_new_tokens)
        return prompt + (self.plan.next_due(0) if self.compresses else GROWTH)


_CAST = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def lasting(method):
    """A method whose tensors outlast the call, and are the same whoever calls: without autograd, outside of inference mode,
    whose tensors can't be written to once it has ended, and of autocast."""

    @functools.wraps(method)
    def outside(*args, **kwargs):
        cast = [kind for kind in _CAST if torch.is_autocast_enabled(kind)]
        if not cast and not torch.is_inference_mode_enabled():
            return method(*args, **kwargs)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            for kind in cast:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return method(*args, **kwargs)

    return outside


class Layer(DynamicLayer):
    """The keys and values of one layer. Nothing is ever dropped from this one; others are made of it.

    `keys` and `values` are those of the `length` entries that it has, `seen` tokens have come, the first `start` entries
    always stay: the prompt's, as a rule. `text` is what all layers share."""

    is_croppable = False
    what = "this cache"  # in messages

    def __init__(self, settings: Settings, index: int, text: Text, calls: int = 1):
        super().__init__()
        self.settings, self.index, self.text, self.calls = settings, index, text, calls
        self.reset()

    def reset(self) -> None:
        self.keys = self.values = self._key_buffer = self._value_buffer = None
        self.is_initialized = False
        self.seen = self.length = 0
        self.waiting = 0  # calls of attention that have to come before the next update
        self.dropped = False
        self.seconds = 0.0
        self.scale = self.dtype = self.device = self._module = None

    def state(self) -> dict:
        """What `set_state` takes: the entries, and what is counted."""
        return {name: getattr(self, name) for name in (*_COUNTS, "keys", "values", "scale")}

    def set_state(self, state: dict) -> None:
        self.reset()
        for name in (*_COUNTS, "scale"):
            setattr(self, name, state[name])
        if state["keys"] is not None:
            self.lazy_initialization(state["keys"], state["values"])
            self._key_buffer, self._value_buffer = state["keys"].clone(), state["values"].clone()
            self._view()

    # What transformers asks.

    def lazy_initialization(self, key_states, *args) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens seen, so that positions go on counting when tokens are dropped."""
        return self.seen

    def get_mask_sizes(self, query_length) -> tuple[int, int]:
        """How many columns a mask has, and which is the first: one for each token seen, as if all were there."""
        return self.seen + count(query_length), 0

    @property
    def watches(self) -> bool:
        """Whether the layer must see attention."""
        return self.settings.compresses

    @lasting
    def update(self, key_states, value_states, *args, **kwargs):
        started = time.perf_counter()
        if self.waiting:
            raise RuntimeError(
                f"layer {self.index} was updated again before all of its attention was seen. Use the cache inside of its "
                "`with` block; if it was, this model's attention can't be wrapped"
            )
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            raise ValueError("keys: expected tensors outside autograd, got some that require grad; use torch.no_grad()")
        new = key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        self._store(key_states, value_states)
        self.waiting = self.calls if self.watches else 0  # first: what interrupts the rest leaves a broken cache
        self.length += new
        self.seen += new
        keys, values = self._visible(key_states, value_states)
        mark(keys, self)
        self.seconds += time.perf_counter() - started
        return keys, values

    def _store(self, key_states, value_states) -> None:
        self._reserve(key_states, value_states)
        if is_ours(key_states, value_states, self._key_buffer, self._value_buffer):
            append_(self._key_buffer, self._value_buffer, key_states, value_states, position=self.length)
        else:
            end = self.length + key_states.shape[2]
            self._key_buffer[:, :, self.length : end] = key_states
            self._value_buffer[:, :, self.length : end] = value_states

    def _visible(self, key_states, value_states):
        """The keys and values that the attention function gets."""
        self._view()
        return self.keys, self.values

    @lasting
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

    def reorder_cache(self, beam_idx) -> None:
        self.select_rows(beam_idx.to(self.device) if self.is_initialized else beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.select_rows(torch.arange(self.rows, device=self.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices) -> None:
        self.select_rows(indices)

    @property
    def start(self) -> int:
        stays = self.text.stays(0)
        return self.seen if stays is None else min(self.seen, stays)

    @property
    def rows(self) -> int:
        return self.keys.shape[0]

    def crop(self, *args) -> None:
        raise RuntimeError(f"{self.what} can't take tokens back, so assisted decoding is not supported")

    activate_past_recording = crop

    # What the attention function says.

    def attend(self, call: Call) -> torch.Tensor | None:
        """The step's attention, [B, q, Hq, D], or None where the model's own function is to compute it."""
        self._check_module(call.module)
        if self.watches and not self.waiting:
            raise RuntimeError(
                f"layer {self.index}: expected {self.calls} calls of attention in a step, as before, got more"
            )
        view = None if call.is_flash else self.text.sees(call.mask)
        if self.watches:
            self._check_watched(call, view)
        if self.dropped:
            check_call(call)
            if view:
                view.check()
        if self._can_attend(call, view):
            return attend_one(call, view.pads)
        if self.dropped and call.mask is not None:
            call.mask = follow(call.mask, self.entry_columns(), call.queries.shape[1])
        return None

    def _check_module(self, module) -> None:
        if self._module is None or self._module() is not module:
            self.text.check_module(module, self.what)
            self._module = weakref.ref(module)

    def _check_watched(self, call: Call, view) -> None:
        """Raises ValueError for what a cache that will drop entries can't follow."""
        if view:
            view.check()
        elif call.mask is not None:  # its function takes the mask's last columns, whatever has been dropped
            raise ValueError("attention_mask: expected no padding with FlashAttention, got a padded batch; use sdpa instead")

    @staticmethod
    def _can_attend(call: Call, view) -> bool:
        """Whether a kernel of ours computes what the model's own function would, to rounding."""
        return (
            call.name == "sdpa"
            and call.new == 1
            and is_ours(call.queries, call.keys, call.values)
            and call.values.shape[1] == call.keys.shape[1]
            and not call.options.get("dropout")
            and call.options.get("softcap") is None
            and special(call) is None
            and view.plain
            and not view.empty
        )

    def attended(self, call: Call) -> None:
        """A call of attention has been computed. The last one of a step is the time to drop entries."""
        if self.waiting:
            self.waiting -= 1

    # Which column of a mask each entry stands for.

    def entry_columns(self) -> torch.Tensor:
        """int64 [B, 1 or Hkv, n], for a layer from which something has been dropped."""
        raise NotImplementedError

    def hidden_entries(self) -> torch.Tensor | None:
        """Entries that are none of the text, or that the newest token does not see: bool, as `entry_columns`; or None."""
        hidden = self.text.hidden
        if hidden is None or not self.dropped:
            return None if hidden is None else hidden[:, None]
        columns = self.entry_columns()
        return hidden[:, None].expand(-1, columns.shape[1], -1).gather(2, columns)

    # Memory.

    @property
    def buffers(self) -> list[torch.Tensor]:
        """All memory that the layer holds for what has been seen."""
        return [buffer for buffer in (self._key_buffer, self._value_buffer) if buffer is not None]

    def _is_other(self, key_states, value_states) -> bool:
        """Whether new states are of other dtypes than those that are held."""
        keys, values = self._key_buffer, self._value_buffer
        return keys is not None and (keys.dtype != key_states.dtype or values.dtype != value_states.dtype)

    @staticmethod
    def _like(states: torch.Tensor, capacity: int) -> torch.Tensor:
        return states.new_empty((*states.shape[:2], capacity, states.shape[3]))

    def _reserve(self, key_states, value_states) -> None:
        """Makes room for the new tokens. Both buffers are there before either is used. As with torch.cat, what comes with
        more digits than there are gets them."""
        if self._is_other(key_states, value_states):
            self._key_buffer = promoted(self._key_buffer, key_states)
            self._value_buffer = promoted(self._value_buffer, value_states)
            self._view()
        needed = self.length + key_states.shape[2]
        if self._key_buffer is None:
            capacity = self.settings.capacity(needed)
        elif needed > self._key_buffer.shape[2]:
            capacity = max(needed, self._key_buffer.shape[2] + (self.settings.plan.interval or GROWTH))
        else:
            return
        held = (key_states, value_states) if self._key_buffer is None else (self._key_buffer, self._value_buffer)
        key_buffer, value_buffer = (self._like(states, capacity) for states in held)
        if self._key_buffer is not None:
            key_buffer[:, :, : self.length] = self.keys
            value_buffer[:, :, : self.length] = self.values
        self._key_buffer, self._value_buffer = key_buffer, value_buffer

    def _view(self) -> None:
        self.keys = self._key_buffer[:, :, : self.length]
        self.values = self._value_buffer[:, :, : self.length]


def promoted(buffer: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The buffer, in the dtype that it and new states have in common."""
    return buffer.to(torch.promote_types(buffer.dtype, states.dtype))


def compact(keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor, start: int, stop: int, length: int) -> int:
    """Of the region [start, stop) of keys and values only `positions` are left: :func:`lzpenalty.compact_`, which takes no
    dtypes of their own, as autocast makes them."""
    if keys.dtype == values.dtype:
        return compact_(keys, values, positions, start=start, stop=stop, length=length)
    end = length - (stop - start) + positions.shape[2]
    for states in (keys, values):
        index = positions[..., None].expand(-1, states.shape[1], -1, states.shape[3])
        left = torch.cat([states[:, :, start:stop].gather(2, index), states[:, :, stop:length]], dim=2)
        states[:, :, start:end] = left
    return end


def count(query_length) -> int:
    """Queries of a forward, which transformers < 5.4 passes as their positions."""
    return query_length if isinstance(query_length, int) else query_length.shape[0]
