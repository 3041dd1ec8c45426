"""The real vLLM with the real class, on a CPU; VLLM_USE_V2_MODEL_RUNNER says with which of its runners. `make test-vllm`.

Every token of every request is looked at: it has to be the one that the formula in plain Python takes, given the very logits
that vLLM had, and what transformers with its processor takes, given the same weights.
"""

import dataclasses
import inspect
import json
import os

from engines.vllm_server import SECOND, post, serving  # isort: skip  (sets what vllm reads when it is imported)

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.sample import logits_processor as first
from vllm.v1.worker.gpu.sample import logits_processor as second

import oracle
from engines import fake_vllm
from engines.sections import SKIPPED, THINKING
from lzpenalty.hf import LZPenaltyLogitsProcessor
from lzpenalty.vllm import LZPenalty

MODEL = os.environ["LZPENALTY_MODEL"]  # a folder that smollm2.py wrote
CLASS = "lzpenalty.vllm:LZPenalty"
TOP = 400  # logits that are reported: more than any answer has tokens, so that one of them goes without a penalty
QUESTIONS = [
    "Tell me a long story about a lighthouse keeper.",
    "Write a poem about the sea.",
    "How many primes are there below 100?",
    "List the numbers from one to fifty, in words.",
    "Explain how a suspension bridge carries its load.",
    "Say hello again and again.",
    "What is a linked list?",
    "Say hello again and again.",
    "Write a poem about the sea.",
]
ASKS = [
    {"lz_strength": 0.15},
    None,
    {"lz_strength": 0.4, "lz_min_match": 2, "lz_window": 64},
    {"lz_strength": 1.0, "lz_buffer": 8},
    {"unrelated": 1},
    {"lz_strength": 0.5},
    {"lz_strength": 0},
    {f"lz_{name}": value for name, value in THINKING.items()},
    {f"lz_{name}": value for name, value in SKIPPED.items()},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    return [tokenizer(text)["input_ids"] for text in texts]


PREEMPTED = []


@pytest.fixture(scope="module")
def llm():
    """One for all tests, since a process has room for one only. Seven blocks of 32 tokens, of which vLLM keeps one."""
    preempt = Scheduler._preempt_request

    def noted(self, request, *args, **kwargs):
        PREEMPTED.append(request.request_id)
        return preempt(self, request, *args, **kwargs)

    Scheduler._preempt_request = noted
    made = LLM(
        MODEL, dtype="float32", enforce_eager=True, logits_processors=[CLASS], enable_prefix_caching=False,
        max_model_len=128, max_num_seqs=3, block_size=32, num_gpu_blocks_override=7,
        max_logprobs=TOP, logprobs_mode="raw_logits",
    )  # fmt: skip
    assert made.llm_engine.vllm_config.use_v2_model_runner == SECOND
    return made


def sampling(ask, tokens):
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=TOP, extra_args=ask)


def check_request(output, prompt, ask, vocab=49152):
    """Every token is the one with the highest logit after the formula's penalty; how many differ from the plain highest."""
    options = {name[3:]: value for name, value in (ask or {}).items() if name.startswith("lz_")}
    text, changed = list(prompt), 0
    for token, logprobs in zip(output.token_ids, output.logprobs, strict=True):
        raw = {candidate: entry.logprob for candidate, entry in logprobs.items()}
        penalties = oracle.penalties(text, vocab, start=len(prompt), **options) if options else {}
        scores = {candidate: value - penalties.get(candidate, 0.0) for candidate, value in raw.items()}
        assert scores[token] >= max(scores.values()) - 1e-4, (len(text) - len(prompt), token)
        changed += raw[token] < max(raw.values())
        text.append(token)
    return changed


def test_a_mixed_batch_with_requests_that_join_and_leave(llm, prompts):
    """Nine requests of different lengths through three seats: rows are freed, refilled and moved."""
    tokens = [40, 7, 28, 34, 5, 25, 20, 40, 36]
    params = [sampling(ask, n) for ask, n in zip(ASKS, tokens, strict=True)]
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    changed = [
        check_request(output.outputs[0], prompt, ask) for prompt, output, ask in zip(prompts, outputs, ASKS, strict=True)
    ]
    assert [len(output.outputs[0].token_ids) for output in outputs] == tokens
    assert changed[0] and changed[3] and not any(changed[row] for row in (1, 4, 6))


