"""Bad input raises before anything is written; the message names the argument, what came and what is wanted."""

import re

import numpy as np
import pytest
import torch

from lzpenalty import (
    LZOptions,
    _core,
    append_,
    attention_scores,
    codelength_deltas,
    dry_penalize_,
    loop_evidence,
    lz_penalize_,
    lz_penalize_rows_,
    repetition_period,
    select_top,
)
from producers import Producer

TOKENS = torch.tensor([[1, 2, 3, 1, 2], [4, 5, 6, 4, 5]])
inf, nan = float("inf"), float("nan")

OPTIONS = [
    ("strength", -0.1, ValueError, "strength: expected a number from 0 to 1000000 within float32, got -0.1"),
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
    ("cost", "lz78", ValueError, "cost: expected 'lzss', 'pair' or 'distance', got 'lz78'"),
    ("cost", 3, TypeError, "cost: expected a string, got int"),
    ("gate", (28, 20), ValueError, r"gate: expected \(from, to\) with 0 <= from < to <= 2\^31, got \(28, 20\)"),
    ("gate", (20, 20), ValueError, "gate: expected"),
    ("gate", (-1, 20), ValueError, "gate: expected"),
    ("gate", (20, inf), ValueError, "gate: expected a finite number within float32, got inf"),
    ("gate", (nan, 20), ValueError, "gate: expected a finite number"),
    ("gate", (16777216, 16777217), ValueError, "gate: expected"),  # equal in float32
    ("gate", (1, 2, 3), ValueError, r"gate: expected \(from, to\), got \(1, 2, 3\)"),
    ("gate", 20, TypeError, r"gate: expected \(from, to\) or None, got int"),
    ("gate", ("a", "b"), TypeError, "gate: expected a number, got str"),
    ("release", [], ValueError, "release: expected 1 to 16 ids or sequences of ids, or None, got 0"),
    ("release", 10, ValueError, r"release: expected ids in \[0, 10\), the vocabulary, got 10"),
    ("release", [[1, 99]], ValueError, r"release: expected ids in \[0, 10\), the vocabulary, got 99"),
    ("release", [-1], ValueError, "release: .* got -1"),
    ("release", [1] * 17, ValueError, "release: expected 1 to 16 ids or sequences of ids, or None, got 17"),
    ("release", [[1] * 9], ValueError, "release: expected sequences of 1 to 8 ids, got 9 in one"),
    ("release", [1, []], ValueError, "release: expected sequences of 1 to 8 ids, got 0 in one"),
    ("release", 1.5, TypeError, "release: expected token ids, got float"),
    ("release", "</think>", TypeError, "release: expected token ids, got '</think>': a tokenizer .* with tokenizer="),
    ("release", [1.5], TypeError, "release: expected token ids, got float"),
    ("release_rate", -1, ValueError, "release_rate: expected a number from 0 to 1000000 within float32, got -1"),
    ("release_rate", nan, ValueError, "release_rate: "),
    ("release_rate", inf, ValueError, "release_rate: "),
    ("release_after", 0, ValueError, "release_after: expected an integer from 1"),
    ("release_after", 1.5, TypeError, "release_after: expected an integer, got float"),
    ("open", [99], ValueError, r"open: expected ids in \[0, 10\), the vocabulary, got 99"),
    ("open", range(17), ValueError, "open: expected 1 to 16"),
    ("skip", [[1] * 9], ValueError, "skip: expected sequences of 1 to 8 ids"),
    ("skip", "x", TypeError, "skip: expected token ids, got 'x'"),
    ("starts", -1, ValueError, r"starts: expected positions in \[0, 5\], the length of tokens, got -1"),
    ("starts", 6, ValueError, "starts: .* got 6"),
    ("starts", 10**30, ValueError, "starts: "),
    ("starts", torch.tensor([0]), ValueError, "starts: expected one position, or one for each of the 2 rows"),
    ("starts", torch.tensor([[0, 1]]), ValueError, "starts: expected one position"),
    ("starts", torch.tensor([0.0, 1.0]), TypeError, "starts: expected dtype int32 or int64, got torch.float32"),
    ("starts", [0, 1], TypeError, "starts: expected a tensor .* got list"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), OPTIONS)
