"""Sub-interpreters: the extension loads in each, works there, and goes away with it."""

import subprocess
import sys

import pytest

# Without arrays: NumPy, torch and ctypes do not load in a sub-interpreter with a GIL of its own.
CODE = """
import sys
sys.path[:0] = {path!r}
from lzpenalty import _core

for bad in ([1], 3, None):
    try:
        _core.lz_penalize_(bad, bad)
    except TypeError as error:
        assert str(error).startswith("logits: expected a tensor"), error
    else:
        raise AssertionError(bad)
assert _core.cpu_level() in _core.cpu_levels()
assert "numpy" not in sys.modules
"""

RUNNERS = {
    "legacy": "import _testcapi\nassert _testcapi.run_in_subinterp(code) == 0",
    "xx": "import _xxsubinterpreters as s\ni = s.create()\ns.run_string(i, code)\ns.destroy(i)",
    "own GIL": "import _interpreters as s\ni = s.create('isolated')\nassert s.exec(i, code) is None\ns.destroy(i)",
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_subinterpreters(runner):
    setup = f"import sys\nsys.path[:0] = {sys.path!r}\ncode = {CODE.format(path=sys.path)!r}\n"
    program = setup + "from lzpenalty import _core\n" + "\n".join([RUNNERS[runner]] * 3)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    if "No module named" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_no_framework():
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; import lzpenalty; "
        "loaded = {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
