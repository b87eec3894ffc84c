"""What the learner's process loads, and what it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [("rlvr.learn.learner", ["ray", "vllm"]), ("rlvr.learn.algorithms", ["torch", "transformers"])],
)
def test_import_stays_apart(module: str, absent: list[str]) -> None:
    """An engine in the learner's process would take its memory; making rows needs no torch."""
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