def test_options(device, name, value, error, message):
    logits = torch.randn(2, 10)
    before = logits.clone()
    with pytest.raises(error, match=message.removesuffix("torch.float32")):
        device.of(lz_penalize_)(logits, TOKENS, **{name: value})
    assert torch.equal(logits, before)


def test_starts_of_rows():
    """On a device they are clamped: nobody looks at them before the launch."""
    logits = torch.zeros(2, 10)
    with pytest.raises(ValueError, match="starts: .* got 6 for row 1"):
        lz_penalize_(logits, TOKENS, starts=torch.tensor([0, 6]))
    assert not logits.any()


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
    (lambda: lz_penalize_(1, 2, None, 4), r"lz_penalize_\(\) takes at most 3 positional arguments, got 4"),
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
        ({"sequence_breakers": ["a"]}, TypeError, "sequence_breakers: expected token ids, got 'a'"),
        ({"sequence_breakers": [-1]}, ValueError, "sequence_breakers: "),
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
        (lambda: loop_evidence(TOKENS, gram=0), ValueError, "gram: expected an integer from 1"),
        (lambda: loop_evidence(TOKENS, gram=65), ValueError, "gram: expected an integer from 1 to 64, got 65"),
        (lambda: loop_evidence(TOKENS, window=-1), ValueError, "window: expected an integer from 0"),
        (lambda: loop_evidence(TOKENS.float()), TypeError, "tokens: "),
        (lambda: loop_evidence(TOKENS, starts=6), ValueError, "starts: "),
    ],
)
def test_readers(call, error, message):
    with pytest.raises(error, match=message):
        call()


SIGNATURES = {name: getattr(getattr(_core, name), "__text_signature__", None) or "" for name in dir(_core)}
FUNCTIONS = [name for name, signature in SIGNATURES.items() if signature.startswith("($module, /, ")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_knows_its_arguments(name):
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'nonsense'"):
        getattr(_core, name)(nonsense=1)
    if name != "warmup":
        with pytest.raises(TypeError, match=rf"{name}\(\) missing required argument"):
            getattr(_core, name)()


class Raising:
    def __index__(self):
        raise ZeroDivisionError

    __float__ = __iter__ = __bool__ = __index__


@pytest.mark.parametrize(
    "call",
    [
        lambda logits: lz_penalize_(logits, TOKENS, window=Raising()),
        lambda logits: lz_penalize_(logits, TOKENS, strength=Raising()),
        lambda logits: lz_penalize_(logits, TOKENS, skip=Raising()),
        lambda logits: lz_penalize_(logits, TOKENS, release=[Raising()]),
        lambda logits: lz_penalize_(logits, TOKENS, open=[[Raising()]]),
        lambda logits: lz_penalize_(logits, TOKENS, gate=(0, Raising())),
        lambda logits: attention_scores(logits[None, None], logits[None, None], start=0, stop=1, check=Raising()),
        lambda logits: _core.set_num_threads(Raising()),
    ],
)
def test_what_an_argument_raises_is_raised(call):
    with pytest.raises(ZeroDivisionError):
        call(torch.zeros(2, 10))


BIG = 2**31


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lz_penalize_(torch.zeros(9), Producer(np.zeros(1, np.int64), shape=(BIG,), strides=(1,))),
         r"tokens: expected at most 2\^31 - 1 tokens in a row, got 2147483648"),
        (lambda: lz_penalize_(Producer(np.zeros(1, np.float32), shape=(BIG,), strides=(1,)), TOKENS[0]),
         r"logits: expected a vocabulary of 1 to 2\^31 - 1 ids, got 2147483648"),
        (lambda: select_top(np.zeros((1, 1, 4), np.float32), 5), "k: expected at most"),
        (lambda: attention_scores(*[np.broadcast_to(np.float32(0), (1, 1, BIG, 1))] * 2, start=0, stop=1),
         r"keys: expected 1 to 2\^31 - 1 tokens, got 2147483648"),
        (lambda: _core.gather_tokens_(Producer(np.zeros(1, np.int32), shape=(1, BIG), strides=(BIG, 1)), {}),
         r"tokens: expected shape \[batch, length\], got 2 dimensions"),
        (lambda: _core.parse_lz78(Producer(np.zeros(1, np.int32), shape=(2**30,), strides=(1,))),
         r"tokens: expected shape \[length\] with fewer than 2\^30 tokens"),
    ],
)  # fmt: skip
def test_sizes_that_are_too_large(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("starts", [2**70, -(2**70), np.int64(9), torch.zeros(1, 2, dtype=torch.int64)])
def test_starts(starts):
    for call in (
        lambda: lz_penalize_(torch.zeros(2, 9), TOKENS, starts=starts),
        lambda: repetition_period(TOKENS, starts=starts),
    ):
        with pytest.raises((ValueError, TypeError), match="starts: expected"):
            call()


def test_one_start_for_all_rows():
    wanted = lz_penalize_(torch.zeros(2, 10), TOKENS, starts=2)
    assert torch.equal(lz_penalize_(torch.zeros(2, 10), TOKENS, starts=torch.tensor(2)), wanted)


NEW = {"new_keys": torch.zeros(2, 3, 4, 5), "new_values": torch.zeros(2, 3, 4, 6)}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("new_keys", (1, 3, 4, 5), "new_keys: expected as many rows as keys, 2, got 1"),
        ("new_keys", (2, 1, 4, 5), "new_keys: expected as many heads as keys, 3, got 1"),
        ("new_keys", (2, 3, 4, 1), "new_keys: expected as many numbers a token as keys, 5, got 1"),
        ("new_keys", (2, 3, 5), "new_keys: expected shape"),
        ("new_values", (1, 3, 4, 6), "new_values: expected as many rows as values, 2, got 1"),
        ("new_values", (2, 1, 4, 6), "new_values: expected as many heads as values, 3, got 1"),
        ("new_values", (2, 3, 4, 1), "new_values: expected as many numbers a token as values, 6, got 1"),
        ("new_values", (2, 3, 1, 6), "new_values: expected as many tokens as new_keys, 4, got 1"),
    ],
)
def test_append(name, shape, message):
    with pytest.raises(ValueError, match=message):
        append_(torch.zeros(2, 3, 9, 5), torch.zeros(2, 3, 9, 6), **NEW | {name: torch.zeros(shape)}, position=0)


