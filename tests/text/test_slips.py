"""Slips of those who call from Python: each gets an error of ours, a line that names the argument and what came."""

import re

import numpy as np
import pytest

import lzpenalty
from lzpenalty import LZOptions, analysis, presets

TEXTS = {
    "factorize": (),
    "lz78": (),
    "codelength": (),
    "token_bits": (9,),
    "find_loops": (),
    "loop_evidence": (),
    "ngram_entropy": (),
    "seq_rep": (),
    "distinct_n": (),
    "suffix_extension_rate": (),
}
NO_TEXTS = {
    "None": (None, "NoneType"),
    "a number": (5, "int"),
    "a set": ({1, 2}, "set"),
    "a dict": ({1: 2}, "dict"),
    "a generator": ((i for i in [1, 2]), "generator"),
    "floats": ([1.5, 2.0], "dtype float64"),
    "words": (["a", "b"], "dtype <U1"),
    "truths": ([True, False], "dtype bool"),
    "missing ones": ([None, 1], "dtype object"),
    "too large ones": ([2**70], "dtype object"),
    "lists of many lengths": ([[1], [2, 3]], "a list"),
    "one word": (np.array("abc"), "array of one <U3"),
}


def refused(kinds, call, *said):
    """That it raises such an error, of a line that says so."""
    with pytest.raises(kinds) as caught:
        call()
    message = str(caught.value)
    assert re.match(r"\w+: expected ", message) and "\n" not in message
    assert all(part in message for part in said), message


@pytest.mark.parametrize("what", NO_TEXTS)
@pytest.mark.parametrize("function", TEXTS)
def test_what_is_no_text(function, what):
    value, got = NO_TEXTS[what]
    refused(TypeError, lambda: getattr(analysis, function)(value, *TEXTS[function]), "tokens: expected", got)


@pytest.mark.parametrize("value", [[1, 2], b"ab", bytearray(b"ab"), None, 5, np.arange(3)], ids=repr)
def test_zlib_takes_text_alone(value):
    refused(TypeError, lambda: analysis.zlib_ratio(value), f"text: expected a str, got {type(value).__name__}")


def test_zlib_takes_any_text():
    assert analysis.zlib_ratio("\ud800 half of a pair") > 0


@pytest.mark.parametrize("value", [None, [1, 2], np.arange(3), analysis.lz78([1, 2])], ids=["None", "ids", "array", "lz78"])
def test_results_of_other_functions(value):
    refused(TypeError, lambda: analysis.apart(value), "loops: expected what find_loops returned, got")
    if not isinstance(value, np.ndarray) or value.dtype.names is None:
        refused(TypeError, lambda: analysis.running_rate(value), "phrases: expected what factorize or lz78 returned, got")


def test_ids_beyond_the_vocabulary():
    for tokens, size in (([1, 2, 3], 3), ([7], 1), ("a", 97)):
        refused(
            ValueError,
            lambda: analysis.token_bits(tokens, size),
            "vocab_size: expected more than the largest id",
            f"got {size}",
        )
    refused(ValueError, lambda: analysis.token_bits([-1, 2], 3), "tokens: expected ids from 0 on, got -1")
    assert len(analysis.token_bits([1, 2, 3], 4)) == 3


@pytest.mark.parametrize("name", ["release", "open", "skip", "resume"])
@pytest.mark.parametrize("value", ["</think>", b"</think>", ["</think>"], [["</think>"]], [[5], "x"]], ids=repr)
def test_a_text_in_the_place_of_ids(name, value):
    refused(TypeError, lambda: LZOptions(**{name: value}), f"{name}: expected token ids, got", "a tokenizer")
    if name in ("release", "open"):
        refused(TypeError, lambda: LZOptions(**{name: value}), "preset='reasoning' with tokenizer=")


@pytest.mark.parametrize("value", [True, [True], 1.5, [[1.5]]], ids=repr)
def test_no_ids_at_all(value):
    for name in ("release", "open", "skip", "resume"):
        refused(TypeError, lambda: LZOptions(**{name: value}), f"{name}: expected")


@pytest.mark.parametrize("name", LZOptions().keywords())
def test_options_that_are_typed_as_text(name):
    refused((TypeError, ValueError), lambda: LZOptions(**{name: "20:28"}), f"{name}: expected", "got")


def test_reasoning_without_a_tokenizer():
    refused(ValueError, lambda: presets.resolve("reasoning", {}), "preset: expected tokenizer=", "release=")
    for value in ("gpt2", 5):
        refused(TypeError, lambda: presets.resolve("reasoning", {}, value), "tokenizer: expected an object with encode")


# ---- torch's tensors that lie elsewhere, or otherwise ----


def strange():
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[1, 2, 1, 2]])
    return {
        "meta": ids.to("meta"),
        "sparse": ids.to_sparse(),
        "csr": ids.to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(ids.float(), 0.1, 0, torch.quint8),
    }


@pytest.mark.parametrize("kind", ["meta", "sparse", "csr", "quantized"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_cannot_be_read(kind):
    tokens = strange()[kind]
    where = "device meta" if kind == "meta" else {"sparse": "sparse_coo", "csr": "sparse_csr", "quantized": "quint8"}[kind]
    logits = np.zeros((1, 5), np.float32)
    for call in (
        lambda: lzpenalty.lz_penalize_(logits, tokens),
        lambda: lzpenalty.repetition_period(tokens),
        lambda: lzpenalty.loop_evidence(tokens),
        lambda: analysis.factorize(tokens),
        lambda: analysis.find_loops(tokens),
    ):
        refused(TypeError, call, "tokens: expected", where)
    assert not logits.any()
    refused(TypeError, lambda: lzpenalty.lz_penalize_(tokens, np.array([[1, 2]])), "logits: expected", where)


VIEWS = {
    "whole": lambda imag: imag,
    "a row": lambda imag: imag[:1],
    "a column": lambda imag: imag[:, 2:3],
    "one number": lambda imag: imag[:1, :1],
    "columns between others": lambda imag: imag[:, ::3],
    "transposed": lambda imag: imag.mT,
    "expanded": lambda imag: imag[:, :1].expand(-1, 7),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_negatives_are_seen_however_they_lie(view):
    """Only a tensor whose strides let it be one is asked."""
    torch = pytest.importorskip("torch")
    logits = VIEWS[view](torch.complex(torch.zeros(4, 5), torch.ones(4, 5)).conj().imag)
    assert logits.is_neg()
    tokens = np.ones((len(logits), 3), int)
    refused(ValueError, lambda: lzpenalty.lz_penalize_(logits, tokens), "logits: expected", "resolve_neg")


def test_views_of_negatives_are_not_read_as_they_lie():
    torch = pytest.importorskip("torch")
    logits = torch.full((1, 5), 1.0j).conj().imag
    assert logits.is_neg()
    refused(ValueError, lambda: lzpenalty.lz_penalize_(logits, np.array([[1, 2, 1]])), "logits: expected", "resolve_neg()")
    resolved = logits.resolve_neg()
    lzpenalty.lz_penalize_(resolved, np.array([[1, 2, 1]]))
    assert resolved[0, 2] < -1 and torch.equal(logits, torch.full((1, 5), -1.0))
