"""The warm process that jobs are forked from. One job at a time; many servers make a pool.

It holds nothing of a job beyond its end, and while one runs only what its own programs may see: no expected
outputs, which it never gets, no other job's input or output.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlvr.sandbox.enclosure import Enclosure, enclose
from rlvr.sandbox.executor import TemplateDied
from rlvr.sandbox.isolation import RULESET
from rlvr.sandbox.processes import inherited_bytes
from rlvr.sandbox.python_program import PythonProgram
from rlvr.sandbox.session import Capture, Client, ClientGone, SandboxFailure, Session
from rlvr.sandbox.wire import Ending, Job, Order, Setup, pack, receive_frame, unpack_job

# Imported beforehand because programs use them: each would cost a new process milliseconds.
_COMMON = (
    *("bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "string", "typing"),
)

READY = "ready"


def serve(setup: Setup) -> PythonProgram:
    """Work for the client at descriptor 0 until it goes. Returns in a forked process only, as a program to run."""
    null = os.open("/dev/null", os.O_RDWR)
    connection = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, RULESET + 1))
    for descriptor in (0, 1, *range(3, RULESET + 1)):
        os.dup2(null, descriptor)
    client = Client(connection, os.pidfd_open(os.getppid()))
    try:
        enclosure = enclose(setup)
        _import_modules(setup)  # from where programs see them, who may import more of the same packages
    except Exception as error:  # noqa: BLE001 - whatever it is, the client is told, and this process ends
        connection.sendall(pack(f"{type(error).__name__}: {error}"))
        os._exit(1)
    gc.collect()
    gc.freeze()  # what is here stays: the collector must not touch, and so copy, pages shared with programs
    program = enclosure.fork_template()
    if program is not None:
        return program
    connection.sendall(pack(READY))
    try:
        return _Server(enclosure, client).work()
    except (ClientGone, EOFError, ConnectionError):
        os._exit(0)


class _Server:
    def __init__(self, enclosure: Enclosure, client: Client) -> None:
        self._enclosure = enclosure
        self._client = client
        self._own_memory = inherited_bytes()
        self._stdout, self._stderr = Capture(), Capture()

    def work(self) -> PythonProgram:
        while True:
            head, descriptors = self._receive()
            if "start" in head:  # an order to stop that crossed its job's end
                continue
            job = unpack_job(head)
            session = Session(self._enclosure, self._client, job, descriptors[1:], self._own_memory)
            try:
                program = self._do(session, job, descriptors[0])
            except BaseException:
                session.close()
                raise
            if program is not None:
                return program
            session.close()

    def _do(self, session: Session, job: Job, stdin: int) -> PythonProgram | None:
        program = self._run(session, stdin, job.wall_s, last=not job.keep)
        while program is None and job.keep:
            head, descriptors = self._receive()
            order = Order(**head)
            if not order.start:
                break
            program = self._run(session, descriptors[0], order.wall_s, last=False)
        return program

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        self._client.wait()
        frame = receive_frame(self._client.connection)
        return frame.head(), frame.descriptors

    def _run(self, session: Session, stdin: int, wall_s: float, *, last: bool) -> PythonProgram | None:
        try:
            ending = session.run(stdin, wall_s, self._stdout, self._stderr)
        except TemplateDied as error:
            self._client.connection.sendall(pack(str(error)))
            raise ClientGone from error
        except (SandboxFailure, OSError) as error:
            self._client.connection.sendall(pack(f"{type(error).__name__}: {error}"))
            os.close(stdin)
            return None
        if isinstance(ending, PythonProgram):
            return ending
        os.close(stdin)
        results = list(session.results()) if last else []
        try:
            self._answer(ending, results)
        finally:
            for _, descriptor, _ in results:
                os.close(descriptor)
        self._stdout.wipe()
        self._stderr.wipe()
        return None

    def _answer(self, ending: Ending, results: list[tuple[str, int, int]]) -> None:
        ending = replace(ending, files=tuple((name, size) for name, _, size in results))
        connection = self._client.connection
        with self._stdout.content() as stdout, self._stderr.content() as stderr:
            head = pack(ending, len(stdout) + len(stderr) + sum(size for _, _, size in results))
            for piece in (head, stdout, stderr):
                connection.sendall(piece)
        for _, descriptor, size in results:
            offset = 0
            while offset < size:
                offset += os.sendfile(connection.fileno(), descriptor, offset, size - offset)


def _import_modules(setup: Setup) -> None:
    for name in _COMMON:
        importlib.import_module(name)
    sys.path += [seen for seen, _ in setup.packages]
    for name in setup.preload:
        importlib.import_module(name)
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads > 1:
            raise RuntimeError(
                f"importing {name!r} started {threads - 1} thread(s). A process with threads cannot be forked "
                "safely: leave it out of `preload`, and let programs import it"
            )
    if "numpy" in setup.preload:
        # Programs that start from one process must not draw the same numbers; `random` sees to itself.
        os.register_at_fork(after_in_child=importlib.import_module("numpy.random").seed)
