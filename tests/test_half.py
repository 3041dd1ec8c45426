"""float16 and bfloat16 conversions agree with torch's for every value."""

import torch

from lzpenalty import lz_penalize_

TEXT = torch.tensor([0])


def test_every_half_precision_number_survives_a_penalty_of_zero():
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        rows = every.view(-1, 1).clone()
        lz_penalize_(rows, torch.zeros(2**16, 1, dtype=torch.int64))  # V = 1: log2 1 - 0 = 0 bits
        assert torch.equal(rows.flatten().isnan(), every.isnan())
        keep = ~every.isnan()
        assert torch.equal(rows.flatten()[keep].view(torch.int16), every[keep].view(torch.int16))


def test_rounding_is_to_nearest_even_everywhere():
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        rows = torch.stack([every, torch.zeros_like(every)], 1)
        for strength in (0.15, 1e-3, 2.0**-24, 3e-8, 77.0, 65519.0, 3e38):
            got = lz_penalize_(rows.clone(), torch.zeros(2**16, 1, dtype=torch.int64), strength=strength)
            wanted = (every.float() - strength).to(dtype)
            same = (got[:, 0] == wanted) | (wanted.isnan() & got[:, 0].isnan())
            assert same.all(), (dtype, strength, every[~same][:5], got[:, 0][~same][:5])
