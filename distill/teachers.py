"""Teachers behind one protocol: a model here, an OpenAI-compatible server, a store on disk.

A teacher continues prompts and scores given tokens, both by ids: it must speak the student's tokenizer and chat
template, and is refused with the difference where it does not. It is asked at the student's temperature.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rlvr.config import Config
from rlvr.distill.store import StoreHeader, TeacherStore
from rlvr.generate.protocol import Generator
from rlvr.placement import place
from rlvr.plugins import CommandError
from rlvr.types import Completion, GenerateRequest, ScoreRequest, TokenScores

if TYPE_CHECKING:
    from rlvr.generate.settings import EngineSettings

# The tag of a teacher of all rows, and of rows that have no other.
ALL = "all"


class TeacherError(CommandError):
    """A teacher that does not answer, or cannot do what it is asked."""


class Teacher(Protocol):
    """What distillation asks of a teacher. `start` once, then any number of concurrent calls, `close` once."""

    name: str

    async def start(self) -> None:
        """Raises TeacherError where it cannot be reached."""
        ...

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """Continuations of a prompt; their versions are 0."""
        ...

    async def score(self, request: ScoreRequest) -> TokenScores:
        """What it says of given tokens."""
        ...

    async def close(self) -> None: ...


class LocalTeacher:
    """A model in this process. Scores exactly, at any temperature and at any ids."""

    def __init__(self, name: str, generator: Generator) -> None:
        self.name = name
        self._generator = generator

    async def start(self) -> None:
        await self._generator.start()

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        return await self._generator.generate(request)

    async def score(self, request: ScoreRequest) -> TokenScores:
        return await self._generator.score(request)

    async def close(self) -> None:
        await self._generator.close()


def local_teacher(config: Config, model: str, number: int = 0) -> LocalTeacher:
    """A teacher on the transformers engine, which scores many rows in one forward pass.

    `config` is the student's: its lengths bound what the teacher may be asked. Without a GPU the teacher works on the
    learner's cores, which are idle while it is asked. On a GPU machine it takes memory of
    the first GPU, which has not been measured: a large teacher is better served by `vllm serve`.
    """
    return LocalTeacher(model, local_engine(config, local_settings(config, model, number)))


def local_settings(config: Config, model: str, number: int) -> EngineSettings:
    """Of the engine of a teacher in this process."""
    from rlvr.generate.factory import has_gpu
    from rlvr.generate.settings import engine_settings

    settings = engine_settings(config, f"teacher-{number}", model, gpu=has_gpu())
    return replace(settings, lora_rank=0, record_experts=False)  # it has no adapter, and nobody replays its routers


def local_engine(config: Config, settings: EngineSettings) -> Generator:
    """That engine, not started, in its place on this machine."""
    from rlvr.generate.factory import has_gpu
    from rlvr.generate.transformers import TransformersGenerator

    if has_gpu():
        return TransformersGenerator(settings, device="cuda")
    return TransformersGenerator(settings, cores=_learner_cores(config))


def _learner_cores(config: Config) -> tuple[int, ...]:
    """Those of this machine that the learner's ranks are pinned to; none in one process or on a cluster joined."""
    if config.cluster.backend == "local" or config.cluster.address != "local":
        return ()
    _, ranks = place(config, sorted(os.sched_getaffinity(0)), gpus=0)
    return tuple(core for rank in ranks for core in rank.cores)


@dataclass(frozen=True, slots=True)
class OwnPolicy:
    """The policy that learns, as it is when it is asked, on the run's own generators.

    It has something to teach itself where it reads another prompt than when it answered.
    """


class StoredTeacher:
    """What a teacher said once, of the rows of a store and of nothing else."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreError."""
        self._store = TeacherStore(folder)
        self.name = f"{self.header.teacher} (stored in {folder})"
        self._rows: dict[tuple[int, ...], tuple[int, TokenScores]] = {}

    @property
    def header(self) -> StoreHeader:
        return self._store.header

    async def start(self) -> None:
        rows = await asyncio.to_thread(list, self._store)
        self._rows = {row.token_ids: (row.first, row.scores) for row in rows}

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        raise TeacherError(f"{self.name}: a store cannot continue prompts; name the teacher itself")

    async def score(self, request: ScoreRequest) -> TokenScores:
        if request.ids is not None or request.top_k > self.header.k or request.temperature != self.header.temperature:
            raise TeacherError(
                f"{self.name}: holds the teacher's own {self.header.k} likeliest ids at temperature "
                f"{self.header.temperature:g}, and was asked for something else"
            )
        found = self._rows.get(request.token_ids)
        if found is None or request.first < found[0]:
            raise TeacherError(f"{self.name}: does not hold this row of {len(request.token_ids)} tokens")
        first, scores = found
        places = slice(request.first - first, None)
        k = slice(0, request.top_k)
        return TokenScores(scores.logprobs[places], scores.ids[places, k], scores.id_logprobs[places, k], version=0)

    async def close(self) -> None:
        self._rows.clear()
