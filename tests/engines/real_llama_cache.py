"""RPCLlama in the real llama.cpp with SmolLM2: nothing changes while nothing is dropped, what is dropped is what the
attention says, cells are where they are thought to be, and texts that go on or are changed get the cache that is theirs.
`make test-llama-cpp`."""

import ctypes
import pydoc_data.topics

import llama_cpp
import numpy as np
import pytest
from llama_cpp import Llama, LogitsProcessorList
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from engines.llama_model import load
from lzpenalty.llama_cpp import LZPenalty, RPCLlama
from lzpenalty.llama_cpp.tap import GGML, ggml_functions

SMALL = dict(n_ctx=1024, interval=64, ratio=4, recent=16, budget=96, max_prompt=64)  # 224 cells, so 256
PROMPT = 40


def make(kind=RPCLlama, **options):
    return load(kind, **{**SMALL, **options})


@pytest.fixture(scope="module")
def plain():
    return load(Llama, n_ctx=1024)


@pytest.fixture(scope="module")
def llama():
    return make()


@pytest.fixture(scope="module")
def text(plain):
    return plain.tokenize(pydoc_data.topics.topics["class"].encode())[:700]


def logits(llama):
    return np.ctypeslib.as_array(llama._ctx.get_logits_ith(-1), (llama._n_vocab,)).copy()


def read(llama, text, start=0, step=1):
    """Logits after each step of a text that is given."""
    if start == 0:
        llama.reset()
        llama.eval(text[:PROMPT])
        start = PROMPT
    found = []
    for at in range(start, len(text), step):
        llama.eval(text[at : at + step])
        found.append(logits(llama))
    return np.array(found)


def saved(llama):
    """llama.cpp's own account of the cache: the bytes of its state, and the positions in the order of cells."""
    size = llama_cpp.llama_state_seq_get_size(llama.ctx, 0)
    data = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(llama.ctx, data, size, 0) == size
    streams, cells = np.frombuffer(data, np.uint32, 2, 8)
    table = np.frombuffer(data, np.int32, 3 * cells, 16).reshape(-1, 3)
    assert streams == 1 and (table[:, 1] == 1).all() and (table[:, 2] == 0).all()
    return data, table[:, 0]


def check_cells(llama):
    positions = llama._cells.positions
    np.testing.assert_array_equal(saved(llama)[1], positions[positions >= 0])
    return llama._cells.held(0, llama.n_tokens)


def answer(llama, prompt, n, **options):
    return [token for _, token in zip(range(n), llama.generate(prompt, temp=0.0, **options), strict=False)]


def question(llama, words="Tell me a long story about a lighthouse keeper."):
    return llama.tokenize(f"<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n".encode(), special=True)


def test_while_nothing_is_dropped_nothing_changes(plain, text):
    """To the bit, with votes that are counted and without."""
    watching = make(ratio=1, budget=None)
    np.testing.assert_array_equal(read(watching, text[:260]), read(plain, text[:260]))
    assert watching.stats()["compressions"] == 3 and watching.stats()["kept"] == 260


def test_the_size_of_the_cache_changes_nothing(llama, text):
    """Neither do positions beyond it."""
    larger = make(max_prompt=800)
    assert (llama.stats()["cells"], larger.stats()["cells"]) == (256, 1024)
    np.testing.assert_array_equal(read(llama, text, step=10), read(larger, text, step=10))
    np.testing.assert_array_equal(check_cells(llama), check_cells(larger))
    assert llama.stats()["compressions"] == 8 and 136 <= llama.stats()["kept"] < 200


