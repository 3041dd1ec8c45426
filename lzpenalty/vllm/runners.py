"""What is added to vLLM's two model runners. A token's position stays what it is; where a request's tokens lie is counted in
slots, and so is how many of them attention sees."""

import numpy as np
import torch

from lzpenalty.vllm.checks import check_attention
from lzpenalty.vllm.compressor import Compressor
from lzpenalty.vllm.echo import find_turning
from lzpenalty.vllm.spec import CompressedSpec, compressed_specs

__all__ = ["FirstRunner", "SecondRunner"]


def _truncated(scheduler_output):
    """Requests whose block rows were cut, and how many are left. Steps that vLLM makes up to warm up say nothing of it."""
    return getattr(scheduler_output, "cache_truncated", {}).items()


class _Runner:
    compressor: Compressor

    def get_kv_cache_spec(self):
        return compressed_specs(super().get_kv_cache_spec())

    def load_model(self, *args, **kwargs):
        super().load_model(*args, **kwargs)
        context = self.vllm_config.compilation_config.static_forward_context
        self.compressor.make_rings([context[name] for name in self.get_kv_cache_spec()])

    @torch.inference_mode()
    def initialize_kv_cache(self, *args, **kwargs):
        super().initialize_kv_cache(*args, **kwargs)
        groups = self.kv_cache_config.kv_cache_groups
        if len(groups) != 1 or not isinstance(groups[0].kv_cache_spec, CompressedSpec):
            raise ValueError(f"the compressed cache needs a model whose layers all have full attention, got {groups}")
        context = self.vllm_config.compilation_config.static_forward_context
        layers = [context[name] for name in self.get_kv_cache_spec()]  # in the order of the rings
        if layers[0].kv_cache.shape[2] != groups[0].kv_cache_spec.block_size:
            raise ValueError(
                f"the compressed cache needs blocks of one size, got {groups[0].kv_cache_spec.block_size} tokens that "
                f"{type(layers[0].impl).__name__} splits into {layers[0].kv_cache.shape[2]}; start with that --block-size"
            )
        if not self.compressor.server.echo:
            self.compressor.bind(layers)
            return
        check_attention(layers, context.values())
        self.compressor.bind(layers, self.attn_groups[0][0].get_metadata_builder(), find_turning(self.model))


class FirstRunner(_Runner):
    """vllm.v1.worker.gpu_model_runner, and the CPU's."""

    def _update_states(self, scheduler_output):
        self.compressor.remember(scheduler_output)
        # Before new blocks are appended, and to what the scheduler says: with a step in flight its own count differs.
        for request_id, blocks in _truncated(scheduler_output):
            if state := self.requests.get(request_id):
                del state.block_ids[0][blocks:]
            row = self.input_batch.req_id_to_index.get(request_id)
            if row is not None:
                self.input_batch.block_table[0].num_blocks_per_row[row] = blocks
        return super()._update_states(scheduler_output)

    def _prepare_inputs(self, scheduler_output, num_scheduled_tokens):
        output = super()._prepare_inputs(scheduler_output, num_scheduled_tokens)
        n = self.input_batch.num_reqs
        computed = self.input_batch.num_computed_tokens_cpu[:n]
        dropped = self.compressor.begin(self.input_batch.req_ids, computed, num_scheduled_tokens)
        if dropped is not None:
            # Who samples in this step has been settled. The copy on the CPU counts as well: it is the longest length that
            # kernels plan for.
            self.optimistic_seq_lens_cpu[:n] -= torch.from_numpy(dropped)
            less = torch.from_numpy(dropped).to(self.device, non_blocking=True)
            self.seq_lens[:n] -= less
            tokens = scheduler_output.total_num_scheduled_tokens
            slots = self.positions[:tokens] - less[self.req_indices.gpu[:tokens].long()]
            self.input_batch.block_table.compute_slot_mapping(n, self.query_start_loc.gpu[: n + 1], slots)
        return output

    @torch.inference_mode()
    def execute_model(self, *args, **kwargs):
        output = super().execute_model(*args, **kwargs)
        self.compressor.end(lambda i: self.input_batch.block_table[0].get_device_tensor(i + 1)[i])
        return output


class SecondRunner(_Runner):
    """vllm.v1.worker.gpu.model_runner."""

    _shortened: tuple = ()
    _rows: np.ndarray

    def finish_requests(self, scheduler_output):
        self.compressor.remember(scheduler_output)
        for request_id, blocks in _truncated(scheduler_output):  # as above
            row = self.req_states.req_id_to_index.get(request_id)
            if row is not None:
                self.block_tables.num_blocks.np[0, row] = blocks
        super().finish_requests(scheduler_output)

    def prepare_attn(self, input_batch):
        self._rows = input_batch.idx_mapping_np
        dropped = self.compressor.begin(
            input_batch.req_ids, input_batch.num_computed_tokens_np, input_batch.num_scheduled_tokens
        )
        if dropped is None:
            return super().prepare_attn(input_batch)
        n, tokens = input_batch.num_reqs, input_batch.num_tokens
        on_cpu = torch.from_numpy(dropped)
        self._shortened = (
            (input_batch.seq_lens[:n], on_cpu.to(self.device, non_blocking=True)),
            (input_batch.seq_lens_cpu_upper_bound[:n], on_cpu),
        )
        for lengths, less in self._shortened:
            lengths -= less
        positions, by_token = input_batch.positions, np.repeat(dropped, input_batch.num_scheduled_tokens)
        input_batch.positions = positions.clone()
        input_batch.positions[:tokens] -= torch.from_numpy(by_token).to(self.device, non_blocking=True)
        output = super().prepare_attn(input_batch)
        input_batch.positions = positions
        return output

    @torch.inference_mode()
    def execute_model(self, scheduler_output, *args, dummy_run=False, **kwargs):
        output = super().execute_model(scheduler_output, *args, dummy_run=dummy_run, **kwargs)
        if not dummy_run:
            # The sampler compares lengths with those of prompts: left shortened, requests that were preempted would silently
            # lose the token that is sampled now.
            for lengths, less in self._shortened:
                lengths += less
            self._shortened = ()
            self.compressor.end(lambda i: self.block_tables.block_tables[0].gpu[self._rows[i]])
        return output
