"""Tensors are borrowed by every route, described right, and given back exactly once."""

import gc
import importlib.util
import sys
import weakref
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lzpenalty import _core, codelength_deltas, lz_penalize_
from producers import Failing, Producer, describe, exchange_type

TOKENS = np.array([[1, 2, 3, 1, 2]])
EXPECTED = lz_penalize_(np.zeros((1, 8), np.float32), TOKENS)


def another_instance_of_core():
    """The extension once more, with a state, and a memory of types, of its own."""
    spec = importlib.util.spec_from_file_location("lzpenalty._core", _core.__file__)
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    return core


def zeros():
    return np.zeros((1, 8), np.float32)


# Each turns an array into an object that hands out its memory by one route.
ROUTES = {
    "numpy": lambda array: array,
    "torch": torch.from_numpy,
    "exchange": lambda array: exchange_type()(array),
    "exchange, owning": lambda array: exchange_type(owning=True)(array),
    "exchange, older table": lambda array: exchange_type(with_prev=True)(array),
    "capsule 1.0": Producer,
    "capsule 1.3": lambda array: Producer(array, version=(1, 3)),
    "capsule 0.8": lambda array: Producer(array, version=None),
    "future exchange, capsule": lambda array: exchange_type(major=2)(array),
}


@pytest.mark.parametrize("logits_route", ROUTES)
@pytest.mark.parametrize("tokens_route", ROUTES)
def test_every_route_reads_and_writes(logits_route, tokens_route):
    array = zeros()
    logits, tokens = ROUTES[logits_route](array), ROUTES[tokens_route](TOKENS)
    assert lz_penalize_(logits, tokens) is logits
    np.testing.assert_array_equal(array, EXPECTED)


def test_a_capsule_keeps_the_producer_that_made_it():
    """Of the helpers here: a producer that nobody else held was collected, and its deleter with it, before its capsule."""
    capsule = exchange_type(major=2)(zeros()).__dlpack__()
    gc.collect()
    del capsule


@pytest.mark.parametrize("version", [(1, 0), None])
def test_capsules_are_released_exactly_once_also_on_errors(version):
    array = zeros()
    logits, tokens = Producer(array, version), Producer(TOKENS, version)
    for _ in range(5):
        lz_penalize_(logits, tokens)
        with pytest.raises(ValueError):
            lz_penalize_(logits, tokens, starts=9)
        with pytest.raises(TypeError):
            lz_penalize_(tokens, logits)
    assert (logits.exports, tokens.exports) == (0, 0)


def test_owned_exchange_tensors_are_released():
    kind = exchange_type(owning=True)
    logits = kind(zeros())
    lz_penalize_(logits, TOKENS)
    with pytest.raises(ValueError):
        lz_penalize_(logits, TOKENS, starts=-1)
    assert [producer.exports for producer in logits.exported] == [0, 0]


def test_what_a_failing_export_leaves_is_not_touched():
    tokens = exchange_type(owning=True, unfinished=True)(TOKENS)
    with pytest.raises(TypeError, match="tokens: expected a tensor that can be borrowed through DLPack"):
        lz_penalize_(zeros(), tokens)
    assert tokens.exported[0].exports == 1


def test_the_route_is_found_once_per_type():
    class Counting(type):
        asked = 0

        def __getattribute__(cls, name):
            if name == "__dlpack_c_exchange_api__":
                Counting.asked += 1
            return super().__getattribute__(name)

    core = another_instance_of_core()
    kind = Counting("Kind", (exchange_type(),), {})
    for _ in range(10):
        core.lz_penalize_(kind(zeros()), TOKENS)
    assert Counting.asked == 1


def test_more_types_than_the_cache_holds():
    core = another_instance_of_core()
    for _ in range(70):
        array = zeros()
        core.lz_penalize_(type("Another", (Producer,), {})(array), TOKENS)
        np.testing.assert_array_equal(array, EXPECTED)


