"""Each notebook runs from top to bottom, and its .ipynb is in step with its .py source."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py"))


def test_there_are_notebooks():
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_pair_is_in_step_and_without_outputs(name):
    source = jupytext.read(FOLDER / f"{name}.py")
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert [(c.cell_type, c.source) for c in source.cells] == [
        (c.cell_type, c.source) for c in book.cells
    ], "run: make notebooks"
    assert not any(c.get("outputs") for c in book.cells), "commit notebooks without outputs"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Jupyter's own, about event loops and debuggers
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name):
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    NotebookClient(book, timeout=240, kernel_name="python3").execute(cwd=str(FOLDER))
    shown = [o for c in book.cells for o in c.get("outputs", [])]
    assert not any(o.output_type == "error" for o in shown)
    assert any("image/png" in o.get("data", {}) for o in shown), "no picture was drawn"
