"""ForgetCache is a mask: what it generates is what one forward over the whole text says, with the mask of LightThinker's and
MEMENTO's definitions, which is built here from the text alone."""

import copy
import functools
import threading
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.modeling_outputs import CausalLMOutput

from lzpenalty.cache import attend, layer
from lzpenalty.cache.attention import CACHE_ARGUMENT
from lzpenalty.hf import CompressedCache, Forget, ForgetCache, LZPenaltyLogitsProcessor
from tiny import OWN_SIZES, SIZES, generate
from tiny import tiny as tiny_of_many_words

pytestmark = pytest.mark.usefixtures("one_thread")
# A small vocabulary, so that a random model says each of the added tokens often enough.
VOCAB, CLOSE, GOES_ON, GISTS, OPEN, BEGIN, END = 26, 18, 19, (20, 21, 22), 23, 24, 25
LIGHTTHINKER = Forget(CLOSE, then=(*GISTS, GOES_ON))
MEMENTO = Forget(CLOSE, OPEN, summary=(BEGIN, END), keep_delimiters=True)
MEMENTO_PHI = Forget(CLOSE, OPEN, summary=(BEGIN, END))
RULES = {"lightthinker": LIGHTTHINKER, "memento": MEMENTO, "memento without delimiters": MEMENTO_PHI}


@functools.cache
def tiny(architecture="llama", attention="sdpa", seed=0):
    torch.manual_seed(seed)
    sizes = {**SIZES, **OWN_SIZES.get(architecture, {}), "vocab_size": VOCAB, "initializer_range": 0.3}
    config = AutoConfig.for_model(architecture, **sizes)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def prompt(rows=2, length=12, seed=1):
    return torch.randint(2, CLOSE, (rows, length), generator=torch.Generator().manual_seed(seed))


# The definitions, as masks over whole texts.


def lightthinker_mask(text, fixed, rule=LIGHTTHINKER):
    """[T, T], True where a row sees a column. LightThinker's: causal; behind each splitter and its summary tokens nothing
    sees the thought again, which began behind the prompt or the last summary. `fixed` are ranges of prompts and messages."""
    n = len(text)
    mask = torch.ones(n, n).tril().bool()
    inside = {i for a, b in fixed for i in range(a, b)}
    begins = {b for _, b in fixed}
    start, i = None, 0
    finished = []
    while i < n:
        if i in begins:
            start = i
        if i not in inside and text[i] == rule.close:
            last = i + len(rule.then)
            if last < n and tuple(text[i + 1 : last + 1]) == rule.then:
                mask[last:, start : i + 1] = False
                finished.append((start, i + 1))
                start = i = last + 1
                continue
        i += 1
    return mask, finished


def memento_mask(text, fixed, rule):
    """A block, from its opening token to its end, is hidden from the end of its summary on. Blocks may be nested."""
    n = len(text)
    mask = torch.ones(n, n).tril().bool()
    inside = {i for a, b in fixed for i in range(a, b)}
    opened, closed, summed, finished = [], [], None, []
    for i, token in enumerate(text):
        if i in inside:
            opened, closed, summed = [], [], None
        elif token == rule.open:
            opened.append(i)
        elif token == rule.close and opened:
            closed.append((opened.pop(), i))
        elif token == rule.summary[0] and closed:
            summed = closed.pop()
        elif token == rule.summary[1] and summed:
            first, last = summed
            hidden = slice(first + 1, last) if rule.keep_delimiters else slice(first, last + 1)
            mask[i:, hidden] = False
            finished.append((hidden.start, hidden.stop))
            summed = None
    return mask, finished


def mask_of(text, fixed, rule):
    return (lightthinker_mask if rule.then else memento_mask)(text, fixed, rule)


