"""Bytes as a sealed descriptor: it can be handed to other processes, and nobody can change it any more."""

from __future__ import annotations

import fcntl
import os

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_SEAL_EXEC = 0x20  # linux/fcntl.h, from Linux 6.3 on: who may execute it cannot be changed either


def sealed(*pieces: bytes | memoryview) -> int:
    """A new descriptor, at the beginning of the bytes. The caller closes it."""
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS | _SEAL_EXEC)
        except OSError:  # EINVAL: an older kernel
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
