"""Runs untrusted programs, from any thread or event loop.

    with Sandbox() as sandbox:
        result = sandbox.run(Program("print(input())"), stdin=b"4242")
        result = await sandbox.run_async(Program(source, "cpp"), stdin=b"...")

There is no thread and no background task on this side: a caller takes a slot, speaks with its server over a
non-blocking socket, and gives the slot back. A server that dies is replaced, and its job is run again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rlvr.sandbox.calls import Calls, Until
from rlvr.sandbox.effects import drive, drive_async
from rlvr.sandbox.headers import Headers
from rlvr.sandbox.job import Limits, Program, Result, Tier
from rlvr.sandbox.pool import Pool
from rlvr.sandbox.servers import Servers, tiers_down_to
from rlvr.sandbox.store import Store


class Sandbox:
    """Runs at most `slots` programs at one time; each slot has a warm server of its own.

    `slots`: by default the machine's cores, and at least 2. `preload`: Python packages that are imported beforehand;
    with any, programs may import all packages that are installed beside them. `readable`: host paths that programs
    may also read. `minimum_tier`: with less, SandboxUnavailable is raised. `only_tier`: that one and no other.

    Nothing is started before the first call. Methods raise ValueError for a program or limits that cannot be, or a
    language that this machine does not have, and SandboxUnavailable; all that happens to a program is in its Result.
    """

    def __init__(
        self,
        *,
        slots: int | None = None,
        preload: tuple[str, ...] = (),
        readable: tuple[str, ...] = (),
        minimum_tier: Tier = Tier.LANDLOCK,
        only_tier: Tier | None = None,
    ) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots: a sandbox needs at least one, got {slots}")
        for path in readable:
            if not Path(path).exists():
                raise ValueError(f"readable: {path!r} is not there")
        tiers = (only_tier,) if only_tier is not None else tiers_down_to(minimum_tier)
        self._pool = Pool(slots or max(2, len(os.sched_getaffinity(0))))
        self._servers = Servers(preload=preload, readable=readable, tiers=tiers)
        self._store = Store()
        self._headers = Headers()
        self._calls = Calls(self._pool, self._servers, self._store, self._headers)

    @property
    def tier(self) -> Tier | None:
        """What this machine gives; None before the first program has run."""
        return self._servers.tier

    def run(
        self,
        program: Program,
        *,
        stdin: bytes = b"",
        limits: Limits = Limits(),  # noqa: B008 - immutable
        collect: tuple[str, ...] = (),
    ) -> Result:
        """Run one program. `collect` names files that it may leave in its folder: see Result.files."""
        return drive(self._calls.run(program, stdin, limits, collect))

    async def run_async(
        self,
        program: Program,
        *,
        stdin: bytes = b"",
        limits: Limits = Limits(),  # noqa: B008
        collect: tuple[str, ...] = (),
    ) -> Result:
        """The same as `run`. A call that is cancelled ends its program."""
        return await drive_async(self._calls.run(program, stdin, limits, collect))

    def run_tests(
        self,
        program: Program,
        stdins: Sequence[bytes],
        *,
        limits: Limits = Limits(),  # noqa: B008
        until: Until | None = None,
        together_s: float | None = None,
    ) -> list[Result]:
        """Run one program once for each stdin, in one sandbox; `limits` hold for each. Results are in order.

        `until` is called with each result as it comes; when it returns True the rest are not run. `together_s` is
        wall time for all of them and their compiler: a run has what is left of it, and where none is, is left out.
        """
        return drive(self._calls.run_tests(program, stdins, limits, until, together_s))

    async def run_tests_async(
        self,
        program: Program,
        stdins: Sequence[bytes],
        *,
        limits: Limits = Limits(),  # noqa: B008
        until: Until | None = None,
        together_s: float | None = None,
    ) -> list[Result]:
        return await drive_async(self._calls.run_tests(program, stdins, limits, until, together_s))

    def run_together(
        self,
        judge: Program,
        candidate: Program,
        *,
        limits: Limits = Limits(),  # noqa: B008
    ) -> tuple[Result, Result]:
        """Run two programs, each in a sandbox of its own, joined by a stream socket at descriptor 3 of each.

        `limits` hold for each. A candidate that still runs 0.1 s after the judge has ended is killed.
        """
        return drive(self._calls.run_together(judge, candidate, limits))

    async def run_together_async(
        self,
        judge: Program,
        candidate: Program,
        *,
        limits: Limits = Limits(),  # noqa: B008
    ) -> tuple[Result, Result]:
        return await drive_async(self._calls.run_together(judge, candidate, limits))

    def close(self) -> None:
        """End all servers and the programs in them. Calls in hand and later ones raise RuntimeError."""
        self._pool.close()
        self._servers.close()
        self._store.close()
        self._headers.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
