"""Every notebook runs from top to bottom, holds its pictures, and says the same as its script."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RUNS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.sionna] if "from sionna" in path.with_suffix(".py").read_text() else [])
    for path in NOTEBOOKS
]


def code_of(notebook) -> list[str]:
    return [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pair_is_in_step_and_holds_pictures(path):
    jupytext = pytest.importorskip("jupytext")
    notebook = jupytext.read(path)
    assert code_of(notebook) == code_of(jupytext.read(path.with_suffix(".py")))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 600_000


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("path", RUNS)
def test_runs_from_top_to_bottom(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
