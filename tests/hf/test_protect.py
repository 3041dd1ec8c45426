"""`protect`: only the first tokens of a row stay for good. Prompt, answer and turns are one text, compressed as it comes."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.cache.plan import Plan
from lzpenalty.cache.ragged import RaggedLayer
from lzpenalty.cache.selectors import SELECTORS, Echo
from lzpenalty.hf import CompressedCache
from mask_oracle import angles, masked
from tiny import generate, prompt, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
P, C, R = 16, 4, 8
SMALL = dict(interval=P, ratio=C, recent=R)
KINDS = [
    *[{"selector": name} for name in SELECTORS],
    *[{"selector": name, "allocation": "global"} for name in SELECTORS if name != "echo"],
    {"selector": "echo", "budget": 20},
    {"selector": "rpc", "aggregation": "group"},
]


def names(options):
    return "-".join(map(str, options.values()))


def feed(model, cache, ids, *sizes, mask=None):
    """In pieces of these sizes, the last of which goes on to the end."""
    seen = cache.get_seq_length()
    sizes = [*sizes, ids.shape[1] - sum(sizes)]
    for piece in ids.split([size for size in sizes if size], dim=1):
        seen += piece.shape[1]
        given = {}
        if mask is not None:
            positions = (mask[:, :seen].cumsum(1) - 1).clamp(min=0)[:, -piece.shape[1] :]
            given = {"attention_mask": mask[:, :seen], "position_ids": positions}
        with torch.no_grad():
            logits = model(piece, **{CACHE_ARGUMENT: cache}, **given).logits
    return logits


def columns(cache, row=0):
    """Which columns each head of a row has, layer by layer."""
    return [
        layer.columns_of(row, head).tolist()
        if isinstance(layer, RaggedLayer)
        else layer.entry_columns()[row, head % layer.entry_columns().shape[1]].tolist()
        for layer in cache._own
        for head in range(2)
    ]


def stretches(protect, total, budget=R):
    """Pieces that end where compressions are due: the text up to the first, and from one to the next. Under a budget the
    first waits until it is used up."""
    first = protect + budget + P
    return [first, *[P] * ((total - first) // P)]


# What stays.


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "glm", "gpt_neox"])
@pytest.mark.parametrize(("protect", "rivals"), [(0, 0), (1, 0), (5, 0), (0, 6), (5, 1), (5, 256)])
def test_echo_keeps_what_its_definition_says(architecture, protect, rivals):
    """A prompt in one forward, in which several compressions become due, and an answer."""
    model, ids, rule = tiny(architecture), prompt(2, 63), dict(protect=protect, rivals=rivals)
    with masked(model, **SMALL, angles=angles(model), interleaved=architecture == "glm", **rule) as masks:
        wanted = generate(model, ids, 50)
    with CompressedCache(model, **SMALL, protect=protect, selector=Echo(rivals)) as cache:
        assert torch.equal(generate(model, ids, 50, **{CACHE_ARGUMENT: cache}), wanted)
    stats = cache.stats()
    assert stats["compressions"] == masks.intervals > masks.compressions > 2 and stats["prompt"] == protect
    for layer in (layer for layer in cache.layers if isinstance(layer, RaggedLayer)):
        for row, head in ((row, head) for row in range(2) for head in range(2)):
            left = masks.left[layer.index][row, head].nonzero()[:, 0].tolist()
            assert layer.columns_of(row, head).tolist() == left


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 30))
def test_any_split_of_a_text_keeps_what_the_plan_says(options, sizes, protect):
    model, plan = tiny(), Plan(P, C, R, options.get("budget"))
    with CompressedCache(model, **SMALL, **options, protect=protect) as cache:
        for ids in prompt(2, sum(sizes), 2).split(sizes, dim=1):
            feed(model, cache, ids)
            stats = cache.stats()
            behind = max(0, stats["seen"] - protect)
            assert stats["kept"] == stats["seen"] - plan.dropped(behind)
            assert stats["compressions"] == plan.compressions(behind)
            assert stats["prompt"] == min(protect, stats["seen"])
    for row in range(2):
        for held in columns(cache, row):
            assert held[:protect] == list(range(min(protect, sum(sizes))))
            assert held[-R:] == list(range(sum(sizes)))[-R:] and held == sorted(set(held))
    for of_row in zip(*stats.get("kept_by_head", []), strict=True):
        assert sum(map(sum, of_row)) == 3 * 2 * stats["kept"]


@pytest.mark.parametrize("options", KINDS, ids=names)
def test_pieces_that_end_where_compressions_are_due_keep_what_single_tokens_keep(options):
    model, ids, protect = tiny(), prompt(2, 80, 3), 3
    sizes = stretches(protect, 80, options.get("budget", R))
    left = []
    for pieces in (sizes, [1] * sum(sizes)):
        with CompressedCache(model, **SMALL, **options, protect=protect) as cache:
            feed(model, cache, ids[:, : sum(pieces)], *pieces[:-1])
        assert cache.stats()["compressions"] == len(sizes) > 2
        left.append([columns(cache, row) for row in range(2)])
    assert left[0] == left[1]


@pytest.mark.parametrize("options", [KINDS[0], {"selector": "echo"}], ids=names)
def test_what_stays_is_what_a_prompt_of_that_length_would_be(options):
    model, ids = tiny(), prompt(2, 60)
    left = []
    for says in ({"protect": 7}, {"prompt_length": 7}):
        with CompressedCache(model, **SMALL, **options, **says) as cache:
            feed(model, cache, ids, 20, 1, 25)
        left.append(columns(cache))
    assert left[0] == left[1]


def test_a_text_that_all_stays_is_transformers_own():
    model, ids = tiny(), prompt(2, 40)
    for options in (
        dict(**SMALL, protect=200),
        dict(interval=512, protect=4),
        dict(interval=512, protect=0, selector="rpc"),
    ):
        with CompressedCache(model, **options) as cache:
            assert torch.equal(generate(model, ids, 40, **{CACHE_ARGUMENT: cache}), generate(model, ids, 40))
        assert cache.stats()["kept"] == 79


# Rows.


def padded(ids, pads):
    mask = (torch.arange(ids.shape[1]) >= torch.tensor(pads)[:, None]).long()
    return ids * mask, mask


@pytest.mark.parametrize("protect", [0, 4])
@pytest.mark.parametrize(
    "options", [each for each in KINDS if "echo" in each.values() or "global" in each.values()], ids=names
)
def test_left_padded_rows_are_as_if_alone(options, protect):
    """Each is compressed when it would be alone: tokens count, and padding does not."""
    model, pads = tiny(), (23, 3, 0)
    ids, mask = padded(prompt(3, 60), pads)
    options = dict(**SMALL, **options, protect=protect)
    for size in (9, 60):
        with CompressedCache(model, **options) as cache:
            together = generate(model, ids, 40, mask, **{CACHE_ARGUMENT: cache}, prefill_chunk_size=size)
        plan, kept = cache.settings.plan, [columns(cache, row) for row in range(3)]
        for row, pad in enumerate(pads):
            first = (-pad) % 9 if size == 9 else 0  # pieces end where those of the batch do
            with CompressedCache(model, **options) as single:
                text = together[row : row + 1, pad:-1]
                whole = [size] * ((60 - pad - first - 1) // size)
                feed(model, single, text[:, : 60 - pad], *([first] if first else []), *whole)
                feed(model, single, text[:, 60 - pad :], *[1] * 38)
            behind = 99 - pad - protect
            assert {len(each) for each in kept[row]} != {99} and single.stats()["kept"] == 99 - pad - plan.dropped(behind)
            assert [[each - pad for each in of_cell[pad:]] for of_cell in kept[row]] == columns(single)
            assert all(of_cell[:pad] == list(range(pad)) for of_cell in kept[row])


def test_the_texts_of_padded_rows_are_as_if_alone():
    model, pads = tiny(), (20, 0, 7)
    ids, mask = padded(prompt(3, 50), pads)
    with CompressedCache(model, **SMALL, protect=2) as cache:
        together = generate(model, ids, 50, mask, **{CACHE_ARGUMENT: cache})
    for row, pad in enumerate(pads):
        with CompressedCache(model, **SMALL, protect=2) as cache:
            alone = generate(model, ids[row : row + 1, pad:], 50, **{CACHE_ARGUMENT: cache})
        assert torch.equal(together[row, 50:], alone[0, 50 - pad :])


def test_other_devices_take_the_same_path_in_torch(monkeypatch):
    for module in ("attend", "layer"):
        monkeypatch.setattr(f"lzpenalty.cache.{module}.is_ours", lambda *states: False)
    test_the_texts_of_padded_rows_are_as_if_alone()
    test_echo_keeps_what_its_definition_says("llama", 1, 0)
    test_echo_keeps_what_its_definition_says("llama", 5, 6)


@pytest.mark.parametrize("pads", [(25, 0), (25, 25)])
def test_rows_of_padding_alone_wait(pads):
    """A first piece that is shorter than the padding."""
    model = tiny()
    ids, mask = padded(prompt(2, 70), pads)
    with CompressedCache(model, **SMALL, protect=4) as cache:
        feed(model, cache, ids, 10, 10, 10, 10, mask=mask)
    for row, pad in enumerate(pads):
        with CompressedCache(model, **SMALL, protect=4) as single:
            feed(model, single, ids[row : row + 1, pad:], *([5] if pad else [10, 10, 10]), 10)
        assert [[each - pad for each in held[pad:]] for held in columns(cache, row)] == columns(single)


def test_gaps_among_the_tokens_that_stay_do_not_count():
    """Four tokens stay of each row, wherever a mask has gaps. Behind them a row is as if alone."""
    model, ids, mask = tiny(), prompt(3, 60), torch.ones(3, 60, dtype=torch.int64)
    gaps = ([2, 3, 4], [], [0, 2])
    for row, hidden in enumerate(gaps):
        mask[row, hidden] = 0
    for sizes in ((), (3, 10, 20)):
        with CompressedCache(model, **SMALL, protect=4) as cache:
            feed(model, cache, ids * mask, *sizes, mask=mask)
        loaded = io.BytesIO()
        cache.save(loaded)
        loaded.seek(0)
        for each in (cache, copy.deepcopy(cache), CompressedCache.load(loaded, model)):
            with each:
                each.batch_select_indices(torch.tensor([2, 0, 0]))
                longer = torch.cat([mask, torch.ones_like(mask[:, :20])], 1)
                feed(model, each, prompt(3, 20, 5)[[2, 0, 0]], mask=longer[[2, 0, 0]])
            for place, row in enumerate((2, 0, 0)):
                real = mask[row].bool()
                with CompressedCache(model, **SMALL, protect=4) as single:
                    alone = [int(real[a:b].sum()) for a, b in ((0, 3), (3, 13), (13, 33))] if sizes else []
                    feed(model, single, ids[row : row + 1, real], *alone)
                    feed(model, single, prompt(3, 20, 5)[row : row + 1])
                gone = len(gaps[row])
                held = [[each - gone for each in of_cell if each >= 4 + gone] for of_cell in columns(each, place)]
                assert held == [of_cell[4:] for of_cell in columns(single)]


def test_heads_that_keep_as_many_ask_for_rows_that_are_padded_alike():
    model = tiny()
    ids, mask = padded(prompt(2, 40), (5, 0))
    with (
        CompressedCache(model, **SMALL, selector="rpc", protect=4) as cache,
        pytest.raises(ValueError, match="attention_mask: expected rows with as much padding .* use allocation='global'"),
    ):
        feed(model, cache, ids, mask=mask)
    ids, mask = padded(prompt(2, 40), (5, 5))
    with CompressedCache(model, **SMALL, selector="rpc", protect=4) as cache:
        feed(model, cache, ids, mask=mask)
    with CompressedCache(model, **SMALL, selector="rpc", protect=4) as single:
        feed(model, single, ids[:, 5:])
    assert [[each - 5 for each in held[5:]] for held in columns(cache)] == columns(single)
    assert cache.stats()["prompt"] == 9


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(0, 39), st.sampled_from([(0, 0, 0), (11, 0, 4)]))
def test_rows_that_are_chosen_anywhere(rows, at, pads):
    model = tiny()
    ids, mask = padded(prompt(3, 70, 5), pads)
    with CompressedCache(model, **SMALL, protect=2) as cache:
        feed(model, cache, ids[:, : 30 + at], 30, *[1] * max(0, at - 1), mask=mask)
        cache.batch_select_indices(torch.tensor(rows))
        cache.batch_repeat_interleave(2)
        rows = [row for row in rows for _ in range(2)]
        feed(model, cache, ids[rows, 30 + at :], *[1] * (39 - at), mask=mask[rows])
    for number, row in enumerate(rows):
        with CompressedCache(model, **SMALL, protect=2) as single:
            feed(model, single, ids[row : row + 1, pads[row] :], 30 - pads[row], *[1] * 39)
        held = [[each - pads[row] for each in of_cell[pads[row] :]] for of_cell in columns(cache, number)]
        assert held == columns(single)


# Read once, ask many.


@pytest.mark.parametrize(
    "options", [KINDS[0], {"selector": "h2o"}, {"selector": Echo(rivals=12)}], ids=["rpc", "h2o", "echo"]
)
def test_a_text_that_is_read_once_is_asked_several_questions(options, tmp_path):
    """Of copies and of a file. A question is as if it were the first, and may be a turn of several."""
    model, text = tiny(), prompt(1, 100)
    with CompressedCache(model, **SMALL, **options, protect=4) as cache:
        cache.read(text)
    cache.save(tmp_path / "text.pt")
    for seed in range(3):
        question, answers = prompt(1, 6 + seed, 30 + seed), []
        twin = copy.deepcopy(cache)
        for each in (twin, CompressedCache.load(tmp_path / "text.pt", model)):
            with each:
                asked = generate(model, torch.cat([text, question], 1), 20, **{CACHE_ARGUMENT: each})
                more = torch.cat([asked, prompt(1, 5, 9)], 1)
                answers.append(generate(model, more, 20, **{CACHE_ARGUMENT: each}))
        with CompressedCache(model, **SMALL, **options, protect=4) as anew:
            feed(model, anew, text, *stretches(4, 100))
            asked = generate(model, torch.cat([text, question], 1), 20, **{CACHE_ARGUMENT: anew})
            answers.append(generate(model, torch.cat([asked, prompt(1, 5, 9)], 1), 20, **{CACHE_ARGUMENT: anew}))
        assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])
    assert cache.stats()["seen"] == 100


@pytest.mark.parametrize("options", KINDS, ids=names)
def test_reading_keeps_what_single_tokens_keep_and_holds_no_more_than_an_interval_besides(options, monkeypatch):
    model, text, held, left = tiny(), prompt(2, 90), [], []
    for chunk in (None, 5, 1):
        with CompressedCache(model, **SMALL, **options, protect=3) as cache:
            first, begins = cache._own[0], cache.begins

            def watching(layer, new, first=first, begins=begins):
                held.append(first.length + new - (first.start + cache.settings.plan.kept(first.compressions) + R))
                return begins(layer, new)

            with monkeypatch.context() as patch:
                patch.setattr(cache, "begins", lambda layer, new, watch=watching: watch(layer, new) if layer == 0 else None)
                cache.read(text, chunk=chunk)
        left.append([columns(cache, row) for row in range(2)])
    assert left[0] == left[1] == left[2] and max(held) == P and cache.stats()["compressions"] > 2


def test_reading_of_padded_rows():
    model, pads = tiny(), (17, 0)
    ids, mask = padded(prompt(2, 90), pads)
    with CompressedCache(model, **SMALL, protect=4) as cache:
        cache.read(ids[:, :50], mask[:, :50], chunk=10)
        cache.read(ids[:, 50:], mask, chunk=40)
    sizes = [10, 10, 8, 10, 6, 6, 10, 16]  # compressions of the longer row are due behind 28 tokens, 44, 60, 76
    with CompressedCache(model, **SMALL, protect=4) as fed:
        feed(model, fed, ids, *sizes, mask=mask)
    assert [columns(cache, row) for row in range(2)] == [columns(fed, row) for row in range(2)]
    with pytest.raises(
        ValueError, match=r"attention_mask: expected \[2, 95\], of all that the cache has seen .* got \[2, 5\]"
    ):
        cache.read(prompt(2, 5), mask[:, :5])
    with pytest.raises(ValueError, match="chunk: expected at least 1, got 0"):
        cache.read(prompt(2, 5), chunk=0)


def test_reading_without_protect_keeps_a_prompt():
    model, ids = tiny(), prompt(2, 60)
    with CompressedCache(model, **SMALL) as cache:
        cache.read(ids)
        question = torch.cat([ids, prompt(2, 5, 3)], 1)
        assert torch.equal(generate(model, question, 12, **{CACHE_ARGUMENT: cache}), generate(model, question, 12))
    assert cache.stats()["prompt"] == 65


def test_turns_behind_a_system_prompt():
    """The system prompt stays word for word, whatever comes: its keys are those of a cache that drops nothing."""
    model, system = tiny(), prompt(1, 12)
    full = DynamicCache(config=model.config)
    feed(model, full, system)
    text = system
    with CompressedCache(model, **SMALL, protect=12, budget=R) as cache:  # of all else nothing stays but the recent
        for turn in range(4):
            text = torch.cat([text, prompt(1, 25, turn)], 1)
            text = generate(model, text, 15, **{CACHE_ARGUMENT: cache})
    assert cache.stats()["prompt"] == 12 and cache.stats()["kept"] < 12 + R + 2 * P
    for layer, expected in zip(cache.layers, full.layers, strict=True):
        for head, cell in enumerate(layer.cells()[0]):
            assert torch.allclose(cell.keys[0, 0, :12], expected.keys[0, head], atol=1e-5)
            assert torch.allclose(cell.values[0, 0, :12], expected.values[0, head], atol=1e-5)


# Refusals.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(protect=-1), ValueError, "protect: expected at least 0, got -1"),
        (dict(protect=True), TypeError, "protect: expected an integer, got True"),
        (dict(protect="4"), TypeError, "protect: expected an integer, got '4'"),
        (dict(protect=4.0), TypeError, "protect: expected an integer, got 4.0"),
        (dict(protect=4, interval=None), ValueError, "interval: expected an integer where protect is given, got None"),
        (dict(protect=4, prompt_length=9), ValueError, "prompt_length: expected None where protect is given, .* got 9"),
        (dict(protect=4, max_new_tokens=9), ValueError, "max_new_tokens: expected None where protect is given, .* got 9"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        CompressedCache(tiny(), **{**SMALL, **options})
