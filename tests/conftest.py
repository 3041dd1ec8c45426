"""Fixtures that more than one file uses."""

import os

import pytest

import devices
import emulator
from lzpenalty import _core

# On a machine with a GPU the tests of all devices run on it, instead of the emulator, if that is asked for: a process can
# open only one driver.
ON_GPU = bool(os.environ.get("LZPENALTY_TEST_GPU"))

# On a machine with everything, the tests as on one with less: `make test-scalar`.
if "LZPENALTY_TEST_LEVEL" in os.environ:
    _core.set_cpu_level(os.environ["LZPENALTY_TEST_LEVEL"])


@pytest.fixture(scope="session")
def emulated():
    """The emulated GPU."""
    if ON_GPU:
        pytest.skip("LZPENALTY_TEST_GPU is set: a real driver is open")
    if os.environ.get("LZPENALTY_SANITIZE") == "thread":
        pytest.skip("ThreadSanitizer keeps something of each of the emulator's fibres")
    try:
        return devices.Emulated(emulator.Emulator())
    except emulator.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def gpu(request):
    """A GPU, real or emulated."""
    return devices.Cuda() if ON_GPU else request.getfixturevalue("emulated")


@pytest.fixture(scope="session", params=["cpu", "cuda" if ON_GPU else "emulated"])
def device(request):
    """Each device that results must not depend on."""
    return devices.Cpu() if request.param == "cpu" else request.getfixturevalue("gpu")


@pytest.fixture(params=["scalar", "neon", "neon_bf16", "avx2", "avx512", "avx512_bf16", "amx"])
def level(request):
    """Runs a test once at each instruction-set level; those that the machine lacks are skipped."""
    if request.param not in _core.cpu_levels():
        pytest.skip(f"this machine has no {request.param}")
    before = _core.cpu_level()
    _core.set_cpu_level(request.param)
    yield request.param
    _core.set_cpu_level(before)


@pytest.fixture(scope="session")
def smollm2():
    """The real model of the demo, (model, tokenizer); it takes more than half a minute to load."""
    models = pytest.importorskip("lzpenalty.commands.models")
    try:
        return models.load_model()
    except models.ModelMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def one_thread():
    """Tiny models run faster without helpers."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
