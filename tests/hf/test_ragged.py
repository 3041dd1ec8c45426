"""Heads with budgets of their own keep what the definitions say: the tokens that masks over a full cache come to."""

import copy
import inspect
from functools import partial

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, DynamicCache

from lzpenalty.cache import attend, selectors
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.budgets import share
from lzpenalty.cache.layer import Layer
from lzpenalty.cache.ragged import RaggedLayer
from lzpenalty.cache.rotary import examine
from lzpenalty.hf import CompressedCache
from mask_oracle import angles, masked
from tiny import ARCHITECTURES, OWN_SIZES, SIZES, generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
P, C, R = 16, 4, 8
SMALL = dict(interval=P, ratio=C, recent=R)
ECHO = dict(**SMALL, selector="echo")
INTERLEAVED = ("glm", "cohere2")
EAGER = ("gemma2",)  # has a soft cap, which torch's attention lacks


def make(architecture, **changes):
    torch.manual_seed(0)
    sizes = {**SIZES, **OWN_SIZES.get(architecture, {}), "initializer_range": 0.3, **changes}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes)).eval()


def agree(model, ids=None, tokens=80, mask=None, **options):
    """Generates with masks and with the cache: the same tokens, and budgets that the masks' rule came to."""
    ids, options = prompt() if ids is None else ids, {**ECHO, **options}
    rule = {"rule" if name == "selector" else name: value for name, value in options.items()}
    if options["selector"] == "echo":
        rule |= {"angles": angles(model), "interleaved": model.config.model_type in INTERLEAVED}
    with masked(model, **rule) as masks:
        expected = generate(model, ids, tokens, mask)
    with CompressedCache(model, **options) as cache:
        text = generate(model, ids, tokens, mask, **{CACHE_ARGUMENT: cache})
    stats = cache.stats()
    assert torch.equal(text, expected)
    assert stats["compressions"] == masks.compressions > 0
    own = [layer for layer in cache.layers if isinstance(layer, RaggedLayer)]
    since = stats["kept"] - stats["prompt"] - masks.kept(masks.intervals)
    for (layer, head, row), budget in masks.budgets.items():
        entries = next(each for each in own if each.index == layer).entries(row, head)
        assert entries == stats["prompt"] + budget + since
    return cache


# The definitions.


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "gpt_neox", "glm", "cohere2", "smollm3"])
def test_echo_keeps_what_its_definition_says(architecture):
    agree(tiny(architecture, "eager" if architecture in EAGER else "sdpa"))


def test_the_shape_of_gemma3_270m():
    """One key head for four query heads, of 256 numbers; most layers have a sliding window and stay as they are."""
    cache = agree(make("gemma3_text", num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256))
    kept = [isinstance(layer, RaggedLayer) for layer in cache.layers]
    assert kept == [kind == "full_attention" for kind in tiny("gemma3_text").config.layer_types]
    assert len(cache.stats()["kept_by_head"]) == 1


def wrapped(kind):
    """A model whose forward does something with positions before the model's own."""

    class Wrapped(transformers.LlamaForCausalLM):
        def forward(self, input_ids=None, position_ids=None, **kwargs):
            if kind == "drops":
                position_ids = None
            elif kind == "replaces":
                position_ids = torch.zeros_like(position_ids)
            elif kind == "shifts":
                position_ids = position_ids + 7
            elif kind == "prepends":  # as PEFT's prompt tuning does, which drops positions as well
                cache = kwargs[CACHE_ARGUMENT]
                embeddings = self.get_input_embeddings()(input_ids)
                if not cache.get_seq_length():
                    embeddings = torch.cat([embeddings.new_ones(len(embeddings), 7, embeddings.shape[2]), embeddings], 1)
                return super().forward(inputs_embeds=embeddings, **kwargs)
            return super().forward(input_ids=input_ids, position_ids=position_ids, **kwargs)

    torch.manual_seed(0)
    return Wrapped(AutoConfig.for_model("llama", **SIZES)).eval()


