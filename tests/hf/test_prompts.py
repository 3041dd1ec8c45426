"""Where the prompt ends in real `generate` calls, asked from caches, processors and criteria in all places where one can be
called from, against what the caller knows."""

import copy
import functools
import gc
import inspect
import sys
import threading
import types
import weakref
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation import utils

import tiny
from lzpenalty.engines import prompts
from lzpenalty.engines.prompts import cache_prompt_length, generate_prompt_length, unfinished_rows
from lzpenalty.hf import LZPenaltyLogitsProcessor, RepetitionStoppingCriteria

RENAMED = ["input_ids_length", "model_kwargs", "inputs_tensor", "model_input_name"]
CACHE = "cache" if "cache" in inspect.signature(tiny.tiny().forward).parameters else "past_key_values"


class Asking(DynamicCache):
    """A cache that asks in each update, and notes what it is told."""

    def __init__(self, ask=cache_prompt_length, **kwargs):
        super().__init__(**kwargs)
        self.ask, self.told = ask, []

    def update(self, *args, **kwargs):
        self.told.append(self.ask(self))
        return super().update(*args, **kwargs)


def function_of(name, changes):
    """transformers' function of this name, compiled with other names for some of its variables."""
    code = inspect.unwrap(getattr(GenerationMixin, name)).__code__

    def renamed(names):
        return tuple(changes.get(one, one) for one in names)

    other = code.replace(
        co_varnames=renamed(code.co_varnames), co_cellvars=renamed(code.co_cellvars), co_freevars=renamed(code.co_freevars)
    )
    function = inspect.unwrap(getattr(GenerationMixin, name))
    made = types.FunctionType(other, utils.__dict__, name, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return torch.no_grad()(made)  # as `generate`; and a loop that somebody has wrapped is one


@contextmanager
def another(name, **changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenerationMixin, name, function_of(name, changes))
        yield


def run(model, ids, cache=None, **kwargs):
    given = {} if cache is None else {CACHE: cache}
    return tiny.generate(model, ids, **{"tokens": 6, "pad_token_id": 0, **given, **kwargs})


MODES = {
    "greedy": {},
    "sampling": dict(do_sample=True, num_return_sequences=2),
    "beams": dict(num_beams=3, num_return_sequences=2),
    "chunked": dict(prefill_chunk_size=3),
    "output": dict(return_dict_in_generate=True, output_scores=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [3, 4, 7])
def test_a_cache_is_told_its_prompt(mode, length):
    model, cache = tiny.tiny(), Asking()
    run(model, tiny.prompt(length=length), cache=cache, **MODES[mode])
    assert len(cache.told) >= 6 * 3 and set(cache.told) == {length}
    assert cache_prompt_length(cache) is None


def test_embeddings_are_the_prompt():
    model, ids = tiny.tiny(), tiny.prompt(length=9)
    embedded = model.get_input_embeddings()(ids)
    for more in ({}, {"input_ids": ids[:, :4]}):
        cache = Asking()
        model.generate(inputs_embeds=embedded, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False,
                       **{CACHE: cache}, **more)  # fmt: skip
        assert set(cache.told) == {9}


def test_the_next_turn_has_a_prompt_of_its_own():
    model, cache = tiny.tiny(), Asking()
    text = run(model, tiny.prompt(length=5), cache=cache)
    first = len(cache.told)
    longer = torch.cat([text, tiny.prompt(length=3, seed=4)], 1)
    run(model, longer, cache=cache)
    assert set(cache.told[:first]) == {5} and set(cache.told[first:]) == {longer.shape[1]}


def test_outside_and_in_a_generate_with_another_cache():
    model, ids = tiny.tiny(), tiny.prompt(length=4)
    alone = Asking()
    model(ids, **{CACHE: alone})
    assert set(alone.told) == {None}

    class Beside(DynamicCache):
        def update(self, *args, **kwargs):
            assert cache_prompt_length(other) is None and unfinished_rows(other) is None
            model(ids, **{CACHE: other})
            run(model, ids[:, :3], cache=(inner := Asking()))
            told.update(inner.told)
            return super().update(*args, **kwargs)

    other, told = Asking(), set()
    with torch.no_grad():
        run(model, ids, cache=Beside(), max_new_tokens=1)
    assert set(other.told) == {None} and told == {3}


@pytest.mark.parametrize("name", RENAMED)
def test_a_cache_is_told_when_it_can_not_be_told(name):
    model = tiny.tiny()
    with another("generate", **{name: "x_" + name}):
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"prompt_length: .*generate.*{name}"):
                run(model, tiny.prompt(), cache=Asking())
    with another("generate"):
        cache = Asking()
        run(model, tiny.prompt(length=4), cache=cache)
        assert set(cache.told) == {4}


def test_rows_that_ended():
    """As many ones as rows that had not ended before the step: counted in the answer."""
    model, ids, seen = tiny.tiny(), tiny.prompt(rows=6), []
    free = run(model, ids, tokens=12)
    end = int(free[0, ids.shape[1] + 4])
    cache = Asking(lambda cache: seen.append(unfinished_rows(cache).tolist()))
    got = run(model, ids, tokens=12, cache=cache, eos_token_id=end)
    answer = got[:, ids.shape[1] :]
    steps = answer.shape[1]
    ended = (answer == end).cumsum(1) > 0
    wanted = [[1] * 6, *[(~ended[:, step]).long().tolist() for step in range(steps - 1)]]
    assert seen[::3] == seen[1::3] == seen[2::3] == wanted
    assert min(map(min, wanted)) == 0 and unfinished_rows(cache) is None


@pytest.mark.parametrize("mode", ["beams"])
def test_no_rows_in_beam_search(mode):
    cache = Asking(unfinished_rows)
    run(tiny.tiny(), tiny.prompt(), cache=cache, **MODES[mode])
    assert set(cache.told) == {None}


def test_no_rows_in_a_loop_of_the_user():
    def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        model(input_ids, **{CACHE: kwargs[CACHE]})
        return input_ids

    cache = Asking(lambda cache: (cache_prompt_length(cache), unfinished_rows(cache)))
    run(tiny.tiny(), tiny.prompt(length=8), cache=cache, custom_generate=loop)
    assert set(cache.told) == {(8, None)}


def test_rows_by_another_name():
    with (
        another("_sample", unfinished_sequences="x"),
        pytest.raises(RuntimeError, match="prompt_length: .*_sample.*unfinished"),
    ):
        run(tiny.tiny(), tiny.prompt(), cache=Asking(unfinished_rows))


def remembered():
    """Frames; what failed in an earlier test may have left some to a report."""
    return {*prompts._caches, *prompts._lengths}


def test_nothing_is_kept():
    """Neither after the end nor after an error: neither frames nor what they name."""
    model, before = tiny.tiny(), remembered()

    def both(cache):
        assert cache_prompt_length(cache) == 20 and unfinished_rows(cache).tolist() == [1, 1]
        if len(cache.told) == stop:
            raise KeyError("stop")

    for stop in (-1, 0, 7):
        cache = Asking(both)
        try:
            run(model, tiny.prompt(), cache=cache)
        except KeyError:
            assert stop >= 0
        alive = weakref.ref(cache)
        del cache
        assert remembered() <= before
        gc.collect()
        assert alive() is None


# Processors and criteria.

running = threading.local()  # the lengths of the prompts whose answers this thread generates, from the outermost inwards


class Probe(LogitsProcessor):
    """Asks for each step, as processor or as criterion, and compares with the length that the test knows."""

    asked = 0

    def __call__(self, input_ids, scores):
        assert generate_prompt_length(self) == running.lengths[-1]
        self.asked += 1
        return scores


class Criterion(StoppingCriteria):
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, input_ids, scores, **kwargs):
        self.inner(input_ids, scores)
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Own(Probe, StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        super().__call__(input_ids, scores)
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Wrapper(LogitsProcessor):
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, input_ids, scores):
        return self.inner(input_ids, scores)


