"""Every function of the C interface, called from outside: what it gives is the oracle's and the Python functions', and bad
arguments are refused before anything is written."""

import ctypes

import header
import numpy as np
import pytest
from header import STATUSES, pointer, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

import lzpenalty
import oracle
from lzpenalty import analysis
from strategies import histories

VOCAB = 40


@pytest.fixture(scope="module")
def ws(library):
    workspace = library.workspace_create()
    yield workspace
    library.workspace_destroy(workspace)


@pytest.fixture
def random():
    return np.random.default_rng(5)


def text_of(random, n=300, vocab=VOCAB):
    """With loops."""
    text = random.integers(0, vocab, n)
    text[n // 2 :] = np.resize(text[n // 2 : n // 2 + 17], n - n // 2)
    return text


# ---- Options ----


def test_defaults_are_those_of_python(library):
    o = header.options(library)
    python = lzpenalty.LZOptions().keywords()
    for name in ("strength", "window", "buffer", "min_match"):
        assert getattr(o, name) == pytest.approx(python[name])
    assert o.release_rate == python["release_rate"] and o.release_after == python["release_after"]
    assert (o.cost, getattr(o.gate, "from"), o.gate.to, o.release.n, o.open.n, o.skip.n, o.resume.n) == (0,) * 7
    dry = header.DryOptions()
    assert library.dry_options_init(dry, ctypes.sizeof(dry)) == 0
    assert dry.fields() | {"sequence_breakers": None} == {
        "multiplier": pytest.approx(0.8),
        "base": 1.75,
        "allowed_length": 2,
        "window": 1024,
        "sequence_breakers": None,
        "n_sequence_breakers": 0,
        "reserved": 0,
    }


@pytest.mark.parametrize("name, structure", [(name, s) for name, s in header.STRUCTS.items() if issubclass(s, header.Sized)])
def test_sizes_of_other_versions(library, name, structure):
    init = getattr(library, name.removeprefix("lzpenalty_") + "_init")
    known = ctypes.sizeof(structure)
    memory = (ctypes.c_ubyte * (known + 16))(*[255] * (known + 16))
    newer = structure.from_buffer(memory)
    assert init(newer, known + 16) == 0  # fields that this library doesn't know become zero
    assert newer.size == known + 16 and not any(memory[known:])
    memory = (ctypes.c_ubyte * (known + 16))(*[255] * (known + 16))
    older = structure.from_buffer(memory)
    assert init(older, 16) == 0  # nothing is written beyond what an older caller has
    assert older.size == 16 and set(memory[16:]) == {255}
    for size in (0, 4, 12, known + 4, 4104, 2**40):
        assert init(older, size) == STATUSES["BAD_SIZE"]
    assert init(None, known) == STATUSES["NULL"]


def test_callers_of_other_versions(library, ws, random):
    text, logits = text_of(random).astype(np.int32), np.zeros(VOCAB, np.float32)
    wanted = lzpenalty.lz_penalize_(logits.copy(), text, strength=0.5)

    class Newer(ctypes.Structure):
        _fields_ = [("known", header.Options), ("more", ctypes.c_int64)]

    newer = Newer(header.options(library, strength=0.5), 0)
    newer.known.size = ctypes.sizeof(newer)
    got = logits.copy()
    assert library.penalize_row(ws, newer.known, pointer(got), VOCAB, pointer(text), len(text)) == 0
    assert (got == wanted).all()
    newer.more = 1  # it wants something that this library doesn't know
    assert library.penalize_row(ws, newer.known, pointer(got), VOCAB, pointer(text), len(text)) == STATUSES["BAD_SIZE"]

    older = header.options(library, strength=0.5, buffer=0)
    older.size = 16  # its struct ended with strength and window; what follows is something else of its memory
    got = logits.copy()
    assert library.penalize_row(ws, older, pointer(got), VOCAB, pointer(text), len(text)) == 0
    assert (got == wanted).all()


# ---- Penalties ----

MARKS = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3), min_size=1, max_size=2)
GATE = st.sampled_from([None, (0.0, 8.0), (4.0, 30.0)])
EXTRAS = st.fixed_dictionaries(
    {},
    optional=dict(
        strength=st.sampled_from([0.0, 0.15, 1.0]),
        window=st.integers(0, 100),
        buffer=st.integers(1, 40),
        cost=st.sampled_from(["lzss", "pair", "distance"]),
        min_match=st.integers(1, 4),
        gate=GATE,
        release=MARKS,
        release_rate=st.sampled_from([0.0, 0.5, 7.0]),
        release_after=st.integers(1, 12),
        open=MARKS,
        section_gate=GATE,
        skip=MARKS,
        resume=MARKS,
    ),
)


