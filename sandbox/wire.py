"""What client and server say to each other over their socket: a JSON head with sizes, then bytes, then descriptors.

Descriptors go with the first byte of a frame. Nothing here is pickled: neither side can make the other run code.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from rlvr.sandbox.job import Limits, Status, Tier

_SIZES = struct.Struct("!II")  # of the head, of the body
MAX_DESCRIPTORS = 4


@dataclass(frozen=True, slots=True)
class Setup:
    """What a server is started with. Written into its first message as Python source."""

    tier: Tier
    readable: tuple[str, ...]
    preload: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]  # folders of packages: where programs see one, and where the machine has it
    native: str | None  # the library built of start_job.c


@dataclass(frozen=True, slots=True)
class Job:
    """One sandbox: its files, and how to start the programs in it. The contents come as descriptors.

    With the frame come: stdin of the first program; a link to another sandbox if `has_link`; the binary, the files
    with the Python source, or a compiler's header, if `has_program`; the files' contents, one after the other, if
    there are `files`.
    """

    arguments: tuple[str, ...]
    path: str | None  # what to execute; None: the descriptor that came, or the warm interpreter
    python: bool
    environment: tuple[str, ...]
    limits: Limits
    files: tuple[tuple[str, int], ...]  # name and size; a Python source comes first
    links: tuple[tuple[str, str], ...]  # name, and where it leads
    collect: tuple[str, ...]
    collect_bytes: int
    has_program: bool
    has_link: bool
    keep: bool  # whether more programs will be started in the same sandbox
    wall_s: float  # for the first program


@dataclass(frozen=True, slots=True)
class Order:
    """What follows a kept job: the next program (its stdin comes along), or the end of it."""

    start: bool
    wall_s: float = 0.0  # for that program


@dataclass(frozen=True, slots=True)
class Ending:
    """How one program ended. Its stdout, stderr and collected files are the body, in this order."""

    status: Status
    exit_code: int | None
    signal: int | None
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    detail: str
    sizes: tuple[int, int]
    files: tuple[tuple[str, int], ...]


def pack(message: Setup | Job | Order | Ending | str, body_bytes: int = 0) -> bytes:
    """The beginning of a frame; `body_bytes` more follow."""
    head = json.dumps(message if isinstance(message, str) else _plain(message)).encode()
    return _SIZES.pack(len(head), body_bytes) + head


def _plain(message: Any) -> dict[str, Any]:
    fields = {name: getattr(message, name) for name in message.__slots__}
    if isinstance(message, Job):
        fields["limits"] = _plain(message.limits)
    return fields


def unpack_job(head: dict[str, Any]) -> Job:
    head["limits"] = Limits(**head["limits"])
    for name in ("files", "links"):
        head[name] = tuple((first, second) for first, second in head[name])
    for name in ("arguments", "environment", "collect"):
        head[name] = tuple(head[name])
    return Job(**head)


def unpack_ending(head: dict[str, Any]) -> Ending:
    head["status"] = Status(head["status"])
    head["sizes"] = tuple(head["sizes"])
    head["files"] = tuple((name, size) for name, size in head["files"])
    return Ending(**head)


@dataclass
class Incoming:
    """A frame that is being received."""

    data: bytearray
    descriptors: list[int]

    @classmethod
    def empty(cls) -> Incoming:
        return cls(bytearray(), [])

    def receive(self, connection: socket.socket) -> bool:
        """Take what the socket holds, and say whether the frame is complete. Raises EOFError, BlockingIOError."""
        while (missing := self._missing()) > 0:
            space = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
            piece, ancillary, _, _ = connection.recvmsg(min(missing, 1 << 18), space, socket.MSG_CMSG_CLOEXEC)
            for _, kind, data in ancillary:
                if kind == socket.SCM_RIGHTS:
                    self.descriptors += struct.unpack(f"={len(data) // 4}i", data)
            if not piece:
                raise EOFError("the other side closed the socket")
            self.data += piece
        return True

    def head(self) -> Any:
        size, _ = _SIZES.unpack_from(self.data)
        return json.loads(bytes(self.data[_SIZES.size : _SIZES.size + size]))

    def body(self) -> memoryview:
        size, _ = _SIZES.unpack_from(self.data)
        return memoryview(self.data)[_SIZES.size + size :]

    def _missing(self) -> int:
        if len(self.data) < _SIZES.size:
            return _SIZES.size - len(self.data)
        return _SIZES.size + sum(_SIZES.unpack_from(self.data)) - len(self.data)


def receive_frame(connection: socket.socket) -> Incoming:
    """Wait for a whole frame on a blocking socket."""
    incoming = Incoming.empty()
    incoming.receive(connection)
    return incoming
