"""The client's side of one server process, and of one exchange with it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from rlvr.sandbox.job import Tier
from rlvr.sandbox.tools import PATH
from rlvr.sandbox.wire import Incoming, Order, Setup, pack, receive_frame

_START_DEADLINE_S = 120.0
_TIDY_DEADLINE_S = 2.0
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ENVIRONMENT: dict[str, str] = {"PATH": PATH, "HOME": "/tmp", "LANG": "C.UTF-8", **dict.fromkeys(_ONE_THREAD, "1")}

# A program's /proc/self/cmdline is its server's, so this must name nothing. The rest comes over the socket; it makes
# just enough of a package for the server's modules to import each other.
_ARGUMENTS = ("-I", "-S", "-c", "import os;exec(os.read(0,65536))")
_BOOT = """
import json, sys, types
for name, path in (("rlvr", []), ("rlvr.sandbox", [{folder!r}])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = path
del name, path, sys, types
from rlvr.sandbox.job import Tier
from rlvr.sandbox.server import serve
from rlvr.sandbox.wire import Setup
setup = json.loads({setup!r})
program = serve(Setup(Tier(setup.pop("tier")), **setup))
program.run()
"""


class ServerDied(Exception):
    """The server was killed, or does not answer, or said that it could not do its work."""


class ServerRefused(Exception):
    """The server could not put itself into the tier that it was started for."""


class Server:
    """One warm process. `kill()` ends it and the job in it; so does losing this object."""

    def __init__(self, setup: Setup) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [interpreter(), *_ARGUMENTS],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal is the caller's to handle
            )
        self.pid = process.pid
        self.stop = process.kill
        self.kill = weakref.finalize(self, _end, process, self.connection, setup.tier, os.getpid())
        self._boot(setup)
        self.connection.setblocking(False)

    def usable(self) -> bool:
        """Whether it lives and is silent, as it is between two jobs."""
        try:
            self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        return False

    def order(self, order: Order) -> None:
        """Tell it something that it does not answer. A server that cannot hear is found dead when it is used next."""
        with contextlib.suppress(OSError):
            self.connection.sendall(pack(order))

    def _boot(self, setup: Setup) -> None:
        fields = {name: getattr(setup, name) for name in Setup.__slots__}
        boot = _BOOT.format(folder=str(Path(__file__).parent), setup=json.dumps(fields))
        self.connection.settimeout(_START_DEADLINE_S)
        try:
            self.connection.sendall(boot.encode())
            answer = receive_frame(self.connection).head()
        except (OSError, EOFError) as error:
            self.kill()
            raise ServerDied(f"a sandbox server did not start: {error or 'it ended; see its stderr'}") from error
        if answer != "ready":
            self.kill()
            raise ServerRefused(answer)


def interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it: what lies beside that is not for programs."""
    return str(Path(getattr(sys, "_base_executable", None) or sys.executable).resolve())


def _end(process: subprocess.Popen[bytes], connection: socket.socket, tier: Tier, owner_pid: int) -> None:
    connection.close()
    if os.getpid() != owner_pid:  # a forked copy of the owner holds a copy of this too: the server is not its own
        return
    if tier is not Tier.FULL:
        # There the kernel does not clean up after it: it may, having lost its connection.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TIDY_DEADLINE_S)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()


class Exchange:
    """One frame to a server and its answer, moved on by whoever waits for the socket. It never raises.

    When `done`, either `answer` is there or `error` says why there is none.
    """

    def __init__(self, server: Server, frame: bytes, descriptors: Sequence[int], deadline_s: float) -> None:
        self.server = server
        self.deadline = time.monotonic() + deadline_s
        self.answer: Incoming | None = None
        self.error: ServerDied | None = None
        self.unsent = memoryview(frame)
        self._descriptors = list(descriptors)
        self._incoming = Incoming.empty()

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    def advance(self) -> bool:
        """Send and receive what the socket takes and holds now."""
        if self.done:
            return True
        try:
            while self.unsent:
                sent = socket.send_fds(self.server.connection, [self.unsent], self._descriptors)
                self._descriptors = []
                self.unsent = self.unsent[sent:]
            if self._incoming.receive(self.server.connection):
                self.answer = self._incoming
        except BlockingIOError:
            if time.monotonic() > self.deadline:
                self.error = ServerDied("the sandbox server does not answer")
        except (OSError, EOFError) as error:
            self.error = ServerDied(f"the sandbox server died: {error}")
        return self.done
