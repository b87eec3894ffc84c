"""Where compilers and interpreters lie on this machine, and what programs must be able to read to use them."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rlvr.sandbox.job import Tier
from rlvr.sandbox.root import SYSTEM

PATH = "/usr/local/bin:/usr/bin:/bin"
_ASKING_DEADLINE_S = 20


@dataclass(frozen=True, slots=True)
class Tool:
    """`folder` is its whole installation, where that lies outside the system's folders; it may be a single file."""

    path: str
    folder: str | None


@functools.cache
def find_tool(name: str, home: tuple[str, ...] = ()) -> Tool | None:
    """The tool in the system's folders, else in the caller's PATH.

    With `home` as its arguments the tool prints the folder of its installation, whose `bin` has it. Without, the
    folder is the one above the tool's `bin`, all links followed.
    """
    found = shutil.which(name, path=PATH) or shutil.which(name)
    if found is None:
        return None
    real = Path(found).resolve()
    if any(real.is_relative_to(folder) for folder in SYSTEM):
        return Tool(found, None)
    folder = _told_by((found, *home)) if home else _installation(real)
    if folder is None:
        return None
    return Tool(str(folder / "bin" / name if home else real), str(folder))


def unreadable(folder: str, tier: Tier) -> str | None:
    """Why programs cannot read this folder in that tier; None if they can.

    A server that root started changes to an uid without rights. In the full tier it mounts the folder before that,
    so only the folder's own rights count; in the others all folders above it must let anybody pass.
    """
    if tier is Tier.FULL and Path(folder).is_relative_to("/tmp"):
        return "in the full tier, /tmp is each program's own"
    if os.getuid() != 0:
        return None  # what this user can read, its programs can
    path = Path(folder)
    for above in (path,) if tier is Tier.FULL else (path, *path.parents):
        needed = stat.S_IXOTH | (stat.S_IROTH if above == path else 0)
        if above.stat().st_mode & needed != needed:
            return f"{above} is shut to other users than its owner"
    return None


def _told_by(command: tuple[str, ...]) -> Path | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_ASKING_DEADLINE_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    folder = Path(done.stdout.strip())
    return folder.resolve() if folder.is_absolute() and folder.is_dir() else None


def _installation(tool: Path) -> Path:
    """A folder that is no more than the tool's installation: in somebody's own `bin`, that is the file alone."""
    folder = tool.parent.parent
    home = Path.home()
    if tool.parent.name != "bin" or folder == home / ".local" or home.is_relative_to(folder):
        return tool
    return folder
