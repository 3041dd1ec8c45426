"""Heads with lengths of their own in vLLM's blocks, without vLLM: who owns what, what is asked, what stays."""

import copy
import random as chances
import statistics
import sys
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import attention_scores, echo_scores_
from lzpenalty._core import echo_blocks_
from lzpenalty.cache.plan import Plan
from lzpenalty.cache.selectors import SELECTORS
from lzpenalty.vllm.compressor import Compressor
from lzpenalty.vllm.echo import Turning, asks, compress, find_turning, raise_by_torch
from lzpenalty.vllm.heads import Heads, Pool, make_pool
from lzpenalty.vllm.options import CacheOptions, ServerOptions
from lzpenalty.vllm.plan import HeadPlan, request_plan


@st.composite
def plans(draw):
    ratio = draw(st.sampled_from([1, 2, 4]))
    interval = ratio * draw(st.integers(2, 16))
    recent = draw(st.integers(1, interval - 1))
    budget = draw(st.none() | st.integers(recent, recent + 40))
    plan = Plan(interval=interval, ratio=ratio, recent=recent, budget=budget)
    return request_plan(draw(st.integers(1, 50)), CacheOptions(plan, selector="echo"), draw(st.sampled_from([2, 4, 16])))


@st.composite
def pools(draw, tokens, blocks):
    """Sub-blocks in either order of memory, which hold names of entries in the place of keys."""
    layers, heads = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    if draw(st.booleans()):  # blocks outermost
        pool = Pool([heads * i for i in range(layers)], layers * heads, 1, heads, tokens, blocks * layers * heads)
    else:
        pool = Pool([blocks * heads * i for i in range(layers)], heads, 1, heads, tokens, blocks * layers * heads)
    pool.cache = torch.full((pool.count, tokens), -1)
    return pool