def test_an_instance_of_the_module_goes_with_all_that_it_remembers():
    core = another_instance_of_core()
    kind = type("Kind", (Producer,), {})
    core.lz_penalize_(kind(zeros()), TOKENS)
    gone = weakref.ref(kind), weakref.ref(core)
    del core, kind
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.mark.parametrize("framework", ["numpy", "torch", "exchange", "capsule without namespace", "capsule with namespace"])
def test_results_are_of_the_callers_library(framework):
    wanted = codelength_deltas(TOKENS[0], 8)
    tokens = TOKENS[0].copy()
    if framework == "torch":
        ids, bits = codelength_deltas(torch.from_numpy(tokens), 8)
        assert (ids.dtype, bits.dtype) == (torch.int64, torch.float32)
    elif framework == "exchange":
        ids, bits = codelength_deltas(exchange_type()(tokens), 8)
        ids, bits = ids.array, bits.array
    elif framework == "capsule with namespace":

        class Namespaced(Producer):
            def __array_namespace__(self):
                return torch

        ids, bits = codelength_deltas(Namespaced(tokens), 8)
        assert isinstance(ids, torch.Tensor)
    else:
        ids, bits = codelength_deltas(tokens if framework == "numpy" else Producer(tokens), 8)
        assert isinstance(ids, np.ndarray)
    np.testing.assert_array_equal(ids, wanted[0])
    np.testing.assert_array_equal(bits, wanted[1])
    assert codelength_deltas(tokens[:0], 8)[0].shape == (0,)


def test_a_type_of_an_old_torch_gets_what_its_package_makes_of_it():
    class Old(Producer):
        pass

    Old.__module__ = "torch.somewhere"
    ids, _ = codelength_deltas(Old(TOKENS[0].copy()), 8)
    assert isinstance(ids, torch.Tensor)


@pytest.mark.parametrize("module", ["\ud800", 3, None])
def test_types_whose_package_can_not_be_told(module):
    kind = type("Kind", (Producer,), {"__module__": module})
    ids, _ = codelength_deltas(kind(TOKENS[0].copy()), 8)
    assert isinstance(ids, np.ndarray)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=2), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_strides_offsets_and_nulls(steps, offset):
    steps = [step or 1 for step in steps]
    memory = np.zeros(200, np.float32)
    strides = (8 * abs(steps[1]) * steps[0], steps[1])
    first = sum(-stride * (size - 1) for stride, size in zip(strides, (2, 8), strict=True) if stride < 0)
    producer = Producer(memory, shape=(2, 8), strides=strides, data=memory.ctypes.data - 4 * offset, byte_offset=4 * offset)
    producer.tensor.byte_offset += 4 * first
    lz_penalize_(producer, np.repeat(TOKENS, 2, 0))
    picked = np.lib.stride_tricks.as_strided(memory[first:], (2, 8), [4 * s for s in strides])
    np.testing.assert_array_equal(picked, np.repeat(EXPECTED, 2, 0))
    assert np.count_nonzero(memory) == np.count_nonzero(picked)


def test_null_strides_mean_compact():
    array = zeros()
    lz_penalize_(Producer(array, strides=None), Producer(TOKENS, strides=None, version=None))
    np.testing.assert_array_equal(array, EXPECTED)


def test_a_dimension_of_one_may_have_any_stride():
    array = zeros()
    lz_penalize_(Producer(array, strides=(0, 1)), Producer(TOKENS, strides=(-7, 1)))
    np.testing.assert_array_equal(array, EXPECTED)
    assert codelength_deltas(torch.zeros(1, 3, dtype=torch.int64).expand(1, 3)[0], 9)[0].tolist() == [0]


def test_empty_tensors_may_be_null():
    empty = Producer(np.empty((0, 8), np.float32), data=None)
    assert lz_penalize_(empty, np.empty((0, 0), np.int64)) is empty
    lz_penalize_(zeros(), Producer(np.empty((1, 0), np.int64), data=None))


