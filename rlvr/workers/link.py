"""The caller's side of the mother process and of the workers that she forks: see `rlvr.workers.pool`.

A request and its reply are frames: 8 bytes of length, then that many bytes of pickle. The socket never
blocks, so the same exchange is driven by an event loop or by a thread that polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import cloudpickle

from rlvr.workers.mother import FORK, FORKED, LENGTH, ONE_THREAD, RAISED, READY, Setup

_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from rlvr.workers.mother import main; main(int(sys.argv[1]))"
_START_DEADLINE_S = 120.0
_END_DEADLINE_S = 5.0
_FUNCTIONS_PER_WORKER = 64
_DIED = "the worker process died during the call (killed by a signal, out of memory, or os._exit)"


class WorkerTimeout(Exception):
    """The function had not returned by its deadline; its process was killed."""


class WorkerCrashed(Exception):
    """The process died while it ran the function: a signal, `os._exit`, or the pool's end."""


class WorkerFailed(Exception):
    """The function raised, or its arguments or its result could not be carried between the processes."""

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        super().__init__(f"{type_name}: {message}")
        self.type_name = type_name
        self.message = message
        self.traceback = traceback


class WorkerStartError(Exception):
    """The pool could not start its processes: a preloaded module did not import, or a fork was refused."""


@dataclass(frozen=True)
class Call:
    """A function and its arguments, pickled. `key` names the function to workers that have seen it."""

    key: bytes
    function: bytes
    arguments: bytes


class FunctionPickles:
    """Pickles each plain function once. Other callables may hold state, and are pickled at every call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: weakref.WeakKeyDictionary[FunctionType, tuple[bytes, bytes]] = weakref.WeakKeyDictionary()

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return Call(*self._pickle(function), cloudpickle.dumps((args, kwargs)))

    def _pickle(self, function: Callable[..., Any]) -> tuple[bytes, bytes]:
        if not isinstance(function, FunctionType):
            return self._keyed(function)
        with self._lock:
            known = self._known.get(function)
            if known is None:
                known = self._known[function] = self._keyed(function)
            return known

    @staticmethod
    def _keyed(function: Callable[..., Any]) -> tuple[bytes, bytes]:
        pickled = cloudpickle.dumps(function)
        return hashlib.blake2b(pickled, digest_size=16).digest(), pickled


class Worker:
    """This side of one worker process. `kill()` ends it; so does losing this object."""

    def __init__(self, connection: socket.socket, pidfd: int) -> None:
        self.connection = connection
        self.kill = weakref.finalize(self, _kill_worker, connection, pidfd, os.getpid())
        self._functions: set[bytes] = set()

    def usable(self) -> bool:
        """Whether it lives, and holds few enough functions that another can be sent."""
        try:
            closed = self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            closed = False
        except ConnectionError:
            closed = True
        return not closed and len(self._functions) < _FUNCTIONS_PER_WORKER

    def frame(self, call: Call) -> bytes:
        """The call as bytes for the socket, with the function only if this worker has not had it."""
        pickled_function = None if call.key in self._functions else call.function
        self._functions.add(call.key)
        request = pickle.dumps((call.key, pickled_function, call.arguments))
        return LENGTH.pack(len(request)) + request


def _kill_worker(connection: socket.socket, pidfd: int, owner_pid: int) -> None:
    # A forked copy of the owner holds a copy of this too, and must leave the owner's worker alone.
    if os.getpid() == owner_pid:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    connection.close()


class Exchange:
    """One request and its reply on a non-blocking socket, moved on by whoever waits for the socket."""

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        self.connection = connection
        self.unsent = memoryview(request)
        self._received = bytearray()

    def advance(self) -> bytes | None:
        """Send and receive what the socket takes and holds now. Returns the reply once it is complete."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.connection.send(self.unsent) :]
            while True:
                piece = self.connection.recv(1 << 18)
                if not piece:
                    raise WorkerCrashed(_DIED)
                self._received += piece
                if self._complete():
                    return bytes(self._received[LENGTH.size :])
        except BlockingIOError:
            return None
        except ConnectionError:
            raise WorkerCrashed(_DIED) from None

    def _complete(self) -> bool:
        if len(self._received) < LENGTH.size:
            return False
        return len(self._received) == LENGTH.size + LENGTH.unpack_from(self._received)[0]


