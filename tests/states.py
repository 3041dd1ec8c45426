"""Queries, keys and values that are made up, for tests of the cache's routines."""

import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