@pytest.mark.parametrize("kind", ["drops", "replaces", "shifts", "prepends"])
def test_positions_that_were_not_used_say_nothing(kind):
    """Queries at two positions are the same where the positions were dropped, which does not mean that they don't turn."""
    model = wrapped(kind)
    with pytest.warns(UserWarning, match="how queries of 3 of 3 layers change with their positions was not found out"):
        cache = CompressedCache(model, **ECHO)
    assert cache.selector.keeps_evidence and [layer.rotation.pairs for layer in cache.layers] == ["unknown"] * 3
    assert [turn.pairs for turn in examine(wrapped("nothing")).rotations] == ["half"] * 3


@pytest.mark.parametrize(
    "kind",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=lambda kind: kind["rope_type"],
)  # fmt: skip
def test_queries_are_turned_by_the_models_own_frequencies(kind):
    """Those of a dynamic embedding change as the text grows beyond 64 tokens."""
    rotary = (
        {"rope_scaling": kind} if transformers.__version__ < "5" else {"rope_parameters": {"rope_theta": 10000.0, **kind}}
    )
    model = make("llama", **rotary, max_position_embeddings=64)
    if not torch.equal(generate(model, prompt(), 80), generate(model, prompt(), 80)):
        pytest.skip("this transformers never goes back to a dynamic embedding's frequencies for short texts")
    assert agree(model).stats()["turned"] == ["half"] * 3


@pytest.mark.parametrize(
    "options",
    [{"recent": 1}, {"recent": 14}, {"ratio": 1}, {"ratio": 16}, {"budget": 24}, {"budget": 8}, {"allocation": "even"}],
)
def test_options(options):
    agree(tiny(), **options)


@pytest.mark.parametrize("aggregation", [None, "group"])
@pytest.mark.parametrize("selector", ["rpc", "snapkv"])
def test_other_selectors_share_one_budget(selector, aggregation):
    options = {} if aggregation is None else {"aggregation": aggregation}
    with masked(tiny(), **SMALL, rule=selector) as masks:
        expected = generate(tiny(), prompt(), 80)
    with CompressedCache(tiny(), **SMALL, selector=selector, allocation="global", **options) as cache:
        assert torch.equal(generate(tiny(), prompt(), 80, **{CACHE_ARGUMENT: cache}), expected)
    assert len(set(masks.budgets.values())) > 1


@pytest.mark.parametrize("selector", [*selectors.SELECTORS])
def test_every_selector_can_share_one_budget(selector):
    texts = []
    for _ in range(2):
        with CompressedCache(tiny(), **SMALL, selector=selector, allocation="global") as cache:
            texts.append(generate(tiny(), prompt(), 80, **{CACHE_ARGUMENT: cache}))
    stats = cache.stats()
    assert torch.equal(*texts) and stats["compressions"] == 4
    assert all(sum(sum(layer[row]) for layer in stats["kept_by_head"]) == 3 * 2 * stats["kept"] for row in range(2))


@pytest.mark.parametrize("rivals", [1, 20, 256])
def test_what_queries_look_at_where_they_stand_competes(rivals):
    """Behind a prompt, which has no part in it, and a padded one; by kernels and by torch."""
    ids, mask = prompt(3), torch.ones(3, 20, dtype=torch.int64)
    mask[0, :7] = mask[1, :3] = 0
    with masked(tiny(), **SMALL, angles=angles(tiny()), rivals=rivals) as masks:
        expected = generate(tiny(), ids * mask, 80, mask)
    with CompressedCache(tiny(), **SMALL, selector=selectors.Echo(rivals)) as cache:
        assert torch.equal(generate(tiny(), ids * mask, 80, mask, **{CACHE_ARGUMENT: cache}), expected)
    assert cache.stats()["compressions"] == masks.compressions == 4


def test_rivals_are_a_number():
    for value, error in ((-1, ValueError), (True, TypeError), ("256", TypeError), (None, TypeError)):
        with pytest.raises(error, match="rivals: expected"):
            selectors.Echo(value)


def test_padding_is_never_asked_for():
    ids, mask = prompt(3), torch.ones(3, 20, dtype=torch.int64)
    mask[0, :7] = mask[1, :3] = 0
    for architecture in ("llama", "gemma2"):
        agree(tiny(architecture, "eager" if architecture in EAGER else "sdpa"), ids * mask, mask=mask)


