"""The processes of a job, seen from outside through /proc: what they use together, and the end of all of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Fields of /proc/[pid]/stat after the name, counted from 0: see proc_pid_stat(5).
_CPU_TICKS = slice(11, 15)  # own in user and kernel mode, and of children that ended
_THREADS, _RSS_PAGES = 17, 21


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a job at one moment."""

    memory_bytes: int = 0
    processes: int = 0  # threads too
    cpu_s: float = 0.0  # without processes that orphans left behind


def usage_beneath(pid: int) -> Usage:
    """What the descendants of `pid` use. Memory is the sum of what each has resident, shared pages in each."""
    memory, processes, ticks = 0, 0, 0
    for descendant in descendants(pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            stat = Path(f"/proc/{descendant}/stat").read_bytes()
            fields = stat[stat.rindex(b")") + 2 :].split()
            memory += int(fields[_RSS_PAGES]) * _PAGE
            processes += int(fields[_THREADS])
            ticks += sum(map(int, fields[_CPU_TICKS]))
    return Usage(memory, processes, ticks / _TICKS_PER_S)


def shared_once(pid: int) -> int | None:
    """Memory of the descendants of `pid` with each shared page counted once; None if the kernel will not tell."""
    total = 0
    for descendant in descendants(pid):
        try:
            lines = Path(f"/proc/{descendant}/smaps_rollup").read_bytes().splitlines()
        except PermissionError:
            return None
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(b"Pss:"))
    return total


def descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from descendants(child)


def kill_descendants(pid: int) -> None:
    """Kill until none is left. `pid` must be a subreaper: what loses its parent comes to it, and is found again."""
    while True:
        found = list(descendants(pid))
        alive = [child for child in found if _alive(child)]
        if not alive:
            return
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