LIES = {
    "null data": (dict(data=None), ValueError, "logits: expected memory, got a null pointer"),
    "misaligned": (dict(byte_offset=2), ValueError, "logits: expected memory aligned to its 4-byte items"),
    "vector lanes": (dict(lanes=4), TypeError, "logits: expected dtype float32"),
    "odd bits": (dict(bits=24), TypeError, "logits: expected dtype float32"),
    "unknown code": (dict(code=17), TypeError, "logits: expected dtype float32"),
    "ndim 0": (
        dict(shape=(), strides=()),
        ValueError,
        r"logits: expected shape \[batch, vocabulary\] or \[vocabulary\], got 0",
    ),
    "ndim 3": (dict(shape=(1, 1, 8)), ValueError, "logits: expected shape"),
    "ndim 99": (dict(ndim=99), ValueError, "logits: expected at most 4 dimensions, got 99"),
    "ndim -1": (dict(ndim=-1), ValueError, "logits: expected at most 4 dimensions, got -1"),
    "negative size": (
        dict(shape=(-1, 8)),
        ValueError,
        "logits: expected a shape without negative sizes, got -1 in dimension 0",
    ),
    "huge shape": (dict(shape=(2**40, 2**40)), ValueError, "logits: expected a shape that fits in memory"),
    "huge strides": (dict(shape=(2, 8), strides=(2**60, 1)), ValueError, "logits: expected strides that stay in memory"),
    "on metal": (dict(device_type=8), ValueError, "logits: expected a tensor on cpu or cuda, got DLPack device 8:0"),
}


@pytest.mark.parametrize("version", [(1, 0), None])
@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_by_name(lie, version):
    fields, error, message = LIES[lie]
    fields = dict(fields)
    if "shape" in fields and "strides" not in fields:
        fields["strides"] = None
    array = zeros()
    producer = Producer(array, version, **fields)
    with pytest.raises(error, match=message):
        lz_penalize_(producer, TOKENS)
    assert producer.exports == 0 and not array.any()


def test_a_foreign_major_version_is_refused_unread():
    producer = Producer(zeros(), version=(2, 0))
    with pytest.raises(ValueError, match="logits: expected DLPack version 1.x, got 2.0"):
        lz_penalize_(producer, TOKENS)
    assert producer.exports == 0


def test_consumed_capsules_and_other_objects_are_refused():
    with pytest.raises(TypeError, match="logits: expected a DLPack capsule that nobody has consumed"):
        lz_penalize_(Producer(zeros(), capsule_name=b"used_dltensor"), TOKENS)

    class Liar:
        def __dlpack__(self, **kwargs):
            return 7

    with pytest.raises(TypeError, match="logits: expected a DLPack capsule .* got 7"):
        lz_penalize_(Liar(), TOKENS)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BufferError("no"), ValueError),
        (RuntimeError("no"), TypeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
)
def test_errors_of_producers_name_the_argument(error, raised):
    for bad in (Failing(error), exchange_type(error=error)(zeros())):
        with pytest.raises(raised) as caught:
            lz_penalize_(zeros(), bad)
        if raised is not type(error):
            assert str(caught.value).startswith("tokens: expected a tensor that can be borrowed through DLPack, got ")
            assert caught.value.__cause__ is error


def test_read_only_logits_are_refused_by_every_route_that_can_say_so():
    frozen = zeros()
    frozen.flags.writeable = False
    for bad in (frozen, Producer(zeros(), flags=1)):
        with pytest.raises(ValueError, match="logits: expected a writable tensor, got a read-only"):
            lz_penalize_(bad, TOKENS)
    lz_penalize_(zeros(), Producer(TOKENS, flags=1))


def test_arrays_of_jax_are_immutable():
    class Array(Producer):
        pass

    Array.__module__ = "jaxlib._jax"
    with pytest.raises(ValueError, match="logits: expected a writable tensor"):
        lz_penalize_(Array(zeros(), version=None), TOKENS)
    array = zeros()
    lz_penalize_(array, Array(TOKENS, version=None))
    np.testing.assert_array_equal(array, EXPECTED)


@pytest.mark.elsewhere(not find_spec("jax"), "need jax: make test-newest")
def test_jax_itself():
    import jax.numpy as jnp

    array = zeros()
    lz_penalize_(array, jnp.asarray(TOKENS, dtype=jnp.int32))
    np.testing.assert_array_equal(array, EXPECTED)
    with pytest.raises(ValueError, match="logits: expected a writable tensor"):
        lz_penalize_(jnp.zeros((1, 8)), TOKENS)
    ids, _ = codelength_deltas(jnp.asarray(TOKENS[0], dtype=jnp.int32), 8)
    assert type(ids).__module__.startswith("jax")


