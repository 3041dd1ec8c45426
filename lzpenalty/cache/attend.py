"""Attention to a cache whose heads have lengths of their own, which no model's attention function knows."""

import inspect

import torch
import torch.nn.functional as F

from lzpenalty._core import append_ragged_, attend, echo_scores_

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch < 2.10
    varlen_attn = None
_KNOWS_ROOM = varlen_attn is not None and "seqused_k" in inspect.signature(varlen_attn).parameters

__all__ = [
    "append_heads",
    "at_once",
    "attend_heads",
    "attend_one",
    "check_options",
    "check_places",
    "echo_heads",
    "is_ours",
    "padding",
]


def is_ours(states: torch.Tensor) -> bool:
    """Whether kernels of ours take this, and not torch: on the CPU."""
    return states.device.type == "cpu" and states.dtype in (torch.float32, torch.float16, torch.bfloat16)


def at_once(queries: torch.Tensor, values: torch.Tensor, softcap: float) -> bool:
    """Whether torch's variable-length attention, which is FlashAttention's, takes these tokens for all heads together."""
    size = queries.shape[3]
    return (
        _KNOWS_ROOM
        and queries.device.type == "cuda"
        and queries.dtype in (torch.float16, torch.bfloat16)
        and (queries.shape[2] == 1 and not softcap)
        and (size == values.shape[-1] and size % 8 == 0 and size <= 256)
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(queries.device) >= (8, 0)
    )