def converse_blocking(exchange: Exchange, deadline_s: float) -> bytes:
    end = time.monotonic() + deadline_s
    poll = select.poll()
    while (reply := exchange.advance()) is None:
        remaining_s = end - time.monotonic()
        if remaining_s <= 0:
            raise _timeout(deadline_s)
        poll.register(exchange.connection, select.POLLIN | (select.POLLOUT if exchange.unsent else 0))
        poll.poll(remaining_s * 1000 + 1)
    return reply


async def converse_async(exchange: Exchange, deadline_s: float) -> bytes:
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[bytes] = loop.create_future()

    def advance() -> None:
        if reply.done():
            return
        try:
            complete = exchange.advance()
        except WorkerCrashed as error:
            reply.set_exception(error)
            return
        if complete is not None:
            reply.set_result(complete)
        if not exchange.unsent:
            loop.remove_writer(exchange.connection)

    def expire() -> None:
        # If it was the loop that was late, the reply lies ready: that is no timeout.
        advance()
        if not reply.done():
            reply.set_exception(_timeout(deadline_s))

    timer = loop.call_later(deadline_s, expire)
    loop.add_reader(exchange.connection, advance)
    loop.add_writer(exchange.connection, advance)
    try:
        advance()
        return await reply
    finally:
        timer.cancel()
        loop.remove_reader(exchange.connection)
        loop.remove_writer(exchange.connection)


def _timeout(deadline_s: float) -> WorkerTimeout:
    return WorkerTimeout(f"no result within {deadline_s:g} s; the worker process was killed")


def read_reply(reply: bytes) -> Any:
    body = memoryview(reply)[1:]
    if reply[:1] == RAISED:
        raise WorkerFailed(*pickle.loads(body))
    try:
        return pickle.loads(body)
    except Exception as error:
        message = f"the function's result cannot be read in this process: {error}"
        raise WorkerFailed(type(error).__name__, message, traceback.format_exc()) from error


class Mother:
    """This side of the mother process. `end()` ends her and all her workers; so does losing this object."""

    def __init__(self, setup: Setup) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), *sys.path],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=os.environ | ONE_THREAD,
                start_new_session=True,  # Ctrl-C in a terminal is the caller's to handle
            )
        self.end = weakref.finalize(self, _end_mother, process, self._control)
        self._control.settimeout(_START_DEADLINE_S)
        self._set_up(setup)

    def _set_up(self, setup: Setup) -> None:
        request = pickle.dumps(tuple(setup))
        answer = b""
        try:
            self._control.sendall(LENGTH.pack(len(request)) + request)
            while answer != READY and (piece := self._control.recv(1 << 16)):
                answer += piece
        except OSError as error:
            answer = answer or str(error).encode()
        if answer != READY:
            self.end()
            reason = answer.decode(errors="replace") or "it ended without a word; see its stderr"
            raise WorkerStartError(f"could not start worker processes with preload={setup.preload}:\n{reason}")

    def fork(self) -> Worker:
        """A fresh worker. Raises OSError when the mother has died, WorkerStartError when she cannot fork."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [FORK], [theirs.fileno()])
        message, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
        if not message:
            raise ConnectionResetError("the mother process of the workers has died")
        if message != FORKED:
            raise WorkerStartError(f"could not fork a worker process: {message.decode(errors='replace')}")
        ours.setblocking(False)
        return Worker(ours, fds[0])


def _end_mother(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()
    try:
        process.wait(_END_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
