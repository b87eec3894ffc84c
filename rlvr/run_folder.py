"""The names of all files of a run. Whoever writes or reads one asks here for its name.

config.yaml                        the resolved config
metrics.jsonl                      one line of numbers per step and per evaluation
events.jsonl                       warnings, skipped updates, failures
rollouts/step-000001.parquet       what was sampled for a step, how it was scored, what became of it
evaluations/step-000000.parquet    the same for held-out tasks
reverified/math_answer.parquet     what another reward says of the same rollouts: `rlvr reward reverify`
checkpoints/step-000050/           all that a resume needs
tensorboard/                       the metrics again, for TensorBoard
policy/                            the trained policy, in Hugging Face form
report.html                        curves and answers on one page
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_STEP_FILE = re.compile(r"step-(\d{6,})\.parquet")


class RunFolderError(RuntimeError):
    """A run's folder does not hold what was asked for, or a file in it cannot be read."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps what it leaves. Makes no folder and opens no file."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def rollouts(self, step: int) -> Path:
        """What was sampled for a step."""
        return self.path / "rollouts" / _name(step)

    def evaluation(self, step: int) -> Path:
        """Answers to the held-out tasks after a step; 0 is before the first."""
        return self.path / "evaluations" / _name(step)

    def reverified(self, name: str) -> Path:
        """What rewards of this name say of the rollouts."""
        return self.path / "reverified" / f"{name}.parquet"

    def rollout_steps(self) -> list[int]:
        """Steps whose rollouts are on disk, in order."""
        return _steps(self.path / "rollouts")

    def evaluation_steps(self) -> list[int]:
        """Steps whose evaluation is on disk, in order."""
        return _steps(self.path / "evaluations")


def refuse_used(folder: RunFolder) -> None:
    """Raises RunFolderError when the folder holds a run: two runs are never mixed."""
    if folder.metrics.exists():
        raise RunFolderError(
            f"run_dir={folder.path} already holds a run: go on with --resume (resume=True), or name another run_dir"
        )


def _name(step: int) -> str:
    return f"step-{step:06d}.parquet"


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _STEP_FILE.fullmatch(path.name)))
