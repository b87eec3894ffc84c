"""Runs tables of system calls, and starts a job by them: in C where a compiler built `start_job.c`, else in Python."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn, Protocol, TypeVar

from rlvr.sandbox.isolation import CONTROL, FIRST_CONTROL
from rlvr.sandbox.steps import KEPT_WORD, KIND_BITS, WORDS_PER_ROW, Kind, Table
from rlvr.sandbox.syscalls import LIBC, Machine

_REPORT = struct.Struct("@iilll")  # struct report of start_job.c
_ORDER = struct.Struct("@6l")  # struct order
_PID = struct.Struct("@l")
_DESCRIPTORS = 5
_PR_SET_PDEATHSIG = 1
_MOST_DESCRIPTORS = 1 << 16
REPORT_BYTES = _REPORT.size

T = TypeVar("T")


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


class TemplateDied(Exception):
    """This server can start no job any more."""


class StepFailed(OSError):
    """A step of a table was refused by the kernel."""


class Executor(Protocol):
    def fork_template(self, prepare: Callable[[], T]) -> tuple[T, int] | None:
        """Fork the process that jobs are cloned from, if that is not this one, and do there what all of them need.

        Returns in this process with None; in each program that stays the interpreter, with what `prepare` returned
        and its job's note.
        """
        ...

    def start_job(self, namespaces: int, init: Table, program: Table, descriptors: Sequence[int], note: int) -> int:
        """Clone an init, with `descriptors` at 0 and up, that runs its table and then a program for each message.

        Returns init's pid; and 0 in each program that stays the interpreter, if there is no template. Raises OSError.
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
    memory = ctypes.create_string_buffer(table.memory, len(table.memory))
    kept = 0
    for index in range(len(table)):
        number, *args, kinds, keeps = words[index * WORDS_PER_ROW : (index + 1) * WORDS_PER_ROW]
        values = [kept if arg == KEPT_WORD else arg for arg in args]
        for place in range(len(values)):
            kind = Kind(kinds >> (KIND_BITS * place) & 3)
            if kind is Kind.STRINGS:
                _to_addresses(memory, values[place])
            if kind is not Kind.NUMBER:
                values[place] += ctypes.addressof(memory)
        result = LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, values))
        if result < 0:
            return index
        if keeps:
            kept = result
    return -1


def _to_addresses(memory: ctypes.Array[ctypes.c_char], place: int) -> None:
    while (string := struct.unpack_from("=q", memory, place)[0]) != 0:
        struct.pack_into("=q", memory, place, string + ctypes.addressof(memory))
        place += 8


class NativeExecutor:
    """By `start_job.c`, built as the shared library at `path`.

    Jobs are cloned from a process of its own, the template, in which nothing but that library runs. So this one, in
    which Python runs, shares no memory with programs that it would have to copy when it writes; and what it learns of
    a job is never in the memory that the next job's programs begin with.
    """

    def __init__(self, path: str, *, all_hooks: bool) -> None:
        """`all_hooks`: each Python program begins with all that os.fork calls in a child, as packages may need it.

        Without, as no thread runs and no lock is held in the template, new random numbers are all that is needed,
        and the rest would be a fifth of a program's start.
        """
        self._library = ctypes.PyDLL(path)
        self._all_hooks = all_hooks
        self._library.follow_orders.restype = ctypes.c_long
        self._library.follow_orders.argtypes = (ctypes.c_int,)
        self._template: socket.socket | None = None

    def fork_template(self, prepare: Callable[[], T]) -> tuple[T, int] | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server = os.getpid()
        if os.fork() != 0:
            theirs.close()
            self._template = ours
            return None
        LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(0)
        orders = theirs.detach()
        os.closerange(0, orders)
        os.closerange(orders + 1, _MOST_DESCRIPTORS)
        _open_like_a_programs()
        prepared = prepare()
        os.closerange(0, orders)
        if self._all_hooks:
            ctypes.pythonapi.PyOS_BeforeFork()
        note: int = self._library.follow_orders(orders)
        if self._all_hooks:
            ctypes.pythonapi.PyOS_AfterFork_Child()
        else:
            random.seed()
        return prepared, note

    def start_job(self, namespaces: int, init: Table, program: Table, descriptors: Sequence[int], note: int) -> int:
        assert self._template is not None
        sizes = (len(init), len(program), len(init.memory), len(program.memory))
        order = _ORDER.pack(namespaces, *sizes, note)
        message = (order, init.rows, program.rows, init.memory, program.memory)
        try:
            socket.send_fds(self._template, message, descriptors)
            answer = self._template.recv(_PID.size)
        except OSError as error:
            raise TemplateDied(f"the process that jobs are cloned from has died: {error}") from error
        if not answer:
            raise TemplateDied("the process that jobs are cloned from has died")
        pid: int = _PID.unpack(answer)[0]
        if pid < 0:
            raise OSError(-pid, f"clone: {os.strerror(-pid)}")
        return pid


class PythonExecutor:
    """The same in Python, for machines without a compiler and for tiers without namespaces.

    `end_others` is called in init when a program has ended, and kills all that it started.
    `server_died` is called in init when it gets SIGTERM. None where the kernel ends a job with its server: programs
    that share a pid namespace with their init reach it by each signal that it has a handler for.
    """

    def __init__(
        self, machine: Machine, end_others: Callable[[], None], server_died: Callable[[], None] | None
    ) -> None:
        self._clone = machine.numbers["clone"]
        self._end_others = end_others
        self._server_died = server_died

    def fork_template(self, prepare: Callable[[], T]) -> tuple[T, int] | None:
        return None

    def start_job(self, namespaces: int, init: Table, program: Table, descriptors: Sequence[int], note: int) -> int:
        with _forking() as fork:
            fork.pid = LIBC.syscall(*map(ctypes.c_long, (self._clone, namespaces | signal.SIGCHLD, 0, 0, 0, 0)))
        if fork.pid > 0:
            return fork.pid
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if self._server_died is not None:
                signal.signal(signal.SIGTERM, self._on_sigterm)
            for place, descriptor in enumerate(descriptors):
                os.dup2(descriptor, place)
            failed = _run(init)
            if failed >= 0:
                error = ctypes.get_errno()
                os.dup2(FIRST_CONTROL, CONTROL)
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
                signal.signal(signal.SIGINT, signal.default_int_handler)
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
        assert self._server_died is not None
        self._end_others()
        self._server_died()
        os._exit(0)

    @staticmethod
    def _fail(kind: ReportKind, step: int, error: int) -> NoReturn:
        socket.socket(fileno=CONTROL).send(_REPORT.pack(kind, error, step, 0, 0))
        os._exit(1)


def _open_like_a_programs() -> None:
    """Descriptors 0, 1 and 2 of the kinds that programs get, where none is open."""
    os.memfd_create("stdin")
    os.pipe()
    os.dup2(2, 1)


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