@pytest.mark.parametrize("selector", [*selectors.SELECTORS])
def test_left_padded_rows_are_as_if_alone(selector):
    """Each has a budget of its own, so that its neighbours have no say in what it keeps."""
    ids, mask = prompt(3), torch.ones(3, 20, dtype=torch.int64)
    mask[0, :7] = mask[1, :3] = 0
    options = dict(**SMALL, selector=selector, allocation="global")
    with CompressedCache(tiny(), **options) as cache:
        together = generate(tiny(), ids * mask, 70, mask, **{CACHE_ARGUMENT: cache})
    kept = [columns(cache, row) for row in range(3)]
    for row, pads in enumerate((7, 3, 0)):
        with CompressedCache(tiny(), **options) as cache:
            alone = generate(tiny(), ids[row : row + 1, pads:], 70, **{CACHE_ARGUMENT: cache})
        assert torch.equal(together[row, 20:], alone[0, 20 - pads :])
        assert [[each - pads for each in of_cell[pads:]] for of_cell in kept[row]] == columns(cache, 0)


def columns(cache, row):
    """Which tokens each head of a row has."""
    return [layer.columns_of(row, head).tolist() for layer in cache.layers for head in range(layer.heads)]


def test_other_devices_take_the_same_path_in_torch(monkeypatch):
    for module in ("attend", "layer"):
        monkeypatch.setattr(f"lzpenalty.cache.{module}.is_ours", lambda *states: False)
    mask = (torch.arange(20) >= torch.tensor([[5], [0]])).long()
    agree(tiny(), prompt() * mask, mask=mask)
    agree(tiny("gemma2", "eager"), prompt() * mask, mask=mask)
    several_tokens_at_once("llama")


