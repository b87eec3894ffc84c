"""The processes of a job, seen from outside through /proc: what they use together, and the end of all of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Fields of /proc/[pid]/stat after the name, counted from 0: see proc_pid_stat(5).
_CPU_TICKS = slice(11, 15)  # own in user and kernel mode, and of children that ended
_THREADS = 17


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a job at one moment."""

    memory_bytes: int = 0
    processes: int = 0  # threads too
    cpu_s: float = 0.0  # without what orphans used that have ended


def usage_beneath(pid: int) -> Usage:
    """What the descendants of `pid` use."""
    found = list(descendants(pid))
    memory, processes, ticks = 0, 0, 0
    for descendant in found:
        with contextlib.suppress(OSError):  # it ended meanwhile
            stat = Path(f"/proc/{descendant}/stat").read_bytes()
            fields = stat[stat.rindex(b")") + 2 :].split()
            memory += memory_of(descendant, alone=len(found) == 1)
            processes += int(fields[_THREADS])
            ticks += sum(map(int, fields[_CPU_TICKS]))
    return Usage(memory, processes, ticks / _TICKS_PER_S)


def memory_of(pid: int, *, alone: bool = True) -> int:
    """What a process holds in memory, without files that it has mapped: programs and libraries are the machine's.

    If it is not alone, of each page that it shares with others it counts its share.
    """
    file, names = ("status", (b"RssAnon:", b"RssShmem:")) if alone else ("smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:"))
    lines = Path(f"/proc/{pid}/{file}").read_bytes().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))


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
    for child in _children(pid):
        yield child
        yield from descendants(child)


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
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :].split()[0] not in (b"Z", b"X")
