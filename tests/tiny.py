"""Tiny random models of the architectures that CompressedCache is tried with, and a tokenizer for them."""

from functools import cache

import tokenizers
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB = 211
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "phi3")
SIZES = dict(
    vocab_size=VOCAB, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=12, max_position_embeddings=4096, pad_token_id=0, eos_token_id=None, bos_token_id=1,
)  # fmt: skip
HALF_OF_THE_NUMBERS = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
LATENT = {
    "num_hidden_layers": 2, "num_key_value_heads": 4, "first_k_dense_replace": 2, "q_lora_rank": None, "kv_lora_rank": 16,
    "qk_rope_head_dim": 12, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
OWN_SIZES = {
    "mistral": {"sliding_window": None},
    "phi3": {"sliding_window": None},
    "gemma3_text": {"sliding_window": 16, "num_hidden_layers": 7, "query_pre_attn_scalar": 7},  # the last but one is full
    "gemma2": {"sliding_window": 16, "num_hidden_layers": 4, "query_pre_attn_scalar": 7, "attn_logit_softcapping": 2.0},
    "gpt_neox": {"rope_parameters": HALF_OF_THE_NUMBERS, **({"rotary_pct": 0.5} if transformers.__version__ < "5" else {})},
    "glm": {"rope_parameters": HALF_OF_THE_NUMBERS},
    "cohere2": {"sliding_window": 16, "num_hidden_layers": 4},
    "smollm3": {"num_hidden_layers": 4},
    "gpt_oss": {"sliding_window": 16, "num_local_experts": 2, "num_experts_per_tok": 1},
    "granite_swa": {"sliding_window": 16},
    "deepseek_v3": LATENT,
    "deepseek_v2": LATENT,
}


@cache
def tiny(architecture="llama", attention="sdpa", dtype=torch.float32, spread=0.3):
    """Weights large enough that what is dropped changes what is said. With a spread of 0.02 the model falls into loops."""
    torch.manual_seed(0)
    sizes = {**SIZES, **OWN_SIZES.get(architecture, {}), "initializer_range": spread}
    config = AutoConfig.for_model(architecture, **sizes)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype).eval()


@cache
def tokenizer():
    """The words w2, w3, ... are tokens of these numbers."""
    words = {"<pad>": 0, "<s>": 1} | {f"w{i}": i for i in range(2, VOCAB)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token="<s>", padding_side="left")
    return PreTrainedTokenizerFast(tokenizer_object=plain, **special)


def words(count, seed, of=VOCAB - 2):
    """A text of so many words out of `of`."""
    return " ".join(f"w{2 + i}" for i in torch.randint(of, (count,), generator=torch.Generator().manual_seed(seed)))


def prompt(rows=2, length=20, seed=1):
    return torch.randint(2, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def generate(model, ids, tokens=60, mask=None, **kwargs):
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(ids, attention_mask=mask, **{"max_new_tokens": tokens, "do_sample": False, **kwargs})
