"""Execute every notebook script and write its .ipynb twin, pictures inside: ``python notebooks/build.py [NAME ...]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).parent


def build(script: Path) -> Path:
    """Run one script as a notebook in an empty folder and write it beside the script."""
    notebook = jupytext.read(script)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # wall-clock stamps: they would differ at every build
    target = script.with_suffix(".ipynb")
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    nbformat.write(notebook, target)
    return target


if __name__ == "__main__":
    names = sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("[0-9]*.py"))]
    for name in names:
        path = build(FOLDER / f"{name}.py")
        print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")