def test_overlapping_logits_are_refused():
    for bad in (torch.zeros(1, 8).expand(2, 8), torch.zeros(2, 1).expand(2, 8), torch.zeros(20).as_strided((2, 8), (4, 1))):
        with pytest.raises(ValueError, match="logits: expected a tensor without overlapping elements, got stride"):
            lz_penalize_(bad, np.repeat(TOKENS, 2, 0))
    lz_penalize_(torch.zeros(20).as_strided((2, 8), (1, 2)), np.repeat(TOKENS, 2, 0))


def test_autograd_is_refused_but_not_inference():
    parameter, conjugated = torch.nn.Parameter(torch.zeros(1, 8)), torch.zeros(1, 8, dtype=torch.complex64).conj()
    error, autograd, dtype = ValueError, "outside autograd, got one that requires grad", "dtype"
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):  # then torch's own words
        error, autograd, dtype = (TypeError, ValueError), ".*: Can't export .* gradient", ".*: Can't export .* conjugate bit"
    for bad in (parameter, parameter * 2):
        with pytest.raises(error, match=f"logits: expected a tensor {autograd}"):
            lz_penalize_(bad, TOKENS)
    lz_penalize_(parameter.detach(), TOKENS)
    np.testing.assert_array_equal(parameter.detach(), EXPECTED)
    with torch.inference_mode():
        lz_penalize_(torch.zeros(1, 8), TOKENS)
    with pytest.raises(TypeError, match=f"logits: expected {dtype}"):  # conjugation is a matter of complex tensors
        lz_penalize_(conjugated, TOKENS)


def test_tensors_that_have_no_memory_of_that_kind():
    with pytest.raises(TypeError, match="logits: expected a tensor that can be borrowed"):
        lz_penalize_(torch.zeros(1, 8).to_sparse(), TOKENS)
    with pytest.raises((TypeError, ValueError), match="logits: "):
        lz_penalize_(torch.zeros(1, 8, device="meta"), TOKENS)


def test_numpy_oddities():
    with pytest.raises(TypeError, match="logits: expected dtype .* got >f4"):
        lz_penalize_(zeros().astype(">f4"), TOKENS)
    packed = np.zeros(1, np.dtype([("a", "u1"), ("x", "f4", 8)]))
    with pytest.raises(ValueError, match="logits: expected (memory aligned|strides)"):
        lz_penalize_(packed["x"], TOKENS)
    with pytest.raises(ValueError, match="logits: expected strides that are multiples of the item size 4, got 33 bytes"):
        lz_penalize_(np.zeros(2, np.dtype([("x", "f4", 8), ("a", "u1")]))["x"], np.repeat(TOKENS, 2, 0))
    with pytest.raises(TypeError, match="logits: expected dtype .* got longdouble|float128"):
        lz_penalize_(np.zeros((1, 8), np.longdouble), TOKENS)

    class Sub(np.ndarray):
        pass

    array = zeros()
    lz_penalize_(array.view(Sub), TOKENS.view(Sub))
    np.testing.assert_array_equal(array, EXPECTED)


@pytest.mark.elsewhere(not find_spec("ml_dtypes"), "need jax: make test-newest")
def test_bfloat16_arrays_of_ml_dtypes():
    import ml_dtypes

    array = np.zeros((1, 8), ml_dtypes.bfloat16)
    lz_penalize_(array, TOKENS)
    np.testing.assert_array_equal(array, EXPECTED.astype(ml_dtypes.bfloat16))


def test_references_are_balanced():
    array, tensor, producer = zeros(), torch.zeros(1, 8), Producer(zeros())
    ids = torch.from_numpy(TOKENS)
    objects = (array, tensor, producer, ids, TOKENS)
    gc.collect()
    before = [sys.getrefcount(o) for o in objects]
    for logits in (array, tensor, producer):
        for tokens in (ids, TOKENS):
            for _ in range(50):
                lz_penalize_(logits, tokens)
    del logits, tokens
    assert [sys.getrefcount(o) for o in objects] == before