def padding(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """How many of each row's first columns are masked, int64 [B], or None if none is. `attention_mask` is what attention
    functions get, [B, 1, q, n] of booleans or of numbers to add, whose last query sees all that is no padding.

    All layers get the same mask, so it remembers the answer."""
    if attention_mask is None:
        return None
    if not hasattr(attention_mask, "_lzpenalty_pads"):
        last = attention_mask[:, 0, -1]
        seen = last if last.dtype == torch.bool else last >= 0
        pads = seen.int().argmax(dim=1)
        if not torch.equal(seen, torch.arange(seen.shape[1], device=seen.device) >= pads[:, None]):
            raise ValueError("attention_mask: expected padding on the left alone, got some elsewhere")
        attention_mask._lzpenalty_pads = pads if pads.any() else None
    return attention_mask._lzpenalty_pads


def check_options(options: dict) -> str | None:
    """Names what a model passes to its attention function that only that function can do; None if there is nothing."""
    return next((words for name, words in {**_SINKS, **_PLACED}.items() if options.get(name) is not None), None)


def check_places(options: dict) -> str | None:
    """Names what a model passes to its attention function that says where keys stand, so that none may be dropped."""
    return next((words for name, words in _PLACED.items() if options.get(name) is not None), None)


_SINKS = {name: "attention sinks" for name in ("s_aux", "sinks")}
_PLACED = {
    "position_bias": "a position bias",
    "indices": "sparse attention by an index of its own",
    "block_indices": "sparse attention by an index of its own",
}


def attend_one(queries: torch.Tensor, keys, values, attention_mask, scale: float | None, options: dict):
    """Attention of one new token [B, Hq, 1, D] to keys and values [B, Hkv, n, D]: [B, 1, Hq, D], or None where that is a
    matter for the model's own function."""
    if queries.shape[2] > 1 or not is_ours(queries) or options.get("dropout"):
        return None
    if check_options(options) or options.get("softcap") is not None:
        return None
    try:
        pads = padding(attention_mask)
    except ValueError:
        return None
    rows, heads = queries.shape[:2]
    output = queries.new_empty((rows, 1, heads, values.shape[3]))
    attend(queries, keys, values, pads=pads, scale=scale, out=output.transpose(1, 2))
    return output


def attend_heads(queries: torch.Tensor, layer, scale: float | None, options: dict) -> torch.Tensor:
    """Attention of new tokens [B, Hq, q, D] to a ragged layer that has them already: [B, q, Hq, D]."""
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    softcap = options.get("softcap") or 0.0
    if is_ours(queries):
        rows, heads, new, _ = queries.shape
        output = queries.new_empty((rows, new, heads, layer.value_slots.shape[1]))
        return attend(
            queries, layer.key_slots, layer.value_slots, starts=layer.starts, lengths=layer.lengths, pads=layer.pads,
            scale=scale, softcap=softcap, out=output.transpose(1, 2),
        ).transpose(1, 2)  # fmt: skip
    if at_once(queries, layer.value_slots, softcap):
        return _attend_at_once(queries, layer, scale)
    return torch.cat([_attend_head(head, head.of_group(queries), scale, softcap) for head in layer.heads()], dim=2)


def _attend_at_once(queries: torch.Tensor, layer, scale: float) -> torch.Tensor:
    """All heads in one call, [B, 1, Hq, D]: each head of a row is a sequence, in the order of the slots, which is that of
    the heads, with room behind it that is not used, and the group's queries are heads that share its keys."""
    rows, heads, _, size = queries.shape
    starts, used = layer.starts.T, layer.lengths.T
    if layer.pads is not None:
        starts, used = starts + layer.pads, used - layer.pads
    sequences = starts.numel()
    grouped = queries.view(rows, -1, heads * rows // sequences, size).transpose(0, 1).flatten(0, 1)
    ends = starts.new_full((1,), layer.key_slots.shape[0])
    output = varlen_attn(
        grouped, layer.key_slots[:, None], layer.value_slots[:, None],
        torch.arange(sequences + 1, dtype=torch.int32, device=queries.device), torch.cat([starts.flatten(), ends]).int(),
        1, max(layer.entries), scale=scale, enable_gqa=True, seqused_k=used.flatten().int(),
    )  # fmt: skip
    return output.unflatten(0, (-1, rows)).transpose(0, 1).reshape(rows, 1, heads, -1)


def _attend_head(head, queries: torch.Tensor, scale: float, softcap: float) -> torch.Tensor:
    """The part of one key head, [B, q, G, D], by torch: the group's queries are rows of one query head."""
    rows, group, new, size = queries.shape
    pads, keys, values = head.layer.pads, head.keys, head.values
    flat = queries.transpose(1, 2).reshape(rows, 1, new * group, size)
    mask = None
    if new > 1 or pads is not None:
        at = torch.arange(head.length, device=queries.device)
        last = torch.arange(head.length - new, head.length, device=queries.device).repeat_interleave(group)
        mask = (at <= last[:, None])[None, None]
        if pads is not None:
            mask = mask & (at >= pads[:, None])[:, None, None]
    if softcap:
        products = flat.float() @ keys.float().mT * scale
        products = softcap * torch.tanh(products / softcap)
        if mask is not None:
            products = products.masked_fill(~mask, -torch.inf)
        output = (products.softmax(-1) @ values.float()).to(values.dtype)
    else:
        output = F.scaled_dot_product_attention(flat, keys, values, attn_mask=mask, scale=scale)
    return output.view(rows, new, group, values.shape[-1])


def echo_heads(layer, queries: torch.Tensor, behind: int) -> None:
    """Raises the evidence of a ragged layer's entries, without the last ones, `behind` of them, to the largest share of
    attention that a query [B, Hq, q, D] of their group gives them: echo_scores_."""
    queries = queries.to(layer.dtype)
    if is_ours(queries):
        lengths = layer.lengths - behind if behind else layer.lengths
        echo_scores_(
            layer.evidence[:, 0], queries, layer.key_slots,
            starts=layer.starts, lengths=lengths, pads=layer.pads, scale=layer.scale,
        )  # fmt: skip
        return
    for head in layer.heads():
        length = head.length - behind
        products = head.of_group(queries).flatten(1, 2).float() @ head.keys[:, 0, :length].float().mT * layer.scale
        if layer.pads is not None:
            padded = torch.arange(length, device=products.device) < layer.pads[:, None]
            products = products.masked_fill(padded[:, None], -torch.inf)
        found = products.softmax(dim=-1).amax(dim=1)
        evidence = head.evidence[:, 0, :length]
        torch.maximum(evidence, found, out=evidence)


def append_heads(layer, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Writes new keys and values [B, Hkv, q, D] behind those of a ragged layer's heads: append_ragged_."""
    if is_ours(keys):
        append_ragged_(layer.key_slots, layer.value_slots, keys, values, starts=layer.starts, lengths=layer.lengths)
        return
    slots = (layer.starts + layer.lengths)[..., None] + torch.arange(keys.shape[2], device=keys.device)
    layer.key_slots.index_copy_(0, slots.flatten(), keys.flatten(0, 2))
    layer.value_slots.index_copy_(0, slots.flatten(), values.flatten(0, 2))