def variable_length(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, enable_gqa, seqused_k):
    """What torch says of its variable-length attention, which runs on GPUs only, a sequence after the other."""
    assert {index.dtype for index in (cu_seq_q, cu_seq_k, seqused_k)} == {torch.int32} and enable_gqa
    output, group = torch.empty_like(query), query.shape[1] // key.shape[1]
    for i, used in enumerate(seqused_k.tolist()):
        asked, first = slice(*cu_seq_q[i : i + 2].tolist()), cu_seq_k[i]
        assert asked.stop - asked.start <= max_q and 0 < used <= max_k and first + used <= cu_seq_k[i + 1]
        keys, values = (x[first : first + used].repeat_interleave(group, 1).transpose(0, 1) for x in (key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(query[asked].transpose(0, 1), keys, values, scale=scale)
        output[asked] = attended.transpose(0, 1)
    return output


def test_gpus_take_variable_lengths_where_torch_has_them(monkeypatch):
    """What a GPU calls, with the same arguments, computed on the CPU."""
    calls, real = [], attend.varlen_attn

    def attention(*args, **kwargs):
        if real:
            inspect.signature(real).bind(*args, **kwargs)
        calls.append(args[0].shape)
        return variable_length(*args, **kwargs)

    monkeypatch.setattr(attend, "varlen_attn", attention)
    monkeypatch.setattr(attend, "_at_once", lambda call, values: call.new == 1 and not call.softcap)
    for module in ("attend", "layer"):
        monkeypatch.setattr(f"lzpenalty.cache.{module}.is_ours", lambda *states: False)
    mask = (torch.arange(20) >= torch.tensor([[5], [0]])).long()
    agree(tiny(), prompt() * mask, mask=mask)
    agree(tiny("qwen2"), prompt(3))
    several_tokens_at_once("llama")
    assert {(4, 2, 12), (6, 2, 12)} <= set(map(tuple, calls))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """The kernels round once, torch's attention more often: evidence is compared while the texts are the same."""
    model, ids = tiny(dtype=dtype), prompt(2, 60)
    evidence = []
    with masked(model, **SMALL, angles=angles(model)) as masks, torch.no_grad():
        full = DynamicCache(config=model.config)
        for part in (ids[:, :20], *ids[:, 20:43].split(1, 1)):
            model(part, **{CACHE_ARGUMENT: full})
    with CompressedCache(model, **ECHO) as cache, torch.no_grad():
        for part in (ids[:, :20], *ids[:, 20:43].split(1, 1)):
            model(part, **{CACHE_ARGUMENT: cache})
        for layer in cache.layers:
            evidence = torch.cat([torch.cat([cell.evidence for cell in row], 1) for row in layer.cells()])
            assert torch.allclose(evidence[..., 20:], masks.evidence[layer.index][..., 20:].float(), atol=0.05)
        for part in ids[:, 43:].split(1, 1):
            model(part, **{CACHE_ARGUMENT: cache})
    assert cache.stats()["compressions"] == 2


# Several tokens at once, and further turns.


def feed(model, cache, ids):
    with torch.no_grad():
        return model(ids, **{CACHE_ARGUMENT: cache}).logits


def several_tokens_at_once(architecture):
    model, ids = tiny(architecture, "eager" if architecture in EAGER else "sdpa"), prompt(2, 70, 6)
    logits, evidence = [], []
    for at_once in (1, 5, 10):
        with CompressedCache(model, **ECHO) as cache:
            feed(model, cache, ids[:, :20])
            for i in range(20, 50):
                feed(model, cache, ids[:, i : i + 1])
            assert cache.stats()["compressions"] == 1
            parts = [feed(model, cache, ids[:, i : i + at_once]) for i in range(50, 60, at_once)]
        logits.append(torch.cat(parts, 1))
        rows = [row for layer in cache.layers if isinstance(layer, RaggedLayer) for row in layer.cells()]
        evidence.append(torch.cat([cell.evidence.flatten() for row in rows for cell in row]))
    for other in (1, 2):
        assert torch.allclose(logits[0], logits[other], rtol=1e-3, atol=1e-3)
        assert torch.allclose(evidence[0], evidence[other], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3_text"])
def test_several_tokens_at_once_are_as_single_ones(architecture):
    several_tokens_at_once(architecture)


def test_parts_of_any_size_keep_what_the_definition_says():
    """A prompt in two parts, a chunk that is scored in several blocks, and one that makes two compressions due."""
    model, ids = tiny(), prompt(2, 200, 4)
    parts = ids.split([12, 8, 1, 7, 30, 1, 1, 45, 20, 1, 1, 1, 72], dim=1)
    logits = []
    with masked(model, **SMALL, angles=angles(model)) as masks:
        full = DynamicCache(config=model.config)
        logits.append(torch.cat([feed(model, full, part) for part in parts], 1))
    with CompressedCache(model, **ECHO) as cache:
        logits.append(torch.cat([feed(model, cache, part) for part in parts], 1))
    assert cache.stats()["compressions"] == masks.intervals > masks.compressions > 3 and cache.stats()["prompt"] == 20
    assert torch.allclose(*logits, rtol=1e-3, atol=1e-3)


def test_later_turns_with_padding():
    ids, mask = prompt(3), torch.ones(3, 20, dtype=torch.int64)
    mask[0, :7] = mask[1, :3] = 0
    longer = torch.cat([mask, torch.ones(3, 41, dtype=torch.int64)], 1)

    def both_turns(cache):
        text = torch.cat([generate(tiny(), ids * mask, 35, mask, **{CACHE_ARGUMENT: cache}), prompt(3, 6, 9)], 1)
        return generate(tiny(), text, 30, longer, **{CACHE_ARGUMENT: cache})

    with masked(tiny(), **SMALL, angles=angles(tiny())) as masks:
        expected = both_turns(DynamicCache(config=tiny().config))
    with CompressedCache(tiny(), **ECHO) as cache:
        assert torch.equal(both_turns(cache), expected)
    assert cache.stats()["compressions"] == masks.compressions > 2


# As any cache.


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text"])
def test_same_text_when_no_compression_is_due(architecture, attention):
    model = tiny(architecture, attention)
    for kwargs in ({}, {"num_beams": 3}, {"do_sample": True, "top_k": 0, "num_return_sequences": 3}):
        torch.manual_seed(7)
        expected = generate(model, prompt(), 40, **kwargs)
        torch.manual_seed(7)
        with CompressedCache(model, selector="echo", interval=1024) as cache:
            assert torch.equal(generate(model, prompt(), 40, **{CACHE_ARGUMENT: cache}, **kwargs), expected)


@pytest.mark.parametrize("selector", ["echo", "h2o"])
def test_rows_can_be_chosen_at_any_time(selector):
    """Feeding chosen rows is as if they had been chosen from the beginning."""
    tokens = prompt(3, 60, 5)
    changes = {
        "reorder": ([2, 0, 1], lambda cache, rows: cache.reorder_cache(rows)),
        "select": ([2, 0, 0], lambda cache, rows: cache.batch_select_indices(rows)),
        "repeat": ([0, 0, 1, 1, 2, 2], lambda cache, rows: cache.batch_repeat_interleave(2)),
    }
    for at in (0, 1, 20, 21, 27, 28, 45):  # before anything is fed, within the prompt, a block, an interval
        for rows, change in changes.values():
            rows = torch.tensor(rows)
            logits = []
            for chosen_first in (True, False):
                with CompressedCache(tiny(), **SMALL, selector=selector, allocation="global") as cache:
                    for i in range(60):
                        fed = tokens[rows] if chosen_first or i >= at else tokens
                        if i == at and not chosen_first:
                            change(cache, rows)
                        if i in (0, 10):
                            feed(tiny(), cache, fed[:, i : i + 10])
                        elif i >= 20:
                            last = feed(tiny(), cache, fed[:, i : i + 1])
                logits.append(last)
            assert cache.stats()["compressions"] == 2 and torch.allclose(*logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kwargs", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}])
def test_beams_and_samples_run_through_compressions(kwargs):
    torch.manual_seed(0)
    with CompressedCache(tiny(), **ECHO) as cache:
        text = generate(tiny(), prompt(1), 60, **{CACHE_ARGUMENT: cache}, **kwargs)
    assert cache.stats()["compressions"] == 3 and text.shape[1] == 80


def test_copies_go_their_own_ways():
    model = tiny()
    with CompressedCache(model, **ECHO) as cache:
        first = generate(model, prompt(), 41, **{CACHE_ARGUMENT: cache})
        twin = copy.deepcopy(cache)
        text = torch.cat([first, prompt(2, 3, 8)], 1)
        answers = [generate(model, text, 40, **{CACHE_ARGUMENT: each}) for each in (cache, twin)]
    assert torch.equal(*answers) and twin.stats()["compressions"] == cache.stats()["compressions"] == 4


def test_reset_starts_anew():
    with CompressedCache(tiny(), **ECHO) as cache:
        before = generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache})
        cache.reset()
        assert cache.stats()["bytes"] == cache.stats()["seen"] == 0
        assert torch.equal(generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache}), before)


