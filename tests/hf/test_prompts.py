"""Where the prompt ends in real `generate` calls, asked from caches, processors and criteria in all places where one can be
called from, against what the caller knows."""

import gc
import inspect
import types
import weakref
from contextlib import contextmanager

import pytest
import torch
from transformers import DynamicCache, GenerationMixin
from transformers.generation import utils

import tiny
from lzpenalty.engines import prompts
from lzpenalty.engines.prompts import cache_prompt_length, unfinished_rows

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


def run(model, ids, **kwargs):
    return tiny.generate(model, ids, **{"tokens": 6, "pad_token_id": 0, **kwargs})


MODES = {
    "greedy": {},
    "sampling": dict(do_sample=True, num_return_sequences=2),
    "beams": dict(num_beams=3, num_return_sequences=2),
    "chunked": dict(prefill_chunk_size=3),
    "output": dict(return_dict_in_generate=True, output_scores=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_cache_is_told_its_prompt(mode, length):
    model, cache = tiny.tiny(), Asking()
    run(model, tiny.prompt(length=length), past_key_values=cache, **MODES[mode])
    assert len(cache.told) >= 6 * 3 and set(cache.told) == {length}
    assert cache_prompt_length(cache) is None


def test_embeddings_are_the_prompt():
    model, ids = tiny.tiny(), tiny.prompt(length=9)
    embedded = model.get_input_embeddings()(ids)
    for given in ({}, {"input_ids": ids[:, :4]}):
        cache = Asking()
        model.generate(inputs_embeds=embedded, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False,
                       past_key_values=cache, **given)  # fmt: skip
        assert set(cache.told) == {9}


def test_the_next_turn_has_a_prompt_of_its_own():
    model, cache = tiny.tiny(), Asking()
    text = run(model, tiny.prompt(length=5), past_key_values=cache)
    first = len(cache.told)
    longer = torch.cat([text, tiny.prompt(length=3, seed=4)], 1)
    run(model, longer, past_key_values=cache)
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
            run(model, ids[:, :3], past_key_values=(inner := Asking()))
            told.update(inner.told)
            return super().update(*args, **kwargs)

    other, told = Asking(), set()
    with torch.no_grad():
        run(model, ids, past_key_values=Beside(), max_new_tokens=1)
    assert set(other.told) == {None} and told == {3}


@pytest.mark.parametrize("name", RENAMED)
def test_a_cache_is_told_when_it_can_not_be_told(name):
    model = tiny.tiny()
    with another("generate", **{name: "x_" + name}):
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"prompt_length: .*generate.*{name}"):
                run(model, tiny.prompt(), past_key_values=Asking())
    with another("generate"):
        cache = Asking()
        run(model, tiny.prompt(length=4), past_key_values=cache)
        assert set(cache.told) == {4}


def test_rows_that_ended():
    """As many ones as rows that had not ended before the step: counted in the answer."""
    model, ids, seen = tiny.tiny(), tiny.prompt(rows=6), []
    free = run(model, ids, tokens=12)
    end = int(free[0, ids.shape[1] + 4])
    cache = Asking(lambda cache: seen.append(unfinished_rows(cache).tolist()))
    got = run(model, ids, tokens=12, past_key_values=cache, eos_token_id=end)
    answer = got[:, ids.shape[1] :]
    steps = answer.shape[1]
    ended = (answer == end).cumsum(1) > 0
    wanted = [[1] * 6, *[(~ended[:, step]).long().tolist() for step in range(steps - 1)]]
    assert seen[::3] == seen[1::3] == seen[2::3] == wanted
    assert min(map(min, wanted)) == 0 and unfinished_rows(cache) is None


@pytest.mark.parametrize("mode", ["beams"])
def test_no_rows_in_beam_search(mode):
    cache = Asking(unfinished_rows)
    run(tiny.tiny(), tiny.prompt(), past_key_values=cache, **MODES[mode])
    assert set(cache.told) == {None}


def test_no_rows_in_a_loop_of_the_user():
    def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        model(input_ids, **{CACHE: kwargs[CACHE]})
        return input_ids

    cache = Asking(lambda cache: (cache_prompt_length(cache), unfinished_rows(cache)))
    run(tiny.tiny(), tiny.prompt(length=8), past_key_values=cache, custom_generate=loop)
    assert set(cache.told) == {(8, None)}


def test_rows_by_another_name():
    with (
        another("_sample", unfinished_sequences="x"),
        pytest.raises(RuntimeError, match="prompt_length: .*_sample.*unfinished"),
    ):
        run(tiny.tiny(), tiny.prompt(), past_key_values=Asking(unfinished_rows))


def test_nothing_is_kept():
    """Neither after the end nor after an error: neither frames nor what they name."""
    model = tiny.tiny()

    def both(cache):
        assert cache_prompt_length(cache) == 20 and unfinished_rows(cache).tolist() == [1, 1]
        if len(cache.told) == stop:
            raise KeyError("stop")

    for stop in (-1, 0, 7):
        cache = Asking(both)
        try:
            run(model, tiny.prompt(), past_key_values=cache)
        except KeyError:
            assert stop >= 0
        alive = weakref.ref(cache)
        del cache
        assert not prompts._caches and not prompts._lengths
        gc.collect()
        assert alive() is None
