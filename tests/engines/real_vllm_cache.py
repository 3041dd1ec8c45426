"""The real vLLM with the compressed cache, on a CPU. `make test-vllm`.

    VLLM_USE_V2_MODEL_RUNNER=0 or 1   with which of its runners
    LZPENALTY_AHEAD=1                 the scheduler one step ahead of outputs, as it is on GPUs; the CPU platform has no such
                                      mode, but the order of its calls can be had

A tiny random model says something else once a token of its cache is another, so that answers show what caches held. They
have to be those of transformers with CompressedCache to the token; where requests are compared with themselves, it is with
fewer of them at a time and nothing preempted. All tests share one engine, since a process has room for one, with a pool that
is too small for most of them.
"""

import json
import os
import random
import re

from engines import vllm_server  # isort: skip  (sets what vllm reads when it is imported)

import pytest
import torch
from prometheus_client import REGISTRY
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError

from engines.vllm_server import SECOND, drawn_prompts, get, post, serving
from lzpenalty.cache.selectors import SELECTORS, Selector
from lzpenalty.vllm import checks, options
from lzpenalty.vllm.metrics import COUNTERS

AHEAD = os.environ.get("LZPENALTY_AHEAD") == "1"
WORKER, SCHEDULER, PENALTY = "lzpenalty.vllm.Worker", "lzpenalty.vllm.Scheduler", "lzpenalty.vllm:LZPenalty"
BLOCK, BLOCKS, LONGEST, CHUNK = 32, 18, 512, 64
TOKENS = 90 if SECOND else 160
OPTIONS = {"interval": 24, "ratio": 4, "recent": 8} if SECOND else {"interval": 48, "ratio": 4, "recent": 8}
LENGTHS = (58, 80, 17, 97, 43)
in_order = pytest.mark.skipif(AHEAD, reason="does not depend on the order of calls")


RULES = ("rpc", "echo")


def asks(selector="rpc", **changes):
    """extra_args of a request, by the names that CompressedCache has."""
    return {f"cache_{name}": value for name, value in {**OPTIONS, "selector": selector, **changes}.items()}


def sampling(extra=None, tokens=TOKENS):
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra)


@pytest.fixture(scope="module")
def prompts():
    return drawn_prompts(LENGTHS)


@pytest.fixture(scope="module")
def llm(model):
    if AHEAD:
        import vllm.config.vllm

        vllm.config.vllm.VllmConfig.max_concurrent_batches = property(lambda self: 2)
    made = LLM(
        model[1], dtype="float32", enforce_eager=True, enable_prefix_caching=True, block_size=BLOCK, max_model_len=LONGEST,
        max_num_seqs=8, max_num_batched_tokens=CHUNK, num_gpu_blocks_override=BLOCKS, logits_processors=[PENALTY],
        worker_cls=WORKER, scheduler_cls="lzpenalty.vllm.scheduler.AsyncCompressedScheduler" if AHEAD else SCHEDULER,
        additional_config={"cache": {"slots": 3}},
    )  # fmt: skip
    assert made.llm_engine.vllm_config.use_v2_model_runner == SECOND
    assert (made.llm_engine.engine_core.engine_core.batch_queue is not None) == AHEAD
    return made


def scheduler(llm):
    return llm.llm_engine.engine_core.engine_core.scheduler


def statistics(llm):
    return llm.collective_rpc("cache_statistics")[0]


def counters():
    return {name: REGISTRY.get_sample_value(f"lzpenalty_cache_{name}_total") or 0 for name in COUNTERS}


def answers(llm, prompts, params):
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.fixture(autouse=True)
def nothing_is_lost(llm):
    """After each test all blocks are free, and nobody remembers a request."""
    yield
    if getattr(llm, "broken", False):
        return
    engine = llm.llm_engine
    for _ in range(3):  # the worker hears of what ended in the next step
        engine.step()
    pool, manager = scheduler(llm).kv_cache_manager.block_pool, scheduler(llm).compressed
    assert pool.get_num_free_blocks() == BLOCKS - 1  # one is the null block
    assert not any((manager.plans, manager.highest, manager.truncated, manager.freed, scheduler(llm).windows))
    assert not scheduler(llm).seconds
    left = statistics(llm)
    if left["requests"]:  # what ended last is told with the next step that there is
        answers(llm, [[2, 3]], sampling(tokens=1))
        left = statistics(llm)
    assert left["requests"] == left["windows"] == 0