# Memory.


@pytest.mark.parametrize("options", [{}, {"budget": 24}, {"max_new_tokens": 80}])
def test_memory_is_what_the_budgets_say(options):
    model = tiny()
    with CompressedCache(model, **ECHO, **options) as cache:
        generate(model, prompt(), 80, **{CACHE_ARGUMENT: cache})
    stats = cache.stats()
    assert stats["bytes"] == sum(buffer.nbytes for layer in cache.layers for buffer in layer.buffers)
    due = stats["prompt"] + cache.settings.plan.kept(4) + P + R  # a head's entries at the next compression, on average
    due = min(due, stats["seen"] - 79 + 80 - 4 * (P - P // C)) if "max_new_tokens" in options else due
    entry = (12 + 12) * 4 + 4 + 4  # a key, a value, its column, its evidence
    assert stats["bytes"] == 2 * 3 * 2 * due * entry
    for row in range(2):
        assert sum(sum(layer[row]) for layer in stats["kept_by_head"]) == 3 * 2 * stats["kept"]
    for layer, kept in zip(cache.layers, stats["kept_by_head"], strict=True):
        assert layer.key_slots.shape[0] == sum(map(sum, kept)) + 4 * layer.room
        assert layer.lengths.tolist() == kept


def test_prompts_are_never_touched():
    model, full = tiny(), DynamicCache(config=tiny().config)
    feed(model, full, prompt())
    with CompressedCache(model, **ECHO, budget=8) as cache:  # nothing else stays, but the recent
        generate(model, prompt(), 80, **{CACHE_ARGUMENT: cache})
    for layer, expected in zip(cache.layers, full.layers, strict=True):
        for row, cells in enumerate(layer.cells()):
            for head, cell in enumerate(cells):
                assert torch.allclose(cell.keys[0, 0, :20], expected.keys[row, head], atol=1e-5)
                assert torch.allclose(cell.values[0, 0, :20], expected.values[row, head], atol=1e-5)


# Budgets.


def test_shares_are_whole_and_sum_up():
    generator = torch.Generator().manual_seed(0)
    for heads, n, keep in ((5, 9, 3), (4, 7, 2), (3, 5, 5), (7, 11, 1), (2, 4, 0)):
        for levels in (1, 3, 1000):  # many ties, some, few
            scores = [torch.randint(levels, (n,), generator=generator).float() for _ in range(heads)]
            budgets = share(scores, keep)
            assert sum(budgets) == heads * keep and all(0 <= budget <= n for budget in budgets)
            assert share(scores, keep) == budgets
    assert share([torch.tensor([3.0, 2.0]), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])], 1) == [2, 1, 0]
    assert share([torch.zeros(3), torch.ones(1), torch.tensor([2.0, 0])], 1) == [1, 1, 1]  # heads of any length


