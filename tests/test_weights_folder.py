"""A run's folder in shared memory: others leave it alone while the run lives, and none outlives its run for long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.weights.folder import WeightsFolder

OF_A_KILLED_RUN = """
import os, signal, sys
from rlvr.weights import folder
folder.shared_memory = lambda: folder.Path(sys.argv[1])
(folder.WeightsFolder().path / "version").write_text("w")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("rlvr.weights.folder.shared_memory", lambda: tmp_path)
    return tmp_path


def test_each_run_has_its_own_until_it_ends(memory: Path) -> None:
    with WeightsFolder() as first:
        (first.path / "version").write_text("w")
        with WeightsFolder() as second:
            assert sorted(memory.iterdir()) == sorted([first.path, second.path])
        assert list(memory.iterdir()) == [first.path]
        assert (first.path / "version").read_text() == "w"
    assert list(memory.iterdir()) == []


def test_that_of_a_killed_run_goes_when_another_starts(memory: Path) -> None:
    subprocess.run([sys.executable, "-c", OF_A_KILLED_RUN, str(memory)], timeout=60, check=False)
    (left,) = memory.iterdir()
    assert (left / "version").exists()
    with WeightsFolder() as ours:
        assert list(memory.iterdir()) == [ours.path]


def test_a_folder_that_cannot_be_opened_is_another_users(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = memory / "rlvr-versions-theirs"
    theirs.mkdir()

    def refused(folder: Path) -> int:
        if folder == theirs:
            raise PermissionError
        return lock(folder)

    from rlvr.weights import folder

    lock = folder._lock
    monkeypatch.setattr(folder, "_lock", refused)
    with WeightsFolder():
        assert theirs.exists()
