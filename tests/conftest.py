"""Fixtures that more than one file uses."""

import pytest

from lzpenalty import _core


@pytest.fixture(params=["scalar", "neon", "avx2", "avx512", "amx"])
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
    demo = pytest.importorskip("lzpenalty.demo")
    try:
        return demo.load_model()
    except demo.ModelMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def one_thread():
    """Tiny models run faster without helpers."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
