"""The parts of vLLM's compressed cache without vLLM: options, counts, blocks, queries. With it: real_vllm_cache.py."""

import random as chances
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import fake_vllm_cache as fake
from lzpenalty import attention_scores, select_top
from lzpenalty.cache.plan import Plan
from lzpenalty.cache.selectors import SELECTORS, Selector
from lzpenalty.vllm import checks, options
from lzpenalty.vllm.blocks import find_layout
from lzpenalty.vllm.compressor import Compressor
from lzpenalty.vllm.options import CacheOptions, ServerOptions, cache_options, server_options
from lzpenalty.vllm.plan import RequestPlan
from states import random

with mock.patch.dict(sys.modules, fake.modules()):
    from lzpenalty.vllm import metrics, scheduler, spec

    metrics._counters()
for name in ("metrics", "scheduler", "spec"):  # for those who have the real ones
    sys.modules.pop(f"lzpenalty.vllm.{name}", None)


# ---- what is asked for


def test_a_request_that_asks_for_nothing_gets_nothing():
    for params in (None, {}, {"lz_strength": 0.15, "other": 1, 3: 4}, {"cache_interval": 0}, {"cache_interval": None}):
        assert cache_options(params) is None


def test_one_option_is_enough():
    assert cache_options({"cache_interval": 64}) == CacheOptions(Plan(interval=64))
    assert cache_options({"cache_interval": 64}).selector == "echo"
    assert cache_options({"cache_interval": 64}).aggregation == "group"
    assert cache_options({"cache_selector": "rpc"}).aggregation == "layer"
    without = server_options({"cache": {"echo": False}})
    assert cache_options({"cache_interval": 64}, without) == CacheOptions(Plan(interval=64), selector="rpc")
    assert cache_options({"cache_ratio": 8.0}) == CacheOptions(Plan(ratio=8))  # JSON has one kind of number
    assert cache_options({"cache_selector": "tova"}) == CacheOptions(Plan(), selector="tova")
    assert cache_options(
        {"cache_kernel": 1, "cache_aggregation": "group", "cache_budget": 40, "cache_recent": None}
    ) == CacheOptions(Plan(budget=40), kernel=1, aggregation="group")


def test_what_a_server_does_for_others():
    server = server_options({"cache": {"interval": 64, "recent": 48, "kernel": 3, "slots": 2}, "else": 1})
    assert server == ServerOptions({"interval": 64, "recent": 48, "kernel": 3}, slots=2, most_recent=48)
    assert cache_options(None, server) == CacheOptions(Plan(interval=64, recent=48), kernel=3)
    assert cache_options({"cache_recent": 8}, server) == CacheOptions(Plan(interval=64, recent=8), kernel=3)
    assert cache_options({"cache_interval": 0}, server) is None
    for nothing in (None, {}, {"cache": {}}):
        assert server_options(nothing) == ServerOptions({}) and cache_options(None, server_options(nothing)) is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cache_intervals": 64}, "cache_intervals: no such option, expected one of cache_interval, cache_ratio, "),
        ({"cache_protect": 4}, "cache_protect: expected none, since prompts stay whole in vLLM"),
        ({"cache_interval": "64"}, "cache_interval: expected an integer, got '64'"),
        ({"cache_interval": True}, "cache_interval: expected an integer, got True"),
        ({"cache_interval": -4}, "cache_interval: expected at least 1, got -4"),
        ({"cache_interval": 65}, "cache_interval: expected a multiple of ratio, 4, got 65"),
        ({"cache_interval": 16}, "cache_recent: expected less than interval, 16, got 32"),
        ({"cache_ratio": 2.5}, "cache_ratio: expected an integer, got 2.5"),
        ({"cache_kernel": 4}, "cache_kernel: expected an odd number, got 4"),
        ({"cache_aggregation": "layer"}, "cache_aggregation: expected 'group' with the selector 'echo', whose heads keep"),
        ({"cache_kernel": 0}, "cache_kernel: expected at least 1, got 0"),
        ({"cache_budget": 31}, "cache_budget: expected at least recent, 32, got 31"),
        ({"cache_selector": "h2o"}, "cache_selector: expected one of echo, rpc, snapkv, .* got 'h2o'"),
        ({"cache_selector": ["rpc"]}, r"cache_selector: expected one of .* got \['rpc'\]"),
        ({"cache_aggregation": "head"}, "cache_aggregation: expected one of layer, group, got 'head'"),
        ({"cache_recent": 33}, "cache_recent: expected at most 32, which this server has room for the queries of, got 33"),
    ],
)
def test_bad_options_of_a_request(params, message):
    with pytest.raises(ValueError, match=message):
        cache_options(params, ServerOptions({}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cache": 4096}, "--additional-config: cache: expected an object such as .*, got 4096"),
        (
            {"cache": {"intervals": 1}},
            r"--additional-config: cache.intervals: no such option, expected one of interval, .* slots",
        ),
        ({"cache": {"protect": 4}}, "--additional-config: cache.protect: expected none, since prompts stay whole in vLLM"),
        ({"cache": {"interval": 63}}, "--additional-config: cache.interval: expected a multiple of ratio, 4, got 63"),
        ({"cache": {"slots": 0}}, "--additional-config: cache.slots: expected an integer >= 1, got 0"),
        ({"cache": {"most_recent": 1.5}}, "--additional-config: cache.most_recent: expected an integer >= 1, got 1.5"),
        ({"cache": {"log": 1}}, "--additional-config: cache.log: expected true or false, got 1"),
        ({"cache": {"echo": "no"}}, "--additional-config: cache.echo: expected true or false, got 'no'"),
        ({"cache": {"echo": False, "selector": "echo"}}, "--additional-config: cache.selector: expected one of rpc, "),
        ({"cache": {"interval": 64, "most_recent": 8}}, "cache_recent: expected at most 8, which this server has room"),
    ],
)
def test_bad_options_of_a_server(config, message):
    with pytest.raises(ValueError, match=message):
        server_options(config)


