"""The processes beneath one, as the kernel lists them."""

from __future__ import annotations

from pathlib import Path

from rlvr.sandbox import Sandbox


def all_beneath(pid: int) -> list[int]:
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in file.read_text().split()]
        except OSError:  # it ended meanwhile
            continue
        for child in children:
            found += [child, *all_beneath(child)]
    return found


def servers_of(pid: int, sandbox: Sandbox) -> list[int]:
    """The pids of a sandbox's servers that live."""
    pool = sandbox._pool
    pids = [slot.server.pid for slot in (*pool._idle, *pool._taken) if slot.server is not None]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
