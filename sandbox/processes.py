"""The processes of a job, seen from outside through /proc: what they use together, and the end of all of them."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Fields of /proc/[pid]/stat after the name, counted from 0: see proc_pid_stat(5).
_STATE = 0
_OWN_TICKS, _ENDED_TICKS = slice(11, 13), slice(13, 15)  # of CPU time; of children that ended and were waited for
_THREADS = 17
_OF_MAPPINGS = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
_OF_PROCESS = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_PAGE_TABLES = (b"VmPTE:",)


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a job at one moment."""

    memory_bytes: int = 0
    processes: int = 0  # threads too
    cpu_s: float = 0.0
    descriptors: int = 0  # open in each; 0 before Linux 6.2, which does not tell


class Meter:
    """Measures what the descendants of `pid` use, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended_before = _ticks(_fields(pid), _ENDED_TICKS)
        self._own_ticks: dict[int, int] = {}  # of every process that was ever seen

    def usage(self, until: float = math.inf) -> Usage:
        """Now. What could not be looked at before the monotonic time `until` is left out."""
        found = list(descendants(self._pid))
        memory, processes, descriptors = 0, 0, 0
        ticks = _ticks(_fields(self._pid), _ENDED_TICKS) - self._ended_before  # of orphans, which `pid` waited for
        for descendant in found:
            if time.monotonic() > until:
                break
            with contextlib.suppress(OSError):  # it ended meanwhile
                fields = _fields(descendant)
                self._own_ticks[descendant] = _ticks(fields, _OWN_TICKS)
                ticks += self._own_ticks[descendant] + _ticks(fields, _ENDED_TICKS)
                processes += int(fields[_THREADS])
                holder = _holder(descendant, fields)
                memory += memory_of(holder, alone=len(found) == 1)
                descriptors += Path(f"/proc/{holder}/fd").stat().st_size
        # Nobody waits for the children of a process that ignores their end: they are in the other sum alone.
        cpu_s = max(ticks, sum(self._own_ticks.values())) / _TICKS_PER_S
        return Usage(memory, processes, cpu_s, descriptors)


def memory_of(pid: int, *, alone: bool = True) -> int:
    """What a process holds in memory, without files that it has mapped: programs and libraries are the machine's.

    If it is not alone, of each page that it shares with others it counts its share; all of them, where it has shut
    itself to such looks (PR_SET_DUMPABLE). Page tables count: memory that is only read costs nothing else.
    """
    if alone:
        return _kilobytes(pid, "status", _OF_PROCESS + _PAGE_TABLES)
    try:
        held = _kilobytes(pid, "smaps_rollup", _OF_MAPPINGS)
    except PermissionError:
        held = _kilobytes(pid, "status", _OF_PROCESS)
    return held + _kilobytes(pid, "status", _PAGE_TABLES)


def _kilobytes(pid: int, file: str, names: tuple[bytes, ...]) -> int:
    """The sum of these lines, in bytes. Raises OSError."""
    lines = Path(f"/proc/{pid}/{file}").read_bytes().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))


def _fields(pid: int) -> list[bytes]:
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return stat[stat.rindex(b")") + 2 :].split()


def _holder(pid: int, fields: list[bytes]) -> int:
    """The thread that shows what a process holds: the first one, which has its number, unless that has ended."""
    if not _ended(fields) or int(fields[_THREADS]) == 1:
        return pid
    threads = (int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir())
    return next((thread for thread in threads if not _ended(_fields(thread))), pid)


def _ended(fields: list[bytes]) -> bool:
    """Of a thread; for the number of a process, its first one."""
    return fields[_STATE] in (b"Z", b"X")


def _ticks(fields: list[bytes], which: slice) -> int:
    return sum(map(int, fields[which]))


def inherited_bytes() -> int:
    """What a fork of this process begins with, of what a limit on memory counts."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")


def count_of_uid(uid: int) -> int:
    """Processes and threads that a user has on this machine."""
    count = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and process.stat().st_uid == uid:
                count += len(os.listdir(process / "task"))  # noqa: PTH208 - names alone, quickly
    return count


def descendants(pid: int) -> Iterator[int]:
    parents = [pid]
    while parents:
        children = _children(parents.pop())
        yield from children
        parents += children


def kill_descendants(pid: int) -> None:
    """Kill until none is left. `pid` must be a subreaper: what loses its parent comes to it, and is found again.

    A look may miss a process whose parent ends meanwhile, and which then stands where was looked before. So the end
    is two looks in a row that find the same ones, all dead: nothing ended between them.
    """
    before: list[int] | None = None
    while True:
        found = list(descendants(pid))
        alive = [child for child in found if _alive(child)]
        if not alive and found == before:
            return
        before = found if not alive else None
        for child in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += map(int, (thread / "children").read_bytes().split())
    return children


def _alive(pid: int) -> bool:
    """Whether a thread of it is: its first one may have ended before the others."""
    try:
        fields = _fields(pid)
    except OSError:
        return False
    return not _ended(fields) or int(fields[_THREADS]) > 1