def test_the_selectors_are_those_that_need_not_watch_every_step():
    watching = {name for name, selector in SELECTORS.items() if selector.observe is not Selector.observe}
    assert set(options.EVEN) <= set(SELECTORS) - watching
    assert all(SELECTORS[name].keeps_evidence for name in options.UNEVEN)


def configuration(**changes):
    fine = {
        "parallel_config.worker_cls": checks.WORKER, "parallel_config.pipeline_parallel_size": 1,
        "parallel_config.decode_context_parallel_size": 1, "parallel_config.prefill_context_parallel_size": 1,
        "parallel_config.use_ubatching": False, "cache_config.cache_dtype": "auto",
        "cache_config.kv_sharing_fast_prefill": False, "model_config.is_encoder_decoder": False,
        "model_config.runner_type": "generate", "scheduler_config.scheduler_cls": checks.SCHEDULER,
        "scheduler_config.enable_chunked_prefill": True, "speculative_config": None, "kv_transfer_config": None,
        "additional_config": {}, "compilation_config.cudagraph_mode": None, "model_config.uses_mrope": False,
    }  # fmt: skip
    config = SimpleNamespace()
    for name, value in {**fine, **changes}.items():
        *parents, last = name.split(".")
        inner = config
        for parent in parents:
            inner.__dict__.setdefault(parent, SimpleNamespace())
            inner = getattr(inner, parent)
        setattr(inner, last, value)
    return config


def test_what_is_refused_at_start_up():
    assert checks.check_configuration(configuration(additional_config={"cache": {"slots": 3}})).slots == 3
    for name, value, message in (
        ("speculative_config", object(), "speculative decoding"),
        ("kv_transfer_config", object(), "KV connectors"),
        ("parallel_config.pipeline_parallel_size", 2, "pipeline parallelism"),
        ("parallel_config.decode_context_parallel_size", 2, "decode context parallelism"),
        ("parallel_config.prefill_context_parallel_size", 2, "prefill context parallelism"),
        ("parallel_config.use_ubatching", True, "micro-batching"),
        ("model_config.is_encoder_decoder", True, "encoder-decoder models"),
        ("model_config.runner_type", "pooling", "pooling models"),
        ("scheduler_config.enable_chunked_prefill", False, "--no-enable-chunked-prefill"),
        ("cache_config.cache_dtype", "fp8", r"a quantised key/value cache \(fp8\)"),
        ("cache_config.kv_sharing_fast_prefill", True, "--kv-sharing-fast-prefill"),
    ):
        with pytest.raises(ValueError, match=f"the compressed cache can't be served with {message}"):
            checks.check_configuration(configuration(**{name: value}))
    with (
        pytest.raises(
            ValueError, match="needs both of --worker-cls lzpenalty.vllm.Worker --scheduler-cls .* got auto and lz"
        ),
        mock.patch.object(checks, "_compresses", lambda given: given == checks.SCHEDULER),
    ):
        checks.check_configuration(configuration(**{"parallel_config.worker_cls": "auto"}))


