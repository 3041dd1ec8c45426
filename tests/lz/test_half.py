"""float16 and bfloat16 conversions agree with torch's for every value."""

import torch

from lzpenalty import lz_penalize_


def numbers(device, dtype):
    """All of them; an emulated GPU, which runs the same conversions, gets some of each kind, or it would take a minute."""
    step = 13 if device.name == "emulated" else 1
    return torch.arange(-(2**15), 2**15, step, dtype=torch.int16).view(dtype)


def test_every_half_precision_number_survives_a_penalty_of_zero(device):
    for dtype in (torch.float16, torch.bfloat16):
        every = numbers(device, dtype)
        rows = every.view(-1, 1).clone()
        device.of(lz_penalize_)(rows, torch.zeros(len(every), 1, dtype=torch.int64))  # V = 1: log2 1 - 0 = 0 bits
        assert torch.equal(rows.flatten().isnan(), every.isnan())
        keep = ~every.isnan()
        assert torch.equal(rows.flatten()[keep].view(torch.int16), every[keep].view(torch.int16))


def test_rounding_is_to_nearest_even_everywhere(device):
    strengths = (0.15, 1e-3, 2.0**-24, 3e-8, 77.0, 65519.0, 1e6)
    for dtype in (torch.float16, torch.bfloat16):
        every = numbers(device, dtype)
        rows = torch.stack([every, torch.zeros_like(every)], 1)
        for strength in strengths:
            got = device.of(lz_penalize_)(rows.clone(), torch.zeros(len(every), 1, dtype=torch.int64), strength=strength)
            wanted = (every.float() - strength).to(dtype)
            same = (got[:, 0] == wanted) | (wanted.isnan() & got[:, 0].isnan())
            assert same.all(), (dtype, strength, every[~same][:5], got[:, 0][~same][:5])
