"""Checkpoints: written beside, then renamed, so that one that can be seen is whole.

step-000050/
  learner/       weights, optimizer, schedule, random state   (written by the learner)
  rollouts.pkl   cursor, ledger, groups that wait, tasks that were in flight
  state.json     step and policy version
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rlvr.rollout.rollouts import RolloutState


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


_NAME = re.compile(r"step-\d{6,}")


async def save_checkpoint(
    folder: Path,
    state: CheckpointState,
    rollouts: RolloutState,
    save_learner: Callable[[Path], Awaitable[None]],
    *,
    keep: int,
) -> Checkpoint:
    """Write a checkpoint under `folder`, and remove all but the newest `keep`."""
    whole = folder / f"step-{state.step:06d}"
    partial = whole.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_synced(partial / "rollouts.pkl", pickle.dumps(rollouts, protocol=pickle.HIGHEST_PROTOCOL))
    await save_learner(partial / "learner")
    _write_synced(partial / "state.json", json.dumps(asdict(state)).encode())
    shutil.rmtree(whole, ignore_errors=True)
    partial.rename(whole)
    _sync_folder(folder)
    killed = folder.glob("step-*.partial")  # saves that did not come to their end
    for old in (*_complete(folder)[:-keep], *killed):
        shutil.rmtree(old)
    return Checkpoint(whole, state)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, or None. Raises CheckpointError when it cannot be read."""
    complete = _complete(folder)
    if not complete:
        return None
    newest = complete[-1]
    try:
        return Checkpoint(newest, CheckpointState(**json.loads((newest / "state.json").read_text())))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{newest} cannot be read ({error}); remove it to go on from the one before") from None


def _complete(folder: Path) -> list[Path]:
    names = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(names, key=lambda path: int(path.name.removeprefix("step-")))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