def test_shares_of_more_than_fits_are_in_proportion():
    """Once more is found than there is room for, it no longer matters how large the scores are."""
    generator = torch.Generator().manual_seed(0)
    for heads, n, keep in ((5, 9, 3), (4, 7, 2), (3, 5, 1), (7, 11, 4)):
        scores = [torch.rand(n, generator=generator) ** (head / 2) for head in range(heads)]
        found = [int((score > 0.5).sum()) for score in scores]
        assert sum(found) > heads * keep
        budgets = share(scores, keep, 0.5)
        assert sum(budgets) == heads * keep
        for budget, count in zip(budgets, found, strict=True):
            exact = count * heads * keep / sum(found)
            assert int(exact) <= budget <= min(int(exact) + 1, count)
        assert share([(score > 0.5).float() + score / 9 for score in scores], keep, 0.5) == budgets
        roomy = sum(found) // heads + 1
        assert share(scores, roomy, 0.5) == share(scores, roomy)
    high = torch.tensor([0.9, 0.9, 0.9, 0.9])
    assert share([high, high * 0.6, torch.zeros(4)], 1) == [3, 0, 0]
    assert share([high, high * 0.6, torch.zeros(4)], 1, 0.5) == [2, 1, 0]
    assert share([high * 0.6, high * 0.6, torch.zeros(4)], 1, 0.5) == [2, 1, 0]


def test_what_many_heads_found_counts_for_more():
    found, agreed = torch.tensor, selectors.Echo().agreed
    one, other = agreed([found([0.4, 0.4, 0.1]), found([0.9, 0.0])], [found([0, 1, 2]), found([1, 3])])
    assert one[1] > one[0] > one[2] and other[0] > 0.9 and other[1] == 0
    same = agreed([found([0.3, 0.0]), found([0.3, 0.0])], [found([5, 6]), found([5, 6])])
    assert [each.tolist() for each in same] == [found([0.3, 0.0]).tolist()] * 2  # what is found alike is as it was


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3))
def test_agreement_changes_neither_what_is_hidden_nor_the_order_in_one_head_alone(seed, heads, scale):
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randperm(40, generator=generator)[: 3 + 5 * head].sort().values for head in range(heads)]
    scores = [torch.rand(len(each), generator=generator) ** scale for each in columns]
    hidden = [torch.rand(len(each), generator=generator) < 0.2 for each in columns]
    scores = [score.masked_fill(of_head, -torch.inf) for score, of_head in zip(scores, hidden, strict=True)]
    agreed = selectors.Echo().agreed(scores, columns)
    for score, after, of_head in zip(scores, agreed, hidden, strict=True):
        assert after.dtype == score.dtype and torch.equal(after == -torch.inf, of_head) and not after.isnan().any()
        assert (after[~of_head] >= 0).all()
    alone = selectors.Echo().agreed(scores[-1:], columns[-1:])[0]
    assert torch.equal(alone.argsort(stable=True), scores[-1].argsort(stable=True))
    nothing = [torch.zeros_like(score) for score in scores]
    assert all(not each.any() for each in selectors.Echo().agreed(nothing, columns))


@pytest.mark.parametrize(("rivals", "crowded"), [(0, 11), (256, 5)])
@pytest.mark.parametrize("rows", [1, 3])
def test_heads_that_find_nearly_all(rows, rivals, crowded):
    """As those of Gemma 3 270M: without rivals there is more than fits at each compression."""
    model = make("llama", initializer_range=0.4)
    with masked(model, **SMALL, angles=angles(model), rivals=rivals) as masks:
        expected = generate(model, prompt(rows), 80)
    with CompressedCache(model, **SMALL, selector=selectors.Echo(rivals)) as cache:
        assert torch.equal(generate(model, prompt(rows), 80, **{CACHE_ARGUMENT: cache}), expected)
    assert masks.compressions == 4 and masks.crowded >= crowded * rows // 3


