"""The C helper, built on demand: a few kilobytes that make a job's start a third quicker."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("start_job.c")
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O2", "-shared", "-fPIC")
_BUILD_DEADLINE_S = 60


def native_helper() -> str | None:
    """The path of the built library, from the user's cache if it was built before; None without a compiler."""
    key = hashlib.sha256(_SOURCE.read_bytes() + platform.machine().encode()).hexdigest()[:16]
    library = _cache_folder() / f"start_job-{key}.so"
    if _is_ours(library):
        return str(library)
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    return _build(compiler, library) if compiler is not None else None


def _build(compiler: str, library: Path) -> str | None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder, library.name)
            command = [compiler, *_FLAGS, "-o", str(built), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=_BUILD_DEADLINE_S)
            built.replace(library)  # at once: others may be building it too
    except (OSError, subprocess.SubprocessError):
        return None
    return str(library)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rlvr"


def _is_ours(library: Path) -> bool:
    """Whether nobody else could have put it there."""
    try:
        found = library.stat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022