def test_the_tokens_of_transformers(llm, prompts):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    asks, n = [ASKS[0], ASKS[1], ASKS[2]], 32
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts[:3]], [sampling(ask, n) for ask in asks], use_tqdm=False
    )
    for prompt, ask, output in zip(prompts, asks, outputs, strict=False):
        processors = [LZPenaltyLogitsProcessor(**{name[3:]: value for name, value in ask.items()})] if ask else []
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n, min_new_tokens=n,
            logits_processor=processors, pad_token_id=2,
        )  # fmt: skip
        got = list(output.outputs[0].token_ids)
        want = expected[0, len(prompt) :].tolist()
        assert got == want


def test_preempted_requests_start_over(llm, prompts):
    """The key/value cache has room for two of three answers: requests are thrown out and computed anew."""
    before = len(PREEMPTED)
    asks = [ASKS[0], ASKS[2], ASKS[3]]
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts[:3]], [sampling(ask, 50) for ask in asks], use_tqdm=False
    )
    assert len(PREEMPTED) > before
    assert sum(
        check_request(output.outputs[0], prompt, ask) for prompt, output, ask in zip(prompts, outputs, asks, strict=False)
    )


def test_bad_options_fail_the_request_alone(llm, prompts):
    prompt = {"prompt_token_ids": prompts[1]}
    for bad, message in (
        ({"lz_strength": -1}, "lz_strength: expected"),
        ({"lz_widow": 3}, "lz_widow: no such option"),
        ({"cache_ratio": 8}, "cache_ratio: this server compresses no caches, it was started without --worker-cls"),
    ):
        with pytest.raises(VLLMValidationError, match=message):
            llm.generate([prompt], sampling(bad, 4), use_tqdm=False)
    assert len(llm.generate([prompt], sampling(ASKS[0], 4), use_tqdm=False)[0].outputs[0].token_ids) == 4


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_fake_has_the_signatures_of_the_engine():
    for real, fake in (
        (first.LogitsProcessor, fake_vllm.LogitsProcessor),
        (second.LogitsProcessor, fake_vllm.SlotLogitsProcessor),
    ):
        methods = [name for name, value in vars(real).items() if callable(value) or isinstance(value, classmethod)]
        for name in methods:
            if not name.startswith("_") or name == "__init__":
                assert parameters(getattr(real, name)) == parameters(getattr(fake, name)), name
        assert real.__abstractmethods__ == fake.__abstractmethods__
    for name in ("LogitsProcRequestState", "LogitsContext"):
        real, fake = (dataclasses.fields(getattr(module, name)) for module in (second, fake_vllm))
        assert [field.name for field in real] == [field.name for field in fake]
    assert [f.name for f in dataclasses.fields(first.BatchUpdate)] == [
        f.name for f in dataclasses.fields(fake_vllm.BatchUpdate)
    ]
    assert [d.name for d in first.MoveDirectionality] == [d.name for d in fake_vllm.MoveDirectionality]
    assert issubclass(LZPenalty, first.LogitsProcessor) and issubclass(LZPenalty, second.LogitsProcessor)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log = (tmp_path_factory.mktemp("server") / "log").open("w+")
    with serving(MODEL, log, "--logits-processors", CLASS) as port:
        yield port


def test_the_openai_server(server, llm, prompts):
    body = {"model": "m", "prompt": prompts[0], "temperature": 0, "max_tokens": 24, "ignore_eos": True}
    expected = [
        llm.generate([{"prompt_token_ids": prompts[0]}], sampling(ask, 24), use_tqdm=False)[0].outputs[0].text
        for ask in (None, {"lz_strength": 0.4})
    ]
    for xargs, text in (({}, expected[0]), ({"vllm_xargs": {"lz_strength": 0.4}}, expected[1])):
        status, answer = post(server, body | xargs)
        assert status == 200 and answer["choices"][0]["text"] == text
    assert expected[0] != expected[1]
    for bad, message in (
        ({"lz_strength": -1}, "lz_strength: expected a number from 0"),
        ({"lz_strenght": 1}, "lz_strenght: no such option"),
        ({"lz_window": 10**6}, "lz_window: expected at most 8192"),
        ({"cache_interval": 64}, "cache_interval: this server compresses no caches"),
        ({"lz_preset": "reasoning"}, "lz_preset: expected lz_release with"),  # this model's tokenizer has no such section
    ):
        status, answer = post(server, body | {"vllm_xargs": bad})
        assert status == 400 and message in json.dumps(answer)
    status, answer = post(server, body | {"vllm_xargs": {"lz_strength": 0.4}})
    assert status == 200
