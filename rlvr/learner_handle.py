"""The learner as the loop sees it, and the one that runs on a thread of this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rlvr.config import Config, Transport
from rlvr.daemon import in_daemon
from rlvr.types import Row
from rlvr.weights.update import WeightUpdate

if TYPE_CHECKING:
    from rlvr.learn.learner import LearnerInfo, LearnerReport


class LearnerHandle(Protocol):
    """The learner, wherever it runs."""

    async def start(self) -> LearnerInfo: ...
    async def train(self, rows: Sequence[Row]) -> LearnerReport: ...
    async def cross_entropy(self, rows: Sequence[Row]) -> float: ...
    async def micro_batches(self) -> int: ...
    async def publish(self) -> WeightUpdate: ...
    async def save(self, folder: Path) -> None: ...
    async def saved(self) -> None: ...
    async def load(self, folder: Path, version: int | None = None) -> None: ...
    async def export(self, folder: Path) -> None: ...


class LearnerThread:
    """A learner, alone or one rank of several, on threads of this process that its end does not wait for."""

    def __init__(self, config: Config, weights_folder: Path, transport: Transport) -> None:
        from rlvr.learn.learner import Learner

        self._learner = Learner(config)
        self._weights_folder = weights_folder
        self._transport = transport

    async def start(self) -> LearnerInfo:
        return await in_daemon(self._learner.start)

    async def train(self, rows: Sequence[Row]) -> LearnerReport:
        return await in_daemon(self._learner.train, list(rows))

    async def cross_entropy(self, rows: Sequence[Row]) -> float:
        return await in_daemon(self._learner.cross_entropy, rows)

    async def micro_batches(self) -> int:
        """Begun since the start. Answered while others work."""
        return self._learner.micro_batches

    async def publish(self) -> WeightUpdate | None:
        return await in_daemon(self._learner.publish, self._weights_folder, self._transport)

    async def save(self, folder: Path) -> None:
        await in_daemon(self._learner.save, folder)

    async def saved(self) -> None:
        await in_daemon(self._learner.saved)

    async def load(self, folder: Path, version: int | None = None) -> None:
        await in_daemon(self._learner.load, folder, version)

    async def export(self, folder: Path) -> None:
        await in_daemon(self._learner.export, folder)


class LocalLearner(LearnerThread):
    """A learner alone, in the process of the loop."""

    async def publish(self) -> WeightUpdate:
        return of_first_rank(await super().publish())


def of_first_rank(update: WeightUpdate | None) -> WeightUpdate:
    """What a rank returned from `publish`, when it is the first."""
    assert update is not None, "the first rank publishes"
    return update