def layer_of(backend="CPU_ATTN", writes=False, bypass=False, shares=None, **impl):
    plain = dict(num_heads=4, head_size=8, sinks=None, alibi_slopes=None)
    return SimpleNamespace(
        impl=SimpleNamespace(**plain | impl), kv_cache_update_bypass=bypass, kv_sharing_target_layer_name=shares,
        attn_backend=SimpleNamespace(get_name=lambda: backend, forward_includes_kv_cache_update=writes),
    )  # fmt: skip


def test_attention_that_can_not_be_computed_head_by_head_is_refused():
    fine = [layer_of(), layer_of()]
    checks.check_attention(fine, [*fine, object()])
    for other, what in (
        (layer_of("FLASHINFER"), "the attention backend FLASHINFER"),
        (layer_of(writes=True), "written by the attention itself"),
        (layer_of(bypass=True), "written elsewhere"),
        (layer_of(sinks=torch.zeros(4)), "attention sinks"),
        (layer_of(alibi_slopes=torch.zeros(4)), "ALiBi"),
        (layer_of(num_heads=8), "layers with different heads"),
    ):
        with pytest.raises(ValueError, match=f"the selector 'echo' can't be served with .*{what}; start with .*false"):
            checks.check_attention([fine[0], other], fine)
    with pytest.raises(ValueError, match="layers that share keys and values"):
        checks.check_attention(fine, [*fine, layer_of(shares="first")])


def test_what_echo_can_not_be_served_with_is_served_without_it():
    full = SimpleNamespace(has_full_cudagraphs=lambda: True)
    for changes in ({"model_config.uses_mrope": True}, {"compilation_config.cudagraph_mode": full}):
        with pytest.raises(ValueError, match="the selector 'echo' can't be served with .*; start with --additional-config"):
            checks.check_configuration(configuration(**changes))
        served = checks.check_configuration(configuration(**changes, additional_config={"cache": {"echo": False}}))
        assert not served.echo


class Owner:
    """Stands for one of vLLM's classes."""

    field: int

    def __init__(self):
        self.made = 1

    def method(self, one, two):
        self.noted = one


@pytest.mark.parametrize(
    ("methods", "attributes", "found"),
    [
        ("self one two", "field made noted method", None),
        ("self one", "", r"Owner.method has the parameters \(self one two\), not \(self one\)"),
        ("self one two", "field gone lost", "Owner has no gone; .*Owner has no lost"),
    ],
)
@pytest.mark.parametrize("version", ["0.32.1", "0.33.0", "0.34.0", "0.3"])
def test_what_is_overridden_is_looked_at_and_not_the_version(monkeypatch, caplog, methods, attributes, found, version):
    name = f"{__name__}.Owner"
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    monkeypatch.setitem(checks.METHODS, name, {"method": methods})
    monkeypatch.setitem(checks.ATTRIBUTES, name, attributes)
    if found is None:
        checks.check_surface([name])
        assert ("not with " + version in caplog.text) == (version in ("0.34.0", "0.3"))
        return
    message = rf"tested with vLLM 0.32 and 0.33, and {version} differs in .*{found}; pip install"
    with pytest.raises(RuntimeError, match=message):
        checks.check_surface([name])


def test_classes_that_are_gone_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.40.0"))
    with pytest.raises(RuntimeError, match=f"there is no {__name__}.Nobody; there is no nowhere.Owner; "):
        checks.check_surface([f"{__name__}.Nobody", "nowhere.Owner"])


class Front:
    """What asks at admission."""

    def __init__(self, config):
        self.vllm_config = config

    def admit(self, **params):
        checks.check_request(SimpleNamespace(extra_args=params or None))


def test_options_at_admission():
    served = Front(configuration(additional_config={"cache": {"interval": 64, "most_recent": 40}}))
    served.admit()
    served.admit(cache_recent=40)
    with pytest.raises(ValueError, match="cache_recent: expected at most 40"):
        served.admit(cache_recent=41)
    with pytest.raises(ValueError, match="cache_interval: expected a multiple of ratio, 3, got 64"):
        served.admit(cache_ratio=3)
    with mock.patch.object(checks, "_compresses", lambda given: False):
        plain = Front(configuration(**{"parallel_config.worker_cls": "auto", "scheduler_config.scheduler_cls": None}))
        plain.admit(lz_strength=1)
        plain.admit(cache_interval=0)
        with pytest.raises(
            ValueError, match="cache_interval: this server compresses no caches, it was started without --worker"
        ):
            plain.admit(cache_interval=64)
    checks.check_request(SimpleNamespace(extra_args={"cache_interval": 64}))  # nobody knows
    with pytest.raises(ValueError, match="cache_interval: expected an integer"):
        checks.check_request(SimpleNamespace(extra_args={"cache_interval": "x"}))


