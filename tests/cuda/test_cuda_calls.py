"""Calls on CUDA tensors: where they are launched, what they need, and what is said when they can't be."""

import ctypes
import gc
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch

from lzpenalty import (
    _core,
    append_,
    attention_scores,
    codelength_deltas,
    compact_,
    compact_blocks_,
    dry_penalize_,
    gather_blocks_,
    loop_evidence,
    lz_penalize_,
    repetition_period,
    select_top,
    warmup,
)
from producers import Producer, describe

TOKENS = np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4]])
EXPECTED = lz_penalize_(np.zeros((2, 16), np.float32), TOKENS)


def zeros():
    return np.zeros((2, 16), np.float32)


def floats(gpu, tensor):
    return np.frombuffer(gpu.bytes(tensor), np.float32).reshape(tensor.shape)


def python(program, **variables):
    """Runs a program in a process of its own."""
    setup = f"import sys\nsys.path[:0] = {sys.path!r}\n"
    return subprocess.run(
        [sys.executable, "-c", setup + textwrap.dedent(program)],
        capture_output=True, text=True, timeout=300, env={**os.environ, **variables},
    )  # fmt: skip


class Capsule(Producer):
    """Hands out the memory of an emulated tensor through __dlpack__, and notes what it was asked with."""

    def __init__(self, tensor, array, **how):
        address, code, bits, number = tensor.info
        super().__init__(array, data=address, device_type=2, device_id=number, code=code, bits=bits, **how)
        self.emulated, self.asked = tensor, []

    def __dlpack__(self, **kwargs):
        self.asked.append(kwargs)
        if self.version is None and "max_version" in kwargs:
            raise TypeError("unexpected keyword argument max_version")
        return self._export()


@pytest.fixture
def stream(emulated):
    """A stream other than the default one, on device 0, that the tensors' library works on."""
    handle = ctypes.c_void_p()
    context = ctypes.c_void_p()
    driver = emulated.driver
    assert driver.cuInit(0) == 0
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert driver.cuCtxPushCurrent_v2(context) == 0
    assert driver.cuStreamCreate(ctypes.byref(handle), 0) == 0
    emulated.emulator.module.set_stream(handle.value)
    yield handle
    emulated.emulator.module.set_stream(0)
    driver.cuStreamEndCapture(handle, ctypes.byref(ctypes.c_void_p()))  # if a test has failed meanwhile
    driver.cuStreamSynchronize(handle)
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))


# ---- launches


def test_a_call_is_one_launch_that_waits_for_nothing(emulated):
    warmup()
    logits, tokens = emulated.put(zeros()), emulated.put(TOKENS)
    waiting = ("cuMemAlloc_v2", "cuMemFree_v2", "cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuStreamSynchronize",
               "cuCtxSynchronize", "cuModuleLoadDataEx")  # fmt: skip
    before = [emulated.emulator.calls(name) for name in waiting]
    launches = emulated.emulator.calls("cuLaunchKernel")
    assert lz_penalize_(logits, tokens) is logits
    assert [emulated.emulator.calls(name) for name in waiting] == before
    assert emulated.emulator.calls("cuLaunchKernel") == launches + 1
    assert emulated.driver.emulator_pending() == 1  # nothing has run yet
    np.testing.assert_array_equal(floats(emulated, logits), EXPECTED)


def test_the_stream_is_the_one_that_the_library_works_on(emulated, stream):
    logits, tokens = emulated.put(zeros()), emulated.put(TOKENS)
    lz_penalize_(logits, tokens)
    assert emulated.emulator.last_launch()["stream"] == stream.value
    emulated.driver.cuStreamSynchronize(stream)
    np.testing.assert_array_equal(floats(emulated, logits), EXPECTED)


