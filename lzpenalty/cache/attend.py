"""Attention to entries that no attention function of a model's can be given: heads or rows with lengths of their own.

On the CPU kernels of ours compute it; elsewhere, and for masks that are no pattern of ours, torch does, from a copy of one
layer's entries in which all heads are as long as the longest.
"""

import inspect

import torch
import torch.nn.functional as F

from lzpenalty._core import append_ragged_, attend, echo_scores_
from lzpenalty.cache.attention import Call

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch < 2.10
    varlen_attn = None
_KNOWS_ROOM = varlen_attn is not None and "seqused_k" in inspect.signature(varlen_attn).parameters

__all__ = [
    "append_heads",
    "attend_heads",
    "attend_one",
    "attend_padded",
    "check_call",
    "echo_heads",
    "shares_by_torch",
    "in_order",
    "is_ours",
    "placed",
    "special",
]


_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})


def is_ours(first: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether kernels of ours take these together, and not torch: on the CPU, of one dtype, which nobody changes."""
    dtype = first.dtype
    if not first.is_cpu or dtype not in _DTYPES or torch.is_autocast_enabled("cpu"):
        return False
    return all([other.is_cpu and other.dtype == dtype for other in others])


# What models hand to their attention function besides queries, keys, values and a mask.

_SINKS = {name: "attention sinks" for name in ("s_aux", "sinks")}
_PLACED = {
    "position_bias": "a position bias",
    "indices": "sparse attention by an index of its own",
    "block_indices": "sparse attention by an index of its own",
}


def placed(call: Call) -> str | None:
    """Names what only the model's own function can take, and only as long as nothing has been dropped; None if there is
    nothing."""
    known = next((words for name, words in _PLACED.items() if call.options.get(name) is not None), None)
    more = call.more("dropout", "softcap", *_SINKS, *_PLACED)
    return known or (f"the attention argument {more[0]}" if more else None)


def special(call: Call) -> str | None:
    """Names what only the model's own function can take; None if there is nothing."""
    sinks = next((words for name, words in _SINKS.items() if call.options.get(name) is not None), None)
    return sinks or placed(call)


def check_call(call: Call, own: bool = False) -> None:
    """Raises ValueError for what can't be had once entries have been dropped; `own`: by kernels of ours and torch."""
    if call.wants_weights:
        raise ValueError(
            "output_attentions: expected False once entries have been dropped, whose weights would be missing, got True; "
            "use interval=None"
        )
    if call.is_flash and call.mask is not None:
        raise ValueError(
            "attention_mask: expected no padding with FlashAttention once entries have been dropped, got some; use sdpa "
            "instead"
        )
    if what := (special if own else placed)(call):
        raise ValueError(
            f"model: expected attention to queries, keys and values alone once entries have been dropped, got {what}"
        )
    if own and call.options.get("dropout"):
        raise ValueError("model: expected no dropout once entries have been dropped, got a model in training; call eval()")
    if call.mask is None and call.new > 1 and not call.is_flash:
        raise ValueError("attention_mask: expected a mask for several tokens once entries have been dropped, got None")


# Attention.


def attend_one(call: Call, pads: torch.Tensor | None) -> torch.Tensor:
    """Attention of one new token to keys and values of heads that are alike: [B, 1, Hq, D]."""
    rows, heads = call.queries.shape[:2]
    output = call.queries.new_empty((rows, 1, heads, call.values.shape[3]))
    attend(call.queries, call.keys, call.values, pads=pads, scale=call.scale, out=output.transpose(1, 2))
    return output


def attend_heads(call: Call, layer, pads: torch.Tensor | None) -> torch.Tensor:
    """Attention of new tokens [B, Hq, q, D] to a ragged layer that has them already, in the order of the text and without
    padding, `pads` entries [B] of each row: [B, q, Hq, D]."""
    queries = call.queries
    if is_ours(queries, layer.key_slots, layer.value_slots):
        rows, heads, new, _ = queries.shape
        output = queries.new_empty((rows, new, heads, layer.value_slots.shape[1]))
        return attend(
            queries, layer.key_slots, layer.value_slots, starts=layer.starts, lengths=layer.lengths, pads=pads,
            scale=call.scale, softcap=call.softcap, out=output.transpose(1, 2),
        ).transpose(1, 2)  # fmt: skip
    if _at_once(call, layer.value_slots):
        return _attend_at_once(call, layer, pads)
    return attend_padded(call, *layer.padded(), layer.lengths, in_order(layer, call.new, pads))


def in_order(layer, new: int, pads: torch.Tensor | None) -> torch.Tensor:
    """The mask of a text without anything special, [B, Hkv, q, n]."""
    at = torch.arange(layer.longest, device=layer.lengths.device)
    last = layer.lengths[..., None] - new + torch.arange(new, device=at.device)
    mask = at <= last[..., None]
    return mask if pads is None else mask & (at >= pads[:, None, None, None])


def attend_padded(call: Call, keys, values, lengths: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same by torch, for keys and values [B, Hkv, n, D] of which heads have `lengths` [B, Hkv], and a mask
    [B, 1 or Hkv or Hq, q, n] of booleans or of numbers to add: [B, q, Hq, D]."""
    queries, group = call.queries, call.queries.shape[1] // keys.shape[1]
    held = torch.arange(keys.shape[2], device=keys.device) < lengths[..., None]
    keys, values = (torch.where(held[..., None], states, 0).repeat_interleave(group, dim=1) for states in (keys, values))
    held = held.repeat_interleave(group, dim=1)[:, :, None]
    if mask.shape[1] not in (1, queries.shape[1]):
        mask = mask.repeat_interleave(group, dim=1)
    mask = mask & held if mask.dtype == torch.bool else mask.masked_fill(~held, -torch.inf)
    if call.softcap:
        products = call.softcap * torch.tanh(queries.float() @ keys.float().mT * call.scale / call.softcap)
        products = products.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else products + mask
        output = (products.softmax(-1) @ values.float()).to(values.dtype)
    else:
        mask = mask if mask.dtype == torch.bool else mask.to(queries.dtype)
        output = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=call.scale)
    return output.nan_to_num().transpose(1, 2)  # a token that sees nothing is none of the text, but its NaN would spread


def _at_once(call: Call, values: torch.Tensor) -> bool:
    """Whether torch's variable-length attention, which is FlashAttention's, takes these tokens for all heads together."""
    size = call.queries.shape[3]
    return (
        _KNOWS_ROOM
        and call.queries.device.type == "cuda"
        and call.queries.dtype in (torch.float16, torch.bfloat16)
        and (call.new == 1 and not call.softcap)
        and (size == values.shape[-1] and size % 8 == 0 and size <= 256)
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(call.queries.device) >= (8, 0)
    )


def _attend_at_once(call: Call, layer, pads: torch.Tensor | None) -> torch.Tensor:
    """All heads in one call, [B, 1, Hq, D]: each head of a row is a sequence, in the order of the slots, which is that of
    the heads, with room behind it that is not used, and the group's queries are heads that share its keys."""
    rows, heads, _, size = call.queries.shape
    starts, used = layer.starts.T, layer.lengths.T
    if pads is not None:
        starts, used = starts + pads, used - pads
    sequences = starts.numel()
    grouped = call.queries.view(rows, -1, heads * rows // sequences, size).transpose(0, 1).flatten(0, 1)
    ends = starts.new_full((1,), layer.key_slots.shape[0])
    output = varlen_attn(
        grouped, layer.key_slots[:, None], layer.value_slots[:, None],
        torch.arange(sequences + 1, dtype=torch.int32, device=starts.device), torch.cat([starts.flatten(), ends]).int(),
        1, layer.longest, scale=call.scale, enable_gqa=True, seqused_k=used.flatten().int(),
    )  # fmt: skip
    return output.unflatten(0, (-1, rows)).transpose(0, 1).reshape(rows, 1, heads, -1)


# Evidence, and what is appended.


def echo_heads(
    layer, queries: torch.Tensor, behind: int, rows: slice = slice(None), asked=None, window=256, start=0
) -> None:
    """Raises the evidence of a ragged layer's entries in these rows, without the last ones, `behind` of them, to the largest
    share of attention that a query [b, Hq, q, D] of their group gives them: echo_scores_, which says what `asked`, `window`
    and `start` are. Rows that have ended, and entries that are no part of the text, stay as they are."""
    queries = queries.to(layer.key_slots.dtype)
    asked = None if asked is None else asked.to(layer.key_slots.dtype)
    view, ended = layer.text.view, layer.text.ended
    starts, lengths = layer.starts[rows], layer.lengths[rows] - behind
    pads = None if view.pads is None else view.pads[rows]
    if ended is not None:
        lengths = lengths.masked_fill(ended[rows, None], 0)
        pads = None if pads is None else pads.masked_fill(ended[rows], 0)
    if is_ours(queries, layer.key_slots) and layer.text.is_plain:
        echo_scores_(
            layer.evidence[:, 0], queries, layer.key_slots, starts=starts, lengths=lengths, pads=pads, scale=layer.scale,
            asked=asked, window=window, start=start,
        )  # fmt: skip
        return
    slots = layer.padded_slots()[rows]
    at = torch.arange(slots.shape[2], device=slots.device)
    there = at < lengths[..., None]
    if (hidden := layer.hidden_entries()) is not None:
        there = there & ~hidden[rows]
    keys = torch.where(there[..., None], layer.key_slots[slots], 0).float()
    found = shares_by_torch(queries, keys, there, lengths, layer.scale, asked, window, start)
    layer.evidence[:, 0].scatter_reduce_(0, slots.flatten(), found.flatten(), "amax")


def shares_by_torch(queries, keys, there, lengths, scale: float, asked, window: int, start: int) -> torch.Tensor:
    """The largest share that a query [b, Hq, q, D] of their group gives keys [b, Hkv, n, D], float32 [b, Hkv, n], by
    echo_scores_'s formula; 0 where `there` [b, Hkv, n] says that there is none. All on one device."""
    at = torch.arange(keys.shape[2], device=keys.device)
    products = _products(queries, keys, scale).masked_fill(~there[:, :, None], -torch.inf)
    if asked is not None:
        own = lengths[..., None] - asked.shape[2] + torch.arange(asked.shape[2], device=at.device)
        seen = (at <= own[..., None]) & (at >= (own[..., :1, None] - window).clamp(min=start)) & there[:, :, None]
        seen = seen.repeat(1, 1, queries.shape[1] // keys.shape[1], 1)
        products = torch.cat([products, _products(asked, keys, scale).masked_fill(~seen, -torch.inf)], dim=-1)
    return torch.where(there, products.softmax(-1)[..., : len(at)].amax(2), 0)


def _products(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """[b, Hkv, G q, n] of queries [b, Hq, q, D] and keys [b, Hkv, n, D]."""
    return queries.unflatten(1, (keys.shape[1], -1)).flatten(2, 3).float() @ keys.mT * scale


def append_heads(layer, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Writes new keys and values [B, Hkv, q, D] behind those of a ragged layer's heads: append_ragged_."""
    if is_ours(keys, values, layer.key_slots, layer.value_slots):
        append_ragged_(layer.key_slots, layer.value_slots, keys, values, starts=layer.starts, lengths=layer.lengths)
        return
    slots = (layer.starts + layer.lengths)[..., None] + torch.arange(keys.shape[2], device=keys.device)
    layer.key_slots[slots] = keys.to(layer.key_slots.dtype)
    layer.value_slots[slots] = values.to(layer.value_slots.dtype)
