"""Work on a thread that a process does not wait for when it ends.

`asyncio.to_thread` borrows a thread of a pool, and event loop and interpreter both wait for those at their end: work
that hangs would keep a run that gave it up from ending, and from saying why.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_daemon(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await `work(...)`, done on a thread of its own. Cancelled, it goes on there, and its result is lost."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it, so it may be told what became of it

    def run() -> None:
        try:
            result = work(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(future)