def test_every_routine_goes_to_the_stream(emulated, stream):
    put = emulated.put
    keys, new, blocks = np.zeros((1, 2, 9, 8), np.float32), np.ones((1, 2, 2, 8), np.float32), np.zeros(1, np.int32)
    cache = put(keys), put(keys)
    scores = attention_scores(put(new), cache[0], start=0, stop=6)
    seen = [emulated.emulator.last_launch()]
    positions = select_top(scores, 2)
    for call in (
        lambda: None,
        lambda: compact_(*cache, positions, start=0, stop=6, length=9),
        lambda: append_(*cache, put(new), put(new), position=5),
        lambda: compact_blocks_(*cache, put(blocks), positions, start=0, stop=6, length=9),
        lambda: gather_blocks_(put(new), cache[0], put(blocks), start=3),
        lambda: dry_penalize_(put(zeros()), put(TOKENS)),
        lambda: repetition_period(put(TOKENS)),
        lambda: loop_evidence(put(TOKENS)),
        lambda: lz_penalize_(put(zeros()), put(TOKENS)),
        lambda: lz_penalize_(put(zeros()), put(TOKENS), skip=3),
    ):
        call()
        seen.append(emulated.emulator.last_launch())
    kernels = [launch["kernel"] for launch in seen]
    assert kernels == [
        "score_smooth", "select_top", "compact_16", "append_16", "compact_blocks_16", "gather_blocks_16", "dry_penalize",
        "repetition_period", "loop_evidence", "lz_penalize", "lz_penalize",
    ]  # fmt: skip
    assert {launch["stream"] for launch in seen} == {stream.value}


def test_capsules_are_used_on_the_legacy_stream_and_asked_to_wait_for_it(emulated):
    logits, tokens = Capsule(emulated.put(zeros()), zeros()), Capsule(emulated.put(TOKENS), TOKENS)
    assert lz_penalize_(logits, tokens) is logits
    assert emulated.emulator.last_launch()["stream"] == 1
    assert logits.asked[-1]["stream"] == tokens.asked[-1]["stream"] == 1
    assert logits.exports == tokens.exports == 0
    np.testing.assert_array_equal(floats(emulated, logits.emulated), EXPECTED)


@pytest.mark.parametrize("version", [(1, 0), None])
def test_capsules_next_to_a_library_with_a_stream_are_asked_for_that(emulated, stream, version):
    logits, tokens = emulated.put(zeros()), Capsule(emulated.put(TOKENS), TOKENS, version=version)
    lz_penalize_(logits, tokens)
    assert emulated.emulator.last_launch()["stream"] == tokens.asked[-1]["stream"] == stream.value
    emulated.driver.cuStreamSynchronize(stream)
    np.testing.assert_array_equal(floats(emulated, logits), EXPECTED)


@pytest.mark.parametrize("logits_too", [False, True])
def test_who_says_no_stream_finds_the_results_there(emulated, stream, logits_too):
    """Its library can make our stream wait for its own, but nothing can make its own wait for ours."""
    logits, tokens = emulated.put(zeros()), Capsule(emulated.put(TOKENS), TOKENS)
    lz_penalize_(Capsule(logits, zeros()) if logits_too else logits, tokens)
    assert emulated.emulator.last_launch()["stream"] == (1 if logits_too else stream.value)
    assert emulated.driver.emulator_pending() == 0
    np.testing.assert_array_equal(floats(emulated, logits), EXPECTED)


def test_a_wait_that_fails_is_said(emulated):
    logits = Capsule(emulated.put(zeros()), zeros())
    lz_penalize_(logits, Capsule(emulated.put(TOKENS), TOKENS))
    emulated.emulator.fail("cuStreamSynchronize", 719)
    with pytest.raises(RuntimeError, match="cuStreamSynchronize failed: CUDA_ERROR_LAUNCH_FAILED"):
        lz_penalize_(logits, Capsule(emulated.put(TOKENS), TOKENS))
    assert logits.exports == 0


def test_what_would_have_to_be_waited_for_is_not_captured(emulated, stream):
    warmup()
    logits, tokens = emulated.put(zeros()), Capsule(emulated.put(TOKENS), TOKENS)
    assert emulated.driver.cuStreamBeginCapture_v2(stream, 0) == 0
    with pytest.raises(RuntimeError, match="tokens: expected .* while a graph is captured, got .*Capsule"):
        lz_penalize_(logits, tokens)
    graph = ctypes.c_void_p()
    assert emulated.driver.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0  # it goes on as if nothing had been asked
    assert emulated.driver.emulator_pending() == 0 and tokens.exports == 0
    assert not floats(emulated, logits).any()


