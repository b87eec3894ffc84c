"""The smallest env: one question, one answer."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.types import Message, Task


class SingleTurn:
    """The episode is over after the first answer."""

    async def follow(self, task: Task, answer: str, turn: int) -> Sequence[Message] | None:
        return None

    async def close(self) -> None:
        return None
