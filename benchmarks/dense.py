"""The LZ penalty as dense PyTorch, O(B V W): the shape of the first engine code of the method's authors, which costs a token
by the bits of its (distance, length) pair per token covered (cost="pair")."""

from math import log2

import torch


def dense_penalize(logits, tokens, strength=0.15, window=512, buffer=32):
    """logits [B, V] minus the penalties for tokens [B, T]; every step is a tensor of all rows."""
    batch, length = tokens.shape
    vocab = logits.shape[1]
    window = min(window, length)
    padded = torch.nn.functional.pad(tokens, (buffer, 0), value=-1)
    ends = padded.unfold(1, buffer, 1).flip(-1)  # [B, T + 1, n]: the n tokens before each position, newest first
    before, now = ends[:, length - window : length], ends[:, length:]
    agree = (before == now) & (before >= 0)
    matched = agree.long().cumprod(-1).sum(-1)  # [B, W]: common suffix of the text before each position and the whole text
    held = tokens[:, length - window :]
    ids = torch.arange(vocab, device=tokens.device)
    lengths = torch.where(held[:, None, :] == ids[None, :, None], matched[:, None, :] + 1, 0)  # [B, V, W]
    distances = torch.arange(window, 0, -1, device=tokens.device)
    bits = (distances.log2() + lengths.log2()) / lengths
    cost = bits.masked_fill(lengths == 0, float("inf")).amin(-1)
    return logits - strength * (log2(vocab) - cost.clamp(0, log2(vocab)))