def test_capsules_that_move_are_refused(emulated):
    class Moving(Capsule):
        def __dlpack__(self, **kwargs):
            self.tensor.data += 64
            return super().__dlpack__(**kwargs)

    logits = emulated.put(zeros())
    with pytest.raises(ValueError, match="tokens: expected the same memory from __dlpack__ each time"):
        lz_penalize_(logits, Moving(emulated.put(np.zeros((20, 5), np.int64)), TOKENS))
    assert not floats(emulated, logits).any()


def grow(tensor):
    tensor.shape[0] += 1


def widen(tensor):
    tensor.strides[1] += 1


def flatten(tensor):
    tensor.ndim = 1


def shorten(tensor):
    tensor.bits = 32


@pytest.mark.parametrize("change", [grow, widen, flatten, shorten])
def test_capsules_that_change_are_refused(emulated, change):
    class Changing(Capsule):
        def __dlpack__(self, **kwargs):
            if self.asked:
                change(self.tensor)
            return super().__dlpack__(**kwargs)

    logits, memory = emulated.put(np.zeros((2, 8), np.float32)), np.zeros((20, 5), np.int64)
    tokens = Changing(emulated.put(memory), memory[:2])
    with pytest.raises(ValueError, match="tokens: expected .* from __dlpack__ each time"):
        lz_penalize_(logits, tokens)
    assert not floats(emulated, logits).any() and tokens.exports == 0


def test_capsules_that_raise_when_they_go(emulated):
    class Raising(Capsule):
        def __dlpack__(self, **kwargs):
            capsule = super().__dlpack__(**kwargs)
            raises = ctypes.cast(ctypes.pythonapi.PyObject_Size, ctypes.c_void_p)
            ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), raises)
            return capsule

    logits = emulated.put(zeros())
    assert lz_penalize_(logits, Raising(emulated.put(TOKENS), TOKENS)) is logits
    np.testing.assert_array_equal(floats(emulated, logits), EXPECTED)


def test_results_need_a_library_that_can_allocate(emulated):
    tokens = Capsule(emulated.put(TOKENS), TOKENS)
    with pytest.raises(TypeError, match=r"tokens: expected a tensor of a library that can allocate results on the device"):
        repetition_period(tokens)
    assert tokens.exports == 0


def test_scratch_and_results_are_given_back(emulated):
    queries, keys = emulated.put(np.ones((1, 2, 3, 8), np.float32)), emulated.put(np.ones((1, 1, 50, 8), np.float32))
    gc.collect()  # what other tests have left
    before, memory = emulated.emulator.module.counts(), emulated.driver.emulator_allocations()
    for _ in range(3):
        scores = attention_scores(queries, keys, start=0, stop=50)
        np.testing.assert_allclose(floats(emulated, scores)[0, 0, 3:47], 1 / 50, rtol=1e-6)
        del scores
    allocated, dropped = (now - then for now, then in zip(emulated.emulator.module.counts(), before, strict=True))
    assert (allocated, dropped) == (6, 3)  # results were handed over
    emulated.driver.cuCtxSynchronize()
    assert emulated.driver.emulator_allocations() == memory


def test_graphs_are_captured_and_replayed(emulated, stream):
    warmup()
    logits, tokens = emulated.put(zeros()), emulated.put(TOKENS)
    driver, graph = emulated.driver, ctypes.c_void_p()
    assert driver.cuStreamBeginCapture_v2(stream, 0) == 0
    lz_penalize_(logits, tokens)
    periods = repetition_period(tokens, ngram=1, count=2)
    assert driver.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0
    assert driver.emulator_pending() == 0
    for turn in (1, 2):
        assert driver.cuGraphLaunch(graph, stream) == 0
        driver.cuStreamSynchronize(stream)
        np.testing.assert_allclose(floats(emulated, logits), turn * EXPECTED, rtol=1e-6)
    assert np.frombuffer(emulated.bytes(periods), np.int64).tolist() == [3, 1]


