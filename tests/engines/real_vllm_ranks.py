"""The real vLLM on two ranks of tensor parallelism, on a CPU. `make test-vllm`. One engine, which takes minutes to start.

What a rank decides by its own heads can be what one rank with all heads decides, or not. Both have to be the same each time,
with as many blocks on either.
"""

from engines.vllm_server import SECOND, drawn_prompts, of_transformers  # isort: skip  (sets what vllm reads when it is imported)

import pytest
from vllm import LLM, SamplingParams

BLOCK, BLOCKS, TOKENS = 32, 18, 60 if SECOND else 120
OPTIONS = {"interval": 24, "ratio": 4, "recent": 8}


@pytest.fixture(scope="module")
def llm(model):
    made = LLM(
        model[1], dtype="float32", enforce_eager=True, block_size=BLOCK, max_model_len=512, max_num_seqs=4,
        max_num_batched_tokens=64, num_gpu_blocks_override=BLOCKS, logits_processors=["lzpenalty.vllm:LZPenalty"],
        worker_cls="lzpenalty.vllm.Worker", scheduler_cls="lzpenalty.vllm.Scheduler", tensor_parallel_size=2,
        distributed_executor_backend="mp",
    )  # fmt: skip
    assert made.llm_engine.vllm_config.use_v2_model_runner == SECOND
    return made


@pytest.fixture(scope="module")
def prompts():
    return drawn_prompts((58, 80, 32))


def answers(llm, prompts, extras):
    params = [SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, extra_args=extra) for extra in extras]
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def asks(**options):
    return {f"cache_{name}": value for name, value in {**OPTIONS, **options}.items()}


def test_what_heads_decide_alone_is_what_one_rank_decides(llm, model, prompts):
    extras = [None, {"lz_strength": 0.6}, asks(selector="rpc", aggregation="group")]
    assert answers(llm, prompts, extras) == [
        of_transformers(model[0], prompt, TOKENS, extra) for prompt, extra in zip(prompts, extras, strict=True)
    ]


@pytest.mark.parametrize("rule", ["rpc", "echo"])
def test_what_a_rank_decides_for_its_heads_is_the_same_each_time(llm, model, prompts, rule):
    """With as many compressions on both ranks, and no block lost."""
    before = llm.collective_rpc("cache_statistics")
    first = answers(llm, prompts, [asks(selector=rule)] * 3)
    assert first == answers(llm, prompts, [asks(selector=rule)] * 3)
    assert all(len(set(answer)) > 1 for answer in first)
    assert first[0] != of_transformers(model[0], prompts[0], TOKENS)
    answers(llm, prompts[:1], [None])  # tells the workers what ended
    done = [
        now["compressions"] - then["compressions"]
        for now, then in zip(llm.collective_rpc("cache_statistics"), before, strict=True)
    ]
    assert done[0] == done[1] == 6 * ((TOKENS - 1 - OPTIONS["recent"]) // OPTIONS["interval"])
    pool = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == BLOCKS - 1
