"""The real SGLang with the real class, on a CPU: `make test-sglang`.

Each request's tokens have to be those that transformers takes with its processor, given the same weights, whatever else is
in the batch. An engine is a process that takes a minute to start, so there are few, with many requests each.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import pytest
import torch
from sglang.srt.layers.sampler import apply_custom_logit_processor
from sglang.srt.sampling.sampling_batch_info import ProcessorEntry, SamplingBatchInfo

from lzpenalty import lz_penalize_
from lzpenalty.hf import LZPenaltyLogitsProcessor
from lzpenalty.sglang import LZPenaltyProcessor, lz_params
from tiny import VOCAB, generate, prompt, tiny

PROCESSOR = LZPenaltyProcessor().to_str()
SPREAD = 0.05  # a model that falls into loops
PROMPTS = [row[: 8 + i].tolist() for i, row in enumerate(prompt(10, 20))]
# Options of each request, None for one that brings no processor; and how many tokens it wants.
ASKS = [
    ({}, 60),
    (None, 24),
    ({"strength": 0.4, "min_match": 2, "window": 16}, 48),
    ({"strength": 1.0, "buffer": 8}, 80),
    (None, 70),
    ({"strength": 0.5}, 33),
    ({"strength": 0}, 40),
    ({"strength": 0.3}, 9),
    # A section that the prompt has opened, and one in which nothing is penalised.
    ({"open": PROMPTS[8][3], "release": [[3, 4], 5], "release_after": 6, "gate": [9, 40]}, 70),
    ({"strength": 1.0, "skip": PROMPTS[9][-1], "resume": [0]}, 40),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny(spread=SPREAD).save_pretrained(path)
    return str(path)


def run(folder, calls, **options):
    """{name: answers}, and what was logged, of an engine that ends afterwards."""
    engine = dict(
        model_path=folder,
        device="cpu",
        dtype="float32",
        skip_tokenizer_init=True,
        enable_custom_logit_processor=True,
        disable_overlap_schedule=True,
        disable_cuda_graph=True,
        max_total_tokens=4096,
        context_length=1024,
        mem_fraction_static=0.1,
        log_level="info",
    )
    job = json.dumps({"engine": engine | options, "calls": calls})
    worker = Path(__file__).parent / "sglang_worker.py"
    done = subprocess.run([sys.executable, worker], input=job, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


ALL = range(len(ASKS))


def call(rows=ALL, **options):
    """All requests, or some."""
    asks = [None if ASKS[i][0] is None else {f"lz_{name}": value for name, value in ASKS[i][0].items()} for i in rows]
    return {"ids": [PROMPTS[i] for i in rows], "asks": asks, "tokens": [ASKS[i][1] for i in rows], **options}


BAD = [{"lz_strength": -1}, {"lz_strenght": 1}, {"lz_skip": [[[1]]]}]


@pytest.fixture(scope="module")
def answered(folder):
    """What one engine answers, and its log."""
    calls = {f"alone {i}": call([i]) for i in range(len(ASKS))} | {"together": call(), "joining": call(joining=True)}
    ids, tokens = PROMPTS[0], ASKS[0][1]
    calls["bad"] = {"ids": [ids] * 4, "asks": [*BAD, {}], "tokens": [tokens] * 4}
    return run(folder, calls)


def expected(ids, options, tokens):
    processors = [LZPenaltyLogitsProcessor(**options)] if options is not None else []
    with torch.inference_mode():
        return generate(tiny(spread=SPREAD), torch.tensor([ids]), tokens, logits_processor=processors)[
            0, len(ids) :
        ].tolist()


@pytest.fixture(scope="module")
def wanted():
    return [expected(ids, *one) for ids, one in zip(PROMPTS, ASKS, strict=True)]


def test_the_penalty_changes_what_is_said(wanted):
    without = [expected(ids, None, tokens) for ids, (_, tokens) in zip(PROMPTS, ASKS, strict=True)]
    changed = [a != b for a, b in zip(wanted, without, strict=True)]
    assert changed == [True, False, True, True, False, True, False, changed[7], True, False]


def test_requests_alone(answered, wanted):
    assert [answered[0][f"alone {i}"][0] for i in range(len(ASKS))] == wanted


def test_requests_with_others_that_end_before_them(answered, wanted):
    """As requests end, the batch is filtered."""
    assert answered[0]["together"] == wanted


def test_requests_that_join(answered, wanted):
    """As requests join, batches are merged: with and without processors, of one class with several options."""
    assert answered[0]["joining"] == wanted


def test_bad_options_harm_nobody(answered, wanted):
    """They are logged where the engine runs, and the request goes without the penalty."""
    rows, log = answered[0]["bad"], answered[1]
    assert rows == [expected(PROMPTS[0], None, ASKS[0][1])] * 3 + [wanted[0]]
    assert log.count("a request goes without the penalty: ") == len(BAD)


def test_requests_that_are_retracted(folder, wanted):
    """A pool that can't hold all texts to their ends: some are taken out and begin anew, with what they had generated."""
    found, log = run(folder, {"all": call()}, max_total_tokens=256, schedule_conservativeness=0.01)
    assert found["all"] == wanted
    assert "retract" in log.lower()