class Keeper(LogitsProcessor):
    """Keeps what frames name, as debuggers and reports of errors do."""

    def __init__(self, inner, kept):
        self.inner, self.kept = inner, kept

    def __call__(self, input_ids, scores):
        scores = self.inner(input_ids, scores)
        frame = sys._getframe(1)
        for _ in range(3):
            self.kept.append(dict(frame.f_locals))
            frame = frame.f_back
        return scores


class Generating(LogitsProcessor):
    """Runs another `generate` before the step, and its own wrapped processor after it."""

    def __init__(self, plan, inner, shared):
        self.plan, self.inner, self.shared, self.ran = plan, inner, shared, 0

    def __call__(self, input_ids, scores):
        self.ran += 1
        if self.ran <= 2:
            carry_out(self.plan, self.shared)
        return self.inner(input_ids, scores)


def function(inner):
    def processor(input_ids, scores):
        return inner(input_ids, scores)

    return processor


WRAPPERS = {
    "class": Wrapper,
    "function": function,
    "lambda": lambda inner: lambda input_ids, scores: inner(input_ids, scores),
    "method": lambda inner: Wrapper(inner).__call__,
    "partial": lambda inner: function(functools.partial(inner)),
    "list": lambda inner: function(LogitsProcessorList([inner])),  # transformers takes no list for a processor
    "two": lambda inner: function(LogitsProcessorList([inner, Wrapper(inner)])),
    "generator": lambda inner: lambda input_ids, scores: next(inner(input_ids, scores) for _ in range(1)),
}


