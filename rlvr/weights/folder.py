"""A folder in shared memory for a run's versions, which does not outlive the run."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rlvr.weights.transport import shared_memory

_HELD = "rlvr-versions-"
_NEW = "rlvr-new-versions-"


class WeightsFolder:
    """Removed when it is closed; the folder of a run that was killed, when another run makes its own.

    A lock says whether its run lives, for as long as its process does. A process id would not: containers that share
    their memory number their processes each for itself.
    """

    def __init__(self) -> None:
        parent = shared_memory() or Path(tempfile.gettempdir())
        _remove_abandoned(parent)
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=parent))
        self._lock = _lock(new)
        # Only now has it a name that others look for: they would take it for abandoned before it is locked.
        self.path = new.rename(parent / new.name.replace(_NEW, _HELD))

    def __enter__(self) -> WeightsFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _lock(folder: Path) -> int:
    """The open folder, locked until it is closed. Raises BlockingIOError where another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_HELD}*"):
        # It is held, another user's, or another run removes it too.
        with suppress(BlockingIOError, PermissionError, FileNotFoundError):
            lock = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
