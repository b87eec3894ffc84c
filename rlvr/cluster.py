"""Starting the roles where the config says: as Ray actors, or in this process for debugging.

Generator and learner are ordinary classes with ordinary tests; `rlvr.actors` wraps them, `rlvr.placement` shares the
machine between them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlvr.actors import GeneratorActor, LearnerActor, RemoteGenerator, RemoteLearner
from rlvr.closing import close_with
from rlvr.config import Config, Engine, Transport
from rlvr.generate.pool import GeneratorPool
from rlvr.learner_handle import LearnerHandle, LocalLearner
from rlvr.placement import WHOLE, ClusterError, Placement, Share, place, place_learner, place_teacher
from rlvr.weights.folder import WeightsFolder

if TYPE_CHECKING:
    from rlvr.learn.learner import LearnerInfo

T = TypeVar("T")

# A training step may outlast the watchdog's limit, which counts from the last thing that moved: its micro-batches do.
_STEP_PATIENCE = 4

# Calls that an actor may have in hand: no bound. As many requests wait in it as slots and held-out tasks make, and a
# status or an update that had to wait for one of them to end would come too late. Control calls in a concurrency group
# of their own would run on another event loop than the engine's. A call that waits takes 50 KB.
_CALLS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Roles:
    """The running parts of a job. `notices` are what they have to say to its user."""

    pool: GeneratorPool
    learner: LearnerHandle
    notices: tuple[str, ...]
    close: Callable[[], Awaitable[None]]


async def start_roles(config: Config, share: Share = WHOLE) -> Roles:
    """Start generators and learner where the config says, on a share of what is there; all of them, or none.

    Raises ClusterError, and in this process what starting raises.
    """
    async with AsyncExitStack() as parts:
        weights_folder = parts.enter_context(WeightsFolder()).path
        start = _start_local if config.cluster.backend == "local" else _start_ray
        pool, learner, info = await start(config, weights_folder, share, parts)
        return Roles(pool, learner, info.notices, parts.pop_all().aclose)


async def start_teacher(config: Config, share: Share = WHOLE) -> GeneratorPool:
    """Generators of a model that is not trained, where the config says. Raises ClusterError."""
    config = _for_no_learner(config)
    if config.cluster.backend == "local":
        return await start_generators(_in_this_process(config))
    ground = _ground(config, share)
    places = place_teacher(ground.config, ground.cores, ground.gpus)
    return await _all_started(_started(ground.generators(places, beside_learner=False)))


async def start_learner(config: Config, weights_folder: Path) -> tuple[LearnerHandle, tuple[str, ...]]:
    """A learner without generators, and what it has to tell: in this process, or its ranks as Ray actors.

    Raises ClusterError.
    """
    if not config.learner.is_sharded:
        alone = LocalLearner(config, weights_folder, Transport.SHARED_MEMORY)
        return alone, (await alone.start()).notices
    ground = _ground(config, WHOLE)
    learner = ground.learner(place_learner(ground.config, ground.cores, ground.gpus), weights_folder)
    return learner, (await _all_started(learner.start())).notices


async def start_generators(config: Config) -> GeneratorPool:
    """Generators without a learner, in this process: for an evaluation of a model as it is."""
    from rlvr.generate.factory import make_generator

    return await _started(GeneratorPool([make_generator(_for_no_learner(config), "generator-0")]))


def _for_no_learner(config: Config) -> Config:
    """Nobody asks such generators what their routers chose: to record it costs vLLM on CPU its prefix cache."""
    router = config.learner.router.model_copy(update={"replay": False})
    return config.model_copy(update={"learner": config.learner.model_copy(update={"router": router})})


async def _started(pool: GeneratorPool) -> GeneratorPool:
    """The pool, all of which has started; or none of it."""
    async with AsyncExitStack() as parts:
        close_with(parts, "the generators", pool.close)
        await pool.start()
        parts.pop_all()
    return pool


async def _start_local(
    config: Config, weights_folder: Path, share: Share, parts: AsyncExitStack
) -> tuple[GeneratorPool, LearnerHandle, LearnerInfo]:
    """One process has no share of a machine: what runs beside it are threads of the same."""
    import transformers

    from rlvr.generate.factory import make_generator

    config = _with_gpu_share(_in_this_process(config), 1, beside_learner=True)
    pool = GeneratorPool([make_generator(config, "generator-0")])
    close_with(parts, "the generator", pool.close)
    learner = LocalLearner(config, weights_folder, Transport.SHARED_MEMORY)
    transformers.utils.logging.disable_progress_bar()
    await pool.start()  # one after the other: transformers cannot load two models at once in one process
    return pool, learner, await learner.start()


def _in_this_process(config: Config) -> Config:
    """vLLM and training in one process share threads badly."""
    if config.generator.engine is not Engine.AUTO:
        return config
    engine = config.generator.model_copy(update={"engine": Engine.TRANSFORMERS})
    return config.model_copy(update={"generator": engine})


@dataclass(frozen=True)
class _Ground:
    """What actors stand on: cores and GPUs that are theirs."""

    config: Config
    nodes: int
    cores: Sequence[int]
    gpus: int

    def actor(self, cls: type, placement: Placement, environment: dict[str, str], *arguments: Any) -> Any:
        import ray

        threads = {"OMP_NUM_THREADS": str(placement.threads)} if self.gpus == 0 else {}
        return (
            ray.remote(cls)
            .options(
                num_cpus=0,  # cores are shared by pinning, not by Ray's counting
                num_gpus=placement.gpus,
                max_concurrency=_CALLS_AT_ONCE,
                runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "false"} | threads | environment},
            )
            .remote(self.config, placement, *arguments)
        )

    def generators(self, placements: Sequence[Placement], *, beside_learner: bool) -> GeneratorPool:
        """A single GPU is for all of them, and where there is a learner, for it too."""
        from rlvr.generate.factory import engine_environment

        is_shared = self.gpus == 1
        on_gpu = len(placements) if is_shared else 1
        one = replace(self, config=_with_gpu_share(self.config, on_gpu, beside_learner=beside_learner and is_shared))
        environment = engine_environment(self.config, gpu=self.gpus > 0)
        return GeneratorPool([RemoteGenerator(one.actor(GeneratorActor, p, environment), p.name) for p in placements])

    def learner(self, placements: Sequence[Placement], weights_folder: Path) -> RemoteLearner:
        transport = _transport(self.config, self.nodes)
        ranks = [self.actor(LearnerActor, p, {}, weights_folder, transport) for p in placements]
        patience_s = self.config.cluster.watchdog_s * _STEP_PATIENCE
        return RemoteLearner(ranks, patience_s, sharded=self.config.learner.is_sharded)


def _ground(config: Config, share: Share) -> _Ground:
    """Start or join Ray, and see what is there."""
    import ray

    connect_ray(config.cluster.address)
    gpus = share.of_gpus(int(ray.cluster_resources().get("GPU", 0)))
    nodes = sum(node["Alive"] for node in ray.nodes())
    cores = sorted(os.sched_getaffinity(0)) if config.cluster.address == "local" else []
    return _Ground(config, nodes, share.of_cores(cores), gpus)


async def _start_ray(
    config: Config, weights_folder: Path, share: Share, parts: AsyncExitStack
) -> tuple[GeneratorPool, LearnerHandle, LearnerInfo]:
    ground = _ground(config, share)
    generator_places, learner_places = place(ground.config, ground.cores, ground.gpus)
    learner = ground.learner(learner_places, weights_folder)
    pool = ground.generators(generator_places, beside_learner=True)
    close_with(parts, "the generators", pool.close)
    _, info = await _all_started(asyncio.gather(pool.start(), learner.start()))
    return pool, learner, info


async def _all_started(starting: Awaitable[T]) -> T:
    """Raises ClusterError for a role whose process failed."""
    import ray

    try:
        return await starting
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a role did not start: {error}") from error


def _transport(config: Config, nodes: int) -> Transport:
    """Shared memory reaches one node; the object store reaches all."""
    if config.cluster.transport is Transport.AUTO:
        return Transport.SHARED_MEMORY if nodes == 1 else Transport.OBJECT_STORE
    return config.cluster.transport


def _with_gpu_share(config: Config, generators: int, *, beside_learner: bool) -> Config:
    """The config of one of so many generators on a GPU."""
    share = config.generator.share_of_gpu(generators, beside_learner=beside_learner)
    generator = config.generator.model_copy(update={"gpu_memory_share": share})
    return config.model_copy(update={"generator": generator})


def connect_ray(address: str) -> None:
    """Start or join Ray. `local` always starts one of its own: a plain init may join a stale cluster.

    Raises ClusterError.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    started = time.perf_counter()
    try:
        if address == "local":
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray's word for a start that took more than 30 s is no narrower one
        what_to_do = (
            "is this machine busy? start again when it is not, or set cluster.backend=local, which needs no Ray"
            if address == "local"
            else "start one with `ray start --head`, or leave cluster.address=local"
        )
        raise ClusterError(
            f"cluster.address={address}: no Ray cluster answered in {time.perf_counter() - started:.0f} s ({error}); "
            f"{what_to_do}"
        ) from error


def disconnect_ray() -> None:
    """End the Ray of `connect_ray`; a cluster that was joined goes on."""
    import ray

    ray.shutdown()