def test_the_description_that_the_tests_lie_with_is_right():
    tensor = describe(np.zeros((2, 3), np.int32)[:, ::2])
    assert (tensor.ndim, tensor.bits, tensor.code, tensor.strides[0], tensor.strides[1]) == (2, 32, 0, 3, 2)


def test_a_null_shape_is_refused():
    producer = Producer(zeros())
    producer.tensor.shape = None
    with pytest.raises(ValueError, match="logits: expected at most 4 dimensions, got 2"):
        lz_penalize_(producer, TOKENS)


@pytest.mark.parametrize("device_type", [3, 11])
def test_pinned_memory_is_memory(device_type):
    array = zeros()
    lz_penalize_(Producer(array, device_type=device_type), TOKENS)
    np.testing.assert_array_equal(array, EXPECTED)


@pytest.mark.parametrize("name", ["__dlpack_c_exchange_api__", "__dlpack__", "__module__", "requires_grad"])
def test_errors_of_a_types_own_attributes_pass(name):
    class Meta(type):
        def __getattribute__(self, asked):
            if asked == name:
                raise ZeroDivisionError(name)
            return super().__getattribute__(asked)

    base = exchange_type() if name == "requires_grad" else Producer
    kind = Meta("Kind", (base,), {})
    with pytest.raises(ZeroDivisionError, match=name):
        lz_penalize_(kind(zeros()), TOKENS)


def test_an_instances_requires_grad_may_raise():
    kind = exchange_type()
    kind.requires_grad = property(lambda self: 1 / 0)
    with pytest.raises(TypeError, match="logits: .* got ZeroDivisionError"):
        lz_penalize_(kind(zeros()), TOKENS)


def test_what_is_no_exchange_api_is_none():
    class Kind(Producer):
        __dlpack_c_exchange_api__ = 7

    array = zeros()
    lz_penalize_(Kind(array), TOKENS)
    np.testing.assert_array_equal(array, EXPECTED)


@pytest.mark.parametrize("broken", ["tensor_from_object", "managed_from_object"])
def test_an_exchange_that_fails_without_a_word(broken):
    kind = exchange_type(owning=broken == "managed_from_object", broken=broken)
    with pytest.raises(TypeError, match="logits: .* got RuntimeError: no reason given"):
        lz_penalize_(kind(zeros()), TOKENS)


def test_an_allocator_that_fails_without_a_word():
    with pytest.raises(RuntimeError, match="the allocator of Exchanged failed: no message"):
        codelength_deltas(exchange_type(broken="allocate")(TOKENS[0]), 8)


def test_a_namespace_that_raises():
    class Kind(Producer):
        def __array_namespace__(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        codelength_deltas(Kind(TOKENS[0].copy()), 8)


@pytest.mark.parametrize("dtype", ["S40", "S2", "u4", "V0", "c16", ">f4"])
def test_other_dtypes_of_numpy_are_refused(dtype):
    with pytest.raises(TypeError, match="logits: expected dtype float32"):
        lz_penalize_(np.zeros((1, 8), dtype), TOKENS)


def test_a_numpy_type_that_calls_itself_bfloat16():
    """ml_dtypes has one; a void of that name is as good to whoever only looks."""
    bfloat16 = type("bfloat16", (np.void,), {})
    logits = np.zeros((1, 8), np.dtype((bfloat16, 2)))
    lz_penalize_(logits, TOKENS)
    wanted = lz_penalize_(torch.zeros(1, 8, dtype=torch.bfloat16), torch.from_numpy(TOKENS))
    assert logits.tobytes() == wanted.view(torch.int16).numpy().tobytes()


def test_strides_of_numpy_are_whole_items():
    record = np.zeros((1, 8), np.dtype({"names": ["x"], "formats": ["f4"], "offsets": [0], "itemsize": 6}))
    with pytest.raises(ValueError, match="logits: expected strides that are multiples of the item size 4, got 6 bytes"):
        lz_penalize_(record["x"], TOKENS)
    with pytest.raises(ValueError, match="logits: expected at most 4 dimensions, got 5"):
        lz_penalize_(np.zeros((1, 1, 1, 1, 8), np.float32), TOKENS)
