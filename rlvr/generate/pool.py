"""Several generators as one: requests go to the least loaded, updates to all, and every answer is verified."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from rlvr.generate.protocol import Generator, GeneratorStatus
from rlvr.types import Completion, GenerateRequest, ScoreRequest, TokenScores
from rlvr.weights.update import WeightReceipt, WeightUpdate

# More than can be in flight; what is forgotten too early costs one more read of its prompt.
_HOMES_KEPT = 10_000


class StaleGenerator(RuntimeError):
    """A generator does not hold the version it was given. The run stops: it would sample from wrong weights."""


class GeneratorPool:
    """Routes by load, in sequences. A group stays with one generator, whose prefix cache holds its prompt.

    A request id begins with its group's (`g12`, `g12.0.1`): that is what keeps the turns of a group together.
    """

    def __init__(self, generators: Sequence[Generator]) -> None:
        if not generators:
            raise ValueError("a pool needs at least one generator")
        self._generators = list(generators)
        self._load = [0] * len(generators)
        self._home: OrderedDict[str, int] = OrderedDict()  # group -> generator, the latest used last
        self.version = 0  # the newest that it was given

    async def start(self) -> list[GeneratorStatus]:
        return list(await asyncio.gather(*(g.start() for g in self._generators)))

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        index = self._home_of(request.id.partition(".")[0])
        self._load[index] += request.n
        try:
            return await self._generators[index].generate(request)
        finally:
            self._load[index] -= request.n

    async def abort(self, request_id: str) -> None:
        await asyncio.gather(*(g.abort(request_id) for g in self._generators))

    async def score(self, request: ScoreRequest) -> TokenScores:
        index = self._least_loaded()
        self._load[index] += 1
        try:
            return await self._generators[index].score(request)
        finally:
            self._load[index] -= 1

    async def update_weights(self, update: WeightUpdate) -> list[WeightReceipt]:
        """Give a version to every generator, and have each say what it holds. Raises StaleGenerator."""
        self.version = update.version
        receipts = list(await asyncio.gather(*(g.update_weights(update) for g in self._generators)))
        for receipt in receipts:
            verify(receipt.generator, update, receipt.version, receipt.checksum)
        return receipts

    async def statuses(self) -> list[GeneratorStatus]:
        return list(await asyncio.gather(*(g.status() for g in self._generators)))

    async def close(self) -> None:
        """Close all, those too that stand behind one that cannot be closed. Raises what the first of these raises."""
        ends = await asyncio.gather(*(g.close() for g in self._generators), return_exceptions=True)
        for failure in ends:
            if failure is not None:
                raise failure

    def _home_of(self, group: str) -> int:
        """The generator of a group. It is kept while the group's envs think, when no request is in hand."""
        index = self._home.setdefault(group, self._least_loaded())
        self._home.move_to_end(group)
        if len(self._home) > _HOMES_KEPT:
            self._home.popitem(last=False)
        return index

    def _least_loaded(self) -> int:
        return min(range(len(self._load)), key=self._load.__getitem__)


def verify(name: str, update: WeightUpdate, version: int, checksum: int) -> None:
    """Raises StaleGenerator when a generator answers with another version or checksum than it was given."""
    if version != update.version:
        raise StaleGenerator(f"generator {name} answers with version {version} after version {update.version} was sent")
    if checksum != update.checksum:
        raise StaleGenerator(
            f"generator {name} holds other weights than the learner's version {update.version}: "
            f"checksum {checksum:#018x}, expected {update.checksum:#018x}"
        )