EXPECTED = {}


def of_transformers(model, prompt, extra=None, tokens=TOKENS):
    """The same with transformers: plain, or with CompressedCache, or with the penalty, or both."""
    key = (tuple(prompt), json.dumps(extra, sort_keys=True), tokens)
    if key not in EXPECTED:
        EXPECTED[key] = vllm_server.of_transformers(model[0], prompt, tokens, extra)
    return EXPECTED[key]


def check(llm, model, prompts, extras, tokens=TOKENS):
    got = answers(llm, prompts, [sampling(extra, tokens) for extra in extras])
    for prompt, extra, answer in zip(prompts, extras, got, strict=True):
        want = of_transformers(model, prompt, extra, tokens)
        first = next((i for i, (x, y) in enumerate(zip(answer, want, strict=True)) if x != y), None)
        assert first is None, f"{extra}: {len(prompt)} tokens of prompt, another token at {first}"


def test_what_is_overridden_of_vllm_is_what_was_tested():
    assert checks.differences(dict.fromkeys((*checks.METHODS, *checks.ATTRIBUTES))) == []


@pytest.mark.parametrize("rule", RULES)
def test_one_request(llm, model, prompts, rule):
    before, freed, counted = statistics(llm), scheduler(llm).compressed.freed_blocks, counters()
    check(llm, model, prompts[:1], [asks(rule)])
    assert of_transformers(model, prompts[0], asks(rule)) != of_transformers(model, prompts[0])
    after, compressions = statistics(llm), (TOKENS - 1 - OPTIONS["recent"]) // OPTIONS["interval"]
    seen, left = len(prompts[0]) + TOKENS - 1, compressions * OPTIONS["interval"] // OPTIONS["ratio"]
    freed = scheduler(llm).compressed.freed_blocks - freed
    assert after["compressions"] - before["compressions"] == compressions and freed > 0
    came = {name: value - counted[name] for name, value in counters().items()}
    assert came.pop("seconds") == pytest.approx(after["seconds"] - before["seconds"])
    assert came == {
        "tokens_seen": seen, "tokens_kept": seen - compressions * OPTIONS["interval"] + left, "compressions": compressions,
        "blocks_freed": freed,
    }  # fmt: skip


def test_a_mixed_batch_that_does_not_fit(llm, model, prompts):
    """Compressed and plain requests. Some are preempted, and computed anew with the same compressions."""
    before = scheduler(llm).preemptions
    extras = [asks("echo"), None, asks(ratio=8), asks("echo", ratio=8), None]
    check(llm, model, prompts, extras)
    assert scheduler(llm).preemptions > before
    before = scheduler(llm).preemptions
    check(llm, model, prompts, [asks("echo")] * 5)
    assert scheduler(llm).preemptions > before
    check(llm, model, prompts, [asks()] * 5)


def test_prompts_that_fill_their_blocks(llm, model):
    """The last query of a prompt is asked again, so it has to be computed again by a request that was preempted."""
    prompts = drawn_prompts((BLOCK, 2 * BLOCK, 3 * BLOCK, 2 * BLOCK), seed=8)
    before = scheduler(llm).preemptions
    check(llm, model, prompts, [asks("echo"), asks("echo"), asks("echo"), asks()])
    assert scheduler(llm).preemptions > before
    check(llm, model, prompts[:2], [asks("echo"), None])


