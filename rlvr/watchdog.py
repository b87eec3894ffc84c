"""Nobody waits for ever: when work remains and nothing moves, the run stops and says where it stood."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Stalled(RuntimeError):
    """Nothing has moved for too long. The message names the stage and the task."""


async def watch(
    work: Coroutine[Any, Any, T],
    progress: Callable[[], Awaitable[Hashable]],
    describe: Callable[[], str],
    limit_s: float,
) -> T:
    """Await `work`; cancel it and raise Stalled when `progress()` gives the same answer for `limit_s` seconds.

    A `progress()` that does not answer is no progress either; what it raises ends the work and is raised here.
    """
    pause_s = min(limit_s / 4, 30.0)
    task = asyncio.create_task(work)
    seen: Hashable = None
    since = time.monotonic()
    try:
        while not (await asyncio.wait({task}, timeout=pause_s))[0]:
            try:
                now = await asyncio.wait_for(progress(), pause_s)
            except TimeoutError:
                now = seen
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > limit_s:
                raise Stalled(f"nothing has moved for {limit_s:g} s (cluster.watchdog_s): {describe()}")
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