def whole(model, text, fixed, rule):
    """Logits [T, V] of one forward over the whole text with the mask, and the thoughts that it hides."""
    mask, finished = mask_of(text, fixed, rule)
    # Nothing is masked for eager attention but by numbers that are added.
    added = torch.zeros(1, 1, *mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.no_grad():
        return model(torch.tensor([text]), attention_mask=added, use_cache=False).logits[0], finished


def forced_by(text, fixed, rule):
    """The places of ids that the model had no say in."""
    if not rule.then:
        return set()
    inside = {i for a, b in fixed for i in range(a, b)}
    found, i = set(), 0
    while i < len(text):
        if i not in inside and text[i] == rule.close:
            for j in range(len(rule.then)):
                if i + 1 + j >= len(text) or i + 1 + j in inside or text[i + 1 + j] != rule.then[j]:
                    break
                found.add(i + 1 + j)
            i += len(rule.then)
        i += 1
    return found


def run(model, rule, ids, tokens, mask=None, cache=None, **kwargs):
    """A text, the logits of each new token [B, T, V], and the cache."""
    cache = ForgetCache(model, rule) if cache is None else cache
    with cache:
        out = generate(
            model, ids, tokens, mask, **{CACHE_ARGUMENT: cache}, return_dict_in_generate=True, output_logits=True, **kwargs
        )
    return out.sequences, torch.stack(out.logits, 1), cache


def agree(model, rule, text, logits, fixed):
    """A row's text is greedy by the logits of the whole forward, and these are those that the cache led to. Returns the
    ranges that were hidden."""
    text = text.tolist()
    expected, finished = whole(model, text, fixed, rule)
    forced = forced_by(text, fixed, rule)
    begin = len(text) - len(logits)
    for i in range(begin, len(text)):
        if i in forced:
            assert logits[i - begin].isneginf().sum() == VOCAB - 1 and logits[i - begin].argmax() == text[i]
        else:
            assert torch.allclose(logits[i - begin], expected[i - 1], rtol=1e-3, atol=2e-3), i
            if rule.then or text[i] not in (OPEN, CLOSE, BEGIN, END):  # which are told
                assert expected[i - 1].max() - expected[i - 1, text[i]] < 1e-2
    return finished


# Equal to the mask.


def scripted(rule, rows, length=12):
    """A logits processor that has each row think and sum up at times of its own, where its rule leaves that to the model.
    Everything else the model says."""
    if rule.then:
        return []
    thought = [OPEN, ..., ..., ..., CLOSE, BEGIN, ..., ..., END]

    def processor(input_ids, scores):
        scores = scores.clone()
        at = input_ids.shape[1] - length
        for row in range(rows):
            token = thought[at // (row + 1) % 9] if at % (row + 1) == 0 else ...
            if token is not ...:
                scores[row] = -torch.inf
                scores[row, token] = 0
        return scores

    return [processor]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_one_forward_with_the_mask_says_the_same(rule, architecture, attention):
    counts = []
    for seed in range(2):
        model = tiny(architecture, attention, seed)
        text, logits, cache = run(model, rule, prompt(2), 110, logits_processor=scripted(rule, 2))
        for row in range(2):
            finished = agree(model, rule, text[row], logits[row], [(0, 12)])
            hidden = sum(b - a for a, b in disjoint(finished))
            assert cache.stats()["kept_by_row"][row] == text.shape[1] - 1 - hidden
            assert cache.stats()["thoughts"][row] == len(finished)
            counts.append(len(finished))
    assert sum(counts) > 4 and len({*counts}) > 1  # rows that split at different times


def disjoint(ranges):
    """Without those that lie in a later, larger one."""
    return [(a, b) for i, (a, b) in enumerate(ranges) if not any(c <= a and b <= d for c, d in ranges[i + 1 :])]


LEFT_PADDED = ((0, 7), (1, 3), (2, 0))  # row, padding


@pytest.mark.parametrize("by_torch", [False, True])
@pytest.mark.parametrize("rule", [LIGHTTHINKER, MEMENTO], ids=["lightthinker", "memento"])
def test_left_padded_rows_that_split_at_different_times(rule, by_torch, monkeypatch):
    """Each is what it is alone, without padding; by our kernel, and by what other devices get; as buffers grow, too."""
    monkeypatch.setattr(layer, "GROWTH", 16)
    if by_torch:
        monkeypatch.setattr(attend, "is_ours", lambda *states: False)
    for architecture in ("llama", "qwen2"):
        model, ids = tiny(architecture), prompt(3)
        mask = torch.ones_like(ids)
        for row, padding in LEFT_PADDED:
            mask[row, :padding] = 0
        text, logits, cache = run(model, rule, ids * mask, 120, mask, logits_processor=scripted(rule, 3))
        assert len({*cache.stats()["kept_by_row"]}) > 1
        for row, padding in LEFT_PADDED:
            finished = agree(model, rule, text[row, padding:], logits[row], [(0, 12 - padding)])
            assert cache.stats()["thoughts"][row] == len(finished)


def written(model, rule, *script):
    """What rows keep after each token of these scripts, and the ranges that the definition hides in the end."""
    ids = prompt(len(script))
    kept = []
    cache = ForgetCache(model, rule)
    with cache, torch.no_grad():
        model(ids, **{CACHE_ARGUMENT: cache})
        for column in zip(*script, strict=True):
            model(torch.tensor(column)[:, None], **{CACHE_ARGUMENT: cache})
            kept.append(cache.stats()["kept_by_row"])
    return kept, cache


T = 2  # any word
FORCED = (*GISTS, GOES_ON)


def test_when_thoughts_are_dropped():
    """A thought goes, with its splitter, before the last token of its summary is computed."""
    model = tiny()
    # Two thoughts of 3 and 2 tokens; a row that splits at once and then goes on; a row that never splits.
    scripts = [
        [T, T, CLOSE, *FORCED, T, CLOSE, *FORCED, T],
        [CLOSE, *FORCED, T, T, T, T, T, T, T, T],
        [T] * 13 + [T],
    ]
    scripts = [script[:14] for script in scripts]
    scripts = [script + [T] * (14 - len(script)) for script in scripts]
    kept, cache = written(model, LIGHTTHINKER, *scripts)
    assert [row[0] - 12 for row in kept] == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9, 8, 9]
    assert [row[1] - 12 for row in kept] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert [row[2] - 12 for row in kept] == [*range(1, 15)]
    assert cache.stats()["thoughts"] == [2, 1, 0]


def test_summaries_that_are_not_as_trained():
    """What is not closed, not summed up, or interrupted stays."""
    model = tiny()

    def kept(rule, *script):
        return written(model, rule, [*script])[0][-1][0] - 12

    assert kept(LIGHTTHINKER, T, CLOSE, GISTS[0], T, *FORCED) == 8  # somebody else chose a token
    assert kept(LIGHTTHINKER, T, CLOSE, CLOSE, *FORCED) == 4  # the thought had gone on
    assert kept(LIGHTTHINKER, *FORCED, T) == 5
    assert kept(MEMENTO, OPEN, T, T, CLOSE, BEGIN, T, END, T) == 6
    assert kept(MEMENTO_PHI, OPEN, T, T, CLOSE, BEGIN, T, END, T) == 4
    assert kept(MEMENTO, OPEN, CLOSE, BEGIN, END) == 4  # an empty thought
    assert kept(MEMENTO, CLOSE, BEGIN, T, END) == 4  # never opened
    assert kept(MEMENTO, OPEN, T, CLOSE, T, END, T) == 6  # no summary
    assert kept(MEMENTO, OPEN, T, CLOSE, BEGIN, T, T) == 6  # not finished
    # The inner one goes first, then the outer one, with the inner's summary.
    nested = [OPEN, T, OPEN, T, T, CLOSE, BEGIN, END, T, CLOSE]
    assert kept(MEMENTO_PHI, *nested) == len(nested) - 4
    assert kept(MEMENTO_PHI, *nested, BEGIN, END) == 2
    # A summary belongs to the thought that was closed last, and the next one to that before.
    assert kept(MEMENTO_PHI, OPEN, T, CLOSE, OPEN, T, T, CLOSE, BEGIN, END) == 5
    assert kept(MEMENTO_PHI, OPEN, T, CLOSE, OPEN, T, T, CLOSE, BEGIN, END, BEGIN, END) == 4


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_text_is_seen_as_the_definition_says(data):
    """Whatever is fed: the last token's logits are those of the whole text with the mask."""
    rule = data.draw(st.sampled_from([*RULES.values()]))
    words = st.sampled_from([T, 3, CLOSE, OPEN, BEGIN, END, *FORCED])
    pieces = st.one_of(st.lists(words, min_size=1, max_size=3), st.just([CLOSE, *FORCED]), st.just([CLOSE, BEGIN, T, END]))
    row = st.lists(pieces, max_size=8).map(lambda parts: sum(parts, [])[:24]).map(lambda text: text + [T] * (24 - len(text)))
    script = [data.draw(row), data.draw(row)]
    ids = prompt(2)
    with ForgetCache(tiny(), rule) as cache, torch.no_grad():
        tiny()(ids, **{CACHE_ARGUMENT: cache})
        logits = [
            tiny()(torch.tensor(column)[:, None], **{CACHE_ARGUMENT: cache}).logits[:, -1]
            for column in zip(*script, strict=True)
        ]
    for row in range(2):
        text = ids[row].tolist() + script[row]
        expected, finished = whole(tiny(), text, [(0, 12)], rule)
        for i, seen in enumerate(logits):
            free = seen[row].isfinite()  # what would have to follow is forced
            assert torch.allclose(seen[row][free], expected[12 + i][free], rtol=1e-3, atol=2e-3) or free.sum() == 1
        assert cache.stats()["kept_by_row"][row] == 36 - sum(b - a for a, b in disjoint(finished))


# Memory.


def test_the_peak_is_what_the_paper_says():
    """The prompt, n + 1 tokens of each finished thought, and the longest thought."""
    seen, n = 0, len(GISTS)
    for seed in range(3):
        text, _, cache = run(tiny("llama", "sdpa", seed), LIGHTTHINKER, prompt(1), 150)
        fed = text[0, :-1].tolist()
        _, finished = lightthinker_mask(fed, [(0, 12)])
        lengths = [end - start for start, end in finished]
        last = len(fed) - (finished[-1][1] + n + 1 if finished else 12)  # of the thought that has not ended
        now = 12 + len(finished) * (n + 1) + last
        assert cache.stats()["kept"] == now
        # All but the last token of a summary are computed while the thought is there.
        peak = cache.stats()["peak"]
        assert peak == max([now, *(12 + i * (n + 1) + length + n for i, length in enumerate(lengths))])
        assert peak <= 12 + len(finished) * (n + 1) + max(*lengths, last) < len(fed)
        seen += len(finished)
    assert seen > 4


# Further turns, copies, rows that are chosen.


def test_further_turns():
    """A message is never dropped, nor is what it interrupts."""
    for rule in RULES.values():
        for rows_ in (1, 2):
            model, text, fixed = tiny(), prompt(rows_), [(0, 12)]
            cache = ForgetCache(model, rule)
            for turn in range(2):
                told = scripted(rule, rows_, text.shape[1])
                text, logits, _ = run(model, rule, text, 40, cache=cache, logits_processor=told)
                for row in range(rows_):
                    agree(model, rule, text[row], logits[row], fixed)
                # The last token of an answer is fed together with the message.
                message = torch.cat([prompt(rows_, 4, turn), torch.full((rows_, 2), CLOSE)], 1)
                fixed.append((text.shape[1], text.shape[1] + 6))
                text = torch.cat([text, message], 1)


def test_an_answer_that_is_continued():
    """As if it had never been interrupted, wherever that was: also within a summary."""
    model = tiny()
    expected, _, cache = run(model, LIGHTTHINKER, prompt(2), 60)
    assert sum(cache.stats()["thoughts"]) > 1
    text, cache = prompt(2), ForgetCache(model, LIGHTTHINKER)
    for _ in range(60):
        text, _, _ = run(model, LIGHTTHINKER, text, 1, cache=cache)
    assert torch.equal(text, expected)


def test_copies_go_their_own_ways():
    model = tiny()
    with ForgetCache(model, LIGHTTHINKER) as cache:
        first = generate(model, prompt(2), 30, **{CACHE_ARGUMENT: cache})
        twin = copy.deepcopy(cache)
        text = torch.cat([first, prompt(2, 3, 8)], 1)
        answers = [generate(model, text, 40, **{CACHE_ARGUMENT: each}) for each in (cache, twin)]
        assert torch.equal(*answers) and cache.stats()["thoughts"] == twin.stats()["thoughts"]
        cache.reset()
        assert cache.stats() == {
            "seen": 0, "kept": 0, "prompt": 0, "bytes": 0, "seconds": 0, "peak": 0, "kept_by_row": [], "thoughts": [],
        }  # fmt: skip
        assert torch.equal(generate(model, prompt(2), 30, **{CACHE_ARGUMENT: cache}), first)
    assert "close=18" in repr(cache)


@contextmanager
def masked(model, rule):
    """The model without a cache: every forward is one over the whole text, with the mask, and forces what is forced."""
    forward = model.forward

    def whole_text(input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        logits = torch.stack([whole(plain, text, [(0, 12)], rule)[0] for text in input_ids.tolist()])
        for row, text in enumerate(input_ids.tolist()):
            for i in range(len(rule.then)):
                if len(text) > 12 + i and tuple(text[-1 - i :]) == (rule.close, *rule.then[:i]):
                    logits[row, -1] = -torch.inf
                    logits[row, -1, rule.then[i]] = 0
        return CausalLMOutput(logits=logits)

    plain = copy.copy(model)
    plain.forward = forward
    model.forward = whole_text
    try:
        yield
    finally:
        del model.forward


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2, "do_sample": True},
        {"do_sample": True, "top_k": 0, "num_return_sequences": 3},
    ],
)
def test_beams_and_samples_take_their_cache_along(kwargs):
    model = tiny()
    torch.manual_seed(7)
    with masked(model, LIGHTTHINKER):
        expected = generate(model, prompt(2), 40, use_cache=False, **kwargs)
    torch.manual_seed(7)
    with ForgetCache(model, LIGHTTHINKER) as cache:
        assert torch.equal(generate(model, prompt(2), 40, **{CACHE_ARGUMENT: cache}, **kwargs), expected)
    assert sum(cache.stats()["thoughts"]) > 0


