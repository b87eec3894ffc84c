"""Checkpoints: written beside, then renamed, so that one that can be seen is whole.

step-000050/
  learner/       weights, optimizer, schedule, random state   (each rank of the learner writes its shard)
  rollouts.pkl   cursor, ledger, groups that wait, tasks that were in flight; not of a supervised run
  teaching/      what teachers keep of the run; only of one that has them
  state.json     step and policy version
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from rlvr.rollout.rollouts import RolloutState

# Writes into a folder, which is there and empty, what held when it was made: later, and on another thread.
WriteState = Callable[[Path], None]


class CheckpointError(RuntimeError):
    """There is nothing to resume from, or it cannot be read."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """Where a run stands."""

    step: int
    version: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    state: CheckpointState

    @property
    def learner(self) -> Path:
        return self.folder / "learner"

    def rollouts(self) -> RolloutState:
        """Unpickled from a file that this program wrote. Raises CheckpointError."""
        file = self.folder / "rollouts.pkl"
        try:
            state = pickle.loads(file.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({error}); remove {self.folder.name} to go on from the one before"
            ) from None
        if not isinstance(state, RolloutState):
            raise CheckpointError(f"{file} holds a {type(state).__name__}")
        return state

    def teaching(self) -> Path:
        """The folder of what teachers keep. Raises CheckpointError where there is none."""
        folder = self.folder / _TEACHING
        if not folder.is_dir():
            raise CheckpointError(
                f"{self.folder} has no folder {_TEACHING}/, which this run's teachers go on from: it was saved by a "
                "run without them, or by an older rlvr. Its policy can begin a new run: `rlvr export "
                f"{self.folder} --out FOLDER`"
            )
        return folder


_NAME = re.compile(r"step-\d{6,}")
_PARTIAL = ".partial"
_TEACHING = "teaching"


def _name(step: int) -> str:
    return f"step-{step:06d}"


class SavesInBackground(Protocol):
    """A learner, as a checkpoint needs it."""

    async def save(self, folder: Path) -> None:
        """Returns when all has been copied that the next step will change."""
        ...

    async def saved(self) -> None:
        """Returns when what was copied is on disk."""
        ...


class CheckpointWriter:
    """Writes checkpoints under a folder while training goes on, and keeps the newest `keep`. One at a time."""

    def __init__(self, folder: Path, learner: SavesInBackground, keep: int) -> None:
        self._folder = folder
        self._learner = learner
        self._keep = keep
        self._writing: asyncio.Task[None] | None = None

    async def save(
        self, state: CheckpointState, rollouts: RolloutState | None, teaching: WriteState | None = None
    ) -> None:
        """Take down where the run stands; a supervised run has no rollouts, and most have no teachers.

        Waits for the checkpoint before, and raises what that one failed with.
        """
        pickled = None if rollouts is None else pickle.dumps(rollouts, protocol=pickle.HIGHEST_PROTOCOL)
        await self.finish()
        partial = self._folder / f"{_name(state.step)}{_PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        await self._learner.save(partial / "learner")
        self._writing = asyncio.create_task(self._complete(partial, state, pickled, teaching))

    async def finish(self, within_s: float | None = None) -> None:
        """Wait until the checkpoint under way is whole; it is written on where the one who waits is cancelled.

        Raises what it failed with, and CheckpointError when it takes longer than `within_s`.
        """
        if self._writing is None:
            return
        if not (await asyncio.wait({self._writing}, timeout=within_s))[0]:
            raise CheckpointError(f"the checkpoint under way was not on disk after {within_s:g} s more")
        writing, self._writing = self._writing, None
        writing.result()

    async def _complete(
        self, partial: Path, state: CheckpointState, rollouts: bytes | None, teaching: WriteState | None
    ) -> None:
        """A folder has its final name only when all in it is on disk."""
        if rollouts is not None:
            await asyncio.to_thread(_write_synced, partial / "rollouts.pkl", rollouts)
        if teaching is not None:
            await asyncio.to_thread(_write_folder, partial / _TEACHING, teaching)
        await self._learner.saved()
        await asyncio.to_thread(self._rename, partial, state)

    def _rename(self, partial: Path, state: CheckpointState) -> None:
        whole = self._folder / _name(state.step)
        _write_synced(partial / "state.json", json.dumps(asdict(state)).encode())
        _sync(partial)
        shutil.rmtree(whole, ignore_errors=True)
        partial.rename(whole)
        _sync(self._folder)
        for old in _complete(self._folder)[: -self._keep]:
            old.rename(old.with_suffix(_PARTIAL))  # first of all, so that a kill leaves none that is half removed
        for left in self._folder.glob(f"step-*{_PARTIAL}"):  # these, and saves that did not come to their end
            shutil.rmtree(left)


def latest_checkpoint(folder: Path, before: float = math.inf) -> Checkpoint | None:
    """The newest complete checkpoint, of a step before `before`, or None. Raises CheckpointError if it is damaged."""
    complete = [path for path in _complete(folder) if _step_of(path) < before]
    return read_checkpoint(complete[-1]) if complete else None


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder of its own. Raises CheckpointError when it cannot be read."""
    try:
        return Checkpoint(folder, CheckpointState(**json.loads((folder / "state.json").read_text())))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder} cannot be read ({error}); remove it to go on from the one before") from None


def _complete(folder: Path) -> list[Path]:
    names = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(names, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_folder(folder: Path, write: WriteState) -> None:
    folder.mkdir()
    write(folder)
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    """Of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
