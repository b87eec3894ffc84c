"""One job on the server's side: its private folder, its init, and each program in it from start to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rlvr.sandbox.box import Box, HostFolder, open_result, write_files, write_links
from rlvr.sandbox.enclosure import Enclosure
from rlvr.sandbox.executor import REPORT_BYTES, Report, ReportKind
from rlvr.sandbox.isolation import PROGRAM
from rlvr.sandbox.job import Limits, Status
from rlvr.sandbox.processes import Meter, Usage
from rlvr.sandbox.python_program import FreshInterpreter, PythonProgram
from rlvr.sandbox.verdict import Seen, judge, last_words
from rlvr.sandbox.wire import Ending, Job

_WATCH_EVERY_S = 0.02
_LAST_MOMENT_S = 0.1  # for a program to end by itself after the one that it was joined to has
_PIPE_READ = 1 << 16
_SOCKET_BYTES = 208 << 10  # of the kernel's memory, which may wait in one for a reader: net.core.wmem_default
_FEWEST_DESCRIPTORS = 512
_STACK_BYTES = 8 << 20  # which the limit on a process's memory does not count, and so must not be counted here


class ClientGone(Exception):
    """The process that this server works for has ended, or wants no more of it."""


class SandboxFailure(Exception):
    """A failure of ours or the machine's: it says nothing about the program."""


@dataclass(frozen=True, slots=True)
class Client:
    """Whom the server works for. It may die while another process holds a copy of its socket: hence its pidfd."""

    connection: socket.socket
    process: int  # pidfd

    def wait(self) -> None:
        """Until it says something. Raises ClientGone."""
        poll = select.poll()
        for descriptor in (self.connection.fileno(), self.process):
            poll.register(descriptor, select.POLLIN)
        if any(descriptor == self.process for descriptor, _ in poll.poll()):
            raise ClientGone


