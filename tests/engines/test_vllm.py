"""`lzpenalty.vllm` driven as vLLM's two runners drive it: whatever joins, leaves, moves or starts over, every row gets the
formula for its own request, and rows that did not ask keep their logits bit for bit."""

import inspect
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from engines import fake_vllm
from engines.load import adaptor, installed
from lzpenalty.engines.serving import request_options
from lzpenalty.presets import resolve

vllm = adaptor("vllm.penalty", fake_vllm)
if installed("vllm"):
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
else:
    from engines.fake_vllm import (
        BatchUpdate,
        LogitsContext,
        LogitsProcRequestState,
        MoveDirectionality,
        SamplingParams,
    )

VOCAB, SLOTS, LENGTH = 9, 6, 120
CPU = torch.device("cpu")
CONFIG = SimpleNamespace(speculative_config=None)
ASKS = [
    None,
    {},
    {"other": 1},
    {"lz_strength": 0},
    {"lz_strength": 1.0},
    {"lz_window": 5, "lz_buffer": 2},
    {"lz_strength": 0.5, "lz_min_match": 2},
    {"lz_skip": [VOCAB + 100]},  # which the model doesn't have: left alone
    {"lz_gate": [6, 9], "lz_release": [3, [4, 5]], "lz_release_after": 7, "lz_open": [1, [2, 2]], "lz_section_gate": [3, 9]},
    {"lz_preset": "reasoning", "lz_release": [[4, 5]], "lz_gate": [6, 7], "lz_skip": [2], "lz_resume": [[1, 1], 0]},
]


def options_of(extra):
    options = {name[3:]: value for name, value in (extra or {}).items() if name.startswith("lz_")}
    made = resolve(options.pop("preset", "paper"), options)
    return made.keywords() if options and made.vocab_size <= VOCAB else None


def expected(logits, requests):
    """`requests`: what asked, its prompt, and which tokens have been generated, by row."""
    logits = logits.clone()
    for row, (extra, prompt, output) in requests.items():
        if options := options_of(extra):
            text = [token if token >= 0 else -1 - at for at, token in enumerate([*prompt, *output])]
            for token, penalty in oracle.penalties(text, VOCAB, start=len(prompt), **options).items():
                if token < VOCAB:
                    logits[row, token] -= penalty
    return logits


def check(apply, rows, requests):
    logits = torch.randn(rows, VOCAB)
    logits[0, 3] = -torch.inf
    got = apply(logits.clone())
    torch.testing.assert_close(got, expected(logits, requests), atol=1e-5, rtol=1e-5)
    for row in range(rows):
        if not options_of(requests.get(row, (None,))[0]):
            assert torch.equal(got[row], logits[row])


class FirstRunner:
    """Rows of a persistent batch, and the lists of tokens that the runner appends to."""

    def __init__(self):
        self.processor = vllm.LZPenalty(CONFIG, CPU, False)
        self.rows = {}
        self.preempted = []

    def step(self, data):
        removed, added, moved = [], [], []
        for row in list(self.rows):
            fate = data.draw(st.sampled_from(["stay"] * 6 + ["leave", "preempt"]))
            if fate != "stay":
                request = self.rows.pop(row)
                removed.append(row)
                if fate == "preempt":
                    self.preempted.append(request)
        for row in range(SLOTS):
            taken = row in self.rows
            if data.draw(st.booleans() if not taken else st.sampled_from([False] * 9 + [True])):
                if self.preempted and data.draw(st.booleans()):
                    extra, prompt, output = self.preempted.pop()
                    request = extra, prompt, list(output)  # another list with the same tokens
                else:
                    request = data.draw(st.sampled_from(ASKS)), data.draw(st.lists(st.integers(0, 3), max_size=30)), []
                self.rows[row] = request
                added.append((row, SamplingParams(extra_args=request[0]), request[1], request[2]))
                removed = [other for other in removed if other != row]  # as vLLM has it: replaced, not removed
        for _ in range(data.draw(st.integers(0, 2))):
            a, b = data.draw(st.permutations(range(SLOTS)))[:2]
            if a in self.rows and b in self.rows:
                self.rows[a], self.rows[b] = self.rows[b], self.rows[a]
                moved.append((a, b, MoveDirectionality.SWAP))
            elif a in self.rows:
                self.rows[b] = self.rows.pop(a)
                moved.append((a, b, MoveDirectionality.UNIDIRECTIONAL))
        changed = removed or added or moved
        update = BatchUpdate(batch_size=len(self.rows), removed=removed, added=added, moved=moved) if changed else None
        self.processor.update_state(update)
        check(self.processor.apply, SLOTS, self.rows)
        for *_, output in self.rows.values():
            output.append(data.draw(st.integers(0, 3)))
            if data.draw(st.sampled_from([False] * 9 + [True])):
                output[-1] = -1