def test_other_contexts_stay_current(emulated):
    contexts = ctypes.c_void_p(), ctypes.c_void_p()
    driver = emulated.driver
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(contexts[0]), 1)
    driver.cuCtxPushCurrent_v2(contexts[0])
    logits = emulated.put(zeros())  # on device 0
    lz_penalize_(logits, emulated.put(TOKENS))
    driver.cuCtxGetCurrent(ctypes.byref(contexts[1]))
    assert contexts[0].value == contexts[1].value
    driver.cuCtxPopCurrent_v2(ctypes.byref(contexts[1]))
    np.testing.assert_array_equal(floats(emulated, logits), EXPECTED)


def test_a_second_device(emulated):
    logits, tokens = emulated.put(zeros(), number=1), emulated.put(TOKENS, number=1)
    lz_penalize_(logits, tokens)
    np.testing.assert_array_equal(floats(emulated, logits), EXPECTED)


def test_threads(emulated):
    wrong = []

    def work():
        for _ in range(30):
            logits = emulated.put(zeros())
            lz_penalize_(logits, emulated.put(TOKENS))
            if not np.array_equal(floats(emulated, logits), EXPECTED):
                wrong.append(logits)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- what can't be checked before a launch


def test_starts_on_the_device_are_clamped(gpu):
    lengths = np.array([-(2**40), 99])
    got = gpu.of(lz_penalize_)(zeros(), TOKENS, starts=lengths)
    np.testing.assert_array_equal(got, lz_penalize_(zeros(), TOKENS, starts=np.array([0, 5])))


def test_positions_on_the_device_never_lead_out_of_bounds(gpu):
    """The emulator stops at the first access outside of an allocation."""
    keys = torch.randn(2, 3, 40, 8)
    for bad in ([2**62, -(2**62), 5], [30, 30, 30], [-1, 40, 2], [29, 3, 0]):
        positions = torch.tensor(bad).expand(2, 3, 3).contiguous()
        cache = keys.clone(), keys.clone()
        assert gpu.of(compact_)(*cache, positions, start=5, stop=35, length=38) == 11
        assert cache[0][:, :, :5].equal(keys[:, :, :5]) and cache[0][:, :, 38:].equal(keys[:, :, 38:])
        assert cache[0][:, :, 8:11].equal(keys[:, :, 35:38])


def test_more_positions_than_there_are_tokens(emulated):
    cache = [emulated.put(np.zeros((1, 1, 9, 4), np.float32)) for _ in range(2)]
    positions = emulated.put(np.zeros((1, 1, 5), np.int64))
    blocks = emulated.put(np.zeros(1, np.int64))
    for call in (compact_, lambda keys, values, *more, **span: compact_blocks_(keys, values, blocks, *more, **span)):
        with pytest.raises(ValueError, match=r"positions: expected at most the 4 tokens of \[start, stop\), got 5"):
            call(*cache, positions, start=0, stop=4, length=9)


def test_keys_and_values_in_blocks_of_one_buffer(emulated):
    """As vLLM has them, beside each other."""
    memory = np.random.default_rng(0).normal(size=(5, 2, 4, 16)).astype(np.float32)
    buffer, blocks, positions = emulated.put(memory), np.array([3, 0, 4]), np.array([[[1, 2, 6]]])
    both = [Capsule(buffer, memory[..., half]) for half in (slice(0, 8), slice(8, 16))]
    both[1].tensor.data += 32
    bounds = dict(start=2, stop=9, length=11)
    assert compact_blocks_(*both, emulated.put(blocks), emulated.put(positions), **bounds) == 7
    compact_blocks_(memory[..., :8], memory[..., 8:], blocks, positions, **bounds)
    got = floats(emulated, buffer)
    np.testing.assert_array_equal(got[3], memory[3])
    np.testing.assert_array_equal(got[0, :, :3], memory[0, :, :3])
    np.testing.assert_array_equal(got[[1, 2]], memory[[1, 2]])


# ---- what is refused


