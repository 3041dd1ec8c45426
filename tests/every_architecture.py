"""A tiny random model of every causal architecture that the installed transformers has, those that see and hear included.

Each starts from the registry's default configuration, in which every size that exists is made small, also in the
configurations within it. Layers are chosen so that each kind that the default has appears. All parameters are drawn anew:
an untrained model has zeros and ones that hide what they do.
"""

import copy
import dataclasses
import inspect
import itertools
import math
import re
from functools import cache

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto import modeling_auto

CAUSAL = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
MULTIMODAL = getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {})  # transformers >= 5
VOCAB = 211
LAYERS = 4

# What is made small, by name: each is at most so large. A name is taken in all configurations that have it.
SIZES = [
    (VOCAB, "vocab_size decoder_vocab_size unpadded_vocab_size vocab_size_per_layer_input encoder_hash_byte_group_vocab"),
    (VOCAB, "pronunciation_vocab_size shape_vocab_size ngram_vocab_size_base audio_vocab_size"),
    (128, "intermediate_size ffn_dim dff dim_ff d_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size feed_forward_size"),
    (128, "intermediate_size_mlp dense_intermediate_size mlp_dim d_ff num_position_embeddings mamba_d_ssm codebook_size"),
    (64, "hidden_size d_model n_embd embedding_size emb_dim embedding_dim word_embed_proj_dim input_embedding_size"),
    (64, "output_embedding_size backbone_hidden_size out_hidden_size hidden_size_global lru_width input_size"),
    (64, "projector_input_dim projector_output_dim adapter_out_dim adapter_in_dim adapter_input_size embed_dim"),
    (64, "output_channels text_hidden_size audio_hidden_size"),
    (32, "moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size shared_experts_intermediate_size"),
    (32, "shared_intermediate_size moe_shared_expert_intermediate_size router_hidden_size dim_model_base index_topk"),
    (32, "image_size base_channels prompt_mid_dim mamba_d_state ssm_state_size state_size rel_extent num_filters"),
    (16, "head_dim d_head dim_head swa_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim kv_channels d_kv"),
    (16, "kv_lora_rank q_lora_rank o_lora_rank mamba_d_head mamba_head_dim index_head_dim"),
    (16, "laurel_rank hidden_size_per_layer_input adapter_rank hc_lowrank ple_embed_dim codebook_dim attention_head_size"),
    (16, "mamba_dt_rank time_step_rank chunk_size mamba_chunk_size block_size index_block_size pronunciation_embed_dim"),
    (16, "sliding_window window_size local_attention local_attention_window_len sliding_window_size attention_chunk_size"),
    (16, "attention_window_size vector_quantization_hidden_dimension shape_embed_dim gated_norm_rank"),
    (8, "qk_rope_head_dim qk_nope_head_dim v_head_dim swa_v_head_dim rotary_dim d_rel patch_size"),
    (8, "mamba_n_heads mamba_num_heads"),
    (4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads num_decoder_attention_heads attention_heads"),
    (4, "swa_num_attention_heads linear_num_value_heads linear_num_heads index_n_heads num_experts n_routed_experts"),
    (4, "num_local_experts moe_num_experts zero_expert_num num_codebooks num_quantizers split_ngram_parts"),
    (4, "num_attention_heads_per_layer"),
    (2, "num_key_value_heads num_kv_heads num_query_groups swa_num_key_value_heads linear_num_key_heads kv_n_heads"),
    (2, "num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k heads_per_ngram n_groups mamba_n_groups"),
    (2, "encoder_attention_heads num_encoder_attention_heads attn_layer_period expert_layer_period layer_group_size"),
    (2, "index_topk_blocks centroid_intermediate_top_k num_global_layers n_layers_per_attn_res_block o_groups"),
    (1, "n_group topk_group num_expert_group n_shared_experts first_k_dense_replace attn_layer_offset num_dense_layers"),
]  # fmt: skip
COUNTS = [  # of layers; a decoder alone asks for its cache by its encoder's
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers", "num_decoder_layers",
    "num_encoder_layers", "num_blocks", "depth", "num_layers_per_stack", "layers",
]  # fmt: skip
BOUNDS = {name: bound for bound, names in SIZES for name in names.split()} | dict.fromkeys(COUNTS, LAYERS)
# Where the default is None, which no model can be built with.
NEEDED = {
    "num_key_value_heads": 2, "head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
}  # fmt: skip
OF_A_TOKEN = re.compile(r"_token_(id|index)s?$|^mask_index$")

LATENT = {"num_key_value_heads": 4, "head_dim": 8}  # latent keys are of all heads; the size is that of what is rotated
TWO_KINDS = {"layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4}
CONVOLUTIONS = {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4}
TURNED = {"rope_type": "default", "rope_theta": 10000.0}
INDEXER = {  # none by default
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 32, "indexer_compress_ratio": 4,
}  # fmt: skip
LEFT_OUT = {
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model, from whose keys it reads"),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "several codes of sound a step, no text"),
    "vibevoice_asr": "its part that hears stays large; its text part is qwen2",
}


def sections(*sizes: int) -> dict:
    """Of the pairs that are turned, those of time, height and width. Their sum is what there is."""
    return {"text_config": {"rope_parameters": {**TURNED, "mrope_section": list(sizes)}}}


# By architecture: what the rules above can't know.
OWN = {
    "bamba": {"attn_layer_indices": [1, 3]},  # the default has no attention at all
    "blenderbot": {"encoder_layers": 4},  # the default has fewer than the decoder, whose cache is sized by it
    "cohere_compass_text": {"rope_parameters": {"full_attention": TURNED, "sliding_attention": TURNED}},  # none by default
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},  # asked for, and not in the default
    "falcon_h1": {"mamba_d_head": 16},  # mamba_d_ssm is heads times this
    "gemma3n_text": {"num_kv_shared_layers": 2},
    "gemma3n": {"text_config": {"num_kv_shared_layers": 2}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},  # says what the layers are, in a form of its own
    "granitemoehybrid": TWO_KINDS,  # the default has no attention at all
    "lfm2": CONVOLUTIONS,  # the default has none
    "lfm2_moe": CONVOLUTIONS,
    "mamba2": {"num_heads": 8},  # times head_dim is expand times hidden_size
    "qwen4_exp_text": INDEXER,
    "qwen4_exp": {"text_config": INDEXER},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": TURNED, "sliding_attention": TURNED}}},
    **dict.fromkeys(("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_5_vl", "qwen2_vl"), sections(2, 3, 3)),
    "chameleon": {"vocabulary_map": {"<image>": 5}},  # none by default
    "cosmos3_edge": sections(2, 3, 3),
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"] * 2}},  # none by default
    "ernie4_5_vl_moe": sections(3, 3, 2),
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 16}},  # a quarter of hidden_size
    "glm4v_moe": sections(1, 1, 2),
    "hunyuan_vl": sections(2, 3, 3),
    "molmo2": {"adapter_config": {"vision_feature_layer": [2, 1]}},  # of four
    "step3p7": {"text_config": {"sliding_window": 16}},  # none by default
    "qwen2_5_omni_thinker": sections(2, 3, 3),
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},  # that of the whole
    "reformer": {"axial_pos_embds_dim": [32, 32]},  # their sum is hidden_size
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},  # half of it is rounded up to 64
    "xmod": {"default_language": "en_XX"},  # it runs with none but this
}


