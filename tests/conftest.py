"""Fixtures that more than one file uses."""

import os
from collections import Counter

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

ELSEWHERE = Counter()  # how many tests have no place here, by reason
LINES = 8  # at most, in which the end says what did not run


def elsewhere(item):
    """Why a test is not for this machine, or None."""
    if "level" in item.fixturenames and item.callspec.params["level"] not in _core.cpu_levels():
        return "for instruction sets that this processor lacks: make test-emulated, make test-arch"
    marks = [mark.args for mark in item.iter_markers("elsewhere")]
    return next((reason for there, reason in marks if there), None)


def pytest_configure(config):
    config.addinivalue_line("markers", "elsewhere(condition, reason): where it holds, the test is not collected")


def pytest_collection_modifyitems(config, items):
    reasons = {item: elsewhere(item) for item in items}
    ELSEWHERE.update(reason for reason in reasons.values() if reason)
    config.hook.pytest_deselected(items=[item for item in items if reasons[item]])
    items[:] = [item for item in items if not reasons[item]]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """A process for each core that this one may use; each takes a gigabyte."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores, 8)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["elsewhere"] = dict(ELSEWHERE)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    ELSEWHERE.update(Counter(getattr(node, "workeroutput", {}).get("elsewhere")) - ELSEWHERE)  # all collect the same


def pytest_terminal_summary(terminalreporter):
    """How many tests did not run, and why."""
    skipped = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped")]
    reasons = (ELSEWHERE + Counter(skipped)).most_common()
    if len(reasons) > LINES:
        others = sum(count for _, count in reasons[LINES - 1 :])
        reasons[LINES - 1 :] = [("for other reasons: pytest -rs", others)]
    if reasons:
        terminalreporter.section("not run here")
        for reason, count in reasons:
            terminalreporter.line(f"{count:5} {reason}")


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
    """Runs a test once at each instruction-set level; those that the machine lacks are not collected."""
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