class SecondRunner:
    """Slots with their tokens on the device, rows in another order at every step."""

    drafts = st.just([])

    def __init__(self):
        texts = torch.randint(0, 4, (SLOTS, LENGTH), dtype=torch.int32)  # left by whom was there before
        lengths = [torch.zeros(SLOTS, dtype=torch.int32) for _ in range(3)]
        buffers = [SimpleNamespace(gpu=tensor) for tensor in (texts, *lengths)]
        self.state = LogitsProcRequestState(CPU, SLOTS, VOCAB, *buffers)
        self.processor = vllm.LZPenalty(CONFIG, self.state)
        self.slots = {}
        self.preempted = []

    def step(self, data):
        state = self.state
        for slot in list(self.slots):
            fate = data.draw(st.sampled_from(["stay"] * 6 + ["leave", "preempt"]))
            if fate != "stay":
                request = self.slots.pop(slot)
                if fate == "preempt":
                    self.preempted.append(request)
        for slot in set(range(SLOTS)) - set(self.slots):
            if data.draw(st.booleans()):
                if self.preempted and data.draw(st.booleans()):
                    request = self.preempted.pop()
                else:
                    request = data.draw(st.sampled_from(ASKS)), data.draw(st.integers(1, 5)), []
                extra, prompt, output = self.slots[slot] = request
                asked = self.processor.add_request(slot, SamplingParams(extra_args=extra))
                assert asked == (request_options(extra) is not None)
                state.prompt_len.gpu[slot] = prompt
                state.prefill_len.gpu[slot] = prompt + len(output)
        self.processor.apply_staged_writes()
        order = data.draw(st.permutations(sorted(self.slots)))
        for slot, (_, prompt, output) in self.slots.items():
            state.total_len.gpu[slot] = prompt + len(output)
            state.all_token_ids.gpu[slot, prompt : prompt + len(output)] = torch.tensor(output, dtype=torch.int32)
        drafts = {slot: data.draw(self.drafts) for slot in order}
        if order:
            rows = [(slot, i) for slot in order for i in range(len(drafts[slot]) + 1)]  # a row for each draft behind it
            slots, local = (torch.tensor(column, dtype=torch.int32) for column in zip(*rows, strict=True))
            mapping = torch.tensor(order, dtype=torch.int32)
            ends = state.total_len.gpu[slots.long()].long()
            last = state.all_token_ids.gpu[slots.long(), ends - 1]
            for row, (slot, i) in enumerate(rows):
                last[row] = drafts[slot][i - 1] if i else last[row]
            upper = [int(state.total_len.gpu[slot]) + len(drafts[slot]) for slot in order]
            context = LogitsContext(
                expanded_idx_mapping=slots,
                idx_mapping=mapping,
                idx_mapping_np=mapping.numpy(),
                expanded_local_pos=local,
                input_ids=last,
                pos=ends + local - 1,
                seq_lens_upper_bound_np=np.array(upper, np.int32),
            )
            prompts = {slot: state.all_token_ids.gpu[slot, : self.slots[slot][1]].tolist() for slot in order}
            texts = [(self.slots[slot][0], prompts[slot], self.slots[slot][2] + drafts[slot][:i]) for slot, i in rows]
            check(lambda logits: self.processor.apply(logits, context), len(rows), dict(enumerate(texts)))
        for slot, (_, _, output) in self.slots.items():
            taken = drafts[slot][: data.draw(st.integers(0, len(drafts[slot])))]
            output.extend([*taken, data.draw(st.integers(0, 3))])


class Speculating(SecondRunner):
    """The same with drafts, of which some are taken."""

    drafts = st.lists(st.integers(0, 3), max_size=3)


@pytest.mark.parametrize("runner", [FirstRunner, SecondRunner, Speculating])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_row_is_the_formula_for_its_own_request(runner, data):
    engine = runner()
    for _ in range(data.draw(st.integers(1, 25))):
        engine.step(data)


def test_unasked_nothing_is_done():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"asked for {name}")

    first, second = vllm.LZPenalty(CONFIG, CPU, False), SecondRunner()
    first.update_state(BatchUpdate(batch_size=1, removed=[], added=[(0, SamplingParams(), [1], [2])], moved=[]))
    logits = Untouchable()
    assert first.apply(logits) is logits
    assert second.processor.add_request(0, SamplingParams(extra_args={"x": 1})) is False
    assert second.processor.apply(logits, SimpleNamespace(idx_mapping_np=np.array([0, 3]))) is logits


def test_the_prompt_does_not_count():
    processor = vllm.LZPenalty(CONFIG, CPU, False)
    added = [(0, SamplingParams(extra_args={"lz_strength": 1}), [1, 2, 1, 2, 1], [])]
    processor.update_state(BatchUpdate(batch_size=1, removed=[], added=added, moved=[]))
    assert not processor.apply(torch.zeros(1, VOCAB)).any()