def test_options_compare():
    assert LZOptions(open=[1]) != LZOptions(open=[2]) != LZOptions() != LZOptions(window=1)
    assert LZOptions() != 3
    with pytest.raises(TypeError):
        LZOptions() < LZOptions()  # noqa: B015


@pytest.mark.parametrize("value", [3, (LZOptions(),), (3, [1]), (LZOptions(), torch.zeros(2)), (LZOptions(), 3)])
def test_rows(value):
    with pytest.raises(TypeError, match="rows: expected|tokens: expected"):
        lz_penalize_rows_(torch.zeros(2, 10), {0: value})


def test_rows_need_memory_on_a_cpu(gpu):
    logits = gpu.put(np.zeros((2, 10), np.float32))
    for call in (lambda: lz_penalize_rows_(logits, {}), lambda: _core.gather_tokens_(logits, {})):
        with pytest.raises(ValueError, match="expected a tensor on cpu, got cuda:0"):
            call()


@pytest.mark.parametrize("tokens", [np.zeros(3), np.zeros((2, 2), np.int64), np.int64(3), np.array([0, 9], np.int32)])
def test_texts(tokens):
    for call in (_core.parse_lz78, lambda x: _core.parse_lz77(x, 2), lambda x: _core.find_loops(x, 2, 0.1, 3)):
        with pytest.raises((TypeError, ValueError), match="tokens: expected"):
            call(tokens)


def test_levels_and_threads():
    for level in ("sse9", 3, "neon" if "neon" not in _core.cpu_levels() else "avx2"):
        with pytest.raises(ValueError, match="level: expected one of cpu_levels"):
            _core.set_cpu_level(level)
    with pytest.raises(ValueError, match="threads: expected an integer from 1"):
        _core.set_num_threads(0)


def test_calls_within_calls():
    """Each call that has begun needs memory of its own, more of them than are kept."""

    def nested(depth):
        return lz_penalize_(torch.zeros(2, 10), TOKENS, skip=[len(nested(depth - 1))] if depth else None)

    wanted = lz_penalize_(torch.zeros(2, 10), TOKENS, skip=[2])
    for _ in range(3):
        assert torch.equal(nested(20), wanted)
