"""The benchmark's dense PyTorch formula, written independently of the kernels, gives the same logits."""

import sys
from pathlib import Path

import pytest
import torch

from lzpenalty import lz_penalize_

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from dense import dense_penalize  # noqa: E402


@pytest.mark.parametrize("length", [1, 5, 40, 100])
@pytest.mark.parametrize("kinds", [2, 10, 60])
def test_dense(length, kinds):
    torch.manual_seed(length * kinds)
    tokens, logits = torch.randint(0, kinds, (3, length)), torch.randn(3, 64)
    wanted = dense_penalize(logits, tokens, window=50, buffer=8)
    got = lz_penalize_(logits.clone(), tokens, window=50, buffer=8, cost="pair")
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
