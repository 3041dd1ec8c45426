"""Tiny random models of the architectures that RPCCache is tried with."""

from functools import cache

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 211
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "phi3")
SIZES = dict(
    vocab_size=VOCAB, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=12, max_position_embeddings=4096, pad_token_id=0, eos_token_id=None, bos_token_id=1,
    initializer_range=0.3,
)  # fmt: skip
OWN_SIZES = {
    "mistral": {"sliding_window": None},
    "phi3": {"sliding_window": None},
    "gemma3_text": {"sliding_window": 16, "num_hidden_layers": 7, "query_pre_attn_scalar": 7},  # the last but one is full
}


@cache
def tiny(architecture="llama", attention="sdpa", dtype=torch.float32):
    """Weights large enough that what is dropped changes what is said."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **{**SIZES, **OWN_SIZES.get(architecture, {})})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype).eval()


def prompt(rows=2, length=20, seed=1):
    return torch.randint(2, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def generate(model, ids, tokens=60, mask=None, **kwargs):
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(ids, attention_mask=mask, **{"max_new_tokens": tokens, "do_sample": False, **kwargs})
