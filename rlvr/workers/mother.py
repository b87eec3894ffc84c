"""The process that worker processes are forked from.

A pool starts it by exec, so it holds no torch, no threads and nothing of the caller's. It imports the modules
that workers will need, then forks a worker whenever it is sent the worker's end of a socket. It is the
workers' parent: it reaps them, takes whatever they started down with them, and ends them all when the pool
closes its end of the control socket or the pool's process dies.

On the control socket: the mother reads one `Setup`, answers `READY` or an error text, then answers each
`FORK` (which carries a socket) with `FORKED` and a pidfd of the new worker, or with an error text.
On a worker's socket: frames, see `rlvr.workers.link`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import resource
import selectors
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import cloudpickle

READY = b"ready"
FORK = b"fork"
FORKED = b"forked"
RETURNED = b"R"
RAISED = b"E"
LENGTH = struct.Struct(">Q")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_PR_SET_PDEATHSIG = 1
_CONTROL_MESSAGE_BYTES = 16 * 1024


class Setup(NamedTuple):
    """What a pool tells its mother once, as a plain pickled tuple."""

    preload: tuple[str, ...]
    memory_limit_bytes: int | None


class RaisedError(NamedTuple):
    """An exception on its way out of a worker, in words: the exception itself may not survive pickling."""

    type_name: str
    message: str
    traceback: str


def main(control_fd: int) -> None:
    """Serve one pool over the inherited control socket until it is closed."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    setup = Setup(*pickle.loads(_receive_frame(control)))
    try:
        _import_modules(setup.preload)
    except BaseException:
        control.sendall(traceback.format_exc()[-_CONTROL_MESSAGE_BYTES:].encode())
        raise
    # What was imported stays: keep the collector from touching, and so copying, pages shared with workers.
    gc.collect()
    gc.freeze()
    control.sendall(READY)
    _Mother(control, setup.memory_limit_bytes).serve()


def _receive_frame(connection: socket.socket) -> bytes:
    (size,) = LENGTH.unpack(_receive_exactly(connection, LENGTH.size))
    return _receive_exactly(connection, size)


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError("the other side closed the socket")
        data += piece
    return bytes(data)


def _import_modules(names: tuple[str, ...]) -> None:
    for name in names:
        importlib.import_module(name)
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads > 1:
            raise RuntimeError(
                f"importing {name!r} started {threads - 1} thread(s). A process with threads cannot be "
                "forked safely: leave this module out of `preload`, and import it inside the function instead"
            )


class _Mother:
    def __init__(self, control: socket.socket, memory_limit_bytes: int | None) -> None:
        self._control = control
        self._memory_limit_bytes = memory_limit_bytes
        self._workers: dict[int, int] = {}  # pidfd -> pid
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, self._answer_control)
        # The pool's process may die while another one still holds a copy of the control socket.
        self._selector.register(os.pidfd_open(os.getppid()), selectors.EVENT_READ, self._end)

    def serve(self) -> None:
        try:
            while True:
                for key, _ in self._selector.select():
                    key.data()
        except EOFError:
            self._end()

    def _answer_control(self) -> None:
        message, fds, _, _ = socket.recv_fds(self._control, len(FORK), 1)
        if not message:
            raise EOFError("the pool closed the control socket")
        connection = socket.socket(fileno=fds[0])
        try:
            pid = os.fork()
        except OSError as error:
            connection.close()
            self._control.sendall(f"fork failed: {error}".encode())
            return
        if pid == 0:
            self._become_worker(connection)
        connection.close()
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = pid
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._reap(pidfd))
        socket.send_fds(self._control, [FORKED], [pidfd])

    def _reap(self, pidfd: int) -> None:
        pid = self._workers.pop(pidfd)
        self._selector.unregister(pidfd)
        # A dead worker keeps its number until it is reaped, so its process group is surely its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)

    def _end(self) -> NoReturn:
        for pidfd, pid in list(self._workers.items()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._reap(pidfd)
        os._exit(0)

    def _become_worker(self, connection: socket.socket) -> NoReturn:
        status = 1
        try:
            mother_pid = os.getppid()
            _die_with_parent()
            if os.getppid() != mother_pid:
                os._exit(0)
            os.setsid()
            self._control.close()
            self._selector.close()
            for sibling in self._workers:
                os.close(sibling)
            if self._memory_limit_bytes is not None:
                resource.setrlimit(resource.RLIMIT_AS, (self._memory_limit_bytes, self._memory_limit_bytes))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _work(connection)
            status = 0
        finally:
            # Past this point lie the mother's own exit handlers, which are not the worker's to run.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the mother dies. She has one thread, so her death is her thread's."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _work(connection: socket.socket) -> None:
    """Answer calls until the pool closes the socket. A function that came once is kept under its key."""
    functions = _Functions()
    while True:
        try:
            request = _receive_frame(connection)
        except (EOFError, ConnectionResetError):
            return
        reply = _call(functions, request)
        connection.sendall(LENGTH.pack(len(reply)) + reply)


class _Functions:
    """By key. One that cannot be loaded is kept as it came, and says why at every call."""

    def __init__(self) -> None:
        self._pickled: dict[bytes, bytes] = {}
        self._loaded: dict[bytes, Callable[..., Any]] = {}

    def get(self, key: bytes, pickled: bytes | None) -> Callable[..., Any]:
        """`pickled` comes with a key's first call. Raises what loading it raises."""
        if pickled is not None:
            self._pickled[key] = pickled
        if key in self._pickled:
            self._loaded[key] = pickle.loads(self._pickled[key])
            del self._pickled[key]
        return self._loaded[key]


def _call(functions: _Functions, request: bytes) -> bytes:
    try:
        key, pickled_function, pickled_arguments = pickle.loads(request)
        function = functions.get(key, pickled_function)
        args, kwargs = pickle.loads(pickled_arguments)
        return RETURNED + cloudpickle.dumps(function(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - whatever a function raises, SystemExit too, is its answer
        raised = RaisedError(type(error).__name__, str(error), traceback.format_exc())
        return RAISED + pickle.dumps(tuple(raised))
