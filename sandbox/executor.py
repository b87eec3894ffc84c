"""Runs tables of system calls, and starts a job by them: in C where a compiler built `start_job.c`, else in Python."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn, Protocol

from rlvr.sandbox.isolation import CONTROL
from rlvr.sandbox.steps import KEPT_WORD, WORDS_PER_ROW, Table
from rlvr.sandbox.syscalls import LIBC, Machine

_REPORT = struct.Struct("@iilll")  # struct report of start_job.c
_DESCRIPTORS = 5
REPORT_BYTES = _REPORT.size


class ReportKind(IntEnum):
    ENDED = 0
    INIT_FAILED = 1
    PROGRAM_FAILED = 2


@dataclass(frozen=True, slots=True)
class Report:
    """What a job's init says of one program: how it ended and what all its processes used, or which step failed."""

    kind: ReportKind
    value: int  # a wait status, or an errno
    step: int
    cpu_s: float
    peak_memory_bytes: int

    @classmethod
    def unpack(cls, data: bytes) -> Report:
        kind, value, step, cpu_us, peak_kb = _REPORT.unpack(data)
        return cls(ReportKind(kind), value, step, cpu_us / 1e6, peak_kb << 10)


class StepFailed(OSError):
    """A step of a table was refused by the kernel."""


class Executor(Protocol):
    def start_job(self, namespaces: int, init: Table, program: Table, control: int) -> int:
        """Clone an init that runs its table and then one program per message on `control`.

        Returns init's pid in the server, and 0 in each program that stays the interpreter. Raises OSError.
        """
        ...


def run_steps(table: Table) -> None:
    """Run a table in this process. Raises StepFailed with the step's reason."""
    failed = _run(table)
    if failed >= 0:
        step, error = table.steps[failed], ctypes.get_errno()
        raise StepFailed(error, f"{step.call} ({step.why}): {os.strerror(error)}")


def _run(table: Table) -> int:
    """The index of the step that failed, or -1."""
    words = struct.unpack(f"={len(table) * WORDS_PER_ROW}q", table.rows)
    kept = 0
    for index in range(len(table)):
        number, *args, keeps = words[index * WORDS_PER_ROW : (index + 1) * WORDS_PER_ROW]
        values = (ctypes.c_long(kept if arg == KEPT_WORD else arg) for arg in args)
        result = LIBC.syscall(ctypes.c_long(number), *values)
        if result < 0:
            return index
        if keeps:
            kept = result
    return -1


class _Row(ctypes.Structure):
    _fields_ = (("rows", ctypes.c_char_p), ("count", ctypes.c_long))


class NativeExecutor:
    """Calls `start_job.c`, built as the shared library at `path`."""

    def __init__(self, path: str) -> None:
        self._start = ctypes.PyDLL(path, use_errno=True).start_job
        self._start.restype = ctypes.c_long
        self._start.argtypes = (ctypes.c_long, ctypes.POINTER(_Row), ctypes.POINTER(_Row), ctypes.c_int)

    def start_job(self, namespaces: int, init: Table, program: Table, control: int) -> int:
        tables = (_Row(init.rows, len(init)), _Row(program.rows, len(program)))
        with _forking() as fork:
            fork.pid = self._start(namespaces, *map(ctypes.byref, tables), control)
        return fork.pid


class PythonExecutor:
    """The same in Python, for machines without a compiler and for tiers without namespaces.

    `end_others` is called in init when a program has ended, and kills all that it started.
    `server_died` is called in init when it gets SIGTERM.
    """

    def __init__(self, machine: Machine, end_others: Callable[[], None], server_died: Callable[[], None]) -> None:
        self._clone = machine.numbers["clone"]
        self._end_others = end_others
        self._server_died = server_died

    def start_job(self, namespaces: int, init: Table, program: Table, control: int) -> int:
        with _forking() as fork:
            fork.pid = LIBC.syscall(*map(ctypes.c_long, (self._clone, namespaces | signal.SIGCHLD, 0, 0, 0, 0)))
        if fork.pid > 0:
            return fork.pid
        try:
            signal.signal(signal.SIGTERM, self._on_sigterm)
            failed = _run(init)
            if failed >= 0:
                error = ctypes.get_errno()
                os.dup2(control, CONTROL)
                self._fail(ReportKind.INIT_FAILED, failed, error)
            return self._serve(program)
        except BaseException:  # noqa: BLE001 - this is a copy of the server: nothing of it may run on
            os._exit(1)

    def _serve(self, program: Table) -> int:
        control = socket.socket(fileno=CONTROL)
        while True:
            message, received, _, _ = socket.recv_fds(control, 1, _DESCRIPTORS)
            if not message:
                os._exit(0)
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                failed = _run(program)
                if failed >= 0:
                    self._fail(ReportKind.PROGRAM_FAILED, failed, ctypes.get_errno())
                control.detach()
                return 0
            for descriptor in received:
                os.close(descriptor)
            control.send(self._reap(child))

    def _reap(self, child: int) -> bytes:
        status, cpu_us, peak_kb = 0, 0, 0
        while True:
            try:
                pid, ended, usage = os.wait4(-1, 0)
            except ChildProcessError:
                return _REPORT.pack(ReportKind.ENDED, status, 0, cpu_us, peak_kb)
            cpu_us += round((usage.ru_utime + usage.ru_stime) * 1e6)
            peak_kb = max(peak_kb, usage.ru_maxrss)
            if pid == child:
                status = ended
                self._end_others()

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._end_others()
        self._server_died()
        os._exit(0)

    @staticmethod
    def _fail(kind: ReportKind, step: int, error: int) -> NoReturn:
        socket.socket(fileno=CONTROL).send(_REPORT.pack(kind, error, step, 0, 0))
        os._exit(1)


def end_all_but_init() -> None:
    """In a pid namespace of its own: every other process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


@dataclass
class _Fork:
    pid: int = -1


@contextlib.contextmanager
def _forking() -> Iterator[_Fork]:
    """What os.fork does around the system call, for calls that fork behind the interpreter's back."""
    fork = _Fork()
    ctypes.pythonapi.PyOS_BeforeFork()
    yield fork
    if fork.pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return
    error = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if fork.pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
