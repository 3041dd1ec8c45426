"""What can't be served with a compressed cache, refused at start-up by name.

Text that is silently wrong is the worst that can happen, so whatever was not tried is refused: a vLLM whose methods and
attributes are not those that were tested, and what counts or moves slots itself.
"""

import dis
import importlib
import inspect
import logging

from lzpenalty.engines.prompts import callers
from lzpenalty.vllm.options import PREFIX, ServerOptions, cache_options, server_options

__all__ = ["check_configuration", "check_request", "check_surface", "is_served", "served_configuration"]

logger = logging.getLogger("vllm.lzpenalty")  # below vLLM's, so that its settings hold

TESTED = ("0.32", "0.33")
WORKER, SCHEDULER = "lzpenalty.vllm.Worker", "lzpenalty.vllm.Scheduler"
START = f"--worker-cls {WORKER} --scheduler-cls {SCHEDULER}"

ECHO = "the selector 'echo'"
WITHOUT_ECHO = """start with --additional-config '{"cache": {"echo": false}}' to have the other selectors alone"""
# In which a head's tokens lie side by side within a block.
HEAD_MAJOR = ("LBHNC", "BLHNC", "LHBNC", "BHLNC")
BACKENDS = ("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN")  # FlashInfer plans for all layers at once

# The parameters of every method of vLLM that is overridden or relied on.
METHODS = {
    "vllm.v1.core.sched.scheduler.Scheduler": {
        "add_request": "self request",
        "schedule": "self throttle_prefills",
        "_reserve_prefill_lookahead": "self request num_computed_tokens num_new_tokens",
        "_preempt_request": "self request timestamp drop_stale_output",
        "_free_blocks": "self request",
        "update_from_output": "self scheduler_output model_runner_output",
    },
    "vllm.v1.core.single_type_kv_cache_manager.FullAttentionManager": {
        "get_num_blocks_to_allocate": "self request_id num_tokens new_computed_blocks total_computed_tokens "
        "num_local_computed_tokens num_tokens_main_model apply_admission_cap prefill_end",
        "allocate_new_blocks": "self request_id num_tokens num_tokens_main_model",
        "cache_blocks": "self request num_tokens retention_interval replay_boundaries",
        "remove_skipped_blocks": "self request_id processed_computed_tokens num_prompt_tokens",
        "pop_blocks_for_free": "self request_id",
    },
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner": {
        "get_kv_cache_spec": "self",
        "initialize_kv_cache": "self kv_cache_config is_profiling kv_cache_allocation_context",
        "_update_states": "self scheduler_output",
        "_prepare_inputs": "self scheduler_output num_scheduled_tokens",
        "execute_model": "self scheduler_output intermediate_tensors",
        "sample_tokens": "self grammar_output",
    },
    "vllm.v1.worker.gpu.model_runner.GPUModelRunner": {
        "get_kv_cache_spec": "self",
        "initialize_kv_cache": "self kv_cache_config is_profiling kv_cache_allocation_context",
        "finish_requests": "self scheduler_output",
        "prepare_attn": "self input_batch",
        "execute_model": "self scheduler_output intermediate_tensors dummy_run skip_attn_for_dummy_run is_profile "
        "context_len valid_dummy_state_slots randomize_inputs",
        "sample_tokens": "self grammar_output",
    },
}


