"""Where the roles run: as Ray actors, or in this process for debugging. Only this file knows Ray.

Generator and learner are ordinary classes with ordinary tests; here they are wrapped, placed and given deadlines.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rlvr.config import Config, Engine, Transport
from rlvr.generate.pool import GeneratorPool
from rlvr.generate.protocol import GeneratorStatus
from rlvr.types import Completion, GenerateRequest, Row, ScoreRequest, TokenScores
from rlvr.weights import WeightReceipt, WeightUpdate

if TYPE_CHECKING:
    from rlvr.learn.learner import LearnerInfo, LearnerReport

T = TypeVar("T")

# Deadlines of remote calls, in seconds. Loading a large model from a slow disk is the longest honest wait;
# generation is bounded by the episode's own deadline.
START_S = 1800.0
UPDATE_S = 600.0
STATUS_S = 60.0
# A training step may outlast the watchdog's limit, which counts from the last thing that moved: it moves inside.
_STEP_PATIENCE = 4


class ClusterError(RuntimeError):
    """The machine or cluster cannot run this config, or a role stopped answering."""


class LearnerHandle(Protocol):
    """The learner, wherever it runs."""

    async def start(self) -> LearnerInfo: ...
    async def train(self, rows: Sequence[Row]) -> LearnerReport: ...
    async def publish(self) -> WeightUpdate: ...
    async def save(self, folder: Path) -> None: ...
    async def saved(self) -> None: ...
    async def load(self, folder: Path, version: int | None = None) -> None: ...
    async def export(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Roles:
    """The running parts of a job. `notices` are what they have to say to its user."""

    pool: GeneratorPool
    learner: LearnerHandle
    weights_folder: Path
    notices: tuple[str, ...] = ()

    async def close(self) -> None:
        try:
            await self.pool.close()
        finally:
            shutil.rmtree(self.weights_folder, ignore_errors=True)


# -------------------------------------------------------------------- in this process


class LearnerThread:
    """A learner, alone or one rank of several, on threads of this process."""

    def __init__(self, config: Config, weights_folder: Path, transport: Transport) -> None:
        from rlvr.learn.learner import Learner

        self._learner = Learner(config)
        self._weights_folder = weights_folder
        self._transport = transport

    async def start(self) -> LearnerInfo:
        return await asyncio.to_thread(self._learner.start)

    async def train(self, rows: Sequence[Row]) -> LearnerReport:
        return await asyncio.to_thread(self._learner.train, list(rows))

    async def cross_entropy(self, rows: Sequence[Row]) -> float:
        return await asyncio.to_thread(self._learner.cross_entropy, rows)

    async def publish(self) -> WeightUpdate | None:
        return await asyncio.to_thread(self._learner.publish, self._weights_folder, self._transport)

    async def save(self, folder: Path) -> None:
        await asyncio.to_thread(self._learner.save, folder)

    async def saved(self) -> None:
        await asyncio.to_thread(self._learner.saved)

    async def load(self, folder: Path, version: int | None = None) -> None:
        await asyncio.to_thread(self._learner.load, folder, version)

    async def export(self, folder: Path) -> None:
        await asyncio.to_thread(self._learner.export, folder)


class LocalLearner(LearnerThread):
    """A learner alone, in the process of the loop."""

    async def publish(self) -> WeightUpdate:
        return _of_first(await super().publish())


def _of_first(update: WeightUpdate | None) -> WeightUpdate:
    assert update is not None, "the first rank publishes"
    return update


# -------------------------------------------------------------------- as Ray actors


@dataclass(frozen=True)
class Placement:
    """What one role gets of a machine."""

    name: str
    gpus: float
    threads: int
    cores: tuple[int, ...]  # empty: not pinned


def place(config: Config, cores: Sequence[int], gpus: int) -> tuple[list[Placement], list[Placement]]:
    """Share cores and GPUs between generators and the learner's ranks.

    On GPUs a generator takes `tensor_parallel` of them and a rank one; a single GPU is shared half and half. On CPU
    each process gets cores of its own: two threads that spin on one core are ten times slower than one.
    """
    ranks = config.learner.ranks
    roles = config.generator.count + ranks
    needed = config.generator.count * config.generator.tensor_parallel + ranks
    if 1 < gpus < needed or (gpus == 1 and ranks > 1):
        raise ClusterError(
            f"{config.generator.count} generators of {config.generator.tensor_parallel} GPUs and a learner of {ranks} "
            f"need {needed} GPUs, and there are {gpus}: lower generator.count, generator.tensor_parallel or "
            "learner.ranks"
        )
    share = len(cores) // roles
    parts = [tuple(cores[i * share : (i + 1) * share]) if share else () for i in range(roles)]
    generator_gpus = (
        0.0 if gpus == 0 else 0.5 / config.generator.count if gpus == 1 else config.generator.tensor_parallel
    )
    generators = [
        Placement(f"generator-{i}", generator_gpus, max(1, share), parts[i]) for i in range(config.generator.count)
    ]
    learner_gpus = 0.0 if gpus == 0 else 0.5 if gpus == 1 else 1.0
    learner = [
        Placement("learner" if ranks == 1 else f"learner-{i}", learner_gpus, max(1, share), parts[i - ranks])
        for i in range(ranks)
    ]
    return generators, learner


def _pin(cores: tuple[int, ...]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)


class GeneratorActor:
    """A generator in a process of its own. Each method is the protocol's."""

    def __init__(self, config: Config, placement: Placement) -> None:
        _pin(placement.cores)
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
        _pin(placement.cores)
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


