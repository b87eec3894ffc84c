"""Runs a command that ends when its parent ends, also by SIGKILL: `python -m ... COMMAND`. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the kernel knew
        sys.exit("the pipeline has ended")
    os.execvp(sys.argv[1], sys.argv[1:])  # the request survives exec


if __name__ == "__main__":
    main()