ALTERNATING = ["sliding_attention", "full_attention"] * 2
# Options that models of a family are published with, and that change how it attends.
VARIANTS = {
    "falcon, alibi": ("falcon", {"alibi": True}),
    "falcon, new_decoder_architecture": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gemma4_text, num_kv_shared_layers": ("gemma4_text", {"num_kv_shared_layers": 2, "layer_types": ALTERNATING}),
    "ministral, full_attention": ("ministral", {"layer_types": ["full_attention"] * 4}),
    "mistral, sliding_window=None": ("mistral", {"sliding_window": None}),
    "mixtral, sliding_window": ("mixtral", {"sliding_window": 16}),
    "mpt, alibi=False": ("mpt", {"attn_config": {"alibi": False}}),
    "phi3, sliding_window": ("phi3", {"sliding_window": 16}),
    "qwen2, use_sliding_window": ("qwen2", {"use_sliding_window": True, "sliding_window": 16}),
}


def names() -> list[str]:
    """All architectures that the registry has, and the variants."""
    return sorted({*CAUSAL, *MULTIMODAL, *VARIANTS})


def shrunk(config, own: dict):
    """The same configuration with small sizes. What it derives from others is left to it."""
    fields = _fields(config)
    other_names = type(config).attribute_map
    given = {name: vars(config).get(other_names.get(name, name)) for name in fields}
    count = next((given[name] for name in COUNTS if isinstance(given.get(name), int)), None)
    by_layer = {name: list(given[name]) for name in fields if _is_by_layer(given.get(name), count)}
    small = {name: _token(given.get(name)) for name in fields if OF_A_TOKEN.search(name)}
    for name, default in fields.items():
        value = given.get(name)
        if hasattr(value, "to_dict"):
            part = shrunk(value, own.get(name, {}))
            small[name] = part if dataclasses.is_dataclass(config) else part.to_dict()
        elif value is None and name in NEEDED:
            small[name] = NEEDED[name]
        elif name in BOUNDS and name not in small and (default is not None or name in NEEDED or name == "sliding_window"):
            small[name] = _at_most(BOUNDS[name], value)
    if by_layer:
        chosen = _layers(by_layer)
        small.update({name: [small.get(name, given[name])[i] for i in chosen] for name in by_layer})
        small.update({name: len(chosen) for name in COUNTS if name in fields})
    if fields.get("is_decoder") is False:
        small["is_decoder"] = True  # or every token sees those behind it
    if "kv_lora_rank" in fields:
        small.update({name: value for name, value in LATENT.items() if name in fields})
    small.update({name: value for name, value in own.items() if not hasattr(given.get(name), "to_dict")})
    result = type(config)(**small)
    by_layer = result.to_dict().get("per_layer_config")
    if by_layer:  # layers that have sizes of their own
        result = type(config)(**small, per_layer_config={int(i): _of_layer(sizes) for i, sizes in by_layer.items()})
    return result