def test_overlapped_scheduling(folder, wanted):
    """A token is sampled before the last one has been written down where the host is fast enough. Requests without the
    processor are as they were."""
    found, _ = run(
        folder, {"all": call(), **{f"alone {i}": call([i]) for i in range(len(ASKS))}}, disable_overlap_schedule=False
    )
    rows, alone = found["all"], [found[f"alone {i}"][0] for i in range(len(ASKS))]
    for whole, row, single, (option, _) in zip(wanted, rows, alone, ASKS, strict=True):
        if option is None:
            assert row == single == whole
    print("overlapped, as without:", [row == whole for row, whole in zip(rows, wanted, strict=True)],
          [row == whole for row, whole in zip(alone, wanted, strict=True)])  # fmt: skip


def test_the_server(folder, wanted):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "sglang.launch_server",
        "--model-path",
        folder,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--device", "cpu", "--dtype", "float32", "--skip-tokenizer-init", "--enable-custom-logit-processor"]
    command += ["--disable-overlap-schedule", "--max-total-tokens", "4096", "--context-length", "1024"]
    command += ["--mem-fraction-static", "0.1", "--log-level", "warning", "--skip-server-warmup", "--disable-cuda-graph"]
    server = subprocess.Popen(command, start_new_session=True)

    def post(body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["output_ids"]

    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None
                time.sleep(0.5)
        params = {"temperature": 0, "max_new_tokens": ASKS[2][1], "ignore_eos": True}
        body = {"input_ids": PROMPTS[2], "sampling_params": params}
        assert post(body) == expected(PROMPTS[2], None, ASKS[2][1])
        params["custom_params"] = lz_params(**ASKS[2][0])
        assert post(body | {"custom_logit_processor": PROCESSOR}) == wanted[2]
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


class Request:
    def __init__(self, output_ids):
        self.output_ids, self.origin_input_ids = output_ids, [1, 2]


def test_drafts_are_left_alone(caplog):
    """The sampler of 0.5.23 repeats a request's options for each of its drafts, and no history says what the others are."""
    request = Request([5, 6, 7] * 9)
    info = SamplingBatchInfo(
        temperatures=torch.ones(1, 1),
        top_ps=torch.ones(1),
        top_ks=torch.full((1,), -1, dtype=torch.int32),
        min_ps=torch.zeros(1),
        is_all_greedy=True,
        is_any_greedy=True,
        need_top_p_sampling=False,
        need_top_k_sampling=False,
        need_min_p_sampling=False,
        vocab_size=VOCAB,
        has_custom_logit_processor=True,
        custom_params=[{"lz_strength": 0.15, "__req__": request}],
        custom_logit_processor={1: ProcessorEntry(processor=LZPenaltyProcessor(), rows=[0], indices=torch.tensor([0]))},
        device="cpu",
    )
    logits = torch.zeros(1, VOCAB)
    apply_custom_logit_processor(logits, info)
    assert torch.equal(logits, lz_penalize_(torch.zeros(1, VOCAB), torch.tensor([request.output_ids])))
    with caplog.at_level(logging.WARNING):
        logits = torch.zeros(3, VOCAB)
        apply_custom_logit_processor(logits, info, num_tokens_in_batch=3)
    assert not logits.any() and "speculative decoding is not supported" in caplog.text