# What is read or written of its objects.
ATTRIBUTES = {
    "vllm.v1.core.sched.scheduler.Scheduler": "kv_cache_manager requests grammar_compile_error_reqs",
    "vllm.v1.core.sched.output.SchedulerOutput": "finished_req_ids preempted_req_ids scheduled_new_reqs "
    "scheduled_cached_reqs num_scheduled_tokens total_num_scheduled_tokens",
    "vllm.v1.core.sched.output.NewRequestData": "req_id prompt_token_ids sampling_params block_ids",
    "vllm.v1.core.single_type_kv_cache_manager.FullAttentionManager": "block_size block_pool req_to_blocks",
    "vllm.v1.core.kv_cache_utils.KVCacheBlock": "block_id ref_cnt block_hash",
    "vllm.v1.request.Request": "request_id num_prompt_tokens num_computed_tokens sampling_params resumable block_hashes "
    "_block_hasher",
    "vllm.v1.core.sched.output.CachedRequestData": "req_ids resumed_req_ids new_block_ids",
    "vllm.v1.attention.backend.CommonAttentionMetadata": "query_start_loc query_start_loc_cpu seq_lens num_reqs "
    "num_actual_tokens max_query_len max_seq_len block_table_tensor slot_mapping causal seq_lens_cpu_upper_bound",
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner": "requests input_batch kv_cache_config query_start_loc seq_lens "
    "optimistic_seq_lens_cpu positions req_indices attn_groups model",
    "vllm.v1.worker.gpu_input_batch.InputBatch": "num_reqs req_ids req_id_to_index num_computed_tokens_cpu block_table",
    "vllm.v1.worker.block_table.BlockTable": "num_blocks_per_row get_device_tensor compute_slot_mapping",
    "vllm.v1.worker.gpu.model_runner.GPUModelRunner": "req_states block_tables kv_cache_config attn_groups model",
    "vllm.v1.worker.gpu.input_batch.InputBatch": "num_reqs num_tokens req_ids idx_mapping_np num_computed_tokens_np "
    "num_scheduled_tokens seq_lens seq_lens_cpu_upper_bound positions",
    "vllm.v1.worker.gpu.block_table.BlockTables": "num_blocks block_tables",
}


