"""Sub-interpreters: the extension loads in each, works there, alone and beside others, and goes away with it."""

import re
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

import emulator

HERE = Path(__file__).parents[1] / "interpreters"
RUNNERS = {
    "legacy": "import _testcapi\n    assert _testcapi.run_in_subinterp(code) == 0",
    "isolated": "import _xxsubinterpreters as s\n    i = s.create()\n    s.run_string(i, code)\n    s.destroy(i)",
    "own GIL": "import _interpreters as s\n    i = s.create('isolated')\n"
    "    failed = s.exec(i, code)\n    assert failed is None, failed\n    s.destroy(i)",
}
OTHER = "need another Python: make test-pythons"


def runners(names):
    """Those whose module this Python has."""
    modules = {name: re.match(r"import (\w+)", RUNNERS[name])[1] for name in names}
    return [
        pytest.param(name, marks=pytest.mark.elsewhere(not find_spec(module), OTHER)) for name, module in modules.items()
    ]


@pytest.fixture(scope="module")
def path():
    """Where sub-interpreters import from."""
    include = f"-I{sysconfig.get_paths()['include']}"
    try:
        built = emulator.compile_once(
            ["gcc", *emulator.FLAGS, "-std=gnu11", include, HERE / "buffers.c"],
            f"buffers{sysconfig.get_config_var('EXT_SUFFIX')}",
        )
    except emulator.Unavailable as error:
        pytest.skip(str(error))
    return [str(built.parent), str(HERE), *sys.path]


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def in_interpreters(runner, path, then):
    code = f"import sys; sys.path[:0] = {path!r}; import work; work.everything({{seed}})"
    run(
        f"import sys\nsys.path[:0] = {sys.path!r}\nimport lzpenalty\nfrom concurrent.futures import ThreadPoolExecutor\n"
        f"def one(seed):\n    code = {code!r}.format(seed=seed)\n    {RUNNERS[runner]}\n{then}"
    )


@pytest.mark.parametrize("runner", runners(RUNNERS))
def test_one_after_the_other(runner, path):
    in_interpreters(runner, path, "for seed in range(3): one(seed)")


@pytest.mark.elsewhere(sys.version_info < (3, 12), OTHER)  # interpreters share the GIL
@pytest.mark.parametrize("runner", runners(["isolated", "own GIL"]))
def test_several_at_once(runner, path):
    in_interpreters(runner, path, "with ThreadPoolExecutor(4) as pool: list(pool.map(one, range(8)))")


def test_importing_the_package_imports_no_framework():
    run(
        f"import sys; sys.path[:0] = {sys.path!r}; import lzpenalty; "
        "loaded = {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules); assert not loaded, loaded"
    )