def by_lists(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
    for _ in range(3):
        scores = logits_processor(input_ids, model(input_ids).logits[:, -1].float())
        input_ids = torch.cat([input_ids, scores.argmax(-1, keepdim=True)], 1)
        stopping_criteria(input_ids, scores)
    return input_ids


HOW = {
    **MODES,
    "sampling, 3 rows": dict(do_sample=True, num_return_sequences=3),
    "lookup": dict(prompt_lookup_num_tokens=2, eos_token_id=tiny.VOCAB - 1),
    "assisted": dict(assistant_model=True, eos_token_id=tiny.VOCAB - 1),
    "a loop of the user": dict(custom_generate=by_lists),
    "no cache": dict(use_cache=False),
}
PLACES = st.lists(st.tuples(st.sampled_from(["processor", "criterion"]), st.lists(st.sampled_from([*WRAPPERS]), max_size=4)),
                  min_size=1, max_size=3)  # fmt: skip
PLANS = st.recursive(
    st.fixed_dictionaries({"length": st.integers(1, 9), "how": st.sampled_from([*HOW]), "places": PLACES}),
    lambda inner: st.fixed_dictionaries(
        {"length": st.integers(1, 9), "how": st.sampled_from([*HOW]), "places": PLACES, "inner": inner,
         "wrapped": st.booleans()}
    ),
    max_leaves=3,
)  # fmt: skip


def carry_out(plan, shared):
    """The `generate` of a plan, with probes of its own and one that all share, in the places that it says."""
    probes, processors, criteria = [shared], [Wrapper(shared) if plan["length"] % 2 else shared], []
    for kind, wrappers in plan["places"]:
        probe = Own() if kind == "criterion" and not wrappers else Probe()
        probes.append(probe)
        for wrapper in wrappers:
            probe = WRAPPERS[wrapper](probe)
        if kind == "processor":
            processors.append(probe)
        else:
            criteria.append(probe if isinstance(probe, Own) else Criterion(probe))
    if "inner" in plan:
        last = processors.pop() if plan["wrapped"] else LogitsProcessorList()
        processors.append(Generating(plan["inner"], last, shared))
    how = dict(HOW[plan["how"]])
    if "assistant_model" in how:
        how["assistant_model"] = copy.deepcopy(tiny.tiny("qwen2"))  # older transformers leave options in an assistant
    length = max(plan["length"], 3) if plan["how"] == "chunked" else plan["length"]  # else transformers 4.56 fails
    ids = tiny.prompt(1, length)
    running.lengths = [*getattr(running, "lengths", ()), length]
    try:
        run(tiny.tiny(), ids, tokens=4, logits_processor=processors, stopping_criteria=criteria, **how)
    finally:
        running.lengths.pop()
    assert all(probe.asked for probe in probes)


SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(PLANS)
@example({"length": 7, "how": "assisted", "places": [("processor", ["class"])], "wrapped": True,
          "inner": {"length": 3, "how": "assisted", "places": [("processor", []), ("criterion", ["class"])]}})  # fmt: skip
def test_who_is_called_in_a_generate_is_told_its_prompt(plan):
    before = remembered()
    carry_out(plan, Probe())
    assert remembered() <= before and generate_prompt_length(None) == 0


@settings(SETTINGS, max_examples=10)
@given(st.lists(PLANS, min_size=2, max_size=3))
def test_threads_share_a_processor(plans):
    shared, errors, before = Probe(), [], remembered()

    def work(plan):
        try:
            carry_out(plan, shared)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    del threads
    gc.collect()
    assert remembered() <= before


@settings(SETTINGS, max_examples=15)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.booleans(), st.booleans())
def test_frames_that_are_kept_are_not_taken_for_others(lengths, direct, caught):
    """What a call named outlives it, and the next one is where it was in memory."""
    kept, probe, before = [], Probe(), remembered()

    class Fails(LogitsProcessor):
        def __call__(self, input_ids, scores):
            if caught:
                raise KeyError
            return scores

    for length in lengths:
        running.lengths = [length]
        processors = [Keeper(LogitsProcessorList(), kept), probe] if direct else [Keeper(probe, kept)]
        try:
            run(tiny.tiny(), tiny.prompt(2, length), tokens=3, logits_processor=[*processors, Fails()])
        except KeyError as error:
            kept.append(error)
    assert probe.asked == len(lengths) * (1 if caught else 3)
    del kept[:], processors
    gc.collect()
    assert remembered() <= before