@pytest.mark.parametrize("found", [0.5, 2.0])
def test_scores_at_a_limit_of_other_selectors(found):
    """All scores are one: a head gets as much as any other if that is at the limit; if not, the first get all."""

    class Ones(selectors.Selector):
        def score(self, layer):
            return torch.ones(layer.keys.shape[0], 1, layer.stop - layer.start)

    Ones.certain = found
    with CompressedCache(tiny(), **SMALL, selector=Ones(), allocation="global") as cache:
        generate(tiny(), prompt(), 40, **{CACHE_ARGUMENT: cache})
    kept = [entries for layer in cache.stats()["kept_by_head"] for entries in layer[0]]
    assert (len(set(kept)) == 1) == (found == 0.5) and sum(kept) == len(kept) * cache.stats()["kept"]


# Refusals.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(interval=None), ValueError, "interval: expected an integer .* got None"),
        (
            dict(interval=None, allocation="even"),
            ValueError,
            "interval: expected an integer with the selector Echo, got None",
        ),
        (
            dict(selector="rpc", interval=None, allocation="global"),
            ValueError,
            "interval: .* allocation is 'global', got None",
        ),
        (dict(allocation="fair"), ValueError, "allocation: expected 'even' or 'global', got 'fair'"),
        (dict(aggregation="layer"), ValueError, "aggregation: expected 'group' where .*, got 'layer'"),
        (dict(ratio=3), ValueError, "interval: expected a multiple of ratio, 3, got 16"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        CompressedCache(tiny(), **{**ECHO, **options})


SPECIAL = [
    ("gpt_oss", "eager", "attention sinks"),
    ("granite_swa", "eager", "attention sinks"),
    ("deepseek_v3", "sdpa", r"latent keys and values \(MLA\)"),
    ("deepseek_v2", "sdpa", r"latent keys and values \(MLA\)"),
]


def caches_latents(model):
    """As models with MLA do from some transformers on. Before, their caches hold the keys of all heads."""
    full = DynamicCache(config=model.config)
    feed(model, full, prompt())
    return full.layers[0].keys.shape[1] == 1 and model.config.num_attention_heads > 1


@pytest.mark.parametrize(("architecture", "attention", "what"), SPECIAL, ids=[name for name, *_ in SPECIAL])
def test_models_with_other_attention_are_refused_by_name_or_served_by_the_paper(architecture, attention, what):
    if architecture not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {architecture}")
    model = tiny(architecture, attention)
    if caches_latents(model):
        for options in ({}, {"selector": "echo"}, {"selector": "rpc"}):
            with pytest.raises(ValueError, match=f"makes others of them .{what}., so that none can be dropped"):
                CompressedCache(model, **SMALL, **options)
        with CompressedCache(model, interval=None) as cache:
            assert torch.equal(generate(model, prompt(), 60, **{CACHE_ARGUMENT: cache}), generate(model, prompt(), 60))
        return
    for options in (
        {"selector": "echo"},
        {"selector": "echo", "allocation": "even"},
        {"selector": "rpc", "allocation": "global"},
    ):
        with pytest.raises(ValueError, match=f"has {what}, which .* use allocation='even' and another selector than 'echo'"):
            CompressedCache(model, **SMALL, **options)
    with pytest.warns(UserWarning, match=f"has {what}, which the selector 'echo' can't serve; 'rpc' is used instead"):
        cache = CompressedCache(model, **SMALL)
    texts = []
    for each in (cache, CompressedCache(model, **SMALL, selector="rpc")):
        with each:
            texts.append(generate(model, prompt(), 60, **{CACHE_ARGUMENT: each}))
        assert each.stats()["compressions"] == 3
    assert torch.equal(*texts)


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("bloom", dict(hidden_size=48, n_layer=1, n_head=4)),  # ALiBi
        ("mpt", dict(d_model=48, n_layers=1, n_heads=4)),
        ("falcon", dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, alibi=True)),
    ],
)
def test_models_with_biases_of_their_own_are_refused(architecture, sizes):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, vocab_size=211, **sizes))
    for options in ({}, {"selector": "rpc"}, {"interval": None}):
        with pytest.raises(ValueError, match=f"{type(model).__name__} does not"):
            CompressedCache(model, **options)


