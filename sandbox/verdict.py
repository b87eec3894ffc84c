"""What status a program's end deserves, from what was seen of it."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass

from rlvr.sandbox.job import Limits, Status

_HEAD_BYTES, _TAIL_BYTES = 500, 2000  # of stderr, where runtimes say what they died of
_NEARLY = 0.8  # runtimes hold memory that they have not touched yet

# How runtimes say that the kernel refused them something, at their end. A program can write these words itself, and
# so choose which kind of failure it is counted as: never whether.
_WORDS = {
    Status.MEMORY: re.compile(
        rb"^(\w+\.)*_?(ArrayMemoryError|MemoryError)\b|std::bad_alloc|Cannot allocate memory"
        rb"|JavaScript heap out of memory|java\.lang\.OutOfMemoryError|out of memory"
        rb"|memory allocation of \d+ bytes failed|xrealloc: cannot allocate",
        re.MULTILINE,
    ),
    Status.PROCESSES: re.compile(
        rb"^BlockingIOError: \[Errno 11\]|can't start new thread|fork: .*Resource temporarily unavailable"
        rb"|pthread_create|std::system_error.*\n?.*Resource temporarily unavailable|fork failed",
        re.MULTILINE,
    ),
    Status.DISK: re.compile(rb"\[Errno 28\]|\[Errno 27\]|No space left on device|File too large|ENOSPC|EFBIG"),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """`stopped` is why we killed it, if we did. `wait_status` is the kernel's, of the main process."""

    stopped: Status | None
    wait_status: int
    last_words: bytes  # see there
    cpu_s: float
    peak_memory_bytes: int
    peak_processes: int


def last_words(stderr: memoryview) -> bytes:
    """What a runtime says at its end: a long trace may follow it, or it may follow a long trace."""
    return bytes(stderr[:_HEAD_BYTES]) + b"\n" + bytes(stderr[-_TAIL_BYTES:])


def judge(seen: Seen, limits: Limits) -> Status:
    """A program that met a limit, coped, and ended with 0 is OK. One that we killed is what we killed it for.

    One that failed by itself failed for the limit that the kernel or its runtime names, else it is its own failure.
    """
    if seen.stopped is not None:
        return seen.stopped
    if os.WIFSIGNALED(seen.wait_status):
        return _by_signal(os.WTERMSIG(seen.wait_status), seen, limits)
    if os.WEXITSTATUS(seen.wait_status) == 0:
        return Status.OK
    return _by_words(seen) or _by_measure(seen, limits) or Status.WRONG_EXIT


def _by_signal(number: int, seen: Seen, limits: Limits) -> Status:
    if number == signal.SIGXCPU or (number == signal.SIGKILL and seen.cpu_s >= limits.cpu_s):
        return Status.CPU
    if number == signal.SIGXFSZ:
        return Status.DISK
    return _by_words(seen) or _by_measure(seen, limits) or Status.KILLED


def _by_words(seen: Seen) -> Status | None:
    return next((status for status, words in _WORDS.items() if words.search(seen.last_words)), None)


def _by_measure(seen: Seen, limits: Limits) -> Status | None:
    if seen.peak_memory_bytes >= _NEARLY * limits.memory_bytes:
        return Status.MEMORY
    if seen.peak_processes >= limits.processes:
        return Status.PROCESSES
    return None
