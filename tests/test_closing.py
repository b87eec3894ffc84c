"""The end of a run that fails: its first error is told, what was started is closed, what was being saved is saved."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ray.exceptions import ActorDiedError

import rlvr
from rlvr import cli, cluster, training
from rlvr.actors import RemoteGenerator
from rlvr.cli import main
from rlvr.closing import close_with
from rlvr.cluster import start_generators, start_roles, start_teacher
from rlvr.config import Config
from rlvr.demo.problems import Split, rows
from rlvr.generate import factory, transformers
from rlvr.learn.learner import Learner
from rlvr.placement import ClusterError
from rlvr.supervised.run import Supervised
from rlvr.types import Row
from rlvr.watchdog import Stalled

# -------------------------------------------------------------------- which error is told


async def fails() -> NoReturn:
    raise ClusterError("end of generator-0: no answer in 60 s")


async def test_a_failure_to_close_is_a_note_on_the_error_that_ended_the_run() -> None:
    closed = []

    async def closes() -> None:
        closed.append("the learner")

    with pytest.raises(Stalled, match="nothing has moved") as caught:
        async with AsyncExitStack() as parts:
            close_with(parts, "the learner", closes)
            close_with(parts, "the generators", fails)
            raise Stalled("nothing has moved")
    assert caught.value.__notes__ == [
        "closing the generators failed too: ClusterError: end of generator-0: no answer in 60 s"
    ]
    assert closed == ["the learner"]


async def test_a_failure_to_close_is_told_where_nothing_else_went_wrong() -> None:
    with pytest.raises(ClusterError, match="no answer in 60 s"):
        async with AsyncExitStack() as parts:
            close_with(parts, "the generators", fails)


def test_the_command_line_tells_the_notes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    error = Stalled("nothing has moved")
    error.add_note("closing the generators failed too")

    def app() -> NoReturn:
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit, match=r"^error: nothing has moved\nclosing the generators failed too$"):
        main()


async def test_an_actor_that_died_is_named_and_needs_no_traceback() -> None:
    class Call:
        async def remote(self, *_: object) -> NoReturn:
            raise ActorDiedError

    class Actor:
        start = generate = status = close = Call()

    generator = RemoteGenerator(Actor(), "generator-3")
    with pytest.raises(ClusterError, match="status of generator-3: its process is gone"):
        await generator.status()
    with pytest.raises(ClusterError, match="an answer of generator-3: its process is gone"):
        await generator.generate(None)  # type: ignore[arg-type]


# -------------------------------------------------------------------- a start that fails


class StandIn:
    """A generator that counts how often it is closed, or a learner. Either can be made not to start."""

    def __init__(self, at_start: Exception | None = None) -> None:
        self.at_start = at_start
        self.closed = 0

    async def start(self) -> None:
        if self.at_start is not None:
            raise self.at_start

    async def close(self) -> None:
        self.closed += 1


class Ground:
    """Actors that are none."""

    cores: Sequence[int] = ()
    gpus = 0

    def __init__(self, config: Config, generator: StandIn, learner: StandIn | None = None) -> None:
        self.config, self._generator, self._learner = config, generator, learner

    def generators(self, _: object, *, beside_learner: bool) -> Any:
        assert beside_learner == (self._learner is not None)
        return cluster.GeneratorPool([self._generator])  # type: ignore[list-item]

    def learner(self, *_: object) -> StandIn | None:
        return self._learner


@pytest.mark.parametrize("backend", ["local", "ray"])
@pytest.mark.parametrize("broken", ["generator", "learner"])
async def test_a_start_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, broken: str
) -> None:
    config = Config.model_validate({"model": "tiny", "data": "none", "cluster": {"backend": backend}})
    error = ClusterError("it does not fit")
    generator, learner = (StandIn(error if broken == role else None) for role in ("generator", "learner"))
    monkeypatch.setattr("rlvr.weights.folder.shared_memory", lambda: tmp_path)
    monkeypatch.setattr(factory, "make_generator", lambda *_: generator)
    monkeypatch.setattr(cluster, "LocalLearner", lambda *_: learner)
    monkeypatch.setattr(cluster, "_ground", lambda config, _: Ground(config, generator, learner))
    with pytest.raises(ClusterError, match="it does not fit"):
        await start_roles(config)
    assert generator.closed == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", [start_generators, start_teacher])
async def test_generators_alone_that_do_not_start_are_closed(
    monkeypatch: pytest.MonkeyPatch, start: Callable[[Config], Awaitable[object]]
) -> None:
    generator = StandIn(ClusterError("it does not fit"))
    monkeypatch.setattr(factory, "make_generator", lambda *_: generator)
    monkeypatch.setattr(cluster, "_ground", lambda config, _: Ground(config, generator))
    with pytest.raises(ClusterError, match="it does not fit"):
        await start(Config(model="tiny", data="none"))
    assert generator.closed == 1


# -------------------------------------------------------------------- whole runs


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is under way for long after its step."""
    saved = Learner.saved

    def slowly(learner: Learner) -> None:
        time.sleep(0.5)
        saved(learner)

    monkeypatch.setattr(Learner, "saved", slowly)


class Broken(Exception):
    pass


@pytest.mark.usefixtures("slow_disk")
def test_a_run_that_fails_has_the_checkpoint_that_was_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its error is told, though the generator could not be closed."""
    made = training.rows_from

    def make_rows(groups: Any, algorithm: Any, version: int) -> list[Row]:
        if version == 1:
            raise Broken("second step")
        return made(groups, algorithm, version)

    monkeypatch.setattr(training, "rows_from", make_rows)
    close = transformers.TransformersGenerator.close

    async def and_fail(generator: transformers.TransformersGenerator) -> None:
        await close(generator)
        raise ClusterError("it does not end")

    monkeypatch.setattr(transformers.TransformersGenerator, "close", and_fail)

    async def letters(completion: str) -> float:
        return float(len(completion))

    with pytest.raises(Broken, match="second step") as caught:
        rlvr.train(
            model="tiny",
            data={"path": rows(Split.TRAIN, 64, 0), "prompt": "question"},
            reward=letters,
            rollout={"groups_per_step": 2, "group_size": 2, "drop_zero_variance": False},
            sampling={"max_new_tokens": 4},
            generator={"engine": "transformers"},
            cluster={"backend": "local"},
            checkpoint={"every_steps": 1},
            steps=9,
            run_dir=tmp_path / "run",
            tensorboard=False,
        )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]
    assert caught.value.__notes__ == ["closing generators and learner failed too: ClusterError: it does not end"]


@pytest.mark.usefixtures("slow_disk")
def test_a_supervised_run_that_fails_has_the_checkpoint_that_was_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Supervised.train_step

    async def train_step(run: Supervised) -> None:
        if run.step == 1:
            raise Broken("second step")
        await step(run)

    monkeypatch.setattr(Supervised, "train_step", train_step)
    with pytest.raises(Broken, match="second step"):
        rlvr.sft(
            "tiny",
            [{"prompt": "How many pens?", "completion": "4"}],
            checkpoint={"every_steps": 1},
            sft={"rows_per_step": 1},
            steps=9,
            run_dir=tmp_path / "run",
            tensorboard=False,
        )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]
