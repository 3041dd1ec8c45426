"""What only a real GPU can show, with torch: streams, graphs, no waiting. The rest of the suite runs there, too, if
LZPENALTY_TEST_GPU is set: `make gpu-report` does both."""

import copy
import os

import pytest
import torch

from lzpenalty import append_, attention_scores, compact_, dry_penalize_, lz_penalize_, repetition_period, select_top, warmup
from lzpenalty.cache.attention import CACHE_ARGUMENT

pytestmark = pytest.mark.elsewhere(
    not os.environ.get("LZPENALTY_TEST_GPU") or not torch.cuda.is_available(), "need a GPU: make gpu-report"
)
VOCAB = 151_936


@pytest.fixture
def batch():
    """Logits and looping tokens of a few rows, on the GPU, and the penalised logits, on the CPU."""
    warmup()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 300, (8, 600), generator=generator)
    logits = torch.randn(8, VOCAB, generator=generator)
    return logits.cuda(), tokens.cuda(), lz_penalize_(logits.clone(), tokens)


@pytest.fixture
def never_wait():
    """torch raises if it is made to wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_values_bit_for_bit(batch, dtype, ids):
    logits, tokens = batch[0].to(dtype), batch[1].to(ids)
    wanted = lz_penalize_(logits.cpu(), tokens.cpu())
    got = lz_penalize_(logits, tokens)
    assert got is logits and got.cpu().equal(wanted)


def test_calls_wait_for_nothing(batch, never_wait):
    logits, tokens, _ = batch
    keys = torch.randn(2, 4, 900, 128, device="cuda", dtype=torch.bfloat16)
    queries, values = torch.randn(2, 16, 32, 128, device="cuda", dtype=torch.bfloat16), keys.clone()
    torch.cuda._sleep(2_000_000_000)  # the queue is busy for about a second
    lz_penalize_(logits, tokens)
    dry_penalize_(logits, tokens, sequence_breakers=[7])
    repetition_period(tokens)
    positions = select_top(attention_scores(queries, keys, start=10, stop=800), 200)
    compact_(keys, values, positions, start=10, stop=800, length=832)
    append_(keys, values, queries[:, :4, :3], queries[:, 4:8, :3], position=242)
    assert not torch.cuda.current_stream().query()


def test_work_is_ordered_within_the_current_stream(batch):
    logits, tokens, wanted = batch
    stream = torch.cuda.Stream()
    late = torch.zeros_like(logits)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(500_000_000)
        late.copy_(logits)
        lz_penalize_(late, tokens)
        copy = late.clone()
    stream.synchronize()
    assert copy.cpu().equal(wanted)


def test_graphs(batch):
    logits, tokens, _ = batch
    queries = torch.randn(1, 8, 32, 64, device="cuda")
    keys = torch.randn(1, 2, 500, 64, device="cuda")
    static, stream, graph = logits.clone(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        lz_penalize_(static, tokens)
        positions = select_top(attention_scores(queries, keys, start=0, stop=450), 100)
    for seed in range(3):
        torch.manual_seed(seed)
        static.normal_()
        tokens.random_(0, 40)
        keys.normal_()
        wanted = lz_penalize_(static.cpu(), tokens.cpu())
        graph.replay()
        torch.cuda.synchronize()
        assert static.cpu().equal(wanted)
        scores = attention_scores(queries, keys, start=0, stop=450)
        assert positions.equal(select_top(scores, 100))


def test_attention_scores_and_positions_are_those_of_the_cpu():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        queries, keys = torch.randn(2, 8, 32, 128).to(dtype), torch.randn(2, 2, 3000, 128).to(dtype)
        for aggregation in ("layer", "group"):
            options = dict(start=100, stop=2900, aggregation=aggregation)
            wanted = attention_scores(queries, keys, **options)
            got = attention_scores(queries.cuda(), keys.cuda(), **options)
            torch.testing.assert_close(got.cpu(), wanted, rtol=3e-5, atol=1e-9)
            assert select_top(got, 700).cpu().equal(select_top(got.cpu(), 700))


def test_nothing_piles_up_on_the_device():
    queries, keys = torch.randn(1, 8, 32, 64, device="cuda"), torch.randn(1, 2, 4000, 64, device="cuda")
    for turn in range(200):
        select_top(attention_scores(queries, keys, start=0, stop=4000), 100)
        if turn == 20:
            before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_the_processor(batch):
    hf = pytest.importorskip("lzpenalty.hf")
    logits, tokens, wanted = batch
    processor = hf.LZPenaltyLogitsProcessor(prompt_length=0)
    before = logits.clone()
    assert processor(tokens, logits).cpu().equal(wanted) and logits.equal(before)
    loops = torch.zeros(2, 100, dtype=torch.int64, device="cuda")
    assert hf.RepetitionStoppingCriteria(prompt_length=0)(loops, None).tolist() == [True, True]


def fed(model, ids, cache):
    """Logits of each token behind a prompt of 20, one at a time, and the evidence for what is kept, if there is any."""
    with cache, torch.no_grad():
        model(ids[:, :20], **{CACHE_ARGUMENT: cache})
        logits = [model(ids[:, i : i + 1], **{CACHE_ARGUMENT: cache}).logits.float().cpu() for i in range(20, ids.shape[1])]
    return torch.cat(logits, 1)


@pytest.mark.parametrize("selector", ["rpc", "echo", "keydiff", "vase"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caches_ragged_and_even_are_those_of_the_cpu(selector, dtype):
    """Token by token on the same text, across two compressions. In bfloat16 heads may come to keep others, so that only
    what comes before the first is compared."""
    hf, tiny = pytest.importorskip("lzpenalty.hf"), pytest.importorskip("tiny")
    small, ids = dict(interval=16, ratio=4, recent=8, selector=selector), tiny.prompt(2, 60)
    model = tiny.tiny(dtype=dtype)
    wanted = fed(model, ids, hf.CompressedCache(model, **small))
    on_gpu = copy.deepcopy(model).cuda()
    cache = hf.CompressedCache(on_gpu, **small)
    got = fed(on_gpu, ids.cuda(), cache)
    assert cache.stats()["compressions"] == 2
    if dtype == torch.float32:
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    else:
        torch.testing.assert_close(got[:, :20], wanted[:, :20], rtol=0.1, atol=0.3)


@pytest.mark.parametrize("selector", ["rpc", "echo"])
def test_a_compiled_model_says_the_same(selector):
    hf, tiny = pytest.importorskip("lzpenalty.hf"), pytest.importorskip("tiny")
    small, ids = dict(interval=16, ratio=4, recent=8, selector=selector), tiny.prompt(2, 60).cuda()
    model = copy.deepcopy(tiny.tiny()).cuda()
    wanted = fed(model, ids, hf.CompressedCache(model, **small))
    model.forward = torch.compile(model.forward)
    torch.testing.assert_close(fed(model, ids, hf.CompressedCache(model, **small)), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("padded", [False, True])
def test_ragged_attention_at_once_is_that_of_each_head(dtype, padded, monkeypatch):
    attend = pytest.importorskip("lzpenalty.cache.attend")
    hf, tiny = pytest.importorskip("lzpenalty.hf"), pytest.importorskip("tiny")
    model = copy.deepcopy(tiny.tiny(dtype=dtype)).cuda()
    cache = hf.CompressedCache(model, interval=64, ratio=4, recent=8, selector="echo")
    fed(model, tiny.prompt(2, 150).cuda(), cache)
    layer, size = cache.layers[1], 64  # a model's heads are too small for FlashAttention
    assert len({entries for row in cache.stats()["kept_by_head"][1] for entries in row}) > 1
    layer.key_slots, layer.value_slots = (torch.randn(len(layer.key_slots), size, device="cuda", dtype=dtype) for _ in "kv")
    pads = torch.tensor([7, 0], device="cuda") if padded else None
    queries = torch.randn(2, 4, 1, size, device="cuda", dtype=dtype)
    call = attend.Call(None, queries, queries, queries, None, {}, "sdpa")
    if not attend._at_once(call, layer.value_slots):
        pytest.skip("torch has no variable-length attention for this GPU")
    got = attend.attend_heads(call, layer, pads)
    monkeypatch.setattr(attend, "_at_once", lambda *args: False)
    torch.testing.assert_close(got, attend.attend_heads(call, layer, pads), rtol=2e-2, atol=2e-3)


def test_every_device():
    for number in range(torch.cuda.device_count()):
        logits, tokens = torch.zeros(1, 50, device=f"cuda:{number}"), torch.tensor([[1, 2, 1, 2]], device=f"cuda:{number}")
        assert lz_penalize_(logits, tokens).cpu().equal(lz_penalize_(torch.zeros(1, 50), tokens.cpu()))