def test_rows_can_be_chosen_at_any_time():
    model = tiny()
    chosen = torch.tensor([2, 0, 0])
    script = [[T, CLOSE, *FORCED, T, T], [T] * 8, [T, T, T, CLOSE, *FORCED]]
    changes = [
        lambda cache: cache.reorder_cache(chosen),
        lambda cache: cache.batch_select_indices(chosen),
        lambda cache: (cache.batch_repeat_interleave(2), cache.batch_select_indices(torch.tensor([4, 0, 1]))),
    ]
    for change in changes:
        for at in range(8):
            logits = []
            for first in (True, False):
                with ForgetCache(model, LIGHTTHINKER) as cache, torch.no_grad():
                    model(prompt(3)[chosen] if first else prompt(3), **{CACHE_ARGUMENT: cache})
                    for i, column in enumerate(zip(*script, strict=True)):
                        if i == at and not first:
                            change(cache)
                        fed = torch.tensor(column)[chosen] if first or i >= at else torch.tensor(column)
                        last = model(fed[:, None], **{CACHE_ARGUMENT: cache}).logits
                logits.append(last)
            assert torch.equal(*logits)


# Together with others.


def test_a_text_that_ends_and_other_processors():
    """A row that has ended is fed padding, which changes nothing for the others; penalties can't undo what is forced."""
    model = tiny()
    text, _, _ = run(model, LIGHTTHINKER, prompt(2), 60)
    ends = int(text[0, 30])
    both, logits, cache = run(model, LIGHTTHINKER, prompt(2), 60, eos_token_id=ends)
    length = 12 + (text[0, 12:] == ends).nonzero()[0].item() + 1
    assert torch.equal(both[0, :length], text[0, :length]) and (both[0, length:] == 0).all()
    other = text[1].tolist()
    stop = other.index(ends, 12) + 1 if ends in other[12:] else len(other)
    assert both[1, :stop].tolist() == other[: both.shape[1]][:stop]

    penalty = LZPenaltyLogitsProcessor(strength=2.0)
    text, _, cache = run(model, LIGHTTHINKER, prompt(1), 150, logits_processor=[penalty])
    _, finished = lightthinker_mask(text[0].tolist(), [(0, 12)])
    assert cache.stats()["thoughts"] == [len(finished)] and finished