class Request:
    """A request whose heads keep what chance says, and the entries that each should have."""

    def __init__(self, pool, plan, free, chance):
        self.pool, self.plan, self.free, self.chance = pool, plan, free, chance
        self.heads, self.row, self.computed = Heads(pool, plan.prompt), [], 0
        self.entries = {(i, j): [] for i in range(pool.layers) for j in range(pool.heads)}

    def step(self, new):
        plan, heads, tokens = self.plan, self.heads, self.pool.tokens
        after = self.computed + new
        while len(self.row) < plan.blocks(after):
            self.row.append(self.free.pop())
        heads.grow(self.row, plan.blocks(after))
        for (i, j), entries in self.entries.items():
            for token in range(self.computed, after):
                at = len(entries)
                assert at // tokens < heads.count[i, j], "no room"
                self.pool.cache[heads.table[i, j, at // tokens], at % tokens] = token
                entries.append(token)
        heads.length += new
        self.computed = after
        if after == plan.boundary(after - 1):
            self.compress()

    def compress(self):
        plan, heads, pool = self.plan, self.heads, self.pool
        recent = plan.options.plan.recent
        regions = {at: len(entries) - plan.prompt - recent for at, entries in self.entries.items()}
        left, budgets = plan.kept(self.computed) * len(regions), dict.fromkeys(regions, 0)
        while left:  # unevenly
            at = self.chance.choice([at for at in regions if budgets[at] < regions[at]])
            more = min(left, regions[at] - budgets[at], self.chance.randint(1, 9))
            budgets[at] += more
            left -= more
        for (i, j), entries in self.entries.items():
            end = len(entries) - recent
            stays = sorted(self.chance.sample(range(plan.prompt, end), budgets[i, j]))
            entries[plan.prompt :] = [entries[at] for at in stays] + entries[end:]
            for at, token in enumerate(entries[plan.prompt :], plan.prompt):
                pool.cache[heads.table[i, j, at // pool.tokens], at % pool.tokens] = token
            heads.length[i, j] = len(entries)
        prompt = pool.of_blocks(self.row[: plan.prompt // pool.tokens]).flatten()
        before = pool.cache[prompt]
        heads.shrink(plan.blocks_left(self.computed))
        assert torch.equal(pool.cache[prompt], before)  # others may have them as well
        for block in self.row[plan.blocks_left(self.computed) :]:
            pool.cache[pool.of_blocks([block])] = -7  # as others will
            self.free.append(block)
        del self.row[plan.blocks_left(self.computed) :]
        self.chance.shuffle(self.free)

    def check(self):
        """No sub-block has two owners or is another request's, and none is lost."""
        heads, pool = self.heads, self.pool
        owned = [heads.table[at][: heads.count[at]].tolist() for at in self.entries]
        flat = sorted(block for blocks in owned for block in blocks)
        mine = set(pool.of_blocks(self.row).flatten().tolist())
        shared = set(pool.of_blocks(self.row[: self.plan.prompt // pool.tokens]).flatten().tolist())
        assert len(flat) == len(set(flat)) and set(flat) <= mine and mine - set(flat) <= shared
        slots, there = heads.slots(0, heads.length)
        for (i, j), entries in self.entries.items():
            assert pool.cache.view(-1)[slots[i, j][there[i, j]]].tolist() == entries


@given(plans(), st.data(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_each_sub_block_has_one_owner_whatever_heads_keep(plan, data, seed):
    chance = chances.Random(seed)
    total = plan.prompt + data.draw(st.integers(1, 5)) * plan.options.plan.interval + 2 * plan.options.plan.recent
    most = -(-plan.peak(total) // plan.block)
    assert most <= -(-total // plan.block)
    pool = data.draw(pools(plan.block, most + 2))
    free = list(range(most + 2))
    chance.shuffle(free)
    request = Request(pool, plan, free, chance)
    while request.computed < total:
        left = min(plan.boundary(request.computed), total) - request.computed
        request.step(1 if chance.random() < 0.7 else chance.randint(1, left))
        assert len(request.row) <= most
    request.check()
    for _ in range(3):
        request.step(1)
        request.check()


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.sampled_from([4, 8]), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_evidence_in_blocks_is_that_of_keys_side_by_side(heads, group, queries, tokens, seed):
    """For the entries behind `start`, of heads with lengths and blocks of their own; also by torch."""
    generator, chance = torch.Generator().manual_seed(seed), chances.Random(seed)
    size, blocks = 8, 24
    lengths = torch.tensor([chance.randint(0, 30) for _ in range(heads)])
    start = chance.randint(0, 12)
    order = chance.sample(range(blocks), blocks)
    table, taken = torch.zeros(heads, 8, dtype=torch.int64), 0
    for head, length in enumerate(lengths.tolist()):
        needed = -(-length // tokens)
        table[head, :needed] = torch.tensor(order[taken : taken + needed])
        taken += needed
    if taken > blocks:
        return
    keys = torch.randn(blocks, 1, size, tokens, generator=generator).transpose(2, 3)  # as CPUs store them
    turned, asked = torch.randn(2, 1, heads * group, queries, size, generator=generator)
    rivals = chance.choice([None, 0, 2, 256])
    evidence = (torch.rand(blocks, 2 * tokens, generator=generator) / 4)[:, :tokens]  # rows apart
    expected = evidence.clone()
    for head, length in enumerate(lengths.tolist()):
        if not length:
            continue
        at = torch.arange(length)
        slots = table[head, at // tokens] * tokens + at % tokens
        beside = keys.transpose(1, 2).reshape(-1, size)[slots].contiguous()
        found = torch.zeros(length)
        run = torch.tensor([[length]])
        of_group = slice(head * group, (head + 1) * group)
        nearby = {} if rivals is None else dict(asked=asked[:, of_group], window=rivals, start=start)
        echo_scores_(found, turned[:, of_group], beside, starts=0 * run, lengths=run, scale=0.5, **nearby)
        flat = expected.view(-1)
        flat[slots[start:]] = torch.maximum(flat[slots[start:]], found[start:])
    got, by_torch = torch.zeros(blocks, 2 * tokens), evidence.clone()
    got[:, :tokens] = evidence
    whole, got = got, got[:, :tokens]
    nearby = {} if rivals is None else dict(asked=asked, window=rivals)
    echo_blocks_(got, turned, keys, table, lengths[None], start=start, scale=0.5, **nearby)
    assert torch.equal(got, expected) and not whole[:, tokens:].any()
    if lengths.min() > 0 and rivals is not None:
        pool = SimpleNamespace(tokens=tokens, keys=keys, evidence=by_torch)
        raise_by_torch(pool, table, lengths, turned, asked, start, 0.5, rivals)
        torch.testing.assert_close(by_torch, expected, rtol=1e-4, atol=1e-6)


def test_bad_arguments_of_evidence_in_blocks():
    good = dict(
        evidence=torch.zeros(4, 2), queries=torch.zeros(1, 2, 1, 8), keys=torch.zeros(4, 1, 2, 8),
        blocks=torch.tensor([[0, 1], [2, 3]]), lengths=torch.tensor([[4, 3]]), start=0,
    )  # fmt: skip
    echo_blocks_(**good | {"evidence": good["evidence"].clone()})
    for changes, message in (
        ({"evidence": torch.zeros(8)}, r"evidence: expected shape \[blocks, tokens\]"),
        ({"evidence": torch.zeros(4, 3)}, "evidence: expected"),
        ({"evidence": torch.zeros(4, 2, dtype=torch.float64)}, "evidence: expected"),
        ({"keys": torch.zeros(4, 2, 2, 8)}, "keys: expected"),
        ({"queries": torch.zeros(1, 3, 1, 8)}, "queries: expected a multiple of the 2 heads of blocks, got 3"),
        ({"queries": torch.zeros(2, 2, 1, 8)}, "queries: expected"),
        ({"queries": torch.zeros(1, 2, 0, 8)}, "queries: expected at least one token"),
        ({"blocks": torch.tensor([[0, 1], [2, 4]])}, r"blocks: expected blocks in \[0, 4\), got 4 at \[1, 1\]"),
        ({"lengths": torch.tensor([[4, 5]])}, "lengths: expected"),
        ({"lengths": torch.tensor([[4, -1]])}, "lengths: expected"),
        ({"keys": torch.full((4, 1, 2, 8), torch.nan)}, "expected finite numbers"),
        ({"asked": torch.full((1, 2, 1, 8), torch.inf)}, "expected finite numbers"),
        ({"asked": torch.zeros(1, 2, 2, 8)}, "asked: expected as many tokens as queries, 1, got 2"),
        ({"asked": torch.zeros(1, 2, 1, 8).half()}, "asked: expected the dtype of queries"),
        ({"window": -1}, "window: expected"),
    ):
        evidence = changes.get("evidence", good["evidence"]).clone()
        with pytest.raises((TypeError, ValueError), match=message):
            echo_blocks_(**good | changes | {"evidence": evidence})
        assert not evidence.any()


def test_evidence_may_lie_backwards():
    """As NumPy has it; nothing before or behind it is written."""
    queries, keys = np.ones((1, 1, 1, 8), np.float32), np.ones((4, 1, 2, 8), np.float32)
    memory = np.zeros((12, 2), np.float32)
    evidence = memory[4:8][::-1]
    echo_blocks_(evidence, queries, keys, np.array([[0, 1]]), np.array([[4]]), start=0)
    assert (evidence[:2] == 0.25).all() and np.count_nonzero(memory) == 4


@given(plans(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_block_of_queries_is_asked_once_whatever_the_steps(plan, seed):
    """Of queries that are the numbers of their tokens, through a ring that holds one more than the newest."""
    chance, recent = chances.Random(seed), plan.options.plan.recent
    total, ring, found = plan.prompt + 5 * recent + 3, torch.full((recent + 1, 1, 2), -1.0), []
    before = 0
    while before < total:
        after = min(total, before + chance.choice([1, 1, 2, recent, chance.randint(1, 3 * recent)]))
        queries = torch.arange(before, after)[:, None, None] + torch.zeros(1, 1, 2)
        padded = torch.cat([torch.full((2, 1, 2), torch.nan), queries, torch.full((2, 1, 2), torch.nan)])
        ask = asks(None, plan, before, after, 2, 0, None)
        if ask:
            stream = torch.cat([ring[ask.held], padded[ask.rows]])[:, 0, 0].long().tolist()
            for i, behind in enumerate(ask.behind):
                found.append((after - behind, stream[i * recent : (i + 1) * recent + 1]))
        for token in range(max(before, plan.prompt - 1, after - recent - 1), after):
            ring[(token - plan.prompt + 1) % (recent + 1)] = token
        before = after
    ends = range(plan.prompt + recent, total + 1, recent)
    assert found == [(end, list(range(end - recent - 1, end))) for end in ends]


class Rotary(torch.nn.Module):
    """As vLLM's: neighbours or halves are pairs, and what is rotated is multiplied with a factor."""

    def __init__(self, is_neox_style, size=8, scale=1.0, told=None, base=10.0):
        super().__init__()
        self.head_size, self.is_neox_style, self.scale, self.base = 10, is_neox_style, scale, base
        self.told = is_neox_style if told is None else told
        self.cos_sin_cache = self._compute_cos_sin_cache(size)

    def _compute_cos_sin_cache(self, size=8):
        angles = torch.arange(200)[:, None] * self.base ** -torch.linspace(0, 1, size // 2)
        return self.scale * torch.cat([angles.cos(), angles.sin()], dim=1)

    def forward_native(self, positions, query, key):
        cos, sin = self.cos_sin_cache[positions].chunk(2, dim=1)
        size = 2 * cos.shape[1]
        paired, rest = query[:, :size], query[:, size:]
        a, b = paired.chunk(2, dim=1) if self.told else (paired[:, ::2], paired[:, 1::2])
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=1 if self.told else 2).flatten(1)
        return torch.cat([turned, rest], dim=1), None


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_queries_are_turned_as_the_model_turns_them(halves, scale):
    rotary = Rotary(halves, scale=scale)
    turning = find_turning(torch.nn.ModuleList([rotary, rotary]))
    plain, interval, recent = torch.randn(5, 10), 24, 4
    now, later = torch.arange(40, 45), torch.full((5,), 45 + interval)
    before, after = (rotary.forward_native(positions, plain, None)[0] for positions in (now, later))
    torch.testing.assert_close(turning(before[None], interval, recent)[0], after, rtol=1e-4, atol=1e-5)


def test_models_whose_queries_can_not_be_turned_are_refused():
    for module, message in (
        (torch.nn.Linear(2, 2), "needs a model with a rotary embedding, got one without"),
        (torch.nn.ModuleList([Rotary(True), Rotary(True, base=20.0)]), "one rotary embedding, got several that differ"),
        (Rotary(True, told=False), "does not know how Rotary rotates queries: it turned one otherwise"),
    ):
        with pytest.raises(ValueError, match=message):
            find_turning(module)


def test_caches_that_are_no_sub_blocks_are_refused():
    storage = torch.zeros(2 * 3 * 2 * 4 * 8)
    layer = lambda cache: SimpleNamespace(kv_cache=cache)  # noqa: E731
    token_major = storage.view(2, 3, 4, 2, 8).transpose(2, 3)
    for caches in (list(token_major), [storage[:192].view(3, 2, 4, 8), torch.zeros(3, 2, 4, 8)]):
        with pytest.raises(ValueError, match="needs layers that are alike, in one allocation, in which a head's tokens lie"):
            make_pool([layer(cache) for cache in caches])


def test_what_is_found_again_stays_whatever_head_it_is_in():
    """One head has found much, the other nothing: the first keeps all that both may."""
    options = CacheOptions(Plan(interval=8, ratio=2, recent=2), selector="echo", kernel=1)
    plan = HeadPlan(3, options, 4)
    pool = Pool([0], 2, 1, 2, 4, 20)
    pool.cache = torch.randn(20, 1, 4, 16)
    pool.keys, pool.values = pool.cache.chunk(2, dim=3)
    heads = Heads(pool, 3)
    heads.length += 13
    heads.grow([1, 3, 5, 7], 4)
    slots, _ = heads.slots(3, heads.length)
    flat = pool.evidence.view(-1)
    flat[slots[0, 0, :8]] = torch.linspace(0.1, 0.4, 8)
    held = [pool.keys[heads.table[0, h], 0].flatten(0, 1)[:13].clone() for h in range(2)]
    compress(pool, heads, plan, 13, [torch.randn(2, 2, 8)], [1.0])
    assert heads.length.tolist() == [[13, 5]] and heads.uneven
    assert len(heads.blocks) == plan.blocks_left(13) == 3
    for h, stays in ((0, list(range(13))), (1, [0, 1, 2, 11, 12])):
        now = pool.keys[heads.table[0, h], 0].flatten(0, 1)[: len(stays)]
        assert torch.equal(now, held[h][stays])
    slots, there = heads.slots(3, heads.length)
    torch.testing.assert_close(flat[slots[0, 0]][:8], torch.linspace(0.1, 0.4, 8))
    assert flat.count_nonzero() == 8


def test_turning_tables_are_made_once():
    turning = Turning(torch.rand(90, 2), torch.rand(90, 2), "half")
    assert turning.table(8, 4) is turning.table(8, 4) and turning.table(8, 4)[0].shape == (5, 2)


# ---- steps of several requests

LAYERS, HEADS, GROUP, SIZE, BLOCK, SCALE = 2, 2, 2, 8, 4, 0.4
FREQUENCIES = torch.tensor([1.0, 0.3, 0.1, 0.02])


class Attention:
    """A backend of paged attention, in as many words."""

    num_heads, num_kv_heads, head_size, scale = HEADS * GROUP, HEADS, SIZE, SCALE

    def do_kv_cache_update(self, layer, key, value, cache, slots):
        cache[slots // BLOCK, :, slots % BLOCK] = torch.cat([key, value], dim=-1)

    def forward(self, layer, query, key, value, cache, metadata, output):
        assert cache.shape[1] == self.num_kv_heads and query.shape[1] == self.num_heads == output.shape[1]
        for i, length in enumerate(metadata.seq_lens.tolist()):
            first, last = metadata.query_start_loc[i : i + 2].tolist()
            at = torch.arange(length)
            held = cache[metadata.block_table_tensor[i, at // BLOCK].long(), :, at % BLOCK].transpose(0, 1)
            output[first:last] = attended(query[first:last], held[..., :SIZE], held[..., SIZE:])


def attended(queries, keys, values):
    """Of the newest tokens [q, Hq, D] to all entries [H, n, D] of the heads up to their own."""
    new, held = queries.shape[0], keys.shape[1]
    keys, values = (states.repeat_interleave(queries.shape[1] // len(keys), 0) for states in (keys, values))
    later = torch.ones(new, held, dtype=torch.bool).triu(held - new + 1)
    products = (queries.transpose(0, 1) @ keys.mT * SCALE).masked_fill(later, -torch.inf)
    return (products.softmax(-1) @ values).transpose(0, 1)


class Builder:
    num_heads, num_kv_heads = HEADS * GROUP, HEADS

    def build(self, common_prefix_len, common):
        assert (self.num_heads, self.num_kv_heads) == (GROUP, 1)
        assert common.num_actual_tokens == common.query_start_loc[-1] and common.max_seq_len == common.seq_lens.max()
        return common


class Told:
    """A request, with what each head should hold by the rule's definition, one entry at a time."""

    def __init__(self, name, rule, prompt, total, plan, seed):
        self.request_id, self.rule, self.prompt, self.total = name, rule, prompt, total
        self.extra = rule and {
            "cache_selector": rule, "cache_interval": plan.interval, "cache_ratio": plan.ratio, "cache_recent": plan.recent,
            "cache_budget": plan.budget, "cache_kernel": 3,
        }  # fmt: skip
        options = CacheOptions(plan, kernel=3, selector=rule) if rule else None
        self.plan = request_plan(prompt, options, BLOCK) if rule else None
        generator = torch.Generator().manual_seed(seed)
        self.queries = torch.randn(LAYERS, total, HEADS * GROUP, SIZE, generator=generator)
        self.keys, self.values = torch.randn(2, LAYERS, total, HEADS, SIZE, generator=generator)
        self.begin()

    def begin(self):
        self.computed, self.row, self.sent = 0, [], 0
        self.held = [[[] for _ in range(HEADS)] for _ in range(LAYERS)]
        self.evidence = [[{} for _ in range(HEADS)] for _ in range(LAYERS)]

    def blocks(self, after):
        return -(-(self.plan.slots(after) if self.plan else after) // BLOCK)

    def output(self, layer, before, after):
        """What attention should say of these tokens, which the heads then hold."""
        found = []
        for head in range(HEADS):
            held = self.held[layer][head]
            held += range(before, after)
            group = slice(head * GROUP, (head + 1) * GROUP)
            keys, values = (states[layer, held, head][None] for states in (self.keys, self.values))
            found.append(attended(self.queries[layer, before:after, group], keys, values))
        return torch.cat(found, dim=1)

    def ask(self, end):
        """The last R + 1 queries before `end`, an interval later. What each sees where it stands, behind the prompt, of text
        that is shorter than how far they look back, gets no evidence."""
        recent, later = self.plan.options.plan.recent, end + self.plan.options.plan.interval
        for layer in range(LAYERS):
            for head in range(HEADS):
                held = [token for token in self.held[layer][head] if token < end]
                for token in range(end - recent - 1, end):
                    rivals = [other for other in held if self.prompt <= other <= token]
                    for query in self.queries[layer, token, head * GROUP : (head + 1) * GROUP]:
                        pairs = torch.complex(query[: SIZE // 2], query[SIZE // 2 :])
                        pairs = pairs * torch.exp(1j * (later - token) * FREQUENCIES)
                        turned = torch.cat([pairs.real, pairs.imag])
                        products = self.keys[layer, held, head] @ turned, self.keys[layer, rivals, head] @ query
                        shares = (SCALE * torch.cat(products)).softmax(0)[: len(held)].tolist()
                        for entry, share in zip(held, shares, strict=True):
                            was = self.evidence[layer][head].get(entry, 0)
                            self.evidence[layer][head][entry] = max(was, share)

    def compress(self):
        recent, keep = self.plan.options.plan.recent, self.plan.kept(self.computed)
        heads = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
        region = {(i, h): [t for t in self.held[i][h] if self.prompt <= t < self.computed - recent] for i, h in heads}
        if self.rule == "echo":
            score = {at: [self.evidence[at[0]][at[1]].get(token, 0) for token in region[at]] for at in heads}
            said = {}
            for at in heads:
                for token, share in zip(region[at], score[at], strict=True):
                    said[token] = said.get(token, 0) + share**0.5
            mean = statistics.mean(each for each in said.values() if each)
            score = {
                at: [share * said[token] / mean for token, share in zip(region[at], score[at], strict=True)] for at in heads
            }
            found = {at: sum(share > 0.1 for share in score[at]) for at in heads}
            if sum(found.values()) > keep * len(heads):  # as large a part of each
                whole = sum(found.values())
                exact = {at: found[at] * keep * len(heads) / whole for at in heads}
                budget = {at: int(exact[at] + 1e-9) for at in heads}
                rest = keep * len(heads) - sum(budget.values())
                for at in sorted(heads, key=lambda at: -round(exact[at] - budget[at], 9))[:rest]:
                    budget[at] += 1
            else:
                ranked = sorted((-share, at, n) for at in heads for n, share in enumerate(score[at]))[: keep * len(heads)]
                budget = {at: sum(of == at for _, of, _ in ranked) for at in heads}
            for i, h in heads:
                if found[i, h] > budget[i, h] > 0:
                    padded = [0, *score[i, h], 0]
                    score[i, h] = [max(padded[n : n + 3]) for n in range(len(region[i, h]))]
                    if budget[i, h] >= 4:
                        for n in self.newest(i, h, region[i, h], budget[i, h] // 4):
                            score[i, h][n] = 9
        else:
            budget = dict.fromkeys(heads, keep)
            score = {}
            for i in range(LAYERS):
                own = torch.stack([self.keys[i, region[i, h], h] for h in range(HEADS)])[None]
                asked = self.queries[i, self.computed - recent : self.computed].transpose(0, 1)[None]
                found = attention_scores(asked, own, start=0, stop=own.shape[2], scale=SCALE, kernel=3)[0, 0].tolist()
                score |= {(i, h): found for h in range(HEADS)}
        for i, h in heads:
            order = sorted(range(len(region[i, h])), key=lambda n: (-score[i, h][n], n))[: budget[i, h]]
            stays = {region[i, h][n] for n in order}
            self.held[i][h] = [t for t in self.held[i][h] if t < self.prompt or t >= self.computed - recent or t in stays]

    def newest(self, layer, head, region, count):
        """The entries that the newest queries look at most."""
        recent = self.plan.options.plan.recent
        asked = self.queries[layer, self.computed - recent : self.computed, head * GROUP : (head + 1) * GROUP]
        own = self.keys[layer, region, head][None, None]
        found = attention_scores(asked.transpose(0, 1)[None], own, start=0, stop=len(region), scale=SCALE, kernel=3)
        found = found.flatten().tolist()
        return sorted(range(len(region)), key=lambda n: (-found[n], n))[:count]

    def step(self, after):
        """The rest of what is done once all layers have attended."""
        before, self.computed = self.computed, after
        if not self.plan:
            return
        recent = self.plan.options.plan.recent
        if self.rule == "echo":
            for end in range(max(before, self.prompt) + 1, after + 1):
                if end > self.prompt and (end - self.prompt) % recent == 0:
                    self.ask(end)
        if after == self.plan.boundary(after - 1):
            self.compress()


def to_schedule(requests, chance):
    """(request, tokens) of a step."""
    for request in requests:
        left = request.total - request.computed
        if not left or chance.random() < 0.2:
            continue
        if request.plan:
            left = min(left, request.plan.boundary(request.computed) - request.computed)
        behind = request.computed >= request.prompt
        yield request, 1 if behind and chance.random() < 0.7 else chance.randint(1, left)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["echo", "echo", "rpc", None]), st.integers(1, 12), st.integers(1, 60),
            st.builds(
                lambda part, ratio, recent, more: Plan(
                    part * ratio, ratio, min(recent, part * ratio - 1), None if more is None else recent + more
                ),
                st.integers(2, 6), st.sampled_from([1, 2, 4]), st.integers(1, 7), st.none() | st.integers(0, 12),
            ),
        ),
        min_size=1, max_size=3,
    ),
    st.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_attention_is_to_what_the_definition_keeps(drawn, seed):
    """Requests with echo, an even rule or none in one batch, in steps of one token and more, some of them begun anew. Keys
    are in places that others had."""
    chance = chances.Random(seed)
    requests = [
        Told(f"r{i}", rule, prompt, prompt + generated, plan, seed % 1000 + i)
        for i, (rule, prompt, generated, plan) in enumerate(drawn)
    ]
    free = list(range(1, sum(-(-request.total // BLOCK) for request in requests) + 1))
    memory = torch.full((LAYERS, len(free) + 1, HEADS, BLOCK, 2 * SIZE), 3.0)
    layers = [SimpleNamespace(impl=Attention(), kv_cache=memory[i]) for i in range(LAYERS)]
    compressor = Compressor(ServerOptions({}, slots=len(requests), most_recent=8), 200, torch.float32, torch.device("cpu"))
    compressor.make_rings(layers)
    angles = torch.arange(200)[:, None] * FREQUENCIES
    compressor.bind(layers, copy.copy(Builder()), Turning(angles.cos(), angles.sin(), "half"))
    known, finished, exploded = set(), set(), 0
    common = SimpleNamespace(CommonAttentionMetadata=SimpleNamespace)
    with mock.patch.dict(sys.modules, {"vllm.v1.attention.backend": common}):
        for _ in range(400):
            preempted, cut = set(), {}
            for request in requests:
                if request.computed and request.computed < request.total and chance.random() < 0.02:
                    preempted.add(request.request_id)
                    free += request.row
                    request.begin()
                    known.discard(request.request_id)
            chance.shuffle(free)
            step = list(to_schedule(requests, chance))
            if not step and all(request.computed == request.total for request in requests):
                break
            news, cached = [], SimpleNamespace(req_ids=[], new_block_ids=[], resumed_req_ids=set())
            for request, new in step:
                after = request.computed + new
                if request.plan and request.plan.dropped(request.computed):
                    keep = -(-request.plan.held(request.computed, request.computed) // BLOCK)
                    if keep < len(request.row):
                        cut[request.request_id] = keep
                        free += request.row[keep:]
                        del request.row[keep:]
                had = len(request.row)
                while len(request.row) < request.blocks(after):
                    request.row.append(free.pop(0))
                if request.request_id in known:
                    cached.req_ids.append(request.request_id)
                    cached.new_block_ids.append((request.row[had:],) if had < len(request.row) else None)
                else:
                    known.add(request.request_id)
                    news.append(SimpleNamespace(
                        req_id=request.request_id, prompt_len=request.prompt, block_ids=(list(request.row),),
                        sampling_params=SimpleNamespace(extra_args=request.extra),
                    ))  # fmt: skip
            compressor.remember(SimpleNamespace(
                finished_req_ids=finished, preempted_req_ids=preempted, scheduled_new_reqs=news,
                scheduled_cached_reqs=cached, cache_truncated=cut,
            ))  # fmt: skip
            finished = set()
            if not step:
                continue
            names, computed, counts = zip(*((r.request_id, r.computed, new) for r, new in step), strict=True)
            dropped = compressor.begin(names, computed, counts)
            dropped = [0] * len(step) if dropped is None else dropped.tolist()
            exploded += compressor.explosion.active
            width = max(len(request.row) for request, _ in step)
            rows = torch.tensor([request.row + [0] * (width - len(request.row)) for request, _ in step])
            ends = [request.computed + new - gone for (request, new), gone in zip(step, dropped, strict=True)]
            slots = [
                int(rows[i, min(at // BLOCK, width - 1)]) * BLOCK + at % BLOCK
                for i, ((_, new), end) in enumerate(zip(step, ends, strict=True))
                for at in range(end - new, end)
            ]
            metadata = SimpleNamespace(
                seq_lens=torch.tensor(ends), query_start_loc=torch.tensor([0, *counts]).cumsum(0), block_table_tensor=rows
            )
            for i, layer in enumerate(layers):
                parts = [
                    torch.cat(
                        [states[i, r.computed : r.computed + new] for r, new in step for states in (getattr(r, name),)]
                    )
                    for name in ("queries", "keys", "values")
                ]
                layer.impl.do_kv_cache_update(layer, *parts[1:], layer.kv_cache, torch.tensor(slots))
                output = torch.empty_like(parts[0])
                layer.impl.forward(layer, *parts, layer.kv_cache, metadata, output=output)
                expected = torch.cat([r.output(i, r.computed, r.computed + new) for r, new in step])
                torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
            compressor.end(lambda i: rows[i])  # noqa: B023
            for request, new in step:
                request.step(request.computed + new)
                if request.computed == request.total:
                    finished.add(request.request_id)
                    free += request.row
                    request.row = []
        compressor.remember(SimpleNamespace(
            finished_req_ids=finished, preempted_req_ids=None, scheduled_new_reqs=[],
            scheduled_cached_reqs=SimpleNamespace(req_ids=[], new_block_ids=[], resumed_req_ids=set()),
        ))  # fmt: skip
    assert compressor.statistics()["requests"] == compressor.statistics()["windows"] == 0
    first = [r.prompt + r.plan.options.plan.next_due(0) for r in requests if r.rule == "echo"]
    assert bool(exploded) == any(
        due < r.total for due, r in zip(first, (r for r in requests if r.rule == "echo"), strict=True)
    )


def one_request(layers, tokens, **options):
    """A compressor, and what it is told of one request of two tokens of prompt."""
    compressor = Compressor(ServerOptions({}, slots=1, most_recent=8), 200, torch.float32, torch.device("cpu"))
    compressor.make_rings(layers)
    angles = torch.arange(200)[:, None] * FREQUENCIES
    compressor.bind(layers, Builder(), Turning(angles.cos(), angles.sin(), "half"))
    extra = {"cache_interval": 8, "cache_ratio": 2, "cache_recent": 4, **options}
    new = SimpleNamespace(
        req_id="r", prompt_len=2, block_ids=([1, 2, 3, 4],), sampling_params=SimpleNamespace(extra_args=extra)
    )
    nothing = SimpleNamespace(req_ids=[], new_block_ids=[], resumed_req_ids=set())
    compressor.remember(SimpleNamespace(
        finished_req_ids=(), preempted_req_ids=None, scheduled_new_reqs=[new], scheduled_cached_reqs=nothing
    ))  # fmt: skip
    compressor.begin(["r"], [0], [tokens])
    return compressor


def test_what_can_not_be_asked_or_chosen_ends_in_an_error_that_names_the_request():
    """And not in a text."""

    class Failing(SELECTORS["echo"]):
        found = -1.0

        def crowded(self, layer, score, keep):
            raise ArithmeticError("no idea")

    memory = torch.randn(LAYERS, 5, HEADS, BLOCK, 2 * SIZE)
    layers = [SimpleNamespace(impl=Attention(), kv_cache=memory[i]) for i in range(LAYERS)]
    compressor = one_request(layers, 14)
    metadata = SimpleNamespace(
        seq_lens=torch.tensor([14]), query_start_loc=torch.tensor([0, 14]), block_table_tensor=torch.tensor([[1, 2, 3, 4]])
    )

    def forward(layer, queries):
        layer.impl.forward(layer, queries, None, None, layer.kv_cache, metadata, output=torch.empty_like(queries))

    queries = torch.randn(14, HEADS * GROUP, SIZE)
    queries[9] = torch.nan
    with pytest.raises(RuntimeError, match="request r: layer 1 could not be asked: queries, keys: expected finite numbers"):
        forward(layers[1], queries)
    for layer in layers:
        forward(layer, torch.randn(14, HEADS * GROUP, SIZE))
    message = "request r: the compression at token 14 failed with selector 'echo': no idea"
    with mock.patch.dict(SELECTORS, echo=Failing), pytest.raises(RuntimeError, match=message):
        compressor.end(lambda i: None)
