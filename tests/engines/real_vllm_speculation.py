"""The real vLLM with n-gram speculation and the penalty, with the second of its model runners: the first takes no logits
processors then. `make test-vllm`.

Drafts only save steps: greedy answers have to be those of transformers with its processor, which knows of none, whether
drafts are taken or not.
"""

from engines.vllm_server import SECOND, drawn_prompts, of_transformers  # isort: skip  (sets what vllm reads when it is imported)

import pytest
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
from vllm import LLM, SamplingParams

if not SECOND:
    pytest.skip("the first runner takes no logits processors with speculative decoding", allow_module_level=True)

TOKENS, DRAFTS = 40, 3
ASKS = [
    {"lz_strength": 0.02},  # still repeats itself: drafts are taken under the penalty
    {"lz_strength": 0.02, "lz_window": 16, "lz_buffer": 4},
    None,
    {"lz_strength": 0.6},
    {"lz_strength": 0.1, "lz_min_match": 2},
]


@pytest.fixture(scope="module", autouse=True)
def masks_are_bools():
    """Triton's interpreter makes integers of some masks, which it then refuses."""
    builder = InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def as_bool(mask):
        return TensorHandle(mask.data.astype(bool), mask.dtype)

    builder.create_masked_load = lambda self, at, mask, *rest: load(self, at, as_bool(mask), *rest)
    builder.create_masked_store = lambda self, at, value, mask, *rest: store(self, at, value, as_bool(mask), *rest)
    yield
    builder.create_masked_load, builder.create_masked_store = load, store


@pytest.fixture(scope="module")
def llm(model):
    made = LLM(
        model[1], dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=4, block_size=32,
        num_gpu_blocks_override=60, logits_processors=["lzpenalty.vllm:LZPenalty"],
        speculative_config={
            "method": "ngram_gpu", "num_speculative_tokens": DRAFTS, "prompt_lookup_min": 1, "prompt_lookup_max": 3
        },
    )  # fmt: skip
    assert made.llm_engine.vllm_config.use_v2_model_runner
    return made


@pytest.fixture
def taken(llm):
    """Drafts that were taken, by request."""
    scheduler, counts = llm.llm_engine.engine_core.engine_core.scheduler, {}
    update = scheduler.update_from_output

    def counting(scheduled, output):
        for request, tokens in zip(output.req_ids, output.sampled_token_ids, strict=True):
            counts[request] = counts.get(request, 0) + max(0, len(tokens) - 1)
        return update(scheduled, output)

    scheduler.update_from_output = counting
    yield counts
    del scheduler.update_from_output


def test_answers_are_those_without_speculation(llm, model, taken):
    prompts = [prompt * 2 for prompt in drawn_prompts((9, 20, 4, 13, 30))]
    params = [SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, extra_args=ask) for ask in ASKS]
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    for prompt, ask, output in zip(prompts, ASKS, outputs, strict=True):
        assert list(output.outputs[0].token_ids) == of_transformers(model[0], prompt, TOKENS, ask), ask
    assert of_transformers(model[0], prompts[0], TOKENS) != of_transformers(model[0], prompts[0], TOKENS, ASKS[3])
    by_ask = {int(request.split("-")[0]): count for request, count in taken.items()}
    assert by_ask[0] > 0 and by_ask[2] > 0
