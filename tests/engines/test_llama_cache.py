"""RPCLlama on a fake of llama-cpp-python: what stays is what the published rule says, cells are where llama.cpp's rule puts
them, and no text, however it goes on or is changed, ends in a cache that isn't its own."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import fake_llama_cpp as fake
from engines.load import adaptor
from lzpenalty import _core
from lzpenalty.cache.plan import Plan
from lzpenalty.llama_cpp import LZPenalty
from lzpenalty.llama_cpp.tap import GGML, ggml_functions

rpc = adaptor("llama_cpp.rpc", fake)
if not issubclass(rpc.RPCLlama, fake.Llama):
    pytest.skip("llama-cpp-python is installed: real_llama_cache.py tests with it", allow_module_level=True)
Cells, Tap = rpc.Cells, rpc.Tap
FUNCTIONS = fake.TENSORS.functions(GGML)
SMALL = dict(n_ctx=400, interval=24, ratio=4, recent=5, kernel=3, budget=20, max_prompt=20)


@pytest.fixture(autouse=True)
def fake_ggml(monkeypatch):
    monkeypatch.setattr(rpc, "ggml_functions", lambda package: FUNCTIONS)
    monkeypatch.setattr(fake.TENSORS, "kind", None)


def make(**options):
    return rpc.RPCLlama("model.gguf", **{**SMALL, **options})


def words(n, seed=1):
    return np.random.default_rng(seed).integers(0, fake.VOCAB, n).tolist()


def expected(text, prompt, interval, ratio, recent, kernel, budget, selector="rpc", **others):
    """The positions that stay, token by token, and the most that there were."""
    held, compressions, most = list(range(prompt)), 0, prompt
    for position in range(prompt, len(text)):
        held.append(position)
        most = max(most, len(held))
        region = held[prompt : len(held) - recent]
        kept = compressions * interval // ratio if budget is None else budget - recent
        if len(region) < kept + interval:
            continue
        compressions += 1
        kept = compressions * interval // ratio if budget is None else budget - recent
        scores = np.zeros(len(region))
        for query in held[-recent:]:
            seen = [p for p in held if p <= query]
            for layer in range(fake.LAYERS):
                rows = fake.attention(layer, text[query], query, [text[p] for p in seen], seen)
                rows = rows[:, [seen.index(p) for p in region]]
                scores += (rows / rows.sum(1, keepdims=True)).sum(0)
        padded = np.pad(scores, kernel // 2)
        scores = np.array([padded[i : i + kernel].mean() for i in range(len(region))])
        if selector == "streaming":
            scores = np.array([np.inf] * 4 + list(range(4, len(region))), float)[: len(region)]
        best = sorted(sorted(range(len(region)), key=lambda i: -scores[i])[:kept])
        held = held[:prompt] + [region[i] for i in best] + held[len(held) - recent :]
    return held, most


def held(llama):
    """What the engine itself has, and whether the mirror says the same of each cell."""
    cells = llama._ctx.memory.cells
    assert llama._cells.positions.tolist() == [-1 if cell is None else cell[0] for cell in cells]
    assert llama._cells.head == llama._ctx.memory.head
    for cell in cells:
        assert cell is None or llama.input_ids[cell[0]] == cell[1]
    return sorted(cell[0] for cell in cells if cell is not None)


def answer(llama, prompt, n, **options):
    """Tokens that were generated; all of them but the last have been read."""
    return [token for _, token in zip(range(n), llama.generate(prompt, **options), strict=False)]


def check(llama, prompt, **options):
    text = llama.input_ids[: llama.n_tokens].tolist()
    assert held(llama) == expected(text, prompt, **{**SMALL, **options})[0]


@st.composite
def plans(draw):
    ratio = draw(st.integers(1, 4))
    interval = ratio * draw(st.integers(2, 8))
    recent = draw(st.integers(1, interval - 1))
    budget = draw(st.none() | st.integers(recent, recent + 20))
    return dict(interval=interval, ratio=ratio, recent=recent, budget=budget, kernel=draw(st.sampled_from([1, 3, 7])))


@settings(deadline=None, max_examples=25)
@given(plans(), st.integers(1, 12), st.integers(1, 130), st.sampled_from(["rpc", "streaming"]), st.integers(1, 40))
def test_what_stays_is_what_the_rule_says(plan, prompt, n, selector, n_batch):
    options = dict(n_ctx=200, max_prompt=12, selector=selector, **plan)
    llama = make(n_batch=n_batch, n_ubatch=max(1, n_batch // 2), **options)
    prompt_tokens = words(prompt)
    given_tokens = words(n)  # as if the model had written them, some at a time
    generator = llama.generate(prompt_tokens)
    next(generator)
    generator.send(given_tokens[: n // 2])
    llama.eval(given_tokens[n // 2 :])
    check(llama, prompt, **options)
    most = expected(llama.input_ids[: llama.n_tokens].tolist(), prompt, **{**SMALL, **options})[1]
    assert most <= prompt + Plan(*(plan[k] for k in ("interval", "ratio", "recent", "budget"))).peak(200 - prompt)
    stats = llama.stats()
    assert (stats["kept"], stats["seen"], stats["prompt"]) == (len(held(llama)), llama.n_tokens, prompt)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from(["add", "cut", "hole"]), st.integers(0, 30), st.integers(1, 9)), max_size=60),
)
def test_cells_are_where_the_engine_puts_them(ubatch, steps):
    mirror, engine, end = Cells(32, ubatch), fake.Memory(32, ubatch), 0
    for what, at, n in steps:
        if what == "add":
            room = sum(cell is None for cell in engine.cells)
            if n > room:
                with pytest.raises(RuntimeError, match=f"{room} empty cells|cells:"):
                    copy.deepcopy(mirror).add(end, n)
                continue
            mirror.add(end, n)
            for first in range(0, n, ubatch):
                part = list(range(end + first, end + min(n, first + ubatch)))
                cells = engine.place(part)
                for cell, position in zip(cells, part, strict=True):
                    engine.cells[cell] = (position, 0)
                engine.head = cells[-1] + 1
            end += n
        elif what == "cut":
            end = min(end, at)
            mirror.remove(end)
            engine.seq_rm(end, -1)
        else:
            mirror.remove(at, at + n)
            engine.seq_rm(at, at + n)
        found = {cell[0]: i for i, cell in enumerate(engine.cells) if cell is not None}
        assert mirror.head == engine.head and mirror.used == len(found)
        positions = mirror.held(0, end)
        assert positions.tolist() == sorted(found)
        assert mirror.of(positions).tolist() == [found[p] for p in sorted(found)]
        assert mirror.first_hole(end) == next((p for p in range(end) if p not in found), end)


@pytest.mark.parametrize("selector", rpc.SELECTORS)
def test_a_text_of_any_length_in_a_fixed_cache(selector):
    llama = make(selector=selector)
    prompt = words(11)
    written = answer(llama, prompt, 300)
    assert len(written) == 300 and llama.n_tokens == 310
    assert llama.stats()["cells"] == 64 and llama.stats()["compressions"] == (299 - 44) // 24 + 1
    assert written == answer(make(selector=selector), prompt, 300)
    if selector != "random":
        check(llama, 11, selector=selector)
    full = answer(make(interval=1000, budget=1000, ratio=1), prompt, 300)
    assert written != full and written[:40] == full[:40]


def test_nothing_dropped_is_the_full_cache():
    prompt = words(11)
    plain = fake.Llama("model.gguf", n_ctx=320)
    wanted = answer(plain, prompt, 300)
    llama = make(ratio=1, budget=None)
    assert answer(llama, prompt, 300) == wanted and llama.stats()["compressions"] == (299 - 5) // 24
    np.testing.assert_array_equal(llama._ctx.logits, plain._ctx.logits)


def test_a_further_turn_keeps_the_holes():
    llama = make()
    text = words(11)
    for turn in range(4):
        before = llama._ctx.decodes
        text = text + answer(llama, text, 70)[:-1] + words(9, turn)
        assert llama._ctx.decodes - before <= 70 + 9 + (11 if turn == 0 else 0)
        check(llama, 11)
    assert held(llama) != list(range(llama.n_tokens))


@pytest.mark.parametrize("cut", range(12, 130, 9))
def test_a_changed_text_is_as_if_it_had_been_read_at_once(cut):
    llama, other = make(), make()
    prompt = words(11)
    text = prompt + answer(llama, prompt, 130)
    changed = text[:cut] + [(text[cut] + 1) % fake.VOCAB] + words(40, 7)
    written = answer(llama, changed, 30)
    other.eval(prompt)
    other.eval(changed[11:12])
    assert written == answer(other, changed, 30)
    assert held(other) == held(llama)
    check(llama, 11)


def test_a_prompt_changed_is_a_new_prompt():
    llama = make()
    prompt = words(11)
    answer(llama, prompt, 130)
    changed = prompt[:6] + [(prompt[6] + 1) % fake.VOCAB] + words(8, 3)
    before = llama._ctx.decodes
    assert answer(llama, changed, 90) == answer(make(), changed, 90)
    assert llama._ctx.decodes - before == 9 + 89
    check(llama, 15)


def test_exact_repeats():
    llama = make()
    prompt = words(11)
    first = answer(llama, prompt, 100)
    before = llama._ctx.decodes
    assert answer(llama, prompt, 100) == first
    assert llama._ctx.decodes == before + 1 + 99  # the prompt's last token, for its logits
    check(llama, 11)
    # All that was read: nothing is read again.
    text, before = llama.input_ids[: llama.n_tokens].tolist(), llama._ctx.decodes
    assert answer(llama, text, 1) == first[-1:] and llama._ctx.decodes == before
    # A part of it, with holes: read again from the first.
    assert answer(llama, text[:90], 20) == first[79:99]
    check(llama, 11)
    assert answer(llama, prompt[:1], 3) == answer(make(), prompt[:1], 3)


def test_prompts_that_grow_before_anything_was_generated():
    llama = make()
    answer(llama, words(5), 1)
    answer(llama, words(12), 100)
    check(llama, 12)


def test_an_interrupted_vote_starts_again():
    llama = make()
    prompt = words(11)
    text = prompt + answer(llama, prompt, 39 + 3)[:-1]  # three of five queries have voted
    assert llama._region is not None
    changed = text[:-1] + words(30, 2)
    answer(llama, changed, 20)
    check(llama, 11)


def test_by_hand():
    llama = make()
    llama.eval(words(11))
    llama.eval(words(150, 2))
    check(llama, 11)
    missing = llama._cells.first_hole(161)
    llama.n_tokens = missing + 1
    with pytest.raises(ValueError, match=f"n_tokens: expected the token before position {missing + 1} in the cache"):
        llama.eval([1])
    llama.reset()
    llama.eval(words(7))
    assert held(llama) == list(range(7)) and llama.stats()["prompt"] == 7


def test_the_penalty_beside_it():
    seen = []

    def watch(ids, scores):
        seen.append(ids.copy())
        return scores

    llama, prompt = make(), words(11)
    written = answer(llama, prompt, 200, logits_processor=[LZPenalty(strength=2, prompt_length=11), watch])
    assert [len(ids) for ids in seen] == list(range(11, 211))
    assert seen[-1].tolist() == (prompt + written)[:-1]  # the whole text, dropped tokens as well
    assert written != answer(make(), prompt, 200)
    check(llama, 11)


def test_what_goes_wrong_on_the_way_forgets_the_text(monkeypatch):
    prompt = words(11)
    wanted = answer(make(), prompt, 120)

    def after(error, match, break_it):
        llama = make()
        with monkeypatch.context() as patch:
            break_it(llama, patch)
            with pytest.raises(error, match=match):
                answer(llama, prompt, 120)
        llama._ctx.memory.refuses = llama._ctx.fails = False
        assert llama.n_tokens == 0
        assert answer(llama, prompt, 120) == wanted
        check(llama, 11)

    def kind(name):
        return lambda llama, patch: patch.setattr(fake.TENSORS, "kind", name)

    def elsewhere(llama, patch):
        def place(self, tokens):
            return [i for i, cell in enumerate(self.cells) if cell is None][-len(tokens) :]

        patch.setattr(fake.Memory, "place", place)

    class Stop(BaseException):
        pass

    def interrupted(llama, patch):
        def scores(self):
            raise Stop

        patch.setattr(Tap, "scores", scores)

    after(RuntimeError, "kq_soft_max can't be read, their numbers are not float32", kind("half"))
    after(RuntimeError, "kq_soft_max can't be read, they are not contiguous", kind("strided"))
    after(
        RuntimeError, "nodes kq_soft_max.* none", lambda llama, patch: patch.setattr(fake.Context, "_show", lambda *a: None)
    )
    after(RuntimeError, "places tokens in another way", elsewhere)
    after(RuntimeError, "single tokens can be removed", lambda llama, patch: setattr(llama._ctx.memory, "refuses", True))
    after(RuntimeError, "llama_decode returned -1", lambda llama, patch: setattr(llama._ctx, "fails", True))
    after(Stop, None, interrupted)


def test_too_small_caches_are_refused_before_anything_is_read():
    llama = make()
    first = answer(llama, words(11), 60)
    before, where = llama._ctx.decodes, held(llama)
    for call in (lambda: answer(llama, words(21, 3), 5), lambda: answer(llama, words(400, 1), 5)):
        with pytest.raises(
            ValueError, match=r"max_prompt: expected room for a prompt of \d+ tokens, which needs \d+ cells, got 64"
        ):
            call()
    assert (llama._ctx.decodes, held(llama)) == (before, where)
    text = llama.input_ids[: llama.n_tokens].tolist()
    assert answer(llama, text, 1) == first[-1:]
    with pytest.raises(ValueError, match="tokens: expected at most 330 more, so that n_ctx holds them, got 331"):
        llama.eval(words(331))
    assert len(answer(llama, text, 331)) == 331
    assert llama.n_tokens == llama.n_ctx() == 400
    with pytest.raises(ValueError, match="tokens: expected at most 0 more"):
        llama.eval([1])
    assert answer(make(n_ctx=30), words(20), 11)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(interval=None), TypeError, "interval: expected an integer, got None"),
        (dict(interval=25), ValueError, "interval: expected a multiple of ratio, 4, got 25"),
        (dict(recent=24), ValueError, "recent: expected less than interval"),
        (dict(budget=4), ValueError, "budget: expected at least recent"),
        (dict(kernel=4), ValueError, "kernel: expected an odd number, got 4"),
        (dict(kernel=0), ValueError, "kernel: expected at least 1"),
        (dict(max_prompt=0), ValueError, "max_prompt: expected at least 1"),
        (dict(n_ctx=-1), ValueError, "n_ctx: expected at least 0"),
        (dict(n_ctx=0, budget=None), ValueError, "n_ctx: expected the tokens of a text where budget is None"),
        (dict(n_ctx=fake.TRAINED + 1), ValueError, "n_ctx: expected at most 4096 tokens, which the model was trained on"),
        (dict(selector="h2o"), ValueError, "selector: expected one of 'rpc', 'streaming', 'random', got 'h2o'"),
        (dict(flash_attn=True), ValueError, "flash_attn: expected False where selector is 'rpc'"),
        (dict(draft_model=lambda ids: ids), ValueError, "draft_model: expected nothing"),
        (dict(logits_all=True), ValueError, "logits_all: expected nothing, got True"),
        (dict(embedding=True), ValueError, "embedding: expected nothing, got True"),
    ],
)
def test_refused_options(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (dict(n_swa=1024), "model_path: .* has sliding windows"),
        (dict(is_recurrent=True), "has recurrent layers"),
        (dict(is_hybrid=True), "has recurrent layers"),
        (dict(has_encoder=True), "has an encoder"),
    ],
)
def test_refused_models(says, message, monkeypatch):
    monkeypatch.setattr(fake.Llama, "model_says", says)
    with pytest.raises(ValueError, match=message):
        make()


def test_positions_that_depend_on_the_length_of_the_text(monkeypatch):
    monkeypatch.setattr(fake.Llama, "metadata", {"phi3.rope.scaling.original_context_length": "128"})
    with pytest.raises(ValueError, match="n_ctx: expected at most 128 tokens with a cache of 64 cells, got 400"):
        make()
    make(n_ctx=128)
    make(budget=100)
    monkeypatch.setitem(fake.Llama.metadata, "phi3.rope.scaling.type", "yarn")
    make()
    make(n_ctx=fake.TRAINED + 1, yarn_orig_ctx=4096)
    assert make(n_ctx=0).n_ctx() == fake.TRAINED


def test_what_can_not_be_done():
    llama = make()
    handlers = fake.modules()["llama_cpp.llama_chat_format"]
    for name in ("Llava15ChatHandler", "MTMDChatHandler"):
        handler = getattr(rpc.llama_chat_format, name)()
        assert hasattr(handlers, name)
        with pytest.raises(ValueError, match="chat_handler: expected one for text, got one for images"):
            make(chat_handler=handler)
    for call in (lambda: llama.set_cache({}), llama.save_state, lambda: llama.load_state(None)):
        with pytest.raises(RuntimeError, match="set_cache|save_state|load_state"):
            call()
    llama.set_cache(None)
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(llama)


@pytest.mark.parametrize("selector", ["streaming", "random"])
def test_others_need_no_callback(selector):
    llama = make(selector=selector, flash_attn=True)
    assert llama.context_params.cb_eval is None
    answer(llama, words(11), 100)
    if selector == "streaming":
        check(llama, 11, selector=selector)


def test_the_tap_counts_what_it_should():
    tap = Tap(FUNCTIONS)
    tap.resize(64)
    callback = fake.CALLBACK(tap.callback)
    rows = np.random.default_rng(3).random((5, 150, 40), np.float32)  # more rows than fit its buffer at once
    rows[1, 2] = 0
    cells = np.array([7, 3, 39, 0])
    fake.TENSORS.show(callback, tap.user_data, "kq_soft_max-0", rows)  # not armed
    with pytest.raises(RuntimeError, match="there were none"):
        tap.arm(cells)
        tap.scores()
    for name in (
        "kq_soft_max",
        "kq_soft_max-",
        "kq_soft_max-1x",
        "kq_soft_max-12 (view)",
        "kq-3",
        "",
        "kq_soft_max-99999999",
    ):
        fake.TENSORS.show(callback, tap.user_data, name, np.full((1, 40), np.nan))
    for name in ("kq_soft_max-0", "kq_soft_max-17"):
        fake.TENSORS.show(callback, tap.user_data, name, rows)
    tap.disarm()
    fake.TENSORS.show(callback, tap.user_data, "kq_soft_max-0", 9 * rows)
    region = rows[..., cells].astype(float)
    total = region.sum(-1, keepdims=True)
    wanted = np.divide(region, total, where=total > 0, out=np.zeros_like(region)).mean((0, 1))
    np.testing.assert_allclose(tap.scores(), wanted, rtol=1e-4)
    assert tap.visible().tolist() == list(range(40))


@pytest.mark.parametrize(
    ("cells", "width", "message"), [([41], 40, "fewer cells"), ([1], 65, "more cells"), ([-1], 40, "fewer")]
)
def test_the_tap_reads_only_what_is_there(cells, width, message):
    tap = Tap(FUNCTIONS)
    tap.resize(64)
    tap.arm(np.array(cells))
    fake.TENSORS.show(fake.CALLBACK(tap.callback), tap.user_data, "kq_soft_max-0", np.ones((2, width)))
    with pytest.raises(RuntimeError, match=message):
        tap.scores()


def test_the_layout_is_the_one_of_c(monkeypatch):
    address, size = _core.attention_tap()
    monkeypatch.setattr(_core, "attention_tap", lambda: (address, size + 8))
    with pytest.raises(RuntimeError, match="attention_tap: expected a struct"):
        Tap(FUNCTIONS)


def test_a_package_without_libraries_is_refused(tmp_path):
    from types import SimpleNamespace

    with pytest.raises(RuntimeError, match="llama_cpp: expected a library with ggml_get_name"):
        ggml_functions(SimpleNamespace(__file__=str(tmp_path / "__init__.py")))


def test_the_penalty_alone_needs_no_engine():
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; import lzpenalty.llama_cpp as x; assert 'llama_cpp' not in sys.modules"
    )
    program += "; assert 'torch' not in sys.modules and 'RPCLlama' in x.__all__"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        getattr(adaptor("llama_cpp", fake), "Nonsense")  # noqa: B009
