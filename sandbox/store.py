"""Compiled programs, kept as sealed descriptors by what they were compiled from: compile once, run many."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict

from rlvr.sandbox.job import MIB, Program
from rlvr.sandbox.sealed import sealed

_MOST_BYTES = 256 * MIB
_MOST_PROGRAMS = 512


class Store:
    """Drops what was used longest ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, int] = OrderedDict()
        self._bytes = 0

    def get(self, program: Program) -> int | None:
        """A descriptor of its own for the caller to close."""
        key = _key(program)
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return os.dup(self._kept[key])

    def put(self, program: Program, compiled: bytes | memoryview) -> None:
        key, descriptor = _key(program), sealed(compiled)
        with self._lock:
            if key in self._kept:  # compiled twice at one time
                os.close(descriptor)
                return
            self._kept[key] = descriptor
            self._bytes += len(compiled)
            while len(self._kept) > 1 and (self._bytes > _MOST_BYTES or len(self._kept) > _MOST_PROGRAMS):
                self._drop_oldest()

    def close(self) -> None:
        with self._lock:
            while self._kept:
                self._drop_oldest()

    def __del__(self) -> None:
        self.close()

    def _drop_oldest(self) -> None:
        _, descriptor = self._kept.popitem(last=False)
        self._bytes -= os.fstat(descriptor).st_size
        os.close(descriptor)


def _key(program: Program) -> bytes:
    digest = hashlib.sha256()
    pieces = [program.language.encode(), program.source.encode(errors="surrogatepass")]
    for name, content in sorted(program.files.items()):
        pieces += [name.encode(), content]
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.digest()