async def _within(seconds: float, what: str, call: Awaitable[T]) -> T:
    """Nobody waits for ever: a remote call that outlasts its deadline is an error that names it."""
    try:
        return await asyncio.wait_for(call, seconds)
    except TimeoutError:
        raise ClusterError(f"{what}: no answer in {seconds:g} s") from None


class RemoteGenerator:
    """The protocol, spoken to an actor."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor = actor
        self._name = name

    async def start(self) -> GeneratorStatus:
        return await _within(START_S, f"start of {self._name}", self._actor.start.remote())

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        return await self._actor.generate.remote(request)

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

    async def publish(self) -> WeightUpdate:
        update = await self._all(UPDATE_S, "publishing weights", [a.publish.remote() for a in self._ranks])
        return _of_first(update)

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


# -------------------------------------------------------------------- starting


async def start_roles(config: Config) -> Roles:
    """Start generators and learner where the config says, side by side. Raises ClusterError."""
    weights_folder = _weights_folder()
    if config.cluster.backend == "local":
        return await _start_local(config, weights_folder)
    return await _start_ray(config, weights_folder)


def _weights_folder() -> Path:
    """A folder in shared memory for this run's versions; those of runs that were killed are removed.

    Linux has shared memory at /dev/shm; elsewhere the folder for temporary files does, slower.
    """
    parent = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    for other in parent.glob("rlvr-weights-*"):
        if not Path("/proc", other.name.split("-")[2]).exists():
            shutil.rmtree(other, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"rlvr-weights-{os.getpid()}-", dir=parent))


async def start_generators(config: Config) -> GeneratorPool:
    """Generators without a learner, in this process: for an evaluation of a model as it is."""
    from rlvr.generate.factory import make_generator

    pool = GeneratorPool([make_generator(config, "generator-0")])
    await pool.start()
    return pool


async def _start_local(config: Config, weights_folder: Path) -> Roles:
    import transformers

    from rlvr.generate.factory import make_generator

    if config.generator.engine is Engine.AUTO:  # vLLM and training in one process share threads badly
        engine = config.generator.model_copy(update={"engine": Engine.TRANSFORMERS})
        config = config.model_copy(update={"generator": engine})
    roles = Roles(
        GeneratorPool([make_generator(config, "generator-0")]),
        LocalLearner(config, weights_folder, Transport.SHARED_MEMORY),
        weights_folder,
    )
    transformers.utils.logging.disable_progress_bar()
    await roles.pool.start()  # one after the other: transformers cannot load two models at once in one process
    info = await roles.learner.start()
    return replace(roles, notices=info.notices)


async def _start_ray(config: Config, weights_folder: Path) -> Roles:
    import ray

    from rlvr.generate.factory import engine_environment

    connect_ray(config.cluster.address)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    nodes = sum(node["Alive"] for node in ray.nodes())
    cores = sorted(os.sched_getaffinity(0)) if config.cluster.address == "local" else []
    generator_places, learner_places = place(config, cores, gpus)
    config = _with_gpu_share(config, gpus)

    def actor(cls: type, placement: Placement, environment: dict[str, str], *arguments: Any) -> Any:
        threads = {"OMP_NUM_THREADS": str(placement.threads)} if gpus == 0 else {}
        return (
            ray.remote(cls)
            .options(
                num_cpus=0,  # cores are shared by pinning, not by Ray's counting
                num_gpus=placement.gpus,
                max_concurrency=1000,
                runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "false"} | threads | environment},
            )
            .remote(config, placement, *arguments)
        )

    environment = engine_environment(config, gpu=gpus > 0)
    generators = [RemoteGenerator(actor(GeneratorActor, p, environment), p.name) for p in generator_places]
    transport = _transport(config, nodes)
    ranks = [actor(LearnerActor, p, {}, weights_folder, transport) for p in learner_places]
    learner = RemoteLearner(ranks, config.cluster.watchdog_s * _STEP_PATIENCE, sharded=config.learner.is_sharded)
    roles = Roles(GeneratorPool(generators), learner, weights_folder)
    try:
        _, info = await asyncio.gather(roles.pool.start(), roles.learner.start())
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a role did not start: {error}") from error
    return replace(roles, notices=info.notices)


def _transport(config: Config, nodes: int) -> Transport:
    """Shared memory reaches one node; the object store reaches all."""
    if config.cluster.transport is Transport.AUTO:
        return Transport.SHARED_MEMORY if nodes == 1 else Transport.OBJECT_STORE
    return config.cluster.transport


def _with_gpu_share(config: Config, gpus: int) -> Config:
    """A GPU that generator and learner share has room for both; a generator's own is nearly all its own."""
    if config.generator.gpu_memory_share is not None:
        return config
    generator = config.generator.model_copy(update={"gpu_memory_share": 0.4 if gpus == 1 else 0.85})
    return config.model_copy(update={"generator": generator})


def connect_ray(address: str) -> None:
    """Start or join Ray. `local` always starts one of its own: a plain init may join a stale cluster."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    started = time.perf_counter()
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR") if (
            address == "local"
        ) else ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"cluster.address={address}: no Ray cluster answered in {time.perf_counter() - started:.0f} s ({error}); "
            "start one with `ray start --head`, or leave cluster.address=local"
        ) from None


def disconnect_ray() -> None:
    """End the Ray of `connect_ray`; a cluster that was joined goes on."""
    import ray

    ray.shutdown()
