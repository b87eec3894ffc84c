"""The notebook runs from top to bottom, and its figures are what it says."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebooks" / "first_run.ipynb"


def test_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_RUN_STEPS", "4")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    first, second = sorted(tmp_path.glob("runs/*"))
    assert (first / "report.html").exists() and (second / "report.html").exists()
    lines = map(json.loads, (first / "metrics.jsonl").read_text().splitlines())
    before, after = [line["evaluation/pass@1"] for line in lines if "evaluation/pass@1" in line]
    assert f"held-out accuracy {before:.2f} -> {after:.2f}" in printed
