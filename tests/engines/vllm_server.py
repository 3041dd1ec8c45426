"""The real vLLM, for tests: on a CPU with one thread, in this process or as a server. To be imported before vllm."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

import tiny  # noqa: E402
from lzpenalty.cache.attention import CACHE_ARGUMENT  # noqa: E402
from lzpenalty.cache.rpc import CompressedCache  # noqa: E402
from lzpenalty.hf import LZPenaltyLogitsProcessor  # noqa: E402

SECOND = os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1"  # in Triton's interpreter, at a few steps a second

__all__ = ["SECOND", "drawn_prompts", "get", "of_transformers", "post", "serving", "tiny_model"]


def tiny_model(folder: str) -> LlamaForCausalLM:
    """A random model, which is also written into a folder. It says something else once a token of its cache is another."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tiny.VOCAB, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=4096, tie_word_embeddings=False,
        initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return model


def drawn_prompts(lengths, seed=7) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, tiny.VOCAB, (length,), generator=generator).tolist() for length in lengths]


def of_transformers(model: LlamaForCausalLM, prompt: list[int], tokens: int, extra: dict | None = None) -> list[int]:
    """The greedy answer of transformers with the processor and the CompressedCache that a request's `extra_args` ask for."""
    extra, ids = extra or {}, torch.tensor([prompt])
    cache = {name[6:]: value for name, value in extra.items() if name.startswith("cache_")}
    penalty = {name[3:]: value for name, value in extra.items() if name.startswith("lz_")}
    common = dict(
        attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0,
        logits_processor=[LZPenaltyLogitsProcessor(**penalty)] if penalty else [],
    )  # fmt: skip
    with CompressedCache(model, **cache) if cache else contextlib.nullcontext() as made:
        found = model.generate(ids, **({CACHE_ARGUMENT: made} if cache else {}), **common)
    return found[0, len(prompt) :].tolist()


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read().decode()


def post(port: int, body: dict, replica: int | None = None) -> tuple[int, dict]:
    """(status, answer) of a completion."""
    headers = {"Content-Type": "application/json"} | ({} if replica is None else {"X-data-parallel-rank": str(replica)})
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@contextlib.contextmanager
def serving(model: str, log, *options: str, lives=True, dtype="float32", eager=True, **environment: str):
    """The port of a server of the model, called "m", whose output goes to the file `log`. Whether it has to live on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "m", "--host",
        "127.0.0.1", "--port", str(port), "--dtype", dtype, "--max-model-len", "512", *options,
        *(["--enforce-eager"] if eager else []),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    try:
        for _ in range(300):
            try:
                get(port, "/health")
                break
            except OSError:
                assert process.poll() is None, log.seek(0) or log.read()[-3000:]
                time.sleep(1)
        yield port
        if lives:
            assert process.poll() is None
        else:
            process.wait(60)
    finally:
        process.terminate()
        process.wait(60)
