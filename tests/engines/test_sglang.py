"""`lzpenalty.sglang` as SGLang's sampler calls it: on a copy of the rows of its requests."""

import inspect
import json
import weakref
from array import array

import pytest
import torch

import oracle
from engines import fake_sglang
from engines.load import adaptor

sglang = adaptor("sglang", fake_sglang)
VOCAB = 9


class Req:
    """The parts of a request that processors look at. Older releases keep a list, newer ones an array."""

    def __init__(self, output, kind=list):
        self.origin_input_ids = kind([1, 2, 1, 2])
        self.output_ids = kind(output)


def int64_array(ids):
    return array("q", ids)


def run(requests, custom_params, tokens=1):
    logits = torch.zeros(len(requests) * tokens, VOCAB)
    rows = [row for row, params in enumerate(custom_params) if params is not None]
    params = [
        None if params is None else params | {"__req__": weakref.proxy(request)} if isinstance(params, dict) else params
        for request, params in zip(requests, custom_params, strict=True)
    ]
    fake_sglang.apply_custom_logit_processor(logits, sglang.LZPenaltyProcessor(), rows, params, tokens)
    return logits


@pytest.mark.parametrize("kind", [list, int64_array])
def test_every_row_is_the_formula_for_its_own_request(kind):
    texts = [[1, 2, 3, 1, 2], [4] * 700, [], [5, 6], [7, 7, 7, 8], [1, 2] * 9]
    asks = [{}, {"lz_strength": 1.0}, {"lz_window": 3}, None, {"lz_strength": 0, "mine": [1]}, sglang.lz_params(min_match=2)]
    marks = dict(release=[6], release_after=6, gate=[0, 4], skip=[7], resume=[1])
    asks += [sglang.lz_params(open=[[1, 2]], **marks), sglang.lz_params(open=[8], **marks)]
    texts += [[4, 5, 3] * 8, [4, 5, 3] * 8]
    logits = run([Req(text, kind) for text in texts], asks)
    for row, (text, ask) in enumerate(zip(texts, asks, strict=True)):
        wanted = torch.zeros(VOCAB)
        if ask is not None:
            options = {name[3:]: value for name, value in ask.items() if name.startswith("lz_")}
            for token, penalty in oracle.penalties([1, 2, 1, 2, *text], VOCAB, start=4, **options).items():
                wanted[token] -= penalty
        torch.testing.assert_close(logits[row], wanted, atol=1e-5, rtol=1e-5)


def test_an_array_may_go_on_growing():
    request = Req([1, 2, 1], int64_array)
    run([request], [{}])
    request.output_ids.append(2)


def test_nothing_to_do():
    logits, processor = torch.zeros(2, VOCAB), sglang.LZPenaltyProcessor()
    for params in (None, [], [None, None], [{}, {}], [3, "x"]):  # `__req__` comes with dicts alone
        assert processor(logits, params) is logits and not logits.any()


@pytest.mark.parametrize("bad", [{"lz_strength": -1}, {"lz_strenght": 1}, {"lz_skip": [[[1]]]}, {"lz_window": {"a": 1}}])
def test_bad_options_end_no_server(bad, caplog):
    sglang._compiled.cache_clear()
    sglang._refuse.cache_clear()
    for _ in range(3):  # steps
        logits = run([Req([1, 1]), Req([1, 1])], [bad, {}])
        assert not logits[0].any() and logits[1].any()
    assert caplog.text.count("a request goes without the penalty: ") == 1


def test_sequences_and_presets():
    params = sglang.lz_params(preset="reasoning", release=[[3, 4], 5], gate=[6, 9], release_after=7)
    text = [1, 2] * 12
    logits = run([Req(text), Req([*text, 3])], [params, params])
    assert logits[0, 3] == logits[0, 5] == 20 and logits[1, 4] == 20


def test_params_are_checked_where_they_are_made():
    assert sglang.lz_params() == {"lz_strength": 0.15}
    assert json.loads(json.dumps(sglang.lz_params(window=9))) == {"lz_window": 9}
    for bad in ({"strength": -1}, {"strenght": 1}, {"window": 10**6}, {"release": []}, {"preset": "x"}):
        with pytest.raises(ValueError, match="lz_" + next(iter(bad))):
            sglang.lz_params(**bad)


def test_drafts_are_left_alone(caplog):
    assert not run([Req([1, 1]), Req([2, 2])], [{}, {}], tokens=3).any()
    assert "speculative decoding is not supported" in caplog.text


def test_what_sglang_asks_of_the_class():
    signature = inspect.signature(sglang.LZPenaltyProcessor.__call__)
    assert list(signature.parameters) == ["self", "logits", "custom_param_list"]
    sglang.LZPenaltyProcessor()  # is made without arguments where it is unpickled
    assert isinstance(sglang.LZPenaltyProcessor().to_str(), str)
