"""What was there before and is lost: held-out accuracy by tag, and a stop where one falls.

A student that learns from several teachers, or from one that is strong in some of its tags, may get worse in another
while the mean rises.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rlvr.config import Config
from rlvr.data import read_rows
from rlvr.distill.teachers import ALL
from rlvr.evaluation import EvaluationReport
from rlvr.plugins import CommandError
from rlvr.types import Task


class WatchError(CommandError):
    """A stop on regression that could not see one, or would leave nothing to go back to."""


@dataclass
class TagWatch:
    """Accuracy by the tag in `column`, ALL where tasks have none.

    With a `bound` the run stops when a tag's accuracy is lower than at `start` by more than that. `start` is each
    tag's first accuracy in the run, whether it was read before a resume or not.
    """

    column: str
    bound: float | None = None
    start: dict[str, float] = field(default_factory=dict)

    def evaluated(self, report: EvaluationReport) -> tuple[dict[str, float], str | None]:
        """`teacher/TAG/accuracy`, and what is lost, in words."""
        accuracy = report.accuracy_by(self._tag)
        self.start = accuracy | self.start
        metrics = {f"teacher/{tag}/accuracy": value for tag, value in accuracy.items()}
        if self.bound is None:
            return metrics, None
        lost = [
            f"{self.column} {tag}: held-out accuracy {value:.3f}, at the start {self.start[tag]:.3f}"
            for tag, value in accuracy.items()
            if self.start[tag] - value > self.bound
        ]
        return metrics, f"{', '.join(lost)} (--max-regression {self.bound:g})" if lost else None

    def _tag(self, task: Task) -> str:
        return str(task.columns.get(self.column, ALL))


def check_watch(config: Config, bound: float, column: str, tags: Iterable[str]) -> None:
    """Raise WatchError where a regression of one of the teachers' tags would not be seen, or nothing be kept."""
    option = f"--max-regression {bound:g}"
    if not 0 <= bound < 1:
        raise WatchError(f"{option}: expected how far an accuracy may fall, from 0 to below 1")
    evaluation, checkpoint = config.evaluation, config.checkpoint
    if evaluation.data is None or evaluation.every_steps == 0:
        raise WatchError(
            f"{option} needs held-out tasks and evaluations: set evaluation.data and evaluation.every_steps"
        )
    if checkpoint.every_steps == 0 or checkpoint.every_steps % evaluation.every_steps:
        raise WatchError(
            f"{option}: only a policy that was evaluated may become a checkpoint to go back to; set "
            f"checkpoint.every_steps to a multiple of evaluation.every_steps={evaluation.every_steps} "
            f"(now {checkpoint.every_steps})"
        )
    held_out = {str(row.get(column, ALL)) for row in read_rows(evaluation.data)}
    unseen = sorted(set(tags) - {ALL} - held_out)
    if unseen:
        raise WatchError(f"{option}: no held-out task has {column}={unseen[0]}; evaluation.data needs some of each tag")
