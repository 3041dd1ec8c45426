"""Bad input raises before anything is written; the message names the argument, what came and what is wanted."""

import re

import numpy as np
import pytest
import torch

from lzpenalty import codelength_deltas, dry_penalize_, lz_penalize_, repetition_period

TOKENS = torch.tensor([[1, 2, 3, 1, 2], [4, 5, 6, 4, 5]])
inf, nan = float("inf"), float("nan")

OPTIONS = [
    ("strength", -0.1, ValueError, "strength: expected a finite number >= 0 within float32, got -0.1"),
    ("strength", nan, ValueError, "strength: .* got nan"),
    ("strength", inf, ValueError, "strength: .* got inf"),
    ("strength", 1e39, ValueError, r"strength: .* got 1e\+39"),
    ("strength", "much", TypeError, "strength: expected a number, got str"),
    ("strength", None, TypeError, "strength: expected a number, got NoneType"),
    ("window", -1, ValueError, r"window: expected an integer from 0 to 2\^31 - 1, got -1"),
    ("window", 2**31, ValueError, "window: .* got 2147483648"),
    ("window", 10**30, ValueError, "window: "),
    ("window", 2.0, TypeError, "window: expected an integer, got float"),
    ("buffer", 0, ValueError, "buffer: expected an integer from 1"),
    ("min_match", 0, ValueError, "min_match: "),
    ("min_count", 0, ValueError, "min_count: "),
    ("escalation", -1, ValueError, "escalation: "),
    ("escalation", inf, ValueError, "escalation: "),
    ("horizon", -1, ValueError, "horizon: "),
    ("cost", "lz78", ValueError, "cost: expected 'lzss', 'pair' or 'distance', got 'lz78'"),
    ("cost", 3, TypeError, "cost: expected a string, got int"),
    ("neutral", [99], ValueError, r"neutral: expected ids in \[0, 10\), got 99"),
    ("neutral", [1, -1], ValueError, "neutral: .* got -1"),
    ("neutral", 10**40, ValueError, "neutral: "),
    ("neutral", 1.5, TypeError, "neutral: expected token ids, got float"),
    ("neutral", [1.5], TypeError, "neutral: expected an integer, got float"),
    ("starts", -1, ValueError, r"starts: expected positions in \[0, 5\], the length of tokens, got -1"),
    ("starts", 6, ValueError, "starts: .* got 6"),
    ("starts", 10**30, ValueError, "starts: "),
    ("starts", torch.tensor([0, 6]), ValueError, "starts: .* got 6 for row 1"),
    ("starts", torch.tensor([0]), ValueError, "starts: expected one position, or one for each of the 2 rows"),
    ("starts", torch.tensor([[0, 1]]), ValueError, "starts: expected one position"),
    ("starts", torch.tensor([0.0, 1.0]), TypeError, "starts: expected dtype int32 or int64, got torch.float32"),
    ("starts", [0, 1], TypeError, "starts: expected a tensor .* got list"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), OPTIONS)
def test_options(device, name, value, error, message):
    logits = torch.randn(2, 10)
    before = logits.clone()
    if device.name != "cpu" and "for row 1" in message:
        pytest.skip("starts on a device are clamped there: nobody looks at them before the launch")
    with pytest.raises(error, match=message.removesuffix("torch.float32")):
        device.of(lz_penalize_)(logits, TOKENS, **{name: value})
    assert torch.equal(logits, before)


