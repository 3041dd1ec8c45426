"""The notebooks run from top to bottom, and what is committed has their output in it."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 4


def test_it_runs(notebook, request):
    if "load_model" in "".join(cell.source for cell in notebook.cells):
        request.getfixturevalue("smollm2")
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()


def test_outputs_are_committed(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == list(
        range(1, 1 + sum(cell.cell_type == "code" for cell in notebook.cells))
    )
    assert not re.search(r"/(home|root|work|tmp|Users)/", str(outputs))