def test_devices_must_agree(emulated):
    logits, tokens = emulated.put(zeros()), emulated.put(TOKENS)
    for bad, message in (
        (lambda: lz_penalize_(logits, TOKENS), "tokens: expected the device of logits, which is cuda:0, got cpu"),
        (lambda: lz_penalize_(zeros(), tokens), "tokens: expected the device of logits, which is cpu, got cuda:0"),
        (lambda: lz_penalize_(logits, emulated.put(TOKENS, number=1)), "tokens: .* cuda:0, got cuda:1"),
        (lambda: lz_penalize_(logits, tokens, starts=np.array([0, 1])), "starts: .* tokens, which is cuda:0, got cpu"),
        (lambda: codelength_deltas(emulated.put(TOKENS[0]), 9), "tokens: expected a tensor on cpu, got cuda:0"),
        (
            lambda: lz_penalize_(Producer(zeros(), device_type=10), TOKENS),
            "logits: expected a tensor on cpu or cuda, got DLP",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            bad()
    assert not floats(emulated, logits).any()


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (lz_penalize_, {}),
        (lz_penalize_, {"gate": (20, 28), "release": [[1, 2], 3], "release_rate": 0}),
        (dry_penalize_, {"sequence_breakers": [3]}),
    ],
)
def test_windows_have_to_fit_the_device(emulated, function, options):
    text = np.zeros((1, 70_000), np.int32)
    logits, tokens = emulated.put(np.zeros((1, 16), np.float32)), emulated.put(text)
    for window in (70_000, 50_000):
        with pytest.raises(
            ValueError, match="window: expected at most [0-9]+ tokens, which is what fits the shared memory"
        ) as error:
            function(logits, tokens, window=window, **options)
    assert not floats(emulated, logits).any()
    most = int(str(error.value).split("at most ")[1].split()[0])
    assert most > 8000
    function(logits, tokens, window=most, **options)
    assert emulated.emulator.last_launch()["shared"] <= 227 << 10
    emulated.driver.emulator_reset(0)  # a loop of so many tokens would take the emulator a minute
    with pytest.raises(ValueError, match=f"window: expected at most {most} tokens"):
        function(logits, tokens, window=most + 1, **options)
    # A long window over a short text is fine, and so is one that begins late.
    function(logits, tokens, window=2**31 - 1, starts=59_000, **options)
    np.testing.assert_array_equal(floats(emulated, logits)[0, 1:], 0)


@pytest.mark.parametrize(("number", "promised"), [(0, 14_000), (1, 4_000)])
def test_windows_fit_that_the_documentation_promises(emulated, number, promised):
    logits, tokens = (
        emulated.put(np.zeros((1, 16)), number=number),
        emulated.put(np.zeros((1, 60_000), np.int32), number=number),
    )
    with pytest.raises(ValueError) as error:
        lz_penalize_(logits, tokens, window=50_000)
    assert promised <= int(str(error.value).split("at most ")[1].split()[0]) < 1.1 * promised
    with pytest.raises(ValueError) as error:
        dry_penalize_(logits, tokens, window=50_000)
    assert promised * 1.1 <= int(str(error.value).split("at most ")[1].split()[0]) < 1.2 * promised


def test_no_window_fits(emulated):
    logits, tokens = emulated.put(np.zeros((1, 16), np.float32)), emulated.put(np.zeros((1, 70_000), np.int32))
    with pytest.raises(ValueError, match="window: expected buffer and tokens that fit the shared memory"):
        lz_penalize_(logits, tokens, window=9, buffer=70_000)


@pytest.mark.parametrize(("function", "name"), [(dry_penalize_, "sequence_breakers")])
def test_lists_have_to_fit_a_launch(emulated, function, name):
    wide = np.zeros((1, 2000), np.float32)
    logits, tokens = emulated.put(wide), emulated.put(TOKENS[:1])
    function(logits, tokens, **{name: range(896)})
    before = emulated.bytes(logits)
    with pytest.raises(ValueError, match=f"{name}: expected at most 896 ids for CUDA tensors, got 897"):
        function(logits, tokens, **{name: range(897)})
    assert emulated.bytes(logits) == before