class Watched(RPCLlama):
    """Reads the attention once more, in Python, and scores with float64."""

    def _set(self, parameters):
        RPCLlama.context_params.fset(self, parameters)
        get = [kind(address) for kind, address in zip(GGML.values(), ggml_functions(llama_cpp), strict=True)]
        in_c, user = llama_cpp.ggml_backend_sched_eval_callback(self._tap.callback), self._tap.user_data
        self.sums, self.rows, self.checked = 0, 0, 0

        def callback(tensor, ask, _):
            wanted = in_c(tensor, ask, user)
            if not ask and self._region is not None:
                elements, rows = get[1](tensor), get[2](tensor)
                attention = np.empty((rows, elements // rows), np.float32)
                get[5](tensor, attention.ctypes.data, 0, attention.nbytes)
                np.testing.assert_allclose(attention.sum(1), 1, atol=1e-3)
                region = attention[:, self._cells.of(self._region)].astype(float)
                self.sums = self.sums + (region / region.sum(1, keepdims=True)).sum(0)
                self.rows += rows
            return wanted

        self.callback = llama_cpp.ggml_backend_sched_eval_callback(callback)
        parameters.cb_eval = self.callback

    context_params = property(RPCLlama.context_params.fget, _set)

    def _rank(self, region, intervals):
        assert self.rows == 16 * 9 * 30  # queries, heads, layers
        wanted = np.convolve(np.pad(self.sums / self.rows, 3), np.full(7, 1 / 7), "valid")
        scores = super()._rank(region, intervals)
        np.testing.assert_allclose(scores, wanted, rtol=1e-3)
        # All cells that the first layer attended to, and no others, are those of tokens.
        np.testing.assert_array_equal(self._tap.visible(), np.flatnonzero(self._cells.positions >= 0))
        self.sums, self.rows, self.checked = 0, 0, self.checked + 1
        return scores


@pytest.mark.parametrize("options", [{}, dict(type_k=llama_cpp.GGML_TYPE_Q8_0), dict(n_batch=24, n_ubatch=8)])
def test_scores_are_those_of_the_attention(text, options):
    watched = make(Watched, **options)
    read(watched, text[:400], step=50)
    assert watched.checked == watched.stats()["compressions"] == 4
    check_cells(watched)


def test_a_cache_with_holes_is_as_good_as_a_packed_one(llama, plain, text):
    """Their sums differ in order, as those of batches of different sizes do."""
    read(llama, text[:600], step=20)
    data, positions = saved(llama)
    assert (np.diff(np.sort(positions)) > 1).any() and (np.diff(positions) < 0).any()
    plain.reset()
    plain._ctx.kv_cache_clear()
    assert llama_cpp.llama_state_seq_set_data(plain.ctx, data, len(data), 0) == len(data)
    plain.n_tokens = 600
    a, b = read(llama, text[:624], 600), read(plain, text[:624], 600)
    assert (a.argmax(1) == b.argmax(1)).sum() >= 23
    assert np.abs(a - b).mean() < 0.3 < a.std() / 10


def test_flash_attention_and_no_callback(text):
    kept = []
    for flash in (False, True):
        streaming = make(selector="streaming", flash_attn=flash)
        assert not streaming.context_params.cb_eval
        read(streaming, text[:400], step=50)
        kept.append(check_cells(streaming))
    np.testing.assert_array_equal(*kept)
    random = make(selector="random")
    read(random, text[:400], step=50)
    assert len(check_cells(random)) == len(kept[0]) and set(check_cells(random)) != set(kept[0])


def test_further_turns_changes_and_repeats(llama):
    llama.reset()
    prompt = question(llama)
    first = answer(llama, prompt, 300)
    held = check_cells(llama)
    assert llama.n_tokens == len(prompt) + 299 and len(held) < 200
    evaluated = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Llama, "eval", lambda self, tokens, e=Llama.eval: evaluated.extend(tokens) or e(self, tokens))
        more = question(llama, "And then?")
        further = prompt + first + more
        answer(llama, further, 40)
        assert evaluated[: 1 + len(more)] == first[-1:] + more and len(evaluated) == 1 + len(more) + 39
        check_cells(llama)
        # An answer that was changed behind a hole, and one before all holes.
        for cut in (len(prompt) + 250, len(prompt) + 3):
            changed = further[:cut] + question(llama, "No.")
            written, held = answer(llama, changed, 40), check_cells(llama)
            fresh = make()
            fresh.eval(changed[: len(prompt)])
            fresh.eval(changed[len(prompt) : len(prompt) + 1])
            assert written == answer(fresh, changed, 40)
            np.testing.assert_array_equal(held, check_cells(fresh))
        # The same prompt again, and all that was read.
        evaluated.clear()
        assert answer(llama, prompt, 20) == first[:20] and len(evaluated) == 20
        everything, evaluated[:] = llama.input_ids[: llama.n_tokens].tolist(), []
        assert answer(llama, everything, 1) == first[19:20] and not evaluated


def test_chat_with_the_penalty(llama):
    messages = [{"role": "user", "content": "Write a poem about the sea with eight verses."}]
    lengths, texts = [], []

    def watch(ids, scores):
        lengths.append(len(ids))
        scores[[0, 2]] = -np.inf  # the answer doesn't end
        return scores

    for _ in range(2):
        processors = LogitsProcessorList([LZPenalty(strength=0.3), watch])
        said = llama.create_chat_completion(messages, max_tokens=250, temperature=0, logits_processor=processors)
        texts.append(said["choices"][0]["message"]["content"])
        usage = said["usage"]
    assert texts[0] == texts[1] and usage["completion_tokens"] == 250
    half = len(lengths) // 2
    assert lengths[:half] == lengths[half:] == list(range(usage["prompt_tokens"], usage["prompt_tokens"] + half))
    assert llama.stats()["prompt"] == usage["prompt_tokens"]
    messages += [{"role": "assistant", "content": texts[0]}, {"role": "user", "content": "Another one."}]
    said = llama.create_chat_completion(messages, max_tokens=100, temperature=0)
    assert said["usage"]["prompt_tokens"] > 200 and said["usage"]["completion_tokens"] > 5
    assert llama.stats()["prompt"] == usage["prompt_tokens"]
    check_cells(llama)


def test_what_goes_wrong_in_the_callback_forgets_the_text(llama):
    llama.reset()
    prompt = question(llama)
    wanted = answer(llama, prompt, 130)
    llama.reset()
    with pytest.MonkeyPatch.context() as patch:
        arm = llama._tap.arm

        def armed(cells):
            arm(cells)
            llama._tap._c.size = 3

        patch.setattr(llama._tap, "arm", armed)
        with pytest.raises(RuntimeError, match="kq_soft_max can't be read, they have more cells"):
            answer(llama, prompt, 200)
    llama._tap._c.size = 256
    assert llama.n_tokens == 0 and answer(llama, prompt, 130) == wanted
    check_cells(llama)


def test_refusals(llama, text):
    for options, message in (
        (dict(flash_attn=True), "flash_attn: expected False where selector is 'rpc'"),
        (dict(n_ctx=8193), "n_ctx: expected at most 8192 tokens, which the model was trained on, got 8193"),
        (dict(draft_model=LlamaPromptLookupDecoding()), "draft_model: "),
        (dict(logits_all=True), "logits_all: "),
        (dict(embedding=True), "embedding: "),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    read(llama, text[:60])
    with pytest.raises(
        ValueError, match="max_prompt: expected room for a prompt of 100 tokens, which needs 260 cells, got 256"
    ):
        answer(llama, text[100:200], 1)
    assert llama.n_tokens == 60 and len(check_cells(llama)) == 60
    for call in (lambda: llama.set_cache({}), llama.save_state, lambda: llama.load_state(None)):
        with pytest.raises(RuntimeError):
            call()


def test_names_of_ours_are_not_those_of_llama():
    """But for what is meant to be."""
    ours = {name for name in vars(RPCLlama) if not name.startswith("__")}
    ours |= set(vars(make(n_ctx=300))) - set(vars(load(Llama, n_ctx=300)))
    theirs = set(dir(Llama)) | set(vars(load(Llama, n_ctx=300)))
    meant = {"n_ctx", "generate", "eval", "set_cache", "save_state", "load_state", "close", "context_params"}
    assert ours & theirs == meant


def test_a_text_ends_at_n_ctx_and_not_at_the_cells():
    llama = make(n_ctx=400)
    said = llama.create_completion(
        question(llama), max_tokens=None, temperature=0, repeat_penalty=1.0, logit_bias={0: -1e9, 2: -1e9}
    )
    assert said["usage"]["total_tokens"] == 400 and said["choices"][0]["finish_reason"] == "length"
    assert llama.n_ctx() == 400 and llama.stats()["cells"] == 256
    assert make(n_ctx=0).n_ctx() == 8192
