"""Results that are made once for all who ask for them, also for those who ask while they are being made."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Once(Generic[Value]):
    """Remembers the newest `most` results by key. A failure is raised to all who wait, and not remembered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: dict[Hashable, asyncio.Task[Value]] = {}

    async def get(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """One who is cancelled leaves the others what they wait for."""
        task = self._tasks.get(key)
        if task is None or not (task.done() or task.get_loop() is asyncio.get_running_loop()):
            while len(self._tasks) >= self._most:
                del self._tasks[next(iter(self._tasks))]
            task = self._tasks[key] = asyncio.create_task(make())
            task.add_done_callback(functools.partial(self._forget_a_failure, key))
        return await asyncio.shield(task)

    def _forget_a_failure(self, key: Hashable, task: asyncio.Task[Value]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and self._tasks.get(key) is task:
            del self._tasks[key]
