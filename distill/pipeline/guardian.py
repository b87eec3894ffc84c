"""Runs a stage's command, and ends all that it started: `python -m ... PARENT COMMAND`. Linux only.

When the command ends, or its parent PARENT does (by SIGKILL too, of its whole group), or when this program is
terminated, every process below is killed: daemons of Ray also, which otherwise look for their end once a minute.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_GIVE_UP_AFTER_S = 20.0  # on processes that no signal ends


def main() -> None:
    parent, *words = sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminated)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what a command leaves behind becomes ours
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the kernel knew
        sys.exit("the pipeline has ended")
    command = subprocess.Popen(words, preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    code = command.wait()
    _end_all()
    sys.exit(code if code >= 0 else 128 - code)


def descendants() -> dict[int, str]:
    """All processes below this one, by number: their command lines. Those that have ended are collected."""
    _collect()
    parents: dict[int, int] = {}
    words: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if state != "Z":
            number = int(folder.name)
            parents[number], words[number] = int(parent), line.replace(b"\0", b" ").decode(errors="replace")
    found = {os.getpid()}
    while more := {number for number, parent in parents.items() if parent in found} - found:
        found |= more
    return {number: words[number] for number in found - {os.getpid()}}


def _collect() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def _end_all() -> None:
    """Until none is left: one that is killed may have started another before."""
    deadline = time.monotonic() + _GIVE_UP_AFTER_S
    while (left := descendants()) and time.monotonic() < deadline:
        for number in left:
            try:
                os.kill(number, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it has ended, or is another user's
                continue
        time.sleep(0.02)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    _end_all()
    os._exit(128 + number)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    main()
