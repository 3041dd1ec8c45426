"""Selectors give the scores of their papers' formulas, said once more in plain PyTorch, for regions of any length."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lzpenalty.cache import selectors

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS, HEADS, GROUP, SIZE, START, RECENT = 2, 3, 2, 16, 11, 8


def layer(n, keep=None, rotation=None, seed=0):
    """What selectors look at, with every fifth key nearly a copy of an earlier one."""
    draw = torch.Generator().manual_seed(seed)
    length = START + n + RECENT
    keys, values = (torch.randn(ROWS, HEADS, length, SIZE, generator=draw) for _ in range(2))
    keys[:, :, START + 5 :: 5] = 0.9 * keys[:, :, START : length - 5 : 5] + 0.1 * keys[:, :, START + 5 :: 5]
    return SimpleNamespace(
        keys=keys, values=values, queries=torch.randn(ROWS, HEADS * GROUP, RECENT, SIZE, generator=draw), start=START,
        stop=START + n, length=length, keep=keep or n // 4, scale=0.3, kernel=7, aggregation="layer", index=0, hidden=None,
        rotation=rotation,
    )  # fmt: skip


def region(shown):
    return shown.keys[:, :, START : shown.stop], shown.values[:, :, START : shown.stop]


def products(shown):
    """[B, Hkv, G, R, n]"""
    return torch.einsum("bhgrd,bhnd->bhgrn", shown.queries.unflatten(1, (HEADS, GROUP)), region(shown)[0]) * shown.scale


@pytest.mark.parametrize("n", [1, 5, 255, 256, 257, 700])
@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_rkv(n, weight):
    shown = layer(n)
    keys, _ = region(shown)
    attention = F.max_pool1d(products(shown)[..., -8:, :].amax(2).softmax(-1).mean(2), 7, 1, 3)
    cosines = F.cosine_similarity(keys[:, :, :, None], keys[:, :, None], dim=-1)
    cosines[..., torch.arange(n), torch.arange(n)] = 0
    counted = torch.ones_like(cosines)
    newest = torch.where(cosines > 0.5, torch.arange(n), 0).amax(-1, keepdim=True)
    counted.scatter_(-1, newest, 0)
    redundancy = (cosines * counted).sum(2) / n
    expected = weight * attention - (1 - weight) * redundancy.softmax(-1)
    torch.testing.assert_close(selectors.RKV(weight).score(shown), expected, rtol=1e-4, atol=1e-6)


def test_of_several_copies_rkv_counts_the_newest_as_none():
    shown = layer(40)
    copy = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    shown.keys[:, :, START + torch.tensor([3, 17, 30])] = copy
    scores = selectors.RKV(0.0).score(shown)
    assert (scores[..., 30] > scores[..., 3]).all() and (scores[..., 30] > scores[..., 17]).all()


@pytest.mark.parametrize("n", [1, 9, 300])
def test_keydiff(n):
    shown = layer(n)
    keys, _ = region(shown)
    anchor = F.normalize(keys, dim=-1).mean(2, keepdim=True)
    torch.testing.assert_close(selectors.KeyDiff().score(shown), -F.cosine_similarity(keys, anchor, dim=-1))


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_snapkv(pooling):
    shown = layer(60)
    votes = products(shown).softmax(-1).mean((2, 3))
    pool = {"max": F.max_pool1d, "avg": F.avg_pool1d}[pooling]
    torch.testing.assert_close(selectors.SnapKV(pooling).score(shown), pool(votes, 7, 1, 3), rtol=1e-4, atol=1e-6)


def test_tova():
    shown = layer(60)
    expected = products(shown)[..., -1, :].softmax(-1).mean((1, 2))[:, None]
    torch.testing.assert_close(selectors.TOVA().score(shown), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [7, 128, 129, 500])
def test_lagkv_keeps_the_same_share_of_each_piece(n):
    shown = layer(n, keep=n // 4)
    rule = selectors.LagKV()
    kept = rule.score(shown).topk(n // 4, dim=-1).indices
    for first in range(0, n, 128):
        last = min(first + 128, n)
        after = slice(START + last, START + last + 128)
        here = slice(START + first, START + last)
        news = 0
        for states in (shown.keys, shown.values):
            low, high = states[:, :, after].amin(2, keepdim=True), states[:, :, after].amax(2, keepdim=True)
            news = news + ((states[:, :, here] - low) / (high - low)).std(-1).softmax(-1)
        for row in range(ROWS):
            for head in range(HEADS):
                mine = kept[row, head][(kept[row, head] >= first) & (kept[row, head] < last)] - first
                assert abs(len(mine) - (last - first) / 4) <= 1
                assert set(mine.tolist()) == set(news[row, head].topk(len(mine)).indices.tolist())


def test_lagkv_lets_alone_what_it_kept_unless_a_budget_needs_the_room():
    rule = selectors.LagKV(8)
    rule.score(layer(32, keep=8))
    rule.compacted(torch.arange(8).expand(ROWS, HEADS, 8), 32)
    assert rule.score(layer(40, keep=16))[..., :8].isposinf().all()
    assert rule.score(layer(40, keep=8)).isfinite().all()


def turn(queries, distances):
    half = SIZE // 2
    angles = torch.cat(2 * [distances[:, None].float() * 100.0 ** (-torch.arange(half) / half)], dim=-1)
    a, b = queries.chunk(2, dim=-1)
    return queries * angles.cos() + torch.cat([-b, a], dim=-1) * angles.sin()


@pytest.mark.parametrize("chunks", [[60], 60 * [1], [1, 7, 32, 20]])
def test_expected_attention(chunks):
    shown = layer(50, rotation=turn)
    count, position, future = sum(chunks), 5, 40
    draw = torch.Generator().manual_seed(1)
    queries = 2 + torch.randn(ROWS, HEADS * GROUP, count, SIZE, generator=draw)
    rule = selectors.Expected(future)
    for part in turn(queries, position + torch.arange(count)).split(chunks, dim=2):
        rule.observe(shown, part)
    mean = queries.mean(2)
    centred = queries - mean[:, :, None]
    covariance = centred.mT @ centred / count
    ahead = position + count + torch.arange(future)
    turned = torch.stack([turn(unit.expand(future, SIZE), ahead).mean(0) for unit in torch.eye(SIZE)], dim=1)
    mean, covariance = mean @ turned.T, turned @ covariance @ turned.T
    keys, values = region(shown)
    repeated = keys.repeat_interleave(GROUP, dim=1)
    logits = shown.scale * torch.einsum("bhnd,bhd->bhn", repeated, mean)
    logits = logits + shown.scale**2 / 2 * torch.einsum("bhni,bhij,bhnj->bhn", repeated, covariance, repeated)
    expected = logits.softmax(-1).unflatten(1, (HEADS, GROUP)).mean(2) * values.norm(dim=-1)
    torch.testing.assert_close(rule.score(shown), expected, rtol=1e-3, atol=1e-6)


def test_vase_keeps_the_largest_ranges_and_draws_the_others_by_their_attention():
    shown = layer(12, keep=4)
    chances = F.avg_pool1d(products(shown).softmax(-1).mean((2, 3)), 5, 1, 2)
    _, values = region(shown)
    ranges = values.amax(-1) - values.amin(-1)
    scores = selectors.VaSE(0.5).score(shown)
    assert torch.equal(scores.isinf(), torch.zeros_like(scores).scatter(2, ranges.topk(2).indices, 1) > 0)
    rule, draws = selectors.VaSE(0), 4000
    first = torch.stack([F.one_hot(rule.score(shown).argmax(-1), 12) for _ in range(draws)]).float().mean(0)
    expected = chances / chances.sum(-1, keepdim=True)
    assert ((first - expected).abs() < 5 * (expected * (1 - expected) / draws).sqrt()).all()


def test_random_draws_for_each_head_or_once_for_all():
    assert selectors.Random().score(layer(30)).shape == (ROWS, HEADS, 30)
    assert selectors.Random(aggregation="layer").score(layer(30)).shape == (ROWS, 1, 30)


# One that keeps evidence looks at the whole cache, and is told of the padding.
@pytest.mark.parametrize("name", [name for name, rule in selectors.SELECTORS.items() if not rule.keeps_evidence])
def test_scores_do_not_see_the_prompt(name):
    """Rows that are padded must score as if they were alone."""
    rule = selectors.SELECTORS[name]
    scores = []
    for prompt in (0.0, 1e3):
        shown, one = layer(40, rotation=turn), rule()
        shown.keys[:, :, :START] = shown.values[:, :, :START] = prompt
        one.observe(shown, shown.queries)
        scores.append(one.score(shown))
    assert torch.equal(*scores)
