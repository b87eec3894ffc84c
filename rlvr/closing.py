"""Closing what a run has started: the error that ended the run is the one that is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType


def close_with(parts: AsyncExitStack, what: str, close: Callable[[], Awaitable[None]]) -> None:
    """Have `close` called when `parts` end. Where an error ends them, what it raises is noted on that error."""

    async def leave(_: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        try:
            await close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"closing {what} failed too: {type(failure).__name__}: {failure}")

    parts.push_async_exit(leave)