def test_two_caches_and_threads_share_a_model():
    model, results = tiny(), {}
    expected = [run(model, LIGHTTHINKER, prompt(2, 12, seed), 60)[0] for seed in range(3)]

    def work(seed):
        results[seed] = run(model, LIGHTTHINKER, prompt(2, 12, seed), 60)[0]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[seed], expected[seed]) for seed in range(3))
    plain = generate(model, prompt(), 40)
    with ForgetCache(model, LIGHTTHINKER), ForgetCache(model, MEMENTO) as cache:
        assert torch.equal(generate(model, prompt(), 40), plain)
        with CompressedCache(model, interval=None) as other:
            assert torch.equal(generate(model, prompt(), 40, **{CACHE_ARGUMENT: other}), plain)
        generate(model, prompt(), 40, **{CACHE_ARGUMENT: cache})
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_a_compiled_forward_says_the_same():
    model = tiny()
    expected, _, cache = run(model, LIGHTTHINKER, prompt(2), 60)
    torch._dynamo.reset()
    try:
        model.forward = torch.compile(type(model).forward.__get__(model), backend="eager")
        text, _, compiled = run(model, LIGHTTHINKER, prompt(2), 60)
    finally:
        del model.forward
        torch._dynamo.reset()
    assert torch.equal(text, expected)
    assert compiled.stats()["thoughts"] == cache.stats()["thoughts"] != [0, 0]