@settings(deadline=None)
@given(histories(), EXTRAS)
def test_a_row_is_the_formula(library, ws, history, options):
    text = np.array(history, np.int64).astype(np.int32)
    logits = np.linspace(-3, 3, VOCAB, dtype=np.float32)
    got = logits.copy()
    assert library.penalize_row(ws, header.options(library, **options), pointer(got), VOCAB, pointer(text), len(text)) == 0
    assert (got == lzpenalty.lz_penalize_(logits.copy(), text, **options)).all()
    wanted = logits.astype(np.float64)
    for token, nats in oracle.penalties(text.tolist(), VOCAB, **options).items():
        wanted[token] -= nats
    np.testing.assert_allclose(got, wanted, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("ids", [np.int32, np.int64])
def test_batches(library, ws, random, dtype, ids):
    """Rows and columns that lie anywhere, and rows that begin later."""
    tokens = np.stack([text_of(random) for _ in range(3)]).astype(ids)[:, ::2]
    logits = np.asfortranarray(random.normal(size=(3, VOCAB)).astype(dtype))[:, ::-1]
    starts = np.array([0, 20, 150])
    wanted, got = logits.copy(), logits.copy(order="F")
    lzpenalty.lz_penalize_(wanted, tokens, starts=starts, strength=0.3)
    options = header.options(library, strength=0.3)
    assert library.penalize(ws, options, tensor(got), tensor(tokens), pointer(starts)) == 0
    assert (got == wanted).all() and (got != logits).any()
    dry = header.DryOptions()
    library.dry_options_init(dry, ctypes.sizeof(dry))
    breakers = (ctypes.c_int32 * 3)(7, 3, 7)
    dry.sequence_breakers, dry.n_sequence_breakers = breakers, 3
    lzpenalty.dry_penalize_(wanted, tokens, starts=starts, sequence_breakers=[3, 7])
    assert library.dry(ws, dry, tensor(got), tensor(tokens), pointer(starts)) == 0
    assert (got == wanted).all()


def test_bfloat16(library, ws, random):
    torch = pytest.importorskip("torch")
    text = text_of(random)
    logits = torch.from_numpy(random.normal(size=VOCAB)).bfloat16()
    got = logits.view(torch.uint16).numpy().copy()
    lzpenalty.lz_penalize_(logits, torch.from_numpy(text))
    assert library.penalize(ws, header.options(library), tensor(got), tensor(text), None) == 0
    assert (got == logits.view(torch.uint16).numpy()).all()


def test_what_a_penalty_depends_on(library, ws, random):
    context = ctypes.c_int32()
    for changes in ({}, {}, {}, {"strength": 0.0}, {"skip": [[3]]}):
        assert library.context(header.options(library, **changes), context) == 0
        assert context.value == lzpenalty.LZOptions(**changes).context
    assert library.context(header.options(library, buffer=0), context) == STATUSES["BAD_BUFFER"]
    assert library.context(header.options(library), None) == STATUSES["NULL"]


def test_code_lengths(library, ws, random):
    text, count = text_of(random), ctypes.c_int64()
    options = header.options(library, cost="pair", window=90)
    ids, bits = np.zeros(90, np.int32), np.zeros(90, np.float32)
    arguments = [ws, options, VOCAB, tensor(text), pointer(ids), pointer(bits)]
    assert library.code_lengths(*arguments, 90, count) == 0
    wanted = dict(zip(*lzpenalty.codelength_deltas(text, VOCAB, cost="pair", window=90), strict=True))
    got = dict(zip(ids[: count.value].tolist(), bits.tolist(), strict=False))
    assert got == wanted
    assert library.code_lengths(*arguments, count.value - 1, count) == STATUSES["TOO_LITTLE_ROOM"]
    assert count.value == len(wanted)
    assert library.code_lengths(ws, options, VOCAB, tensor(text), None, None, 0, count) == STATUSES["TOO_LITTLE_ROOM"]
    each = np.zeros(len(text))
    assert library.token_bits(ws, options, VOCAB, tensor(text), pointer(each)) == 0
    assert (each == analysis.token_bits(text, VOCAB, cost="pair", window=90)).all()


# ---- Loops and texts ----


def test_loops_of_rows(library, ws, random):
    tokens = np.stack([np.roll(text_of(random), k) for k in (0, -3, 40)])
    starts = np.array([0, 100, 0])
    got = np.full(3, -1)
    assert library.loop_evidence(ws, tensor(tokens), pointer(starts), 6, 200, pointer(got)) == 0
    assert (got == lzpenalty.loop_evidence(tokens, window=200, starts=starts)).all() and got.any()
    assert library.repetition_period(ws, tensor(tokens), pointer(starts), 10, 3, 60, pointer(got)) == 0
    assert (got == lzpenalty.repetition_period(tokens, ngram=10, count=3, max_period=60, starts=starts)).all()
    assert got.any() and not got.all()


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([-(2**40), -1, 0, 1, 2, 3, 2**33]), max_size=60),
    st.integers(0, 70),
    st.sampled_from([0.0, 0.2]),
    st.integers(2, 3),
    st.integers(0, 20),
)
def test_finished_texts(library, ids, window, tolerance, min_repeats, max_period):
    text, count = np.array(ids, np.int64), ctypes.c_int64()
    phrases, loops = np.zeros((len(ids) + 1, 2), np.int32), np.zeros((4 * len(ids) + 1, 3), np.int32)
    assert library.factorize(tensor(text), window, pointer(phrases), count) == 0
    assert phrases[: count.value].tolist() == [list(phrase) for phrase in oracle.lz77(ids, window)]
    assert library.factorize_lz78(tensor(text), pointer(phrases), count) == 0
    assert phrases[: count.value].tolist() == [list(phrase) for phrase in oracle.lz78(ids)]
    options = header.LoopOptions(ctypes.sizeof(header.LoopOptions), min_repeats, max_period, tolerance, 0)
    assert library.find_loops(tensor(text), options, pointer(loops), len(loops), count) == 0
    wanted = analysis.find_loops(ids, min_repeats=min_repeats, tolerance=tolerance, max_period=max_period or None)
    assert loops[: count.value].tolist() == [list(loop)[:3] for loop in wanted[["period", "start", "length"]]]
    if count.value:
        before = loops.copy()
        status = library.find_loops(tensor(text), options, pointer(loops), count.value - 1, count)
        assert status == STATUSES["TOO_LITTLE_ROOM"] and count.value == len(wanted) and (loops == before).all()


