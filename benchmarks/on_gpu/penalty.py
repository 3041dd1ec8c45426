"""The LZ penalty beside others' penalties on the same input.

transformers' repetition penalty returns new scores, as its processors do; vLLM's code for repetition, frequency and presence
penalties works in place; the dense formula of the LZ penalty goes through torch.compile."""

import importlib

import torch

from dense import dense_penalize
from lz import make_tokens
from lzpenalty import dry_penalize_, lz_penalize_

__all__ = ["cells"]

BUFFER = 32


def cells(clock):
    """(name, function that returns its measurements) of each batch and window."""
    vocab = 1000 if clock.tiny else 151_936
    for window in (64,) if clock.tiny else (512, 128, 4096):
        for batch in (1, 3) if clock.tiny else (1, 64, 8, 256):
            for text in ("prose",) if clock.tiny else ("prose", "loop", "random"):
                yield (
                    f"penalty, B {batch}, W {window}, V {vocab}, {text}",
                    lambda b=batch, w=window, t=text: measure(clock, b, w, t, vocab),
                )


def measure(clock, batch: int, window: int, text: str, vocab: int) -> dict:
    from transformers import RepetitionPenaltyLogitsProcessor

    tokens = make_tokens(text, batch, window + BUFFER, vocab).to(clock.device)
    logits = torch.randn(batch, vocab, device=clock.device)
    repetition = RepetitionPenaltyLogitsProcessor(1.1)
    functions = {
        "lz_penalize_": lambda: lz_penalize_(logits, tokens, window=window, buffer=BUFFER),
        "lz_penalize_, gentle": lambda: lz_penalize_(
            logits, tokens, window=window, buffer=BUFFER, strength=0.3, min_match=2, gate=(20, 28)
        ),
        "dry_penalize_": lambda: dry_penalize_(logits, tokens, window=window),
        "transformers, repetition": lambda: repetition(tokens, logits),
    }
    if vllm := vllm_penalties():
        padding = torch.full((batch, 1), vocab, device=clock.device)
        ones = torch.ones(batch, device=clock.device)
        functions["vLLM, three penalties"] = lambda: vllm(logits, padding, tokens, 0.1 * ones, 0.1 * ones, 1.1 * ones)
    if window == 512 or clock.tiny:
        # Compiling, not the code that it makes, is what takes a CPU long.
        compiled = torch.compile(dense_penalize, backend="eager" if clock.tiny else "inductor")
        functions["dense formula, compiled"] = lambda: compiled(logits, tokens, window=window, buffer=BUFFER)
    return clock.measure(functions)


def vllm_penalties():
    """vLLM's function for penalties in place, or None where it is not installed or has moved."""
    try:
        return importlib.import_module("vllm.model_executor.layers.utils").apply_penalties
    except (ImportError, AttributeError):
        return None