def test_bad_options_are_refused_at_admission_and_end_no_engine(caplog):
    bad = SamplingParams(extra_args={"lz_strength": -2})
    with pytest.raises(ValueError, match="lz_strength: expected a number from 0"):
        vllm.LZPenalty.validate_params(bad)
    for extra, message in (
        ({"lz_gate": [28, 20]}, "lz_gate: expected"),
        ({"lz_release": [*range(17)]}, "lz_release: expected 1 to 16"),
        ({"lz_release": [[1] * 9]}, "lz_release: expected sequences of 1 to 8 ids"),
        ({"lz_release_rate": 1}, "lz_release_rate: expected lz_release with it"),
        ({"lz_preset": "reasoning"}, "lz_preset: expected lz_release with 'reasoning'"),
    ):
        with pytest.raises(ValueError, match=message):
            vllm.LZPenalty.validate_params(SamplingParams(extra_args=extra))
    vllm.LZPenalty.validate_params(SamplingParams(extra_args={"lz_strength": 2, "mine": "x"}))
    vllm.LZPenalty.validate_params(SamplingParams())
    processor = vllm.LZPenalty(CONFIG, CPU, False)  # of a release that does not ask
    processor.update_state(BatchUpdate(batch_size=1, removed=[], added=[(0, bad, [1], [2, 2])], moved=[]))
    assert not processor.apply(torch.zeros(1, VOCAB)).any()
    assert SecondRunner().processor.add_request(0, bad) is False
    assert caplog.text.count("goes without the penalty: lz_strength") == 2


class Tokenizer:
    """Of a model that begins to think without a tag. What ends it are the ids 4, 5."""

    chat_template = "</think>"

    def encode(self, text, add_special_tokens=False):
        return [4, 5] if text == "</think>" else [1]

    def decode(self, ids):
        return "</think>" if ids == [4, 5] else "?"


class Front:
    """What admits requests, with the configuration in which the tokenizer is named."""

    def __init__(self, tokenizer):
        self.vllm_config = SimpleNamespace(speculative_config=None, model_config=tokenizer)

    def admit(self, extra):
        vllm.LZPenalty.validate_params(SamplingParams(extra_args=extra))


def test_what_ends_a_thinking_section_is_looked_up_in_the_served_models_tokenizer(monkeypatch):
    """A request names the preset alone. Of the class in the worker no less than of that which admits."""
    found = ModuleType("vllm.tokenizers")
    found.cached_tokenizer_from_config = lambda model: model
    monkeypatch.setitem(sys.modules, "vllm.tokenizers", found)
    asks, full = {"lz_preset": "reasoning"}, {"lz_preset": "reasoning", "lz_release": [[4, 5]]}
    Front(Tokenizer()).admit(asks)
    for none in (None, SimpleNamespace(encode=lambda text, **_: [1], decode=lambda ids: "?")):
        with pytest.raises(ValueError, match="lz_preset: expected lz_release with 'reasoning'"):
            Front(none).admit(asks)
    config = Front(Tokenizer()).vllm_config
    text, state = [1, 2, 3] * 12, SecondRunner().state
    for extra in (asks, None):  # which is then the server's default
        if extra is None:
            monkeypatch.setenv("LZPENALTY_DEFAULT", '{"lz_preset": "reasoning"}')
        processor = vllm.LZPenalty(config, CPU, False)
        params = SamplingParams(extra_args=extra)
        processor.update_state(BatchUpdate(batch_size=1, removed=[], added=[(0, params, [1], text)], moved=[]))
        check(processor.apply, 1, {0: (full, [1], text)})
        assert vllm.LZPenalty(config, state).add_request(0, params)


def test_the_tokenizer_is_asked_once_and_not_for_each_request(monkeypatch):
    asked, found = [], ModuleType("vllm.tokenizers")
    found.cached_tokenizer_from_config = lambda model: asked.append(model) or model
    monkeypatch.setitem(sys.modules, "vllm.tokenizers", found)
    front = Front(Tokenizer())
    for _ in range(3):
        front.admit({"lz_preset": "reasoning"})
    assert len(asked) == 1
    Front(Tokenizer()).admit({"lz_preset": "reasoning"})
    assert len(asked) == 2


def test_the_server_may_have_a_default(monkeypatch):
    monkeypatch.setenv("LZPENALTY_DEFAULT", '{"lz_strength": 1.0, "lz_min_match": 2}')
    runner = SecondRunner()
    assert runner.processor.add_request(0, SamplingParams())
    assert not runner.processor.add_request(1, SamplingParams(extra_args={"lz_strength": 0}))
    processor, text = vllm.LZPenalty(CONFIG, CPU, False), [1, 2, 1]
    asks = [None, {"lz_strength": 0}, {"lz_min_match": 1}]
    added = [(row, SamplingParams(extra_args=extra), [1], text) for row, extra in enumerate(asks)]
    processor.update_state(BatchUpdate(batch_size=3, removed=[], added=added, moved=[]))
    full = [{"lz_strength": 1.0, "lz_min_match": 2}, None, {"lz_strength": 1.0, "lz_min_match": 1}]
    check(processor.apply, 3, {row: (extra, [1], text) for row, extra in enumerate(full)})