NAMES = ["input_ids_length", "prepared_logits_processor", "prepared_stopping_criteria", "generation_config"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["processor", "wrapped", "criterion"])
def test_a_variable_of_another_name_is_an_error(name, place):
    penalty = LZPenaltyLogitsProcessor()
    users = {
        "processor": dict(logits_processor=[penalty]),
        "wrapped": dict(logits_processor=[Wrapper(penalty)]),
        "criterion": dict(stopping_criteria=[RepetitionStoppingCriteria()]),
    }[place]
    ids = tiny.prompt()
    given = LZPenaltyLogitsProcessor(prompt_length=ids.shape[1])
    told = run(tiny.tiny(), ids, logits_processor=[given])
    with another("generate", **{name: f"x_{name}"}):
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"prompt_length: .*transformers.*generate.*{name}"):
                run(tiny.tiny(), ids, **users)
        assert torch.equal(told, run(tiny.tiny(), ids, logits_processor=[given]))
    with another("generate", batch_size="rows"):
        assert torch.equal(told, run(tiny.tiny(), ids, logits_processor=[penalty]))


def test_a_loop_that_no_known_generate_has_called_is_an_error():
    """As with models that have a `generate` of their own."""
    own = function_of("generate", {})
    inner = inspect.unwrap(own)
    inner.__code__ = inner.__code__.replace(co_name="produce")

    class Calls(LogitsProcessor):
        def __call__(self, input_ids, scores):
            with pytest.raises(RuntimeError, match="prompt_length: .*_sample.*was not called"):
                own(tiny.tiny(), input_ids, max_new_tokens=2, logits_processor=[LZPenaltyLogitsProcessor()])
            return scores

    with pytest.raises(RuntimeError, match="prompt_length: .*_sample.*was not called"):
        own(tiny.tiny(), tiny.prompt(), max_new_tokens=2, logits_processor=[LZPenaltyLogitsProcessor()])
    run(tiny.tiny(), tiny.prompt(), logits_processor=[Calls()], tokens=1)


CUSTOM = {
    "asks generate": """
        def generate(model, **kwargs):
            return model.generate(**kwargs)
        """,
    "is a loop": """
        def generate(model, inputs, logits_processor, **kwargs):
            return logits_processor[0](inputs, model(inputs).logits[:, -1].float())
        """,
}


@pytest.mark.parametrize("how", CUSTOM)
def test_generate_from_a_folder(tmp_path, how):
    folder = tmp_path / "custom_generate"
    folder.mkdir()
    (folder / "generate.py").write_text(inspect.cleandoc(CUSTOM[how]))

    def custom(**kwargs):
        options = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
        return tiny.tiny().generate(ids, custom_generate=str(tmp_path), trust_remote_code=True, **options, **kwargs)

    ids, penalty = tiny.prompt(), LZPenaltyLogitsProcessor()
    if how == "asks generate":
        cache = Asking()
        got = custom(logits_processor=[penalty], **{CACHE: cache})
        assert torch.equal(got, run(tiny.tiny(), ids, logits_processor=[penalty])) and set(cache.told) == {ids.shape[1]}
    else:
        with pytest.raises(RuntimeError, match="prompt_length: .*input_ids_length"):
            custom(logits_processor=[penalty])
        custom(logits_processor=[LZPenaltyLogitsProcessor(prompt_length=20)])


def test_a_loop_of_the_user_that_calls_each_processor():
    """Those in the list are found in it. What else is called counts from the outermost prompt."""

    def loop(model, input_ids, logits_processor, generation_config, stopping_criteria, **kwargs):
        for processor in logits_processor:
            processor(input_ids, model(input_ids).logits[:, -1].float())
        return input_ids

    class Outer(LogitsProcessor):
        def __call__(self, input_ids, scores):
            for length, processor, wanted in ((3, probe, 3), (4, Wrapper(probe), 8)):
                running.lengths = [wanted]
                run(tiny.tiny(), tiny.prompt(length=length), custom_generate=loop, logits_processor=[processor])
            return scores

    probe = Probe()
    run(tiny.tiny(), tiny.prompt(length=8), tokens=1, logits_processor=[Outer()])
    assert probe.asked == 2


def test_processors_can_be_copied_while_they_are_used():
    class Copies(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return copy.deepcopy(penalty)(input_ids, scores)

    penalty, ids = LZPenaltyLogitsProcessor(), tiny.prompt()
    assert torch.equal(run(tiny.tiny(), ids, logits_processor=[Copies()]), run(tiny.tiny(), ids, logits_processor=[penalty]))