# Refusals.


class Words:
    def __init__(self, *words):
        self.words = {word: 5 + i for i, word in enumerate(words)}

    def get_vocab(self):
        return self.words


def test_published_settings():
    gists = [f"<|o_{i}|>" for i in range(9)]
    tokenizer = Words("<|splitter|>", "<|continue|>", *gists)
    assert Forget.lightthinker_qwen(tokenizer) == Forget(5, then=(*range(7, 16), 6))
    assert Forget.lightthinker_llama(tokenizer) == Forget(5, then=(*range(7, 14), 6))
    tokenizer = Words("<|block_start|>", "<|block_end|>", "<|summary_start|>", "<|summary_end|>")
    assert Forget.memento_qwen(tokenizer) == Forget(6, 5, summary=(7, 8), keep_delimiters=True)
    assert Forget.memento_phi(tokenizer) == Forget(6, 5, summary=(7, 8))
    with pytest.raises(ValueError, match=r"tokenizer: expected one with .* without <\|splitter\|>, .*<\|continue"):
        Forget.lightthinker_llama(tokenizer)


BAD = [
    (dict(close=-1, then=[1]), ValueError, "close: expected at least 0, got -1"),
    (dict(close=1.0, then=[2]), TypeError, "close: expected an integer, got 1.0"),
    (dict(close=True, then=[2]), TypeError, "close: expected an integer, got True"),
    (dict(close=1, open=1, then=[2]), ValueError, "open: expected ids that close has not, got 1"),
    (dict(close=1, open="2", then=[3]), TypeError, "open: expected an integer, got '2'"),
    (dict(close=1), ValueError, "then: expected at least one id where there is no summary, got none"),
    (dict(close=1, then=[]), ValueError, "then: expected at least one id where there is no summary, got none"),
    (dict(close=1, then=3), TypeError, "then: expected ids, got 3"),
    (dict(close=1, then="23"), TypeError, "then: expected ids, got '23'"),
    (dict(close=1, then=[2, -3]), ValueError, "then: expected at least 0, got -3"),
    (dict(close=1, then=[2, 1]), ValueError, "then: expected ids that close has not, got 1"),
    (dict(close=1, then=[2], summary=(3, 4)), ValueError, r"then: expected none .*, got \(2,\)"),
    (dict(close=1, summary=(3,)), ValueError, "summary: expected two ids, got 1"),
    (dict(close=1, summary=(3, 3)), ValueError, "summary: expected ids that summary has not, got 3"),
    (dict(close=1, summary=(3, 1)), ValueError, "summary: expected ids that close has not, got 1"),
    (dict(close=1, then=[2], keep_delimiters=True), ValueError, "open: expected an id where keep_delimiters is True"),
    (dict(close=1, open=2, then=[3], keep_delimiters=1), TypeError, "keep_delimiters: expected True or False, got 1"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_rules(options, error, message):
    with pytest.raises(error, match=message):
        Forget(**options)


def test_bad_caches():
    for rule, message in (
        (Forget(VOCAB, then=[1]), "close: expected ids below the model's vocabulary size, 26, got 26"),
        (Forget(1, then=[2, 99]), "then: expected ids below the model's vocabulary size, 26, got 99"),
        (Forget(1, 30, then=[2]), "open: expected"),
        (Forget(1, summary=(2, 30)), "summary: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            ForgetCache(tiny(), rule)
    with pytest.raises(TypeError, match="forget: expected a Forget, got int"):
        ForgetCache(tiny(), 3)
    with pytest.raises(ValueError, match="model: expected full attention in all layers, got Gemma3ForCausalLM, of whose"):
        ForgetCache(tiny_of_many_words("gemma3_text"), LIGHTTHINKER)


def test_what_can_not_be_done_is_refused_before_anything_is_written():
    model = tiny()
    with ForgetCache(model, LIGHTTHINKER) as cache, torch.no_grad():
        with pytest.raises(ValueError, match="input_ids: expected the tokens of every forward, got none"):
            model(inputs_embeds=torch.randn(1, 5, 48), **{CACHE_ARGUMENT: cache})
        assert cache.stats()["seen"] == 0
        model(prompt(2), **{CACHE_ARGUMENT: cache})
        with pytest.raises(ValueError, match="input_ids: expected 2 rows, as before, got 3"):
            model(prompt(3, 1), **{CACHE_ARGUMENT: cache})
        model(prompt(2, 1), **{CACHE_ARGUMENT: cache})
        with pytest.raises(RuntimeError, match="can't take tokens back"):
            cache.crop(-1)
    with pytest.raises(RuntimeError, match="expected to be used inside of its block"):
        generate(model, prompt(), 4, **{CACHE_ARGUMENT: ForgetCache(model, LIGHTTHINKER)})
    with ForgetCache(model, LIGHTTHINKER) as cache:
        with pytest.raises(RuntimeError, match="can't take tokens back, so assisted decoding is not supported"):
            generate(model, prompt(1), 20, **{CACHE_ARGUMENT: cache}, prompt_lookup_num_tokens=3)
        generate(model, prompt(2), 20, **{CACHE_ARGUMENT: cache})  # untouched, so it can be used


def test_an_interrupted_forward_breaks_the_cache(monkeypatch):
    model = tiny()

    def fail(*args, **kwargs):
        raise KeyError

    with ForgetCache(model, LIGHTTHINKER) as cache:
        text = generate(model, prompt(), 30, **{CACHE_ARGUMENT: cache})
        with monkeypatch.context() as patch, pytest.raises(KeyError):
            patch.setattr(model.model.layers[1].mlp, "forward", fail)
            generate(model, text, 4, **{CACHE_ARGUMENT: cache})
        with pytest.raises(RuntimeError, match="an earlier forward ended before all layers were done"):
            generate(model, text, 4, **{CACHE_ARGUMENT: cache})
        cache.reset()
        assert torch.equal(generate(model, prompt(), 30, **{CACHE_ARGUMENT: cache}), text)


def test_without_a_split_it_is_transformers_own_cache():
    rule = Forget(CLOSE, OPEN, then=(*GISTS, GOES_ON))

    def never(input_ids, scores):
        scores = scores.clone()
        scores[:, [OPEN]] = -torch.inf
        return scores

    for kwargs in ({}, {"do_sample": True}, {"num_beams": 3}):
        texts = []
        for cache in (DynamicCache(config=tiny().config), ForgetCache(tiny(), rule)):
            torch.manual_seed(3)
            with cache if isinstance(cache, ForgetCache) else torch.no_grad():
                texts.append(generate(tiny(), prompt(), 50, **{CACHE_ARGUMENT: cache}, logits_processor=[never], **kwargs))
        assert torch.equal(*texts)