VARIANTS = [
    {"budget": 24},
    {"budget": 8},  # the recent tokens alone
    {"kernel": 1},
    {"kernel": 3, "aggregation": "group"},
    {"aggregation": "group", "budget": 30},
    {"recent": 1, "ratio": 2},
    {"selector": "snapkv", "aggregation": "group"},
    {"selector": "tova", "kernel": 1},
    {"selector": "streaming", "budget": 20},
    {"selector": "rkv"},
    {"selector": "random"},
    {"selector": "vase"},
    {"selector": "echo", "budget": 24},
    {"selector": "echo", "budget": 8},
    {"selector": "echo", "kernel": 1, "recent": 1, "ratio": 2},
    {"selector": "echo", "ratio": 1},
    {"selector": "echo", "recent": 20},
]


@in_order
def test_every_option_and_selector(llm, model, prompts):
    extras = [asks(**variant) for variant in VARIANTS]
    assert {"rpc", *(v["selector"] for v in VARIANTS if "selector" in v)} == set(options.SELECTORS)
    check(llm, model, [prompts[i % 3] for i in range(len(extras))], extras)


def test_the_penalty_and_the_cache_in_one_request(llm, model, prompts):
    lz = {"lz_strength": 0.6, "lz_window": 64}
    extras = [{**asks(), **lz}, lz, {**asks("echo"), **lz}]
    check(llm, model, prompts[:3], extras)
    assert len({tuple(of_transformers(model, prompts[0], extra)) for extra in extras}) == 3


def test_more_windows_at_once_than_there_is_room_for(llm, model, prompts):
    """Six requests whose last tokens before a compression come in the same steps; three have room for their queries."""
    check(llm, model, [prompts[2]] * 6, [asks(kernel=kernel) for kernel in (1, 3, 5, 7, 9, 11)])
    check(llm, model, [prompts[2]] * 6, [asks("echo"), asks(), asks("echo", kernel=1)] * 2)


@pytest.mark.parametrize("rule", RULES)
def test_prompts_that_others_have_computed(llm, model, prompts, rule):
    scheduler(llm).reset_prefix_cache()
    prompt = prompts[3]
    check(llm, model, [prompt] * 4, [asks(rule), None, asks(rule), None])
    check(llm, model, [prompt], [asks(rule)])  # its first blocks are found
    check(llm, model, [prompt], [None])
    # An answer from a compressed cache is not what the text's own cache holds, and must not be found.
    for extra in (asks(rule), None):
        longer = prompt + of_transformers(model, prompt, asks(rule))[:70]
        check(llm, model, [longer], [extra], tokens=12 if SECOND else 40)
        longer = prompt + of_transformers(model, prompt)[:70]
        check(llm, model, [longer], [extra], tokens=12 if SECOND else 70)
    check(llm, model, [prompt], [None])


@in_order
def test_echo_is_what_is_done_where_no_rule_is_named(llm, model, prompts):
    extra = asks("echo")
    del extra["cache_selector"]
    assert answers(llm, prompts[:1], sampling(extra)) == [of_transformers(model, prompts[0], asks("echo"))]


def test_aborts(llm, model, prompts):
    engine = llm.llm_engine
    names = [f"request-{i}" for i in range(5)]
    for name, prompt in zip(names, prompts, strict=True):
        engine.add_request(name, {"prompt_token_ids": prompt}, sampling(asks(RULES[len(prompt) % 2])))
    for _ in range(40 if SECOND else 100):
        engine.step()
    engine.abort_request(names)
    while engine.has_unfinished_requests():
        engine.step()
    check(llm, model, prompts[:1], [asks()])


def drawn_request(chance, prompts):
    prompt = chance.choice(prompts)
    prompt = prompt[: chance.randint(3, len(prompt))]
    if chance.random() < 0.3:
        return prompt, None
    interval = chance.choice([16, 24, 40, 64])
    recent = chance.randint(1, 12)
    extra = {
        "cache_interval": interval, "cache_ratio": chance.choice([2, 4, 8]), "cache_recent": recent,
        "cache_kernel": chance.choice([1, 3, 7]), "cache_selector": chance.choice([*options.EVEN, *["echo"] * 7]),
    }  # fmt: skip
    if extra["cache_selector"] in options.EVEN:
        extra["cache_aggregation"] = chance.choice(["layer", "group"])
    if chance.random() < 0.3:
        extra["cache_budget"] = recent + chance.choice([0, 8, 16])
    return prompt, extra


