"""What a model says when it doesn't see some of the columns of transformers' own cache: right after anything was dropped.

Nothing is dropped here. All keys and values stay, and a mask hides columns of a layer, of a row, of a head.
"""

from contextlib import contextmanager
from functools import wraps

import torch
from transformers import DynamicCache
from transformers.modeling_utils import AttentionInterface

__all__ = ["CAN_HIDE", "hidden", "told_apart"]

CAN_HIDE = hasattr(AttentionInterface, "get_interface")  # transformers >= 5


def told_apart(cache: DynamicCache) -> DynamicCache:
    """The same cache, whose keys say of which layer they are."""
    for index, layer in enumerate(cache.layers):
        if hasattr(layer, "update"):  # others hold no keys
            layer.update = _telling(layer.update, index)
    return cache


def _telling(update, index):
    @wraps(update)
    def telling(*args, **kwargs):
        keys, values = update(*args, **kwargs)
        keys._of_layer = index
        return keys, values

    return telling


@contextmanager
def hidden(columns: dict[int, torch.Tensor]):
    """Hides what is True in [B, 1 or Hkv, n] of a layer's columns, of those caches that tell their layers apart. May be
    changed meanwhile."""
    before = AttentionInterface.get_interface

    def get_interface(self, *args):
        function = before(self, *args)

        @wraps(function)
        def attention(module, query, key, value, attention_mask, *args, **kwargs):
            of_layer = columns.get(getattr(key, "_of_layer", None))
            if of_layer is not None and of_layer.any():
                attention_mask = _hiding(of_layer, query, key, attention_mask)
            return function(module, query, key, value, attention_mask, *args, **kwargs)

        return attention

    AttentionInterface.get_interface = get_interface
    try:
        yield
    finally:
        AttentionInterface.get_interface = before


def _hiding(columns: torch.Tensor, query, key, mask) -> torch.Tensor:
    """The mask of the model with more hidden, as numbers to add, [B, Hq, q, n]."""
    new, length = query.shape[2], key.shape[2]
    lowest = torch.finfo(query.dtype).min
    if mask is None:
        at = torch.arange(length)
        mask = at <= at[length - new :, None]
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, lowest)
    columns = columns[:, :, :length].repeat_interleave(query.shape[1] // columns.shape[1], dim=1)
    return mask.masked_fill(columns[:, :, None], lowest)
