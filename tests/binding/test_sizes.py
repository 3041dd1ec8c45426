"""Tensors that need no memory, empty ones and those of stride 0, can have any shape: no product of sizes may overflow."""

import numpy as np
import pytest

from lzpenalty import (
    LZOptions,
    append_,
    attention_scores,
    compact_,
    dry_penalize_,
    lz_penalize_,
    repetition_period,
    select_top,
)
from producers import Producer


def empty(shape, dtype=np.float32):
    """A tensor without items; NumPy has none so large."""
    assert 0 in shape
    return Producer(np.empty(0, dtype), shape=shape, strides=[0] * (len(shape) - 1) + [1])


def repeated(shape, dtype=np.float32):
    """One number under many indices."""
    return Producer(np.zeros(1, dtype), shape=shape, strides=[0] * (len(shape) - 1) + [1 if shape[-1] == 1 else 0])


@pytest.mark.parametrize("shape", [(2**62, 0), (2**61, 0), (0, 2**62), (2**62, 2**62, 0), (2**30, 2**30, 0, 2**30)])
def test_empty_tensors_are_as_large_as_if_they_were_not(shape):
    with pytest.raises(ValueError, match="tokens: expected a shape that fits in memory, got one of over 2\\^58 items"):
        repetition_period(empty(shape, np.int32))


def test_results_of_many_empty_rows():
    with pytest.raises(MemoryError):
        repetition_period(empty((2**57, 0), np.int32))


@pytest.mark.parametrize("stride", [2**62, -(2**63)])
def test_strides_of_empty_tensors(stride):
    with pytest.raises(ValueError, match="logits: expected strides that stay in memory"):
        lz_penalize_(Producer(np.empty(0, np.float32), shape=(0, 8), strides=(stride, 1)), np.empty((0, 3), np.int64))


def test_offsets_that_turn_the_address_round():
    array = np.zeros((1, 8), np.float32)
    lz_penalize_(Producer(array, data=array.ctypes.data + 64, byte_offset=2**64 - 64), np.array([[1, 2, 1]]))
    assert array.any()


@pytest.mark.parametrize("options", [dict(release=[1]), dict(skip=[1]), dict(buffer=2**31 - 1)])
def test_texts_that_no_workspace_holds(options):
    logits, tokens = np.zeros(8, np.float32), np.broadcast_to(np.int32(1), 2**31 - 1)
    with pytest.raises(MemoryError):
        lz_penalize_(logits, tokens, window=2**31 - 1, **options)
    with pytest.raises(MemoryError):
        dry_penalize_(logits, tokens, window=2**31 - 1)
    assert not logits.any()
    lz_penalize_(logits, tokens, window=100)
    assert logits.any()


def test_work_and_scratch_that_are_too_large_to_count():
    queries, keys = repeated((1, 127 * 2**24, 4, 1)), repeated((1, 2**24, 2**31 - 1, 1))
    with pytest.raises(MemoryError):
        attention_scores(queries, keys, start=0, stop=2**31 - 1)


def test_rows_and_heads_of_nothing():
    """Nothing is done as often as there are heads."""
    assert select_top(empty((2**50, 0, 5)), 1).shape == (2**50, 0, 1)
    shape, most = (2**31 - 1, 2**20, 0, 1), 2**31 - 1
    assert append_(empty(shape), empty(shape), empty(shape), empty(shape), position=0) == 0
    kept = empty((most, 1, 0), np.int64)
    assert compact_(empty(shape), empty(shape), kept, start=0, stop=0, length=0) == 0


def test_empty_arrays_of_numpy():
    """Their strides are 0."""
    cache, nothing = np.zeros((1, 2, 8, 4), np.float32), np.empty((1, 2, 0, 4), np.float32)
    assert append_(cache, cache.copy(), nothing, nothing, position=3) == 3
    assert append_(nothing, nothing.copy(), nothing, nothing, position=0) == 0
    assert compact_(nothing, nothing.copy(), np.empty((1, 2, 0), np.int64), start=0, stop=0, length=0) == 0
    assert select_top(np.empty((0, 2, 5), np.float32), 2).shape == (0, 2, 2)


def test_hashes_of_extreme_options():
    assert hash(LZOptions(strength=1e6)) == hash(LZOptions(strength=1e6))
    assert LZOptions(strength=-0.0) == LZOptions(strength=0.0)
    assert hash(LZOptions(strength=-0.0)) == hash(LZOptions(strength=0.0))


CUDA = [
    (
        lambda put: attention_scores(put((1, 2**30, 2**15, 1)), put((1, 1, 9, 1)), start=0, stop=9),
        "queries: expected at most",
    ),
    (
        lambda put: attention_scores(put((1, 2**15, 2**15, 1)), put((1, 1, 2**30, 1)), start=0, stop=2**30),
        "queries: expected at most 2\\^30",
    ),
    (
        lambda put: attention_scores(put((1, 1, 1, 1)), put((2**31 - 1, 1, 1, 1)), start=0, stop=1),
        "keys: expected 1 to 2\\^30 rows",
    ),
    (lambda put: select_top(put((1, 2**32 + 1, 1)), 1), "scores: expected at most 2\\^30 heads"),
]


@pytest.mark.parametrize(("call", "message"), CUDA)
def test_kernels_count_with_ints(emulated, call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda shape: emulated.Tensor(bytes(4), shape, (0,) * len(shape), 0, 2, 32, 0))
