"""Generator and learner as Ray actors, and what speaks to them: no call without a deadline."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlvr.config import Config, Transport
from rlvr.generate.protocol import GeneratorStatus
from rlvr.learner_handle import LearnerThread, of_first_rank
from rlvr.placement import ClusterError, Placement, pin
from rlvr.types import Completion, GenerateRequest, Row, ScoreRequest, TokenScores
from rlvr.weights.update import WeightReceipt, WeightUpdate

if TYPE_CHECKING:
    from rlvr.learn.learner import LearnerInfo, LearnerReport

T = TypeVar("T")

# Deadlines of remote calls, in seconds. Loading a large model from a slow disk is the longest honest wait;
# generation is bounded by the episode's own deadline. Between a run's first step and its last the watchdog is
# stricter, where nothing moves beside the call.
START_S = 1800.0
UPDATE_S = 600.0
STATUS_S = 60.0


class GeneratorActor:
    """A generator in a process of its own. Each method is the protocol's."""

    def __init__(self, config: Config, placement: Placement) -> None:
        pin(placement.cores)
        from rlvr.generate.factory import make_generator

        self._generator = make_generator(config, placement.name)

    async def start(self) -> GeneratorStatus:
        return await self._generator.start()

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        return await self._generator.generate(request)

    async def abort(self, request_id: str) -> None:
        await self._generator.abort(request_id)

    async def score(self, request: ScoreRequest) -> TokenScores:
        return await self._generator.score(request)

    async def update_weights(self, update: WeightUpdate) -> WeightReceipt:
        return await self._generator.update_weights(update)

    async def status(self) -> GeneratorStatus:
        return await self._generator.status()

    async def close(self) -> None:
        await self._generator.close()


class LearnerActor(LearnerThread):
    """A rank of the learner in a process of its own."""

    def __init__(self, config: Config, placement: Placement, weights_folder: Path, transport: Transport) -> None:
        pin(placement.cores)
        super().__init__(config, weights_folder, transport)

    async def address(self) -> str:
        """Where the others find this rank, when it is the first."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    async def join(self, address: str, rank: int, count: int, timeout_s: float) -> None:
        """Become one of several. Returns when all are there."""
        from rlvr.learn.sharded import ShardedRanks, join

        await asyncio.to_thread(join, address, rank, count, self._learner.config, timeout_s)
        self._learner.ranks = ShardedRanks(self._learner.config)


async def _within(seconds: float | None, what: str, call: Awaitable[T]) -> T:
    """Nobody waits for ever: a remote call that outlasts its deadline, or its actor, is an error that names it."""
    from ray.exceptions import RayActorError

    try:
        return await asyncio.wait_for(call, seconds)
    except TimeoutError:
        raise ClusterError(f"{what}: no answer in {seconds:g} s") from None
    except RayActorError as error:
        raise ClusterError(f"{what}: its process is gone: {error}") from error


class RemoteGenerator:
    """The protocol, spoken to an actor."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor = actor
        self._name = name

    async def start(self) -> GeneratorStatus:
        return await _within(START_S, f"start of {self._name}", self._actor.start.remote())

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        try:
            return await _within(None, f"an answer of {self._name}", self._actor.generate.remote(request))
        except asyncio.CancelledError:
            self._actor.abort.remote(request.id)  # Ray does not tell the actor that nobody waits any more
            raise

    async def abort(self, request_id: str) -> None:
        await _within(STATUS_S, f"abort on {self._name}", self._actor.abort.remote(request_id))

    async def score(self, request: ScoreRequest) -> TokenScores:
        return await _within(UPDATE_S, f"scoring on {self._name}", self._actor.score.remote(request))

    async def update_weights(self, update: WeightUpdate) -> WeightReceipt:
        what = f"update of {self._name} to version {update.version}"
        return await _within(UPDATE_S, what, self._actor.update_weights.remote(update))

    async def status(self) -> GeneratorStatus:
        return await _within(STATUS_S, f"status of {self._name}", self._actor.status.remote())

    async def close(self) -> None:
        await _within(STATUS_S, f"end of {self._name}", self._actor.close.remote())


class RemoteLearner:
    """The learner's handle, spoken to the actors of all its ranks."""

    def __init__(self, ranks: Sequence[Any], step_deadline_s: float, *, sharded: bool) -> None:
        self._ranks = ranks
        self._step_deadline_s = step_deadline_s
        self._sharded = sharded

    async def start(self) -> LearnerInfo:
        if self._sharded:
            first = self._ranks[0]
            address = await _within(START_S, "start of the learner's first rank", first.address.remote())
            joins = [
                actor.join.remote(address, rank, len(self._ranks), self._step_deadline_s)
                for rank, actor in enumerate(self._ranks)
            ]
            await _within(START_S, "the learner's ranks finding each other", asyncio.gather(*joins))
        return await self._all(START_S, "start of the learner", [a.start.remote() for a in self._ranks])

    async def train(self, rows: Sequence[Row]) -> LearnerReport:
        import ray

        shared = ray.put(list(rows))
        return await self._all(self._step_deadline_s, "a training step", [a.train.remote(shared) for a in self._ranks])

    async def cross_entropy(self, rows: Sequence[Row]) -> float:
        import ray

        shared = ray.put(list(rows))
        calls = [actor.cross_entropy.remote(shared) for actor in self._ranks]
        return await self._all(self._step_deadline_s, "scoring held-out rows", calls)

    async def micro_batches(self) -> int:
        """Of the first rank: all have as many."""
        return await _within(STATUS_S, "status of the learner", self._ranks[0].micro_batches.remote())

    async def publish(self) -> WeightUpdate:
        update = await self._all(UPDATE_S, "publishing weights", [a.publish.remote() for a in self._ranks])
        return of_first_rank(update)

    async def save(self, folder: Path) -> None:
        await self._all(START_S, "copying the learner's state", [a.save.remote(folder) for a in self._ranks])

    async def saved(self) -> None:
        await self._all(START_S, "saving the learner", [a.saved.remote() for a in self._ranks])

    async def load(self, folder: Path, version: int | None = None) -> None:
        await self._all(START_S, "loading the learner", [a.load.remote(folder, version) for a in self._ranks])

    async def export(self, folder: Path) -> None:
        await self._all(START_S, "exporting the policy", [a.export.remote(folder) for a in self._ranks])

    async def _all(self, seconds: float, what: str, calls: Sequence[Awaitable[T]]) -> T:
        """What the first rank answers, when all have; the first failure of any, at once."""
        answers = await _within(seconds, what, asyncio.gather(*calls))
        return answers[0]