class Capture:
    """A program's output. The memory is the server's and is used again, so it is wiped after each program."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.size = 0

    def begin(self, limit: int) -> None:
        self.limit = limit
        if len(self._buffer) <= limit:
            self._buffer = bytearray(limit + 1)

    def take(self, pipe: int) -> bool:
        """Read what the pipe holds, and say whether there will be more. Stops one byte above the limit."""
        while self.size <= self.limit:
            with memoryview(self._buffer) as view:
                room = view[self.size : min(self.limit + 1, self.size + _PIPE_READ)]
                try:
                    count = os.readv(pipe, [room])
                except BlockingIOError:
                    return True
                finally:
                    room.release()
            if count == 0:
                return False
            self.size += count
        return False

    @property
    def overflowed(self) -> bool:
        return self.size > self.limit

    def content(self) -> memoryview:
        return memoryview(self._buffer)[: min(self.size, self.limit)]

    def wipe(self) -> None:
        self._buffer[: self.size] = bytes(self.size)
        self.size = 0


@dataclass(frozen=True, slots=True)
class Pipes:
    """Non-blocking ends to read from, and the ends that a program gets."""

    stdout: int
    stderr: int
    program_stdout: int
    program_stderr: int

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Pipes]:
        stdout, program_stdout = os.pipe()
        stderr, program_stderr = os.pipe()
        pipes = cls(stdout, stderr, program_stdout, program_stderr)
        try:
            os.set_blocking(stdout, False)
            os.set_blocking(stderr, False)
            yield pipes
        finally:
            for descriptor in (stdout, stderr, program_stdout, program_stderr):
                os.close(descriptor)


class Session:
    """A sandbox in being. Its init is started when needed, and again after one had to be killed.

    `own_memory` is the server's: what a Python program has of it is not its own.
    """

    def __init__(self, enclosure: Enclosure, client: Client, job: Job, descriptors: list[int], own_memory: int) -> None:
        self._enclosure = enclosure
        self._client = client
        self._job = job
        given = iter(descriptors)
        self._link = [next(given)] if job.has_link else []
        self._program = [next(given)] if job.has_program else []
        self._files = [next(given)] if job.files else []
        self._box: Box | None = None
        self._own_memory = own_memory
        self._init = 0
        self._control: socket.socket | None = None

    def run(self, stdin: int, wall_s: float, stdout: Capture, stderr: Capture) -> Ending | PythonProgram:
        """Start one program and see it to its end, `wall_s` from now at most. Raises SandboxFailure, ClientGone.

        In the process that is to be the program, returns that.
        """
        if self._control is None:
            program = self._start_init()
            if program is not None:
                return program
        assert self._control is not None
        stdout.begin(self._job.limits.output_bytes)
        stderr.begin(self._job.limits.output_bytes)
        started = time.monotonic()
        with Pipes.open() as pipes:
            descriptors = [stdin, pipes.program_stdout, pipes.program_stderr, *self._link, *self._program]
            try:
                socket.send_fds(self._control, [b"1"], descriptors)
            except OSError as error:
                raise SandboxFailure(f"the job's init does not listen: {error}{self._last_words()}") from error
            inherited = self._own_memory if self._job.python else 0
            watch = _Watch(
                self._client, self._job.limits, self._control, self._init, self._box, inherited, pipes, stdout, stderr
            )
            watch.until_end(started, wall_s)
            took_s = time.monotonic() - started
            report = watch.report
            if watch.stopped is not None:
                report = self._end_init()
            elif report is None:
                raise SandboxFailure("the job's init was killed, by none of ours")
            elif report.kind is not ReportKind.ENDED:
                raise SandboxFailure(f"a program could not be started: step {report.step}: {os.strerror(report.value)}")
            stdout.take(pipes.stdout)
            stderr.take(pipes.stderr)
        if watch.stopped is None and (stdout.overflowed or stderr.overflowed):
            watch.stopped = Status.OUTPUT
        return self._ending(report, watch, took_s, stdout, stderr)

    def results(self) -> Iterator[tuple[str, int, int]]:
        """Name, descriptor and size of each file that is collected. Call when all programs have ended."""
        room = self._job.collect_bytes
        for name in self._job.collect if self._box is not None else ():
            assert self._box is not None
            found = open_result(self._box.descriptor, name)
            if found is not None and found[1] <= room:
                room -= found[1]
                yield name, *found
            elif found is not None:
                os.close(found[0])

    def close(self) -> None:
        if self._control is not None:
            self._end_init()
        if self._box is not None:
            self._box.close()
            self._box = None
        for descriptor in (*self._link, *self._program, *self._files):
            os.close(descriptor)

    def _start_init(self) -> PythonProgram | None:
        """Nothing on this way may clean up after itself in the program's process, where descriptors are others."""
        if self._box is not None:
            self._box.close()
        self._box = self._enclosure.open_box(self._job.limits)
        if self._files:
            write_files(self._box.descriptor, self._job.files, self._files[0])
        write_links(self._box.descriptor, self._job.links)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._init = self._enclosure.start(self._job, self._box, theirs.fileno())
        if self._init == 0:
            return PythonProgram(FreshInterpreter(self._box.path), PROGRAM + self._job.has_link, self._job.files[0][1])
        theirs.close()
        return None

    def _end_init(self) -> Report:
        """Kill what there is of the job, and say what it had used."""
        assert self._control is not None
        self._control.close()
        self._control = None
        self._enclosure.end(self._init)
        _, _, usage = os.wait4(self._init, 0)
        return Report(ReportKind.ENDED, signal.SIGKILL, 0, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)

    def _last_words(self) -> str:
        assert self._control is not None
        try:
            report = Report.unpack(self._control.recv(REPORT_BYTES, socket.MSG_DONTWAIT))
        except (OSError, ValueError):
            return ""
        return f"; its step {report.step} failed: {os.strerror(report.value)}"

    def _ending(self, report: Report, watch: _Watch, wall_s: float, stdout: Capture, stderr: Capture) -> Ending:
        with stderr.content() as content:
            words = last_words(content)
        peak = max(report.peak_memory_bytes, watch.peak.memory_bytes)
        cpu_s = max(report.cpu_s, watch.peak.cpu_s)
        seen = Seen(watch.stopped, report.value, words, cpu_s, peak, watch.peak.processes)
        by_signal = os.WIFSIGNALED(report.value)
        return Ending(
            status=judge(seen, self._job.limits),
            exit_code=None if by_signal else os.WEXITSTATUS(report.value),
            signal=os.WTERMSIG(report.value) if by_signal else None,
            wall_s=wall_s,
            cpu_s=cpu_s,
            peak_memory_bytes=peak,
            detail=watch.detail,
            sizes=(min(stdout.size, stdout.limit), min(stderr.size, stderr.limit)),
            files=(),
        )