def test_evidence_has_to_fit_the_device(emulated):
    tokens = emulated.put(np.zeros((1, 70_000), np.int32))
    for window in (70_000, 50_000):
        with pytest.raises(ValueError, match="window: expected at most [0-9]+ tokens, which is what fits") as error:
            loop_evidence(tokens, window=window)
    most = int(str(error.value).split("at most ")[1].split()[0])
    assert most > 14_000
    loop_evidence(tokens, window=most)
    assert emulated.emulator.last_launch()["shared"] <= 227 << 10
    emulated.driver.emulator_reset(0)
    with pytest.raises(ValueError, match=f"window: expected at most {most} tokens"):
        loop_evidence(tokens, window=most + 1)
    assert emulated.get(loop_evidence(tokens, window=2**31 - 1, starts=69_990), False) == 10 - 2


def test_old_and_missing_devices(emulated):
    with pytest.raises(RuntimeError, match=r"cuda:2 is a Emulated Volta of compute capability 7\.0; 7\.5 or more is needed"):
        warmup(2)
    logits = emulated.put(zeros(), number=2)
    with pytest.raises(RuntimeError, match="compute capability 7.0"):
        lz_penalize_(logits, emulated.put(TOKENS, number=2))
    with pytest.raises(RuntimeError, match=r"cuDeviceGet failed: CUDA_ERROR_INVALID_DEVICE \(101\): invalid device ordinal"):
        warmup(4)
    with pytest.raises(RuntimeError, match="expected a CUDA device from 0 to 63, got 64"):
        warmup(64)
    with pytest.raises(ValueError, match="device: expected an integer from 0"):
        warmup(-1)


def every_call(gpu, number=0):
    """A call of each routine, with tensors of a device."""
    cache, other = (gpu.put(np.zeros((1, 1, 8, 4), np.float32), number) for _ in range(2))
    token = gpu.put(np.zeros((1, 1, 1, 4), np.float32), number)
    scores = gpu.put(np.zeros((1, 1, 8), np.float32), number)
    positions = gpu.put(np.zeros((1, 1, 1), np.int64), number)
    blocks = gpu.put(np.zeros(1, np.int32), number)
    logits, tokens = gpu.put(zeros(), number), gpu.put(TOKENS, number)
    return [
        lambda: lz_penalize_(logits, tokens),
        lambda: dry_penalize_(logits, tokens),
        lambda: repetition_period(tokens),
        lambda: loop_evidence(tokens),
        lambda: attention_scores(cache, cache, start=0, stop=8),
        lambda: select_top(scores, 3),
        lambda: compact_(cache, other, positions, start=0, stop=8, length=8),
        lambda: append_(cache, other, token, token, position=0),
        lambda: compact_blocks_(cache, other, blocks, positions, start=0, stop=8, length=8),
        lambda: gather_blocks_(token, cache, blocks, start=7),
    ]


def test_no_routine_runs_on_an_old_device(emulated):
    gc.collect()  # what other tests have left, which the device frees when it is waited for
    emulated.bytes(emulated.put(zeros()))
    calls = every_call(emulated, 2)
    memory = emulated.driver.emulator_allocations()
    for call in calls:
        with pytest.raises(RuntimeError, match="compute capability 7.0"):
            call()
    assert emulated.driver.emulator_allocations() == memory


STEPS = ["cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2",
         "cuModuleLoadDataEx", "cuModuleGetFunction", "cuFuncGetAttribute", "cuFuncSetAttribute", "cuMemAlloc_v2",
         "cuMemcpyHtoD_v2"]  # fmt: skip


def test_a_warmup_that_fails_says_why_leaves_nothing_and_can_be_tried_again(emulated):
    memory = emulated.driver.emulator_allocations()
    later = [("cuDeviceGet", 2), ("cuDeviceGetAttribute", 2), ("cuDeviceGetAttribute", 3), ("cuModuleGetFunction", 2)]
    for step, n in [(step, 1) for step in STEPS] + later:
        emulated.emulator.fail(step, 2, n)
        with pytest.raises(
            RuntimeError, match=rf"{step.removesuffix('_v2')} failed: CUDA_ERROR_OUT_OF_MEMORY \(2\): out of"
        ):
            warmup(3)
        assert emulated.driver.emulator_allocations() == memory
    warmup(3)
    assert _core.cuda_devices()[1][3] == ("Emulated Ampere", (8, 6), 99 << 10, True)


