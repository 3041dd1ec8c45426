"""The penalty under the real vLLM's speculative decoding, with its second model runner on a CPU. `make test-vllm`.

Drafts that are accepted, and those that are not, change nothing of what is said: greedy answers are those of transformers
with its processor, which knows no drafts.
"""

import os

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TRITON_INTERPRET": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from triton.runtime.interpreter import InterpreterBuilder
from vllm import LLM, SamplingParams

from lzpenalty.hf import LZPenaltyLogitsProcessor

MODEL = os.environ["LZPENALTY_MODEL"]  # a folder that smollm2.py wrote
QUESTIONS = ["List the numbers from one to fifty, in words.", "Say hello again and again."]
ASKS = [{"lz_strength": 0.1}, {"lz_strength": 0.3, "lz_min_match": 2, "lz_window": 64}, None]
TOKENS = 40


def take_masks_of_any_dtype():
    """As compilers do. A kernel of vLLM's that proposes drafts has products of conditions for masks."""
    load = InterpreterBuilder.create_masked_load

    def loaded(self, pointers, mask, *rest):
        mask.data = mask.data.astype(np.bool_)
        return load(self, pointers, mask, *rest)

    InterpreterBuilder.create_masked_load = loaded


def test_greedy_answers_with_drafts_are_those_without():
    take_masks_of_any_dtype()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [
        tokenizer(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))["input_ids"]
        for chat in chats
    ]
    requests = [(prompt, ask) for ask in ASKS for prompt in prompts]
    llm = LLM(
        MODEL, dtype="float32", enforce_eager=True, logits_processors=["lzpenalty.vllm:LZPenalty"], max_model_len=128,
        max_num_seqs=len(requests), block_size=32, num_gpu_blocks_override=40,
        speculative_config={
            "method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1,
        },
    )  # fmt: skip
    assert llm.llm_engine.vllm_config.use_v2_model_runner
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    schedule, steps = scheduler.schedule, []

    def counted(*args, **kwargs):
        output = schedule(*args, **kwargs)
        steps.extend(output.num_scheduled_tokens)
        return output

    scheduler.schedule = counted
    params = [SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, extra_args=ask) for _, ask in requests]
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt, _ in requests], params, use_tqdm=False)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    for (prompt, ask), output in zip(requests, outputs, strict=True):
        ids = torch.tensor([prompt])
        processors = [LZPenaltyLogitsProcessor(**{name[3:]: value for name, value in ask.items()})] if ask else []
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS, pad_token_id=2,
            logits_processor=processors,
        )  # fmt: skip
        assert list(output.outputs[0].token_ids) == expected[0, len(prompt) :].tolist(), ask
    assert len(steps) < len(requests) * TOKENS  # some drafts were accepted
