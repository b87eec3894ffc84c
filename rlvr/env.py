"""What an env is to the engine: it says what the policy reads next, until the episode is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlvr.types import Message, Task


class EnvError(RuntimeError):
    """An env raises this when its world broke: the episode has no verdict, which is not a wrong answer.

    Whatever else it raises is taken as this, with the name of the error.
    """


class Env(Protocol):
    """Drives one episode of one task. An object lives for one episode.

    The policy reads the task's prompt and answers; `follow` sees the answer and says what comes next.
    """

    async def follow(self, task: Task, answer: str, turn: int) -> Sequence[Message] | None:
        """Messages the policy reads after its `turn`-th answer (from 0), or None when the episode is over."""
        ...

    async def close(self) -> None:
        """Give back what the episode held. Called once, also after a failure."""
        ...