def test_launches_that_fail(emulated):
    warmup()
    logits, tokens = emulated.put(zeros()), emulated.put(TOKENS)
    for code, text in ((719, "CUDA_ERROR_LAUNCH_FAILED"), (4242, "unknown error")):
        emulated.emulator.fail("cuLaunchKernel", code)
        with pytest.raises(RuntimeError, match=rf"cuLaunchKernel failed: {text} \({code}\): "):
            lz_penalize_(logits, tokens)
        emulated.emulator.fail("cuLaunchKernel", code)
        before = emulated.driver.emulator_allocations()
        with pytest.raises(RuntimeError, match="cuLaunchKernel failed"):
            repetition_period(tokens)
        assert emulated.driver.emulator_allocations() == before
    emulated.emulator.fail("cuCtxGetCurrent", 201)
    with pytest.raises(RuntimeError, match="cuCtxGetCurrent failed: CUDA_ERROR_INVALID_CONTEXT"):
        lz_penalize_(logits, tokens)
    assert not floats(emulated, logits).any()


def test_a_producer_may_refuse_the_stream(emulated):
    class Refusing(Capsule):
        def __dlpack__(self, **kwargs):
            if self.asked:
                raise BufferError("no such stream")
            return super().__dlpack__(**kwargs)

    tokens = Refusing(emulated.put(TOKENS), TOKENS)
    with pytest.raises(ValueError, match="tokens: expected a tensor .* got BufferError: no such stream"):
        lz_penalize_(emulated.put(zeros()), tokens)
    assert tokens.exports == 0


@pytest.mark.parametrize("step", ["cuLaunchKernel", "cuCtxGetCurrent"])
def test_every_launch_that_fails_says_so(emulated, step):
    warmup()
    calls = every_call(emulated)
    gc.collect()  # what other tests have left
    emulated.driver.cuCtxSynchronize()
    memory = emulated.driver.emulator_allocations()
    for call in calls:
        emulated.emulator.fail(step, 2)
        with pytest.raises(RuntimeError, match=f"{step} failed: CUDA_ERROR_OUT_OF_MEMORY"):
            call()
    assert emulated.driver.emulator_allocations() == memory


@pytest.mark.parametrize("step", ["cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName"])
def test_devices_that_can_not_be_listed(emulated, step):
    emulated.emulator.fail(step, 2)
    with pytest.raises(RuntimeError, match=f"{step} failed"):
        _core.cuda_devices()
    assert len(_core.cuda_devices()[1]) > 0


def test_allocations_that_fail(emulated):
    queries = emulated.put(np.zeros((1, 1, 1, 4), np.float32))
    before = emulated.emulator.module.counts()
    emulated.emulator.fail("cuMemAllocAsync", 2)
    with pytest.raises(RuntimeError, match="the allocator of emulated.Tensor failed: MemoryError: out of emulated memory"):
        attention_scores(queries, queries, start=0, stop=1)
    assert emulated.emulator.module.counts() == before