def test_layers_without_full_attention_are_refused():
    assert list(spec.compressed_specs({"a": fake.FullAttentionSpec(block_size=64)}).values()) == [
        spec.CompressedSpec(block_size=64)
    ]
    for other in (
        fake.SlidingWindowSpec(),
        fake.FullAttentionSpec(sliding_window=9),
        fake.FullAttentionSpec(non_causal=True),
    ):
        with pytest.raises(ValueError, match="needs a model whose layers all have full attention.* b has "):
            spec.compressed_specs({"a": fake.FullAttentionSpec(), "b": other})


# ---- counts


@st.composite
def cache_plans(draw):
    ratio = draw(st.sampled_from([1, 2, 4]))
    interval = ratio * draw(st.integers(2, 12))
    recent = draw(st.integers(1, interval - 1))
    budget = draw(st.none() | st.integers(recent, recent + 20))
    return Plan(interval=interval, ratio=ratio, recent=recent, budget=budget)


@given(cache_plans(), st.integers(1, 40), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_slots_are_those_of_a_cache_that_is_told_of_each_token(plan, prompt, generated):
    request = RequestPlan(prompt, CacheOptions(plan, selector="rpc"))
    held, done, most = prompt, 0, prompt
    for computed in range(prompt + 1, prompt + generated + 1):
        assert request.boundary(computed - 1) >= computed
        held += 1
        most = max(most, held)
        assert request.slots(computed) == held and request.peak(computed) == most
        if held - prompt - plan.recent >= plan.kept(done) + plan.interval:
            assert request.boundary(computed - 1) == computed
            done += 1
            held = prompt + plan.kept(done) + plan.recent
            assert request.kept(computed) == plan.kept(done)
        assert request.dropped(computed) == computed - held
        assert request.window(computed) == request.boundary(computed) - plan.recent


# ---- blocks


class Request:
    """One that is computed by a worker that may be a step behind, in memory that all share."""

    def __init__(self, name, plan, tokens):
        self.request_id, self.plan, self.total = name, plan, tokens
        self.computed = self.executed = 0
        self.row, self.held = [], []

    def execute(self, memory, block_size, step):
        cut, row, start, count = step
        if cut is not None:
            del self.row[cut:]
        self.row.extend(row)
        for token in range(start, start + count):
            slot = len(self.held)
            memory[self.row[slot // block_size], slot % block_size] = (self.request_id, token)
            self.held.append(token)
        for slot, token in enumerate(self.held):  # attention
            assert memory[self.row[slot // block_size], slot % block_size] == (self.request_id, token)
        end = start + count
        assert len(self.held) == self.plan.slots(end)
        if end == self.plan.boundary(end - 1):
            stop = len(self.held) - self.plan.options.plan.recent
            region = self.held[self.plan.prompt : stop]
            kept = sorted(chances.Random(end).sample(region, self.plan.kept(end)))
            self.held = self.held[: self.plan.prompt] + kept + self.held[stop:]
            for slot, token in enumerate(self.held):
                memory[self.row[slot // block_size], slot % block_size] = (self.request_id, token)
        self.executed = end


@given(
    st.lists(st.tuples(cache_plans(), st.integers(1, 20), st.integers(1, 90)), min_size=1, max_size=4),
    st.sampled_from([1, 3, 8]),
    st.booleans(),
    st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_blocks_are_given_back_and_nobody_elses_are_written(drawn, block_size, ahead, seed):
    """Requests that are computed in pieces, preempted and computed anew, with the worker in step or one behind."""
    chance = chances.Random(seed)
    requests = [
        Request(f"r{i}", RequestPlan(prompt, CacheOptions(plan, selector="rpc")), prompt + generated)
        for i, (plan, prompt, generated) in enumerate(drawn)
    ]
    most = [fake.cdiv(request.plan.peak(request.total), block_size) for request in requests]
    pool = fake.Pool(max(sum(most) - 1, *most))
    manager = spec.CompressedManager(block_size, pool)
    for request in requests:
        manager.plans[request.request_id] = request.plan
    memory, in_flight = {}, []

    def execute(left):
        while len(in_flight) > left:
            for request, *step in in_flight.pop(0):
                request.execute(memory, block_size, step)

    for _ in range(3000):
        running = [request for request in requests if request.computed < request.total]
        if not running and not any(in_flight):
            break
        step, preempted = [], False
        for request in running:
            name, computed = request.request_id, request.computed
            limit = request.plan.prompt if computed < request.plan.prompt else request.total
            count = min(chance.randint(1, 9), limit - computed, request.plan.boundary(computed) - computed)
            if preempted or chance.random() < 0.2:
                continue  # not in this step
            behind = {id(r): start for flying in in_flight for r, _, _, start, _ in flying}
            manager.remove_skipped_blocks(name, behind.get(id(request), computed))
            fits = lambda: manager.get_num_blocks_to_allocate(name, computed + count) <= len(pool.free)  # noqa: E731, B023
            if computed == 0 and not fits():
                continue  # who waits preempts nobody
            while not fits():
                execute(0)
                victim = [other for other in requests if manager.req_to_blocks.get(other.request_id)][-1]
                pool.free_blocks(reversed(manager.pop_blocks_for_free(victim.request_id)))
                step = [entry for entry in step if entry[0] is not victim]
                victim.computed = victim.executed = 0
                victim.row, victim.held = [], []
                preempted = True
                if victim is request:
                    break
            if request.computed != computed:
                continue
            new = manager.allocate_new_blocks(name, computed + count, computed + count)
            assert len(manager.req_to_blocks[name]) <= most[requests.index(request)]
            request.computed += count
            manager.cache_blocks(request, request.computed)
            cut = manager.truncated.pop(name, None)
            step.append((request, cut, [block.block_id for block in new], computed, count))
        in_flight.append(step)
        execute(1 if ahead else 0)
        for request in requests:
            if request.executed == request.total and manager.req_to_blocks.get(request.request_id):
                blocks = manager.pop_blocks_for_free(request.request_id)
                assert not any(block.block_hash for block in blocks[request.plan.prompt // block_size :])
                pool.free_blocks(blocks)
    else:
        raise AssertionError("no end")
    assert len(pool.free) == len(pool.blocks) and not manager.highest and not manager.truncated


class Impl:
    """An attention backend that stores keys and values as one of vLLM's does."""

    num_heads, head_size, scale, heads = 4, 8, 0.3, 2

    def __init__(self, layout, permuted=False):
        self.layout, self.permuted = layout, permuted

    def new_cache(self, blocks, tokens, order):
        shape = (blocks, self.heads, tokens, 2 * self.head_size)
        memory = torch.zeros([shape[i] for i in order])
        return memory.permute([order.index(i) for i in range(4)])

    def do_kv_cache_update(self, layer, key, value, cache, slots):
        tokens = cache.shape[2]
        for i, slot in enumerate(slots.tolist()):
            at = tokens - 1 - slot % tokens if self.permuted else slot % tokens
            if self.layout == "beside":
                cache[slot // tokens, :, at] = torch.cat([key[i], value[i]], -1)
            else:
                keys, values = cache.view(cache.shape[0], self.heads, 2 * tokens, self.head_size).chunk(2, dim=2)
                values[slot // tokens, :, at] = value[i]
                if self.layout == "halves":
                    keys[slot // tokens, :, at] = key[i]
                else:
                    keys.as_strided((*keys.shape[:2], self.head_size, tokens), (*keys.stride()[:2], tokens, 1))[
                        slot // tokens, :, :, at
                    ] = key[i]

    def forward(self, layer, query, *args, **kwargs):
        return query


def new_layer(layout, order=(0, 1, 2, 3), blocks=12, tokens=4, **kwargs):
    impl = Impl(layout, **kwargs)
    return SimpleNamespace(impl=impl, kv_cache=impl.new_cache(blocks, tokens, order))


CACHES = [("beside", (0, 1, 2, 3)), ("beside", (0, 2, 1, 3)), ("beside", (1, 0, 2, 3)), ("halves", (0, 1, 2, 3)),
          ("transposed", (0, 1, 2, 3))]  # fmt: skip


@pytest.mark.parametrize(("layout", "order"), CACHES)
def test_layouts_are_found_by_writing(layout, order):
    layer = new_layer(layout, order)
    layout = find_layout(layer)
    assert not layer.kv_cache.any()  # as it was
    keys, values = random(7, 2, 8), random(7, 2, 8, seed=1)
    layer.impl.do_kv_cache_update(layer, keys, values, layer.kv_cache, torch.tensor([20, 21, 22, 23, 8, 9, 10]))
    for which, written in zip(layout(layer.kv_cache), (keys, values), strict=True):
        assert torch.cat([which[5], which[2, :, :3]], 1).equal(written.transpose(0, 1))


def test_unknown_layouts_are_refused():
    for layer in (new_layer("beside", permuted=True), new_layer("transposed", permuted=True)):
        with pytest.raises(
            ValueError, match="does not know how Impl stores keys and values of torch.float32 in blocks of 4"
        ):
            find_layout(layer)
    for cache in (torch.zeros(2, 3, 4, 5, 6), [torch.zeros(2, 3, 4, 5)]):
        with pytest.raises(ValueError, match="does not know how Impl stores keys and values"):
            find_layout(SimpleNamespace(impl=Impl("beside"), kv_cache=cache))


# ---- what is told at the end


@pytest.mark.parametrize("log", [False, True])
def test_what_a_request_came_to(caplog, monkeypatch, log):
    monkeypatch.setattr(scheduler, "check_surface", list)
    monkeypatch.setattr(scheduler, "check_configuration", lambda config: config.server)
    manager = spec.CompressedManager(4, fake.Pool(20))
    config = SimpleNamespace(server=ServerOptions({}, log=log), manager=manager)
    engine = scheduler.CompressedScheduler(config)
    extra = {"cache_interval": 8, "cache_ratio": 2, "cache_recent": 2}
    for name, asked in (("one", extra), ("gone", extra), ("plain", {})):
        params = SimpleNamespace(extra_args=asked)
        engine.add_request(
            SimpleNamespace(
                request_id=name,
                num_prompt_tokens=5,
                sampling_params=params,
                resumable=False,
                num_computed_tokens=0,
                block_hashes=["of its first 4 tokens"],
            )
        )
    assert len(engine.requests["plain"].block_hashes) == len(engine.requests["one"].block_hashes) == 1
    before = dict(fake.Counter.counted)

    def step(ended=(), **seconds):
        engine.update_from_output(None, SimpleNamespace(ended=ended, **({"cache_seconds": seconds} if seconds else {})))

    def counted():
        return [
            fake.Counter.counted[f"lzpenalty_cache_{name}"] - before[f"lzpenalty_cache_{name}"] for name in metrics.COUNTERS
        ]

    with caplog.at_level("INFO", logger="vllm.lzpenalty"):
        step(one=0.25)
        step()
        step(["gone"], one=0.5, gone=0.125)  # aborted before anything was computed, but for one compression
        assert counted() == [0, 0, 0, 0, 0.125]
        manager.freed["one"] = 3
        engine.requests["one"].num_computed_tokens = 5 + 2 + 2 * 8 + 7  # 2 compressions of 8, which keep 4 each
        engine.requests["plain"].num_computed_tokens = 1000
        step(["one", "plain"], one=1, gone=9)
    assert counted() == [30, 22, 2, 3, 1.875]
    lines = [record.message for record in caplog.records]
    line = "request one: 30 tokens computed, 22 of them kept, 2 compressions in 1.750 s, 3 blocks given back"
    assert lines[-1:] == [line] * log and len(lines) == 2 * log
    assert not engine.seconds and not manager.plans


# ---- queries and compressions


class Text:
    """A request with the queries, keys and values of all its tokens, and those that a cache of its own would hold."""

    def __init__(self, name, extra, prompt, tokens, row, seed):
        self.name, self.extra, self.prompt, self.row = name, extra, prompt, torch.tensor(row, dtype=torch.int32)
        self.states = [
            [random(tokens, heads, 8, seed=seed + 3 * i + j) for j, heads in enumerate((4, 2, 2))] for i in range(2)
        ]
        self.computed, self.total = 0, tokens
        plan = cache_options(extra)
        self.plan = plan and RequestPlan(prompt, plan)
        self.held = [[torch.arange(0)[None].expand(2, 0)] for _ in range(2)]  # [heads, slots], of both layers
        self.held = [layer[0] for layer in self.held]

    def expect(self, start, stop):
        """What a step does to the tokens held, by the formula."""
        new = torch.arange(start, stop).expand(2, -1)
        self.held = [torch.cat([held, new], 1) for held in self.held]
        if not self.plan or stop != self.plan.boundary(start):
            return
        plan = self.plan
        for i, held in enumerate(self.held):
            queries, keys, _ = self.states[i]
            recent = plan.options.plan.recent
            end = held.shape[1] - recent
            region = held[:, self.prompt : end]
            own = torch.stack([keys[region[head], head] for head in range(2)])[None]
            rule = {"kernel": plan.options.kernel, "aggregation": plan.options.aggregation}
            if plan.options.selector == "tova":  # the newest query alone
                recent, rule = 1, {"kernel": 1}
            asked = queries[stop - recent : stop].transpose(0, 1)[None]
            scores = attention_scores(asked, own, start=0, stop=region.shape[1], scale=Impl.scale, **rule)
            kept = region[:, :0]
            if keep := plan.kept(stop):
                kept = region.gather(1, select_top(scores, keep)[0].expand(2, -1))
            self.held[i] = torch.cat([held[:, : self.prompt], kept, held[:, end:]], 1)

    def check(self, layers):
        for i, layer in enumerate(layers):
            for which, states in zip(LAYOUT[0](layer.kv_cache), self.states[i][1:], strict=True):
                slots = torch.arange(self.held[i].shape[1])
                got = which[self.row[slots // 4].long(), :, slots % 4].transpose(0, 1)
                want = torch.stack([states[self.held[i][head], head] for head in range(2)])
                assert got.equal(want)


LAYOUT = [None]


@given(
    st.sampled_from(CACHES),
    st.lists(
        st.tuples(
            st.none()
            | st.builds(
                lambda plan, kernel, aggregation, selector: {
                    "cache_interval": plan.interval, "cache_ratio": plan.ratio, "cache_recent": plan.recent,
                    "cache_budget": plan.budget, "cache_kernel": kernel, "cache_aggregation": aggregation,
                    "cache_selector": selector,
                },
                cache_plans(), *map(st.sampled_from, ([1, 3], ["layer", "group"], ["rpc", "tova"])),
            ),
            st.integers(1, 12),
            st.integers(1, 60),
        ),
        min_size=1, max_size=3,
    ),
    st.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_steps_of_mixed_batches(cache, drawn, seed):
    """Requests join, are computed in pieces, preempted, and end; after each step every token is where it should be."""
    chance = chances.Random(seed)
    layers = [new_layer(*cache, blocks=60) for _ in range(2)]
    compressor = Compressor(ServerOptions({}, slots=2, most_recent=47), 200, torch.float32, torch.device("cpu"))
    compressor.make_rings(layers)
    compressor.bind(layers)
    compressor.bind(layers)  # vLLM does so twice where it tries out how much memory graphs need
    LAYOUT[0] = find_layout(layers[0])
    rows = list(range(1, 60))
    chance.shuffle(rows)
    texts = [
        Text(f"r{i}", extra, prompt, prompt + generated, rows[19 * i : 19 * i + 19], 10 * i)
        for i, (extra, prompt, generated) in enumerate(drawn)
    ]
    windows, finished, preempted, news = set(), set(), set(), list(texts)
    while any(text.computed < text.total for text in texts):
        batch = []
        for text in texts:
            if 0 < text.computed < text.total and chance.random() < 0.03:
                text.computed, text.held = 0, [held[:, :0] for held in text.held]
                preempted.add(text.name)
                windows.discard(text.name)
            if text.computed == text.total or chance.random() < 0.2:
                continue
            limit = text.prompt if text.computed < text.prompt else text.total
            count = min(chance.randint(1, 7), limit - text.computed)
            if text.plan:
                count = min(count, text.plan.boundary(text.computed) - text.computed)
                window = text.plan.window(text.computed)
                if text.computed + count > window and text.name not in windows:
                    if len(windows) == 2:
                        count = max(0, window - text.computed)
                    else:
                        windows.add(text.name)
            if count:
                batch.append((text, count))
        chance.shuffle(batch)
        new = [
            SimpleNamespace(req_id=text.name, prompt_len=text.prompt, sampling_params=SimpleNamespace(extra_args=text.extra))
            for text in news
        ]
        compressor.remember(SimpleNamespace(finished_req_ids=finished, preempted_req_ids=preempted, scheduled_new_reqs=new))
        finished, preempted, news = set(), set(), []
        if not batch:
            continue
        computed, counts = [text.computed for text, _ in batch], [count for _, count in batch]
        dropped = compressor.begin([text.name for text, _ in batch], computed, counts)
        for i, layer in enumerate(layers):
            parts = [[x[t.computed : t.computed + n] for x in t.states[i]] for t, n in batch]
            query, key, value = (torch.cat(part) for part in zip(*parts, strict=True))
            slots = []
            for j, (text, count) in enumerate(batch):
                for slot in range(text.computed, text.computed + count):
                    slot -= 0 if dropped is None else int(dropped[j])
                    slots.append(int(text.row[slot // 4]) * 4 + slot % 4)
            layer.impl.do_kv_cache_update(layer, key, value, layer.kv_cache, torch.tensor(slots))
            padding = torch.full((chance.randint(0, 3), 4, 8), float("nan"))  # of graphs of a fixed size
            layer.impl.forward(layer, torch.cat([query, padding]))
        compressor.end(lambda j, batch=batch: batch[j][0].row)
        for text, count in batch:
            text.expect(text.computed, text.computed + count)
            text.computed += count
            if text.plan and text.computed <= text.plan.window(text.computed):
                windows.discard(text.name)
            text.check(layers)
            if text.computed == text.total:
                finished.add(text.name)
                windows.discard(text.name)
    compressor.remember(SimpleNamespace(finished_req_ids=finished, preempted_req_ids=None, scheduled_new_reqs=[]))
    assert not compressor.plans and not compressor.slots and len(compressor.free) == 2


def test_a_preempted_request_begins_anew():
    """Its place for queries is free for others, and a selector that draws draws the same again."""
    layers = [new_layer("beside")]
    compressor = Compressor(ServerOptions({}, slots=1), 20, torch.float32, torch.device("cpu"))
    compressor.make_rings(layers)
    compressor.bind(layers)
    nothing = dict(finished_req_ids=(), scheduled_new_reqs=())
    for name in ("r", "s"):
        options_ = CacheOptions(Plan(interval=4, ratio=2, recent=2), selector="random")
        compressor.plans[name] = RequestPlan(1, options_)

    def compress(name):
        """Which of the tokens stay, by their keys."""
        compressor.begin([name], [5], [2])
        layers[0].kv_cache[:] = torch.arange(4.0)[:, None] + 4 * torch.arange(12.0)[:, None, None, None]
        compressor.end(lambda i: torch.tensor([0, 1], dtype=torch.int32))
        return layers[0].kv_cache[:2, 0, :, 0].flatten()[:5].tolist()

    first = compress("r")
    compressor.begin(["r"], [9], [1])
    now = compressor.statistics()
    assert now | {"seconds": 0} == {
        "compressions": 1,
        **dict.fromkeys(("seconds", "asking", "exploding"), 0),
        "requests": 2,
        "windows": 1,
    }
    assert compressor.take_seconds() == {"r": compressor.seconds} and compressor.take_seconds() == {}
    compressor.remember(SimpleNamespace(preempted_req_ids={"r"}, **nothing))
    assert compressor.statistics()["windows"] == 0
    assert compress("s") == compress("r") == first


def test_what_contradicts_the_plan_is_an_error_not_a_text():
    compressor = Compressor(ServerOptions({}, slots=1), 200, torch.float32, torch.device("cpu"))
    for i in range(2):
        compressor.plans[f"r{i}"] = RequestPlan(4, CacheOptions(Plan(interval=8, ratio=2, recent=2), selector="rpc"))
    with pytest.raises(RuntimeError, match="request r0: a step to token 15 goes beyond a compression at 14"):
        compressor.begin(["r0"], [13], [2])
    with pytest.raises(RuntimeError, match="request r1: the scheduler began more than 1 windows at once"):
        compressor.begin(["r0", "r1"], [12, 12], [1, 1])


def test_a_selector_that_raises_is_named():
    class Failing(Selector):
        def score(self, layer):
            raise ArithmeticError("no idea")

    layers = [new_layer("beside")]
    compressor = Compressor(ServerOptions({}, slots=1), 20, torch.float32, torch.device("cpu"))
    compressor.make_rings(layers)
    compressor.bind(layers)
    compressor.plans["r"] = RequestPlan(1, CacheOptions(Plan(interval=4, ratio=2, recent=2), selector="rpc"))
    compressor.begin(["r"], [5], [2])
    with (
        mock.patch.dict(SELECTORS, rpc=Failing),
        pytest.raises(
            RuntimeError, match="request r: the compression at token 7 failed in layer 0 with selector 'rpc': no idea"
        ),
    ):
        compressor.end(lambda i: torch.tensor([3, 4], dtype=torch.int32))