def test_random_requests_against_themselves(llm, prompts):
    """All at once, which preempts many of them, and then in pairs, which fit."""
    chance = random.Random(1)
    requests = [drawn_request(chance, prompts) for _ in range(8 if SECOND else 16 if AHEAD else 64)]
    lengths = (50, 90) if SECOND else (40, 120)
    params = [sampling(extra, chance.randint(*lengths)) for _, extra in requests]
    before = scheduler(llm).preemptions
    together = answers(llm, [prompt for prompt, _ in requests], params)
    assert scheduler(llm).preemptions > before
    scheduler(llm).reset_prefix_cache()
    for i in range(0, len(requests), 2):
        before = scheduler(llm).preemptions
        apart = answers(llm, [prompt for prompt, _ in requests[i : i + 2]], params[i : i + 2])
        assert scheduler(llm).preemptions == before
        assert together[i : i + 2] == apart, requests[i : i + 2]


@in_order
def test_bad_options_fail_the_request_alone(llm, model, prompts):
    for bad, message in (
        ({"cache_interval": -1}, "cache_interval: expected at least 1, got -1"),
        ({"cache_interval": 50}, "cache_interval: expected a multiple of ratio, 4, got 50"),
        ({"cache_intervall": 64}, "cache_intervall: no such option"),
        ({"cache_recent": 64}, "cache_recent: expected at most 32, which this server has room"),
        ({"cache_kernel": 2}, "cache_kernel: expected an odd number, got 2"),
        ({"cache_selector": "h2o"}, "cache_selector: expected one of echo, rpc, "),
        ({"cache_aggregation": "layer"}, "cache_aggregation: expected 'group' with the selector 'echo'"),
        ({"cache_budget": 4}, "cache_budget: expected at least recent, 32, got 4"),
    ):
        with pytest.raises(VLLMValidationError, match=message):
            llm.generate([{"prompt_token_ids": prompts[2]}], sampling(bad), use_tqdm=False)
    assert answers(llm, prompts[2:3], sampling({"cache_interval": 0}, 8)) == [of_transformers(model, prompts[2], None, 8)]


@in_order
def test_options_that_nobody_checked_end_the_request(llm, monkeypatch, prompts):
    """Without LZPenalty nothing refuses them at admission."""
    monkeypatch.setattr("lzpenalty.vllm.penalty.check_request", lambda params: None)
    try:
        got = llm.generate([{"prompt_token_ids": prompts[2]}], sampling({"cache_interval": -1}, 8), use_tqdm=False)
    except VLLMValidationError as error:  # since vLLM 0.33
        assert "cache_interval: expected at least 1, got -1" in str(error)
    else:
        assert got[0].outputs[0].finish_reason == "error"