def test_the_emulator_stops_kernels_at_the_end_of_an_allocation(emulated):
    """So that all the tests above say something about what kernels touch."""
    text = np.zeros((1, 600), np.int32)
    logits, tokens = emulated.put(np.zeros((1, 16), np.float32)), emulated.put(text)
    lying = Capsule(tokens, text, shape=(1, 2000), strides=(2000, 1))
    with pytest.raises(RuntimeError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        lz_penalize_(logits, lying)
    try:
        with pytest.raises(RuntimeError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            logits.bytes()
        assert emulated.driver.emulator_last_error().startswith(b"lz_penalize: block 0, thread ")
        # A context that a kernel has broken stays broken.
        with pytest.raises(
            RuntimeError, match=r"cuLaunchKernel failed: CUDA_ERROR_ILLEGAL_ADDRESS \(700\): an illegal memory"
        ):
            lz_penalize_(logits, tokens)
    finally:
        emulated.driver.emulator_reset(0)
    lz_penalize_(logits, tokens)
    assert floats(emulated, logits)[0, 0] < 0


# ---- processes of their own

NO_DRIVER = """
    import numpy as np, lzpenalty, producers
    on_gpu = producers.Producer(np.zeros((1, 8), np.float32), device_type=2)
    ids = producers.Producer(np.zeros((1, 4), np.int64), device_type=2)
    for call in (lambda: lzpenalty.lz_penalize_(on_gpu, ids), lzpenalty.warmup, lzpenalty._core.cuda_devices):
        try:
            call()
        except RuntimeError as error:
            print(error)
    assert on_gpu.exports == ids.exports == 0
    array = np.zeros((1, 8), np.float32)
    assert lzpenalty.lz_penalize_(array, np.array([[1, 2, 1]])) is array and array.any()
"""


def test_without_a_driver_only_cuda_tensors_fail():
    done = python(NO_DRIVER, LZPENALTY_LIBCUDA="/nowhere/libcuda.so.1")
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and done.returncode == 0, done.stderr
    assert all(line.startswith("no CUDA driver: /nowhere/libcuda.so.1: cannot open shared object file") for line in lines)


def test_a_library_that_is_no_driver():
    done = python(NO_DRIVER, LZPENALTY_LIBCUDA="libm.so.6")
    assert "the CUDA driver is too old: it lacks cuInit" in done.stdout, done.stderr


def test_a_driver_without_devices(emulated):
    program = f"""
        import ctypes, lzpenalty
        ctypes.CDLL({str(emulated.emulator.path)!r}).emulator_fail(b"cuInit", 101, 1)
        for _ in range(2):
            try:
                lzpenalty.warmup()
            except RuntimeError as error:
                print(error)
    """
    done = python(program, LZPENALTY_LIBCUDA=str(emulated.emulator.path))
    assert done.stdout.splitlines() == ["cuInit failed: CUDA_ERROR_INVALID_DEVICE (101): invalid device ordinal"] * 2


def test_importing_and_cpu_calls_do_not_touch_cuda(emulated):
    program = f"""
        import ctypes, numpy as np, lzpenalty
        lzpenalty.lz_penalize_(np.zeros((1, 8), np.float32), np.zeros((1, 4), np.int64))
        print(ctypes.CDLL({str(emulated.emulator.path)!r}).emulator_calls(b"cuInit"))
    """
    assert python(program, LZPENALTY_LIBCUDA=str(emulated.emulator.path)).stdout == "0\n"


def test_nothing_is_loaded_while_a_graph_is_captured(emulated):
    program = """
        import ctypes, numpy as np, lzpenalty, devices, emulator
        gpu = devices.Emulated(emulator.Emulator())
        driver, context, stream, graph = gpu.driver, ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        driver.cuInit(0)
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        driver.cuCtxPushCurrent_v2(context)
        driver.cuStreamCreate(ctypes.byref(stream), 0)
        logits, tokens = gpu.put(np.zeros((1, 8), np.float32)), gpu.put(np.array([[1, 2, 1]]))
        gpu.emulator.module.set_stream(stream.value)
        driver.cuStreamBeginCapture_v2(stream, 0)
        try:
            lzpenalty.lz_penalize_(logits, tokens)
        except RuntimeError as error:
            print(error)
        print(driver.cuStreamEndCapture(stream, ctypes.byref(graph)))
    """
    done = python(program)
    assert done.stdout.splitlines() == [
        "cuda:0: nothing can be loaded while a graph is captured; call lzpenalty.warmup(0) before",
        "0",  # the capture goes on
    ], done.stderr


def test_the_host_cannot_look_at_the_emulated_memory(emulated):
    """What would be a mistake on a real GPU is one here."""
    program = """
        import ctypes, numpy as np, devices, emulator
        gpu = devices.Emulated(emulator.Emulator())
        tensor = gpu.put(np.zeros(8))
        print("before", flush=True)
        ctypes.string_at(tensor.info[0], 8)
        print("after", flush=True)
    """
    done = python(program)
    assert done.stdout == "before\n" and done.returncode != 0
    assert describe(np.zeros(2)).data  # which real memory allows