TENSORS = [
    (torch.zeros(2, 10, dtype=torch.int64), TOKENS, TypeError,
     "logits: expected dtype float32, float16, bfloat16 or float64, got torch.int64"),
    (torch.zeros(2, 10), TOKENS.float(), TypeError, "tokens: expected dtype int32 or int64, got torch.float32"),
    (torch.zeros(2, 10), TOKENS.to(torch.int16), TypeError, "tokens: expected dtype int32 or int64, got torch.int16"),
    (torch.zeros(2, 10), TOKENS.bool(), TypeError, "tokens: "),
    (torch.zeros(2, 0), TOKENS, ValueError, "logits: expected a vocabulary of 1 to .* got 0"),
    (torch.zeros(3, 10), TOKENS, ValueError, "tokens: expected as many rows as logits, 3"),
    (torch.zeros(10), TOKENS[:1], ValueError, "tokens: expected as many rows as logits"),
    (torch.zeros(1, 2, 10), TOKENS, ValueError, "logits: expected shape"),
    (torch.zeros(2, 10), TOKENS[None], ValueError, r"tokens: expected shape \[batch, length\] or \[length\], got 3"),
    ([[0.0]], TOKENS, TypeError, r"logits: expected a tensor \(NumPy, torch or anything with __dlpack__\), got list"),
    (None, TOKENS, TypeError, "logits: .* got NoneType"),
    (torch.zeros(2, 10), "text", TypeError, "tokens: .* got str"),
]  # fmt: skip


@pytest.mark.parametrize(("logits", "tokens", "error", "message"), TENSORS)
def test_tensors(device, logits, tokens, error, message):
    for function in (lz_penalize_, dry_penalize_):
        with pytest.raises(error, match=re.sub(r"torch\.\w+$", "", message)):
            device.of(function)(logits, tokens)
    if isinstance(logits, torch.Tensor):
        assert not logits.any()


CALLS = [
    (lambda: lz_penalize_(), r"lz_penalize_\(\) missing required argument 'logits'"),
    (lambda: lz_penalize_(TOKENS), r"lz_penalize_\(\) missing required argument 'tokens'"),
    (lambda: lz_penalize_(1, 2, 3), r"lz_penalize_\(\) takes at most 2 positional arguments, got 3"),
    (lambda: lz_penalize_(1, 2, wind=3), r"lz_penalize_\(\) got an unexpected keyword argument 'wind'"),
    (lambda: lz_penalize_(1, 2, tokens=3), r"lz_penalize_\(\) got multiple values for argument 'tokens'"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_calls(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_keywords_need_not_be_interned():
    name = "".join(["str", "ength"])
    logits = torch.zeros(2, 10)
    lz_penalize_(logits, tokens=TOKENS, **{name: 1.0})
    assert logits.any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"multiplier": -1}, ValueError, "multiplier: "),
        ({"base": 0}, ValueError, "base: expected a finite number > 0"),
        ({"base": nan}, ValueError, "base: "),
        ({"allowed_length": 0}, ValueError, "allowed_length: "),
        ({"window": -1}, ValueError, "window: "),
        ({"breakers": ["a"]}, TypeError, "breakers: expected an integer, got str"),
        ({"breakers": [-1]}, ValueError, "breakers: "),
        ({"starts": 9}, ValueError, "starts: "),
    ],
)
def test_dry(device, options, error, message):
    logits = torch.zeros(2, 10)
    with pytest.raises(error, match=message):
        device.of(dry_penalize_)(logits, TOKENS, **options)
    assert not logits.any()


def test_dry_off(device):
    logits = torch.zeros(2, 10)
    assert not device.of(dry_penalize_)(logits, TOKENS, multiplier=0).any()
    assert not device.of(dry_penalize_)(logits, TOKENS, window=0).any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: codelength_deltas(TOKENS, 10), ValueError, r"tokens: expected shape \[length\], got 2"),
        (lambda: codelength_deltas(TOKENS[0], 0), ValueError, "vocab_size: "),
        (lambda: codelength_deltas(TOKENS[0], "ten"), TypeError, "vocab_size: "),
        (lambda: codelength_deltas(TOKENS[0], 10, buffer=0), ValueError, "buffer: "),
        (lambda: codelength_deltas(TOKENS[0].double(), 10), TypeError, "tokens: "),
        (lambda: repetition_period(TOKENS, count=1), ValueError, "count: expected an integer from 2"),
        (lambda: repetition_period(TOKENS, ngram=0), ValueError, "ngram: "),
        (lambda: repetition_period(TOKENS, max_period=0), ValueError, "max_period: "),
        (lambda: repetition_period(TOKENS.float()), TypeError, "tokens: "),
        (lambda: repetition_period(TOKENS, starts=np.array([0, 9])), ValueError, "starts: "),
    ],
)
def test_readers(call, error, message):
    with pytest.raises(error, match=message):
        call()
