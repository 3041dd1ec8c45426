"""The real vLLM with two data-parallel replicas behind one server, on a CPU. `make test-vllm`.

Each replica has an engine, a scheduler and a pool of its own, and what a request asks for has to come out of either.
"""

from engines.vllm_server import SECOND, drawn_prompts, get, of_transformers, post, serving  # isort: skip  (sets what vllm reads)

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

BLOCK, TOKENS, REPLICAS = 32, 60 if SECOND else 120, 2
OPTIONS = {"cache_interval": 24, "cache_ratio": 4, "cache_recent": 8}
ASKS = [None, {"lz_strength": 0.6}, {**OPTIONS, "cache_selector": "rpc"}, {**OPTIONS, "cache_selector": "echo"}]


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "counters").mkdir()
    options = (
        "--data-parallel-size", str(REPLICAS), "--block-size", str(BLOCK), "--num-gpu-blocks-override", "40",
        "--logits-processors", "lzpenalty.vllm:LZPenalty", "--worker-cls", "lzpenalty.vllm.Worker", "--scheduler-cls",
        "lzpenalty.vllm.Scheduler",
    )  # fmt: skip
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PROMETHEUS_MULTIPROC_DIR": str(folder / "counters")}
    with (folder / "log").open("w+") as log, serving(model[1], log, *options, **environment) as port:
        yield port


def test_either_replica_answers_as_transformers_does(server, model):
    prompts = drawn_prompts((58, 80, 32, 41))
    body = {"model": "m", "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": True}

    def asked(job):
        (prompt, extra), replica = job
        return post(server, {**body, "prompt": prompt, **({"vllm_xargs": extra} if extra else {})}, replica)

    requests = list(zip(prompts, ASKS, strict=True))
    jobs = [(request, replica) for request in requests for replica in range(REPLICAS)]
    with ThreadPoolExecutor(len(jobs)) as threads:
        answers = list(threads.map(asked, jobs))
    for ((prompt, extra), replica), (status, answer) in zip(jobs, answers, strict=True):
        assert status == 200, answer
        assert answer["choices"][0]["token_ids"] == of_transformers(model[0], prompt, TOKENS, extra), (extra, replica)
    metrics = get(server, "/metrics")
    served = re.findall(
        r'^vllm:request_success_total\{engine="(\d+)",finished_reason="length".*\} (\S+)', metrics, re.MULTILINE
    )
    assert {engine: float(count) for engine, count in served} == {str(n): len(requests) for n in range(REPLICAS)}
    (compressions,) = re.findall(r"^lzpenalty_cache_compressions_total (\S+)", metrics, re.MULTILINE)
    each = (TOKENS - 1 - OPTIONS["cache_recent"]) // OPTIONS["cache_interval"]
    assert float(compressions) == 2 * REPLICAS * each