@pytest.mark.parametrize(
    ("option", "what"),
    [("position_bias", "a position bias"), ("indices", "sparse attention"), ("block_indices", "sparse attention")],
)
def test_attention_that_asks_where_keys_stand_is_refused(option, what, monkeypatch):
    """No model of transformers has this in layers whose keys a DynamicCache just collects. Some day one may."""
    model = copy.deepcopy(tiny())
    forward = inspect.unwrap(type(model.model.layers[0].self_attn).forward)
    attention = forward.__globals__["ALL_ATTENTION_FUNCTIONS"]

    def plain(module, *args, **kwargs):
        del kwargs[option]
        return sdpa(module, *args, **kwargs)

    sdpa = attention["sdpa"]
    monkeypatch.setitem(attention._local_mapping, "sdpa", plain)
    monkeypatch.setattr(model, "forward", partial(model.forward, **{option: torch.zeros(1)}))
    for options in ({}, {"selector": "rpc"}):
        with pytest.raises(
            ValueError, match=f"doesn't ask where keys stand, LlamaForCausalLM has {what}.* use interval=None"
        ):
            CompressedCache(model, **options)
    CompressedCache(model, interval=None)


def test_the_default_is_echo_wherever_it_can_be_had():
    for architecture in ("llama", "gemma3_text"):
        model = tiny(architecture)
        texts = []
        for options in ({}, {"selector": "echo"}):
            with CompressedCache(model, **SMALL, **options) as cache:
                texts.append(generate(model, prompt(), 60, **{CACHE_ARGUMENT: cache}))
            assert cache.stats()["compressions"] == 3 and "kept_by_head" in cache.stats()
        assert torch.equal(*texts)
    assert "kept_by_head" not in CompressedCache(tiny(), interval=None).stats()
    with pytest.raises(ValueError, match="aggregation: expected 'group' where allocation is 'global', got 'layer'"):
        CompressedCache(tiny(), aggregation="layer")


def test_queries_that_cannot_be_turned_are_said_to_be_used_as_they_are():
    with pytest.warns(UserWarning, match="GPT2LMHeadModel: how queries of 3 of 3 layers change with their positions"):
        cache = CompressedCache(tiny("gpt2"), **ECHO)
    assert cache.stats()["turned"] == ["unknown"] * 3
    with cache:
        generate(tiny("gpt2"), prompt(), 60, **{CACHE_ARGUMENT: cache})
    assert cache.stats()["compressions"] == 3


def test_looking_for_rotations_leaves_the_model_as_it_is():
    model = make("llama", rope_parameters={"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 2.0})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = generate(model, prompt(), 20)
    examine(model)
    assert torch.equal(generate(model, prompt(), 20), expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("where", ["lzpenalty.cache.ragged.select_top", "lzpenalty.cache.selectors.echo.echo_heads",
                                   "lzpenalty.cache.attend.attend", "lzpenalty.cache.budgets.share"])  # fmt: skip
def test_an_interrupted_forward_breaks_the_cache(where, monkeypatch):
    def fail(*args, **kwargs):
        raise Interrupted

    with CompressedCache(tiny(), **ECHO) as cache:
        text = generate(tiny(), prompt(), 30, **{CACHE_ARGUMENT: cache})
        with monkeypatch.context() as patch:
            patch.setattr(where, fail)
            with pytest.raises(Interrupted):
                generate(tiny(), text, 30, **{CACHE_ARGUMENT: cache})
        with pytest.raises(RuntimeError, match="an earlier forward ended before all layers were done"):
            generate(tiny(), text, 30, **{CACHE_ARGUMENT: cache})
        cache.reset()
        generate(tiny(), prompt(), 30, **{CACHE_ARGUMENT: cache})


def test_records_are_kept_by_head():
    with CompressedCache(tiny(), **SMALL, selector=selectors.Recorder(selectors.Echo())) as cache:
        generate(tiny(), prompt(), 60, **{CACHE_ARGUMENT: cache})
    assert isinstance(cache.layers[0], Layer) and len(cache.selectors) == 3 * 2 * 2
    for row in range(2):
        assert sum(recorder.history[-1].shape[2] for recorder in cache.selectors_of(row)) == 3 * 2 * 3 * P // C