def _attributes(owner: type) -> set[str]:
    """What objects of this class have: fields, methods, and all that a method of it assigns to."""
    names = set()
    for kind in owner.__mro__:
        names |= {*vars(kind), *vars(kind).get("__annotations__", ())}
        for function in vars(kind).values():
            if inspect.isfunction(code := inspect.unwrap(function) if callable(function) else function):
                names |= {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR"}
    return names


def differences(names) -> list[str]:
    """What the classes of these names have otherwise than in the versions that were tested."""
    found = []
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            owner = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            found.append(f"there is no {name}")
            continue
        for method, wanted in METHODS.get(name, {}).items():
            function = getattr(owner, method, None)
            got = " ".join(inspect.signature(function).parameters) if function else "nothing"
            if got != wanted:
                found.append(f"{name}.{method} has the parameters ({got}), not ({wanted})")
        missing = set(ATTRIBUTES.get(name, "").split()) - _attributes(owner)
        found += [f"{name} has no {attribute}" for attribute in sorted(missing)]
    return found


def check_surface(names) -> None:
    """Raises RuntimeError unless the classes of these names have what is overridden and read of them as it was tested. Where
    they do in a version that was not, the log says so."""
    import vllm

    tested, version = " and ".join(TESTED), vllm.__version__
    if found := differences(names):
        raise RuntimeError(
            f"vllm: the compressed cache was tested with vLLM {tested}, and {version} differs in what it overrides: "
            f"{'; '.join(found)}; pip install 'vllm=={TESTED[-1]}.*'"
        )
    if not version.startswith(tuple(each + "." for each in TESTED)):
        logger.warning(
            "compressed cache: it was tested with vLLM %s, not with %s, which has all that it overrides and reads", tested,
            version,
        )  # fmt: skip


def _compresses(given) -> bool:
    """Whether a worker or scheduler of the configuration is one of this package's, or derived from it."""
    from vllm.utils.import_utils import resolve_obj_by_qualname

    if given is None or given == "auto":
        return False
    resolved = resolve_obj_by_qualname(given) if isinstance(given, str) else given
    return getattr(resolved, "compresses_cache", False)


def is_served(vllm_config) -> bool:
    """Whether a server with this configuration compresses caches."""
    given = (vllm_config.scheduler_config.scheduler_cls, vllm_config.parallel_config.worker_cls)
    return given == (SCHEDULER, WORKER) or all(map(_compresses, given))


def check_configuration(vllm_config) -> ServerOptions:
    """The server's options. Raises ValueError that names what the compressed cache can't be served with."""
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    model, scheduler = vllm_config.model_config, vllm_config.scheduler_config
    if not is_served(vllm_config):
        raise ValueError(
            f"the compressed cache needs both of {START}, got {parallel.worker_cls} and {scheduler.scheduler_cls}"
        )
    refused = {
        "speculative decoding, whose drafts are taken back": vllm_config.speculative_config is not None,
        "KV connectors, which move blocks that compressions change": vllm_config.kv_transfer_config is not None,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "decode context parallelism": parallel.decode_context_parallel_size > 1,
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        "micro-batching (--enable-dbo)": parallel.use_ubatching,
        "encoder-decoder models": model.is_encoder_decoder,
        "pooling models": model.runner_type == "pooling",
        # A request that was preempted is computed anew in pieces that end where compressions are due.
        "--no-enable-chunked-prefill": not scheduler.enable_chunked_prefill,
        f"a quantised key/value cache ({cache.cache_dtype})": cache.cache_dtype not in ("auto", "float16", "bfloat16"),
        "--kv-sharing-fast-prefill": cache.kv_sharing_fast_prefill,
    }
    for what, found in refused.items():
        if found:
            raise ValueError(f"the compressed cache can't be served with {what}; start without one of them")
    server = server_options(vllm_config.additional_config)
    if server.echo:
        graphs = vllm_config.compilation_config.cudagraph_mode
        refused = {
            "positions of several dimensions (M-RoPE)": model.uses_mrope,
            f"graphs of whole steps ({graphs}); -cc.cudagraph_mode=PIECEWISE does": bool(
                graphs and graphs.has_full_cudagraphs()
            ),
        }
        for what, found in refused.items():
            if found:
                raise ValueError(f"{ECHO} can't be served with {what}; {WITHOUT_ECHO}")
    return server


def served_configuration():
    """The configuration of the engine that is admitting a request; None if there is none. vLLM asks a class, which has no
    configuration, so that the frame that asks is looked at."""
    return next((found for frame in callers() if (found := getattr(frame.f_locals.get("self"), "vllm_config", None))), None)


def check_attention(layers: list, others) -> None:
    """Raises ValueError for attention that can't be computed head by head. `layers` are those whose caches are compressed,
    `others` all that vLLM keeps for the model's forward."""
    first = layers[0]
    for layer in layers:
        impl, backend = layer.impl, layer.attn_backend
        found = {
            f"the attention backend {backend.get_name()}": backend.get_name() not in BACKENDS,
            "keys and values that are written by the attention itself": backend.forward_includes_kv_cache_update,
            "keys and values that are written elsewhere": getattr(layer, "kv_cache_update_bypass", False),
            "attention sinks": getattr(impl, "sinks", None) is not None,
            "ALiBi": getattr(impl, "alibi_slopes", None) is not None,
            "layers with different heads": (impl.num_heads, impl.head_size) != (first.impl.num_heads, first.impl.head_size),
        }
        for what, is_there in found.items():
            if is_there:
                raise ValueError(f"{ECHO} can't be served with {what}; {WITHOUT_ECHO}")
    for other in others:
        if getattr(other, "kv_sharing_target_layer_name", None):
            raise ValueError(f"{ECHO} can't be served with layers that share keys and values; {WITHOUT_ECHO}")


def check_request(sampling_params) -> None:
    """At admission: raises ValueError for options of the compressed cache that are refused, or that nobody would see."""
    params = sampling_params.extra_args
    asked = sorted(key for key in params or () if isinstance(key, str) and key.startswith(PREFIX))
    if not asked:
        return
    config = served_configuration()
    served = config is not None and is_served(config)
    options = cache_options(params, server_options(config.additional_config) if served else None)
    if options is not None and config is not None and not served:
        raise ValueError(f"{asked[0]}: this server compresses no caches, it was started without {START}")