class _Watch:
    """Over one program: its output, its end, and its limits."""

    def __init__(
        self,
        client: Client,
        limits: Limits,
        control: socket.socket,
        init: int,
        box: Box | None,
        inherited_bytes: int,
        pipes: Pipes,
        stdout: Capture,
        stderr: Capture,
    ) -> None:
        self._client = client
        self._limits = limits
        self._control = control
        self._meter = Meter(init)
        self._box = box
        self._most_memory = limits.memory_bytes + inherited_bytes + _STACK_BYTES
        self._captures = {pipes.stdout: stdout, pipes.stderr: stderr}
        self.stopped: Status | None = None
        self.detail = ""
        self.peak = Usage()
        self.report: Report | None = None

    def until_end(self, started: float, wall_s: float) -> None:
        """Until the program has ended by itself, init has died, or there is a reason to stop the job."""
        poll = select.poll()
        for descriptor in (
            *self._captures,
            self._control.fileno(),
            self._client.connection.fileno(),
            self._client.process,
        ):
            poll.register(descriptor, select.POLLIN)
        deadline, late = started + wall_s, Status.TIMEOUT
        look = started + _WATCH_EVERY_S
        while self.stopped is None:
            now = time.monotonic()
            if now >= deadline:
                return self._stop(late, self._late(late, wall_s))
            if now >= look:
                self._look(deadline)
                looked = time.monotonic()
                look = looked + max(_WATCH_EVERY_S, 4 * (looked - now))
                continue
            for descriptor, _ in poll.poll(max(0.0, min(deadline, look) - now) * 1000 + 0.5):
                if descriptor in self._captures:
                    if not self._captures[descriptor].take(descriptor):
                        poll.unregister(descriptor)
                        if self._captures[descriptor].overflowed:
                            self._stop(Status.OUTPUT, f"it wrote more than {self._limits.output_bytes} bytes")
                elif descriptor == self._control.fileno():
                    data = self._control.recv(REPORT_BYTES)
                    self.report = Report.unpack(data) if data else None
                    return None
                elif descriptor == self._client.process or not self._client.connection.recv(1, socket.MSG_PEEK):
                    raise ClientGone
                else:
                    poll.unregister(descriptor)
                    if now + _LAST_MOMENT_S < deadline:
                        deadline, late = now + _LAST_MOMENT_S, Status.KILLED
        return None

    def _late(self, status: Status, wall_s: float) -> str:
        if status is Status.TIMEOUT:
            return f"it ran for longer than {wall_s:.3g} s"
        return "the program that it was joined to had ended"

    def _look(self, deadline: float) -> None:
        limits, usage = self._limits, self._meter.usage(deadline)
        self.peak = Usage(
            max(self.peak.memory_bytes, usage.memory_bytes),
            max(self.peak.processes, usage.processes),
            max(self.peak.cpu_s, usage.cpu_s),
        )
        if usage.memory_bytes > self._most_memory:
            self._stop(Status.MEMORY, f"its processes held more than {limits.memory_bytes} bytes")
        elif usage.descriptors > max(_FEWEST_DESCRIPTORS, limits.memory_bytes // _SOCKET_BYTES):
            self._stop(Status.MEMORY, f"{usage.descriptors} open files: sockets and pipes hold the kernel's memory")
        elif usage.cpu_s > limits.cpu_s:
            self._stop(Status.CPU, f"its processes used more than {limits.cpu_s:g} s of CPU time")
        elif usage.processes > limits.processes:
            self._stop(Status.PROCESSES, f"{usage.processes} processes and threads, more than {limits.processes}")
        elif isinstance(self._box, HostFolder) and self._box.holds_more_than(limits.disk_bytes):
            self._stop(Status.DISK, f"its folder held more than {limits.disk_bytes} bytes")

    def _stop(self, status: Status, detail: str) -> None:
        self.stopped = status
        self.detail = detail