# ---- The cache ----


def cache(random, *shape, dtype="float32"):
    array = random.normal(size=shape).astype("float32")
    return header.as_bfloat16(array) if dtype == "bfloat16" else array.astype(dtype)


def struct(library, kind, **changes):
    o = {"score": header.ScoreOptions, "attend": header.AttendOptions}[kind]()
    assert getattr(library, f"{kind}_options_init")(o, ctypes.sizeof(o)) == 0
    for name, value in changes.items():
        setattr(o, name, ctypes.pointer(value) if isinstance(value, header.Tensor) else value)
    return o


def test_selection(library, random):
    queries, keys, values = cache(random, 2, 4, 5, 16), cache(random, 2, 2, 60, 16), cache(random, 2, 2, 60, 8)
    for by_group, aggregation in enumerate(["layer", "group"]):
        wanted = lzpenalty.attention_scores(queries, keys, start=3, stop=50, aggregation=aggregation)
        scores = np.zeros_like(wanted)
        options = struct(library, "score", aggregation=by_group)
        assert library.attention_scores(tensor(queries), tensor(keys), 3, 50, options, pointer(scores)) == 0
        np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-7)
        positions = np.zeros((2, scores.shape[1], 20), np.int64)
        assert library.select_top(tensor(scores), 20, pointer(positions)) == 0
        assert (positions == lzpenalty.select_top(scores, 20)).all()
        k, v, wanted_k, wanted_v = keys.copy(), values.copy(), keys.copy(), values.copy()
        lzpenalty.compact_(wanted_k, wanted_v, positions, start=3, stop=50, length=58)
        assert library.compact(tensor(k), tensor(v), tensor(positions), 3, 50, 58, 0) == 0
        assert (k == wanted_k)[:, :, :31].all() and (v == wanted_v)[:, :, :31].all() and (k != keys).any()
    new_keys, new_values = cache(random, 2, 2, 4, 16), cache(random, 2, 2, 4, 8)
    assert library.append(tensor(k), tensor(v), tensor(new_keys), tensor(new_values), 31) == 0
    assert (k[:, :, 31:35] == new_keys).all() and (v[:, :, 31:35] == new_values).all()
    queries[0, 0, 0, 0] = np.nan
    status = library.attention_scores(tensor(queries), tensor(keys), 3, 50, struct(library, "score"), pointer(scores))
    assert status == STATUSES["NOT_FINITE"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attention(library, random, dtype):
    queries, keys = cache(random, 2, 4, 3, 16, dtype=dtype), cache(random, 2, 2, 60, 16, dtype=dtype)
    values = cache(random, 2, 2, 60, 8, dtype=dtype)
    lengths, pads = np.array([[60, 41], [7, 30]]), np.array([2, 0])
    sums, lse = np.zeros((2, 2, 4, 3), np.float32)
    wanted = lzpenalty.attend(queries, keys, values, lengths=lengths, pads=pads, softcap=5.0, scale=0.3, lse=sums)
    out = np.zeros_like(wanted)
    options = struct(library, "attend", lengths=tensor(lengths), pads=tensor(pads), softcap=5.0, scale=0.3, lse=tensor(lse))
    assert library.attend(tensor(queries), tensor(keys), tensor(values), options, tensor(out)) == 0
    np.testing.assert_allclose(out, wanted, rtol=1e-3 if dtype == "float16" else 1e-5, atol=1e-6)
    np.testing.assert_allclose(lse, sums, rtol=1e-5, atol=1e-5)

    slots = keys.reshape(-1, 16), values.reshape(-1, 8)
    starts = np.array([[0, 60], [120, 180]])
    options = struct(library, "attend", lengths=tensor(lengths), starts=tensor(starts), pads=tensor(pads))
    options.softcap, options.scale = 5.0, 0.3
    ragged = np.zeros_like(wanted)
    assert library.attend(tensor(queries), *map(tensor, slots), options, tensor(ragged)) == 0
    assert (ragged == out).all()
    assert (
        library.attend(tensor(queries), *map(tensor, slots), struct(library, "attend"), tensor(out))
        == STATUSES["BAD_STARTS"]
    )


# ---- What is refused ----


def test_bad_options(library, ws):
    logits, text = np.zeros(VOCAB, np.float32), np.array([1, 2, 1, 2, 1], np.int32)
    nan, inf = float("nan"), float("inf")
    bad = dict(
        strength=[-1.0, nan, inf, 1000001.0], window=[-1], buffer=[0], min_match=[0],
        gate=[(1.0, 1.0), (-1.0, 2.0), (3.0, 2.0), (0.0, inf), (nan, 1.0)],
        release=[[[]], [[VOCAB]], [[1]] * 17], open=[[[1], []], [[-1]]], skip=[[[VOCAB]]], release_rate=[-1.0, nan],
        release_after=[0],
    )  # fmt: skip
    for name, values in bad.items():
        for value in values:
            options = header.options(library, **{name: value})
            status = library.penalize_row(ws, options, pointer(logits), VOCAB, pointer(text), len(text))
            assert status == STATUSES[f"BAD_{name.upper()}"], (name, value)
            assert library.strerror(status).decode().startswith(name)
    options = header.options(library)
    options.cost = 3
    assert library.penalize_row(ws, options, pointer(logits), VOCAB, pointer(text), 5) == STATUSES["BAD_COST"]
    options = header.options(library)
    options.release.n = 1
    assert library.penalize_row(ws, options, pointer(logits), VOCAB, pointer(text), 5) == STATUSES["NULL"]
    options = header.options(library)
    for *arguments, status in [
        (None, options, pointer(logits), VOCAB, pointer(text), 5, "NULL"),
        (ws, None, pointer(logits), VOCAB, pointer(text), 5, "NULL"),
        (ws, options, None, VOCAB, pointer(text), 5, "NULL"),
        (ws, options, pointer(logits), VOCAB, None, 5, "NULL"),
        (ws, options, pointer(logits), 0, pointer(text), 5, "BAD_VOCAB"),
        (ws, options, pointer(logits), VOCAB, pointer(text), -1, "BAD_SHAPE"),
        (ws, options, pointer(logits), VOCAB, pointer(logits) + 8, 5, "OVERLAP"),
        (ws, options, pointer(logits) + 1, VOCAB - 1, pointer(text), 5, "BAD_ALIGNMENT"),
    ]:
        assert library.penalize_row(*arguments) == STATUSES[status]
    assert not logits.any()


def test_bad_tensors(library, ws):
    logits, text, options = np.zeros((2, VOCAB), np.float32), np.ones((2, 9), np.int32), header.options(library)

    def status(a, b, starts=None):
        return library.penalize(ws, options, a, b, pointer(starts))

    cases = [
        (tensor(logits), tensor(text[0]), "DISAGREE"),
        (tensor(logits), tensor(text[:1]), "DISAGREE"),
        (tensor(logits[:1]), tensor(text), "DISAGREE"),
        (tensor(text), tensor(text), "BAD_DTYPE"),
        (tensor(logits), tensor(logits), "BAD_DTYPE"),
        (tensor(logits, dtype=9), tensor(text), "BAD_DTYPE"),
        (tensor(logits, dims=0), tensor(text), "BAD_DIMENSIONS"),
        (tensor(logits, dims=3), tensor(text), "BAD_DIMENSIONS"),
        (tensor(logits, data=None), tensor(text), "NULL"),
        (tensor(logits[:, :0]), tensor(text), "BAD_VOCAB"),
        (tensor(np.broadcast_to(logits[0], (2, VOCAB))), tensor(text), "BAD_STRIDES"),
        (tensor(logits), None, "NULL"),
        (None, tensor(text), "NULL"),
    ]
    for shape in (-1, 2**31):
        huge = tensor(text)
        huge.shape[1] = shape
        cases.append((tensor(logits), huge, "BAD_SHAPE"))
    far = tensor(text)
    far.strides[0] = 2**62
    cases.append((tensor(logits), far, "BAD_STRIDES"))
    for a, b, name in cases:
        assert status(a, b) == STATUSES[name], name
    for starts in ([0, 10], [-1, 0]):
        assert status(tensor(logits), tensor(text), np.array(starts)) == STATUSES["BAD_STARTS"]
    assert status(tensor(logits[:0]), tensor(text[:0])) == 0  # no rows are no mistake
    assert not logits.any()


def test_bad_caches(library, random):
    queries, keys, values = cache(random, 1, 4, 2, 8), cache(random, 1, 2, 20, 8), cache(random, 1, 2, 20, 8)
    before = keys.copy(), values.copy()
    scores, positions = np.zeros((1, 1, 20), np.float32), np.arange(5).reshape(1, 1, 5)

    def score(start=0, stop=20, q=queries, k=keys, **changes):
        options = struct(library, "score", **changes)
        return library.attention_scores(tensor(q), tensor(k), start, stop, options, pointer(scores))

    for got, name in [
        (score(5, 5), "BAD_REGION"),
        (score(0, 21), "BAD_REGION"),
        (score(kernel=2), "BAD_KERNEL"),
        (score(scale=float("nan")), "BAD_SCALE"),
        (score(aggregation=2), "BAD_AGGREGATION"),
        (score(threads=-1), "BAD_THREADS"),
        (score(q=queries[:, :3]), "DISAGREE"),
        (score(q=queries.astype(np.float16)), "BAD_DTYPE"),
        (score(k=keys.swapaxes(2, 3)), "BAD_STRIDES"),
        (score(q=queries[0]), "BAD_DIMENSIONS"),
        (score(q=queries[:, :, :0]), "BAD_SHAPE"),
        (library.select_top(tensor(scores), 0, pointer(positions)), "BAD_K"),
        (library.select_top(tensor(scores), 21, pointer(positions)), "BAD_K"),
    ]:
        assert got == STATUSES[name], name

    def compact(p=positions, start=0, stop=10, length=20, k=keys, v=values):
        return library.compact(tensor(k), tensor(v), tensor(p), start, stop, length, 1)

    for got, name in [
        (compact(positions[:, :, ::-1].copy()), "BAD_POSITIONS"),
        (compact(positions + 6), "BAD_POSITIONS"),
        (compact(positions - 1), "BAD_POSITIONS"),
        (compact(stop=21, length=21), "BAD_REGION"),
        (compact(start=11), "BAD_REGION"),
        (compact(v=keys), "OVERLAP"),
        (compact(positions.astype(np.int32)), "BAD_DTYPE"),
        (compact(v=values[:, :, :19]), "DISAGREE"),
        (library.append(tensor(keys), tensor(values), tensor(keys[:, :, :3]), tensor(values[:, :, 9:12]), 1), "OVERLAP"),
        (library.append(tensor(keys), tensor(values), tensor(queries[:, :2]), tensor(queries[:, :2]), 19), "BAD_REGION"),
    ]:
        assert got == STATUSES[name], name
    buffer = np.concatenate(before, axis=3)  # keys and values of one buffer share no number
    assert compact(k=buffer[..., :8], v=buffer[..., 8:]) == 0

    out = np.zeros((1, 4, 2, 8), np.float32)

    def attend(q=queries, o=out, **changes):
        return library.attend(tensor(q), tensor(keys), tensor(values), struct(library, "attend", **changes), tensor(o))

    for got, name in [
        (attend(o=queries), "OVERLAP"),
        (attend(o=out[:, :3]), "DISAGREE"),
        (attend(softcap=-1.0), "BAD_SOFTCAP"),
        (attend(lengths=tensor(np.array([21]))), "BAD_LENGTHS"),
        (attend(lengths=tensor(np.array([-1]))), "BAD_LENGTHS"),
        (attend(lengths=tensor(np.array([1, 2]))), "DISAGREE"),
        (attend(pads=tensor(np.array([21]))), "BAD_PADS"),
        (attend(starts=tensor(np.array([[0, 0]]))), "BAD_STARTS"),
        (attend(lse=tensor(out[0])), "DISAGREE"),
        (attend(lse=tensor(out[..., 0])), "OVERLAP"),
        (attend(lse=tensor(queries[..., 0])), "OVERLAP"),
        (attend(lse=tensor(np.zeros((1, 4, 2)))), "BAD_DTYPE"),
        (attend(lse=tensor(np.zeros((1, 1, 2), np.float32).repeat(4, 1), strides=(8, 0, 1))), "BAD_STRIDES"),
        (attend(reserved=1), "BAD_SIZE"),
    ]:
        assert got == STATUSES[name], name
    assert not out.any() and (keys == before[0]).all() and (values == before[1]).all()


# ---- The process ----


def test_levels(library):
    level = library.cpu_level()
    assert level.decode() in lzpenalty._core.cpu_levels()
    assert library.set_cpu_level(b"scalar") == 0 and library.cpu_level() == b"scalar"
    assert library.set_cpu_level(b"sse9") == STATUSES["BAD_LEVEL"] and library.cpu_level() == b"scalar"
    assert library.set_cpu_level(None) == 0 and library.cpu_level().decode() == lzpenalty._core.cpu_levels()[-1]
    library.set_cpu_level(level)


def test_no_workspace_is_destroyed_without_harm(library):
    library.workspace_destroy(None)
    library.workspace_destroy(library.workspace_create())
