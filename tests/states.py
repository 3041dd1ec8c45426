"""Queries, keys and values that are made up, for tests of the cache's routines."""

import numpy as np
import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stored_otherwise(x, layout):
    """The same numbers [B, H, T, D] in memory of another layout; the last dimension stays contiguous."""
    if layout == "tokens first":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "heads packed":
        return x.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    if layout == "part of a buffer":
        B, H, T, D = x.shape
        buffer = torch.full((B + 1, H + 2, 2 * T + 3, D + 5), float("nan"), dtype=x.dtype)
        part = buffer[1:, 1:-1, 2 : 2 + 2 * T : 2, 3 : 3 + D]
        part.copy_(x)
        return part
    if layout == "backwards" and x.dtype != torch.bfloat16:  # only NumPy has negative strides
        return np.ascontiguousarray(x.numpy()[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    return x.contiguous()


LAYOUTS = ("plain", "tokens first", "heads packed", "part of a buffer", "backwards")