def _fields(config) -> dict:
    """What a configuration is made of, and the defaults."""
    if dataclasses.is_dataclass(config):
        return {field.name: field.default for field in dataclasses.fields(config)}
    parameters = list(inspect.signature(type(config).__init__).parameters.values())[1:]  # transformers < 5.13
    return {one.name: one.default for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD}


def _of_layer(sizes: dict) -> dict:
    small = {name: _at_most(BOUNDS.get(name, VOCAB), value) for name, value in sizes.items()}
    if "kv_lora_rank" in small:
        return {**small, **LATENT, "head_dim": small["qk_rope_head_dim"] + small["qk_nope_head_dim"]}
    return {**small, "head_dim": 32} if "head_dim" in small else small


def _at_most(bound: int, value):
    if isinstance(value, list | tuple):
        return [_at_most(bound, one) for one in value]
    return min(value, bound) if isinstance(value, int) and not isinstance(value, bool) else value


def _token(value):
    if isinstance(value, list | tuple):
        return [_token(one) for one in value]
    return min(value, VOCAB - 1) if isinstance(value, int) else value


def _is_by_layer(value, count) -> bool:
    if not isinstance(value, list | tuple) or count is None or len(value) != count or count <= LAYERS:
        return False
    return list(value) != list(range(count))  # which are numbers of layers


def _layers(by_layer: dict) -> list[int]:
    """The first layer of each kind, and then the second ones, as there is room."""
    kinds = list(zip(*map(map, itertools.repeat(str), by_layer.values()), strict=True))
    turn = {i: kinds[:i].count(kind) for i, kind in enumerate(kinds)}
    first = sum(turn[i] == 0 for i in turn)
    return sorted(sorted(turn, key=lambda i: (turn[i], i))[: max(LAYERS, first)])


@cache
def configuration(name: str):
    architecture, options = VARIANTS.get(name, (name, {}))
    default = AutoConfig.for_model(architecture)
    return shrunk(default, {**OWN.get(architecture, {}), **options})


def build(name: str, attention: str = "sdpa", seed: int = 0):
    """The tiny model of an architecture or variant, float32, in evaluation. Raises whatever keeps it from being built."""
    config = copy.deepcopy(configuration(name))  # models write into theirs
    torch.manual_seed(seed)
    is_known = type(config) in AutoModelForCausalLM._model_mapping
    registry = AutoModelForCausalLM if is_known else transformers.AutoModelForMultimodalLM
    model = registry.from_config(config, attn_implementation=attention, dtype=torch.float32)
    draw(model, seed)
    return model.eval()


def text_part(name: str) -> str | None:
    """What reads and writes in an architecture that sees or hears as well, if the registry has that as one of its own."""
    try:
        part = AutoConfig.for_model(VARIANTS.get(name, (name,))[0]).get_text_config(decoder=True).model_type
    except Exception:  # whatever keeps the default from being made
        return None
    return part if part != name and part in CAUSAL else None


@torch.no_grad()
def draw(model, seed: int) -> None:
    """New parameters. Matrices keep the size of what they multiply; scales and offsets move around what they were."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in dict.fromkeys(model.parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
        else:
            parameter.copy_(parameter.nan_to_num(0.0, 0.0, 0.0) + 0.3 * noise)
