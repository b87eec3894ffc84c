"""Runs a script as a user without rights, when the tests themselves run as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlvr.sandbox

NOBODY = 65534


def _interpreter() -> str | None:
    """One that anybody may start: this one, or the system's."""
    own = Path(sys.executable).resolve()
    if all(folder.stat().st_mode & 0o001 for folder in own.parents):
        return str(own)
    return shutil.which("python3", path="/usr/bin:/usr/local/bin")


def run_unprivileged(script: Path, *arguments: str, folder: Path) -> str:
    """The script's output. It sees a copy of rlvr.sandbox, and files beside it."""
    if os.getuid() != 0:
        pytest.skip("already unprivileged: the rest of the tests show this")
    interpreter = _interpreter()
    if interpreter is None:
        pytest.skip("no Python that a user without rights may start")
    home = folder / "home"
    home.mkdir()
    shutil.copytree(Path(rlvr.sandbox.__file__).parent, home / "rlvr" / "sandbox")
    (home / "rlvr" / "__init__.py").touch()
    shutil.copy(script, home)
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for parent in (folder, *folder.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    done = subprocess.run(
        [interpreter, str(home / script.name), *arguments],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd=home,
        env={"PYTHONPATH": str(home), "HOME": str(home), "PATH": os.environ["PATH"], **_data()},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _data() -> dict[str, str]:
    return {"RLVR_DATA": os.environ["RLVR_DATA"]} if "RLVR_DATA" in os.environ else {}