CLASSES = ("--logits-processors", PENALTY, "--worker-cls", WORKER, "--scheduler-cls", SCHEDULER)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """Its engine is in a process of its own, and compresses what does not say otherwise."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "counters").mkdir()
    log = (folder / "log").open("w+")
    default = json.dumps({"cache": {**OPTIONS, "log": True}})
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "INFO",
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "counters"),
    }  # fmt: skip
    options = ("--block-size", str(BLOCK), "--additional-config", default, *CLASSES)
    with serving(model[1], log, *options, **environment) as port:
        yield port, log


@in_order  # it has a process of its own
def test_the_server(server, model, prompts):
    port, log = server
    body = {
        "model": "m", "prompt": prompts[0], "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True,
        "return_token_ids": True,
    }  # fmt: skip
    for xargs, extra in (
        ({}, asks("echo")),
        ({"cache_interval": 0}, None),
        ({"cache_ratio": 8, "cache_selector": "rpc"}, asks(ratio=8)),
        ({"cache_selector": "streaming", "lz_strength": 0.6}, {**asks(selector="streaming"), "lz_strength": 0.6}),
    ):
        status, answer = post(port, body | ({"vllm_xargs": xargs} if xargs else {}))
        assert status == 200 and answer["choices"][0]["token_ids"] == of_transformers(model, prompts[0], extra)
    for bad, message in (
        ({"cache_ratio": 5}, f"cache_interval: expected a multiple of ratio, 5, got {OPTIONS['interval']}"),
        ({"cache_selector": "best"}, "cache_selector: expected one of echo, rpc, "),
        ({"cache_aggregation": "head"}, "cache_aggregation: expected one of layer, group, got 'head'"),
    ):
        status, answer = post(port, body | {"vllm_xargs": bad})
        assert status == 400 and message in json.dumps(answer)
    log.seek(0)
    computed = TOKENS + len(prompts[0]) - 1
    line = rf"{computed} tokens computed, \d+ of them kept, (\d+) compressions in (\d+\.\d+) s, (\d+) blocks given back"
    lines = re.findall(line, log.read())
    compressions = (TOKENS - 1 - OPTIONS["recent"]) // OPTIONS["interval"]
    assert [int(done) for done, _, _ in lines] == [compressions] * 3
    assert sum(float(seconds) for _, seconds, _ in lines) > 0 and sum(int(blocks) for *_, blocks in lines) > 0
    counted = dict(re.findall(r"^lzpenalty_cache_(\w+)_total (\S+)", get(port, "/metrics"), re.MULTILINE))
    assert set(counted) == set(COUNTERS) and all(float(value) > 0 for value in counted.values())
    assert float(counted["tokens_seen"]) == 3 * computed > float(counted["tokens_kept"])


@in_order
@pytest.mark.skipif(SECOND, reason="Triton's interpreter does not compile")
@pytest.mark.skipif(torch.cpu._is_amx_tile_supported(), reason="blocks of bfloat16 are of a kind that is refused there")
def test_a_server_in_bfloat16_that_compiles(model, prompts, tmp_path):
    """Rounded as it is, another program may say another token. But it says the same each time, and the same to others."""
    log = (tmp_path / "log").open("w+")
    default = json.dumps({"cache": {**OPTIONS, "log": True}})
    options = ("--block-size", str(BLOCK), "--additional-config", default, *CLASSES)
    # Triton's interpreter, which is there for the second runner, can't run what is compiled.
    (tmp_path / "triton.py").write_text("raise ImportError('no Triton in this process')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "INFO", "PYTHONPATH": path}
    with serving(model[1], log, *options, dtype="bfloat16", eager=False, **environment) as port:
        body = {"model": "m", "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": True}
        said = []
        for xargs in ({}, {"cache_selector": "rpc"}, {"cache_interval": 0}) * 2:
            status, answer = post(port, body | {"prompt": prompts[0]} | ({"vllm_xargs": xargs} if xargs else {}))
            assert status == 200 and len(answer["choices"][0]["token_ids"]) == TOKENS
            said.append(answer["choices"][0]["token_ids"])
    assert said[:3] == said[3:] and said[0] != said[2] != said[1] != said[0]
    log.seek(0)
    compressions = (TOKENS - 1 - OPTIONS["recent"]) // OPTIONS["interval"]
    assert re.findall(r"(\d+) compressions in", log.read()) == [str(compressions)] * 4


class Failing(Selector):
    def score(self, layer):
        if layer.index == 1:
            raise ArithmeticError("no idea")
        return torch.arange(layer.stop, dtype=torch.float32)[None, None]


def test_a_selector_that_raises_ends_the_server(llm, monkeypatch, prompts):
    """Layers hold different tokens by then, which no text may come of. Last, since the engine can't be used any more."""
    monkeypatch.setitem(SELECTORS, "rpc", Failing)
    llm.broken = True
    with pytest.raises(RuntimeError, match=r"the compression at token \d+ failed in layer 1 with selector 'rpc': no idea"):
        answers(llm, prompts[:1], sampling(asks()))
