"""The notebook runs from top to bottom, and its figures are what it says."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebooks" / "first_run.ipynb"


def test_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_RUN_STEPS", "12")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    accuracy = re.search(r"held-out accuracy ([\d.]+) -> ([\d.]+)", printed)
    assert accuracy is not None
    assert float(accuracy[2]) > float(accuracy[1])
    assert len(list(tmp_path.glob("runs/*/report.html"))) == 2
