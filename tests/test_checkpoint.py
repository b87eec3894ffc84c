"""Checkpoints: one that can be seen is whole, the newest is found, and what cannot be read is named."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from rlvr.checkpoint import Checkpoint, CheckpointError, CheckpointState, CheckpointWriter, latest_checkpoint
from rlvr.data import CursorState
from rlvr.rollout.ledger import Fate, Ledger
from rlvr.rollout.rollouts import RolloutState
from rlvr.types import FinishReason, Group, Message, Score, Task, Trajectory


def rollouts(next_id: int = 5) -> RolloutState:
    task = Task("t", (Message(role="user", content="2+2?"),), (1, 2), "4", {"answer": "4"})
    trajectory = Trajectory((1, 2), [3], [True], [-0.25], [1], FinishReason.STOP, "4", Score(1.0, parts={"it": 1.0}))
    group = Group(3, task, [trajectory])
    ledger = Ledger()
    ledger.issue(next_id)
    ledger.settle(Fate.TRAINED, 2)
    return RolloutState(CursorState(1, 2), next_id, [group], [(4, task)], [(group, Fate.ZERO_VARIANCE)], ledger)


class Weights:
    """A learner whose state is a line of text. Both steps of a save can be made to fail or to wait."""

    def __init__(
        self, text: str, *, at_save: BaseException | None = None, at_saved: BaseException | None = None
    ) -> None:
        self.text = text
        self.at_save, self.at_saved = at_save, at_saved
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def save(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.copy = folder, self.text
        if self.at_save is not None:
            raise self.at_save

    async def saved(self) -> None:
        await self.may_end.wait()
        if self.at_saved is not None:
            raise self.at_saved
        (self.folder / "weights").write_text(self.copy)


async def save(folder: Path, step: int, *, keep: int = 2, weights: str = "w") -> None:
    writer = CheckpointWriter(folder, Weights(f"{weights}{step}"), keep)
    await writer.save(CheckpointState(step, step + 1), rollouts(step))
    await writer.finish()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    await save(tmp_path / "checkpoints", 50)
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state == CheckpointState(step=50, version=51)
    assert (checkpoint.learner / "weights").read_text() == "w50"
    assert checkpoint.rollouts() == rollouts(50)


async def test_the_newest_are_kept_by_number_and_not_by_name(tmp_path: Path) -> None:
    for step in (999_998, 999_999, 1_000_000):
        await save(tmp_path, step)
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    newest = latest_checkpoint(tmp_path)
    assert newest is not None and newest.state.step == 1_000_000


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "never_made") is None
    (tmp_path / "notes").mkdir()
    (tmp_path / "step-000050.partial").mkdir()
    assert latest_checkpoint(tmp_path) is None


class Killed(BaseException):
    """Stands for kill -9: nothing runs after it."""


@pytest.mark.parametrize("moment", ["rollouts", "copy", "learner", "state", "rename"])
async def test_whenever_a_save_is_killed_the_one_before_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    await save(tmp_path, 10, keep=1)
    learner = Weights(
        "w20",
        at_save=Killed() if moment == "copy" else None,
        at_saved=Killed() if moment == "learner" else None,
    )
    real_rename, real_fsync, files = Path.rename, os.fsync, 0

    def rename(path: Path, target: Path) -> Path:
        if moment == "rename":
            raise Killed
        return real_rename(path, target)

    def fsync(descriptor: int) -> None:
        nonlocal files
        assert not (tmp_path / "step-000020").exists() or files == 3, "not to be seen before it is whole"
        files += 1
        if files == {"rollouts": 1, "state": 2}.get(moment):
            raise Killed
        real_fsync(descriptor)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(os, "fsync", fsync)
    writer = CheckpointWriter(tmp_path, learner, keep=1)
    with pytest.raises(Killed):
        await writer.save(CheckpointState(20, 21), rollouts(20))
        await writer.finish()
    monkeypatch.undo()

    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.state.step, found.rollouts()) == (10, rollouts(10))

    await save(tmp_path, 20, keep=1, weights="again")
    assert names(tmp_path) == ["step-000020"], "what the killed save left is gone"
    found = latest_checkpoint(tmp_path)
    assert found is not None and (found.learner / "weights").read_text() == "again20"


async def test_one_whose_removal_is_killed_is_not_taken_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(tmp_path, 10)

    def half_way(folder: Path, ignore_errors: bool = False) -> None:
        if folder.is_dir():
            (folder / "rollouts.pkl").unlink()
            raise Killed

    monkeypatch.setattr(shutil, "rmtree", half_way)
    with pytest.raises(Killed):
        await save(tmp_path, 20, keep=1)
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path, before=20) is None
    await save(tmp_path, 30, keep=1)
    assert names(tmp_path) == ["step-000030"]


async def test_what_teachers_keep_is_whole_when_the_checkpoint_is(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        assert not (tmp_path / "step-000010").exists(), "not to be seen before it is whole"
        (folder / "stage.json").write_text("{}")

    writer = CheckpointWriter(tmp_path, Weights("w"), keep=1)
    await writer.save(CheckpointState(10, 11), rollouts(10), write)
    await writer.finish()
    found = latest_checkpoint(tmp_path)
    assert found is not None and names(found.teaching()) == ["stage.json"]

    await save(tmp_path, 20, keep=1)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match=r"step-000020 has no folder teaching/, .*rlvr export"):
        found.teaching()


async def test_a_checkpoint_is_written_while_the_run_goes_on(tmp_path: Path) -> None:
    """It holds what was there when it was asked for, and is not to be seen before all of it is on disk."""
    learner = Weights("then")
    learner.may_end.clear()
    writer, state = CheckpointWriter(tmp_path, learner, keep=2), rollouts(7)
    await writer.save(CheckpointState(7, 8), state)
    learner.text = "now"
    state.ready.clear()
    await asyncio.sleep(0.05)
    assert latest_checkpoint(tmp_path) is None

    second = asyncio.create_task(writer.save(CheckpointState(9, 10), rollouts(9)))
    await asyncio.sleep(0.05)
    assert not (tmp_path / "step-000009.partial").exists(), "one at a time"
    learner.may_end.set()
    await second
    await writer.finish()

    assert names(tmp_path) == ["step-000007", "step-000009"]
    assert (tmp_path / "step-000007" / "learner" / "weights").read_text() == "then"
    first = Checkpoint(tmp_path / "step-000007", CheckpointState(7, 8))
    assert first.rollouts() == rollouts(7)


async def test_a_checkpoint_is_written_on_when_the_one_who_waits_for_it_is_cancelled(tmp_path: Path) -> None:
    learner = Weights("w")
    learner.may_end.clear()
    writer = CheckpointWriter(tmp_path, learner, keep=1)
    await writer.save(CheckpointState(1, 1), rollouts())
    waiting = asyncio.create_task(writer.finish())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(CheckpointError, match=r"not on disk after 0\.01 s"):
        await writer.finish(0.01)
    learner.may_end.set()
    await writer.finish(10)
    assert names(tmp_path) == ["step-000001"]


async def test_what_a_killed_save_of_another_step_left_is_removed_too(tmp_path: Path) -> None:
    (tmp_path / "step-000015.partial" / "learner").mkdir(parents=True)
    await save(tmp_path, 20)
    assert names(tmp_path) == ["step-000020"]


@pytest.mark.parametrize("moment", ["at_save", "at_saved"])
async def test_a_failing_learner_leaves_no_checkpoint_and_is_heard(tmp_path: Path, moment: str) -> None:
    writer = CheckpointWriter(tmp_path, Weights("w", **{moment: OSError("disk full")}), keep=1)
    with pytest.raises(OSError, match="disk full"):
        await writer.save(CheckpointState(1, 1), rollouts())
        await writer.save(CheckpointState(2, 2), rollouts())
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1}', '{"step": 1, "version": 1, "more": 1}'])
async def test_a_damaged_state_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    await save(tmp_path, 10)
    (tmp_path / "step-000010" / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"step-000010 cannot be read .*remove it to go on from the one before"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "something_else"])
async def test_damaged_rollouts_are_named(tmp_path: Path, damage: str) -> None:
    await save(tmp_path, 10)
    file = tmp_path / "step-000010" / "rollouts.pkl"
    match damage:
        case "cut":
            file.write_bytes(file.read_bytes()[:40])
        case "garbage":
            file.write_bytes(b"not a pickle")
        case "missing":
            file.unlink()
        case "something_else":
            file.write_bytes(b"N.")  # None, pickled
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match=r"rollouts\.pkl"):
        checkpoint.rollouts()