@pytest.mark.parametrize("text", ["strength=1", "[1]", '{"lz_strength": -1}', '{"strength": 1}'])
def test_a_bad_default_is_refused_at_the_start(text, monkeypatch):
    monkeypatch.setenv("LZPENALTY_DEFAULT", text)
    with pytest.raises(ValueError, match="LZPENALTY_DEFAULT: "):
        vllm.LZPenalty(CONFIG, CPU, False)


class Reasoning(SimpleNamespace):
    """What `--reasoning-config` is in a worker."""

    speculative_config = None


@pytest.mark.parametrize(
    "ends",
    [
        {"reasoning_end_token_ids": [3, 5]},
        {"reasoning_end_token_ids": [1, 1, 3, 5], "natural_reasoning_end_token_ids": [3, 5]},  # what is forced says more
    ],
)
def test_the_tags_of_the_server_are_those_of_its_reasoning_config(monkeypatch, ends):
    config = Reasoning(reasoning_config=SimpleNamespace(reasoning_start_token_ids=[2], **ends))
    ask = SamplingParams(extra_args={"lz_preset": "reasoning", "lz_window": 64})
    with pytest.raises(ValueError, match="lz_preset: expected lz_release with 'reasoning'"):
        vllm.LZPenalty.validate_params(ask)  # nothing says here what the server knows
    monkeypatch.setenv("LZPENALTY_DEFAULT", '{"lz_preset": "reasoning"}')
    processor, text = vllm.LZPenalty(config, CPU, False), [6, 7, 8] * 15
    full = {"lz_preset": "reasoning", "lz_open": [2], "lz_release": [[3, 5]]}
    rows = {0: (full | {"lz_window": 64}, [2], text), 1: (full, [2], text), 2: (full, [2, 3, 5], text)}
    added = [(row, SamplingParams() if row else ask, prompt, text) for row, (_, prompt, _) in rows.items()]
    processor.update_state(BatchUpdate(batch_size=3, removed=[], added=added, moved=[]))
    assert (processor.apply(torch.zeros(3, VOCAB))[:, 3] > 0).tolist() == [True, True, False]
    check(processor.apply, 3, rows)
    for nothing in (CONFIG, Reasoning(reasoning_config=None)):
        with pytest.raises(ValueError, match="LZPENALTY_DEFAULT: lz_preset: expected lz_release with"):
            vllm.LZPenalty(nothing, CPU, False)


def test_speculative_decoding_is_refused_where_drafts_are_not_shown():
    config = SimpleNamespace(speculative_config=object())
    with pytest.raises(ValueError, match="does not support speculative decoding in vLLM's first model runner"):
        vllm.LZPenalty(config, CPU, False)
    vllm.LZPenalty(config, SecondRunner().state)


def test_many_different_options_leave_nothing_behind():
    runner = SecondRunner()
    for i in range(1000):
        runner.processor.add_request(i % SLOTS, SamplingParams(extra_args={"lz_strength": 1 + i}))
    assert len(runner.processor.slots.groups) <= SLOTS
    numbers = [runner.processor.slots.groups[options] for options in runner.processor.slots.options.values()]
    assert runner.processor.slots.group_of_slot == [
        runner.processor.slots.groups[runner.processor.slots.options[slot]] for slot in range(SLOTS)
    ]
    assert len(set(numbers)) == SLOTS


def test_what_vllm_asks_of_the_class():
    penalty = vllm.LZPenalty
    assert penalty(CONFIG, CPU, False).is_argmax_invariant() is False  # or vLLM would skip it in greedy batches
    for method, arguments in {
        "validate_params": ["sampling_params"],
        "apply": ["self", "logits", "ctx"],
        "update_state": ["self", "batch_update"],
        "add_request": ["self", "req_idx", "sampling_params"],
        "apply_staged_writes": ["self"],
    }.items():
        assert list(inspect.signature(getattr(penalty, method)).parameters) == arguments


@pytest.mark.skipif(installed("vllm"), reason="of the fake")
def test_releases_without_the_second_runner():
    old = adaptor("vllm.penalty", fake_vllm, second_runner=False)
    assert old.LZPenalty.__bases__ == (fake_vllm.LogitsProcessor,)
    assert not old.LZPenalty(CONFIG, CPU, False).apply(torch.zeros(1, 2)).any()
