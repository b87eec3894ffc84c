"""Try a reward on a file of answers: what it says, how often labels agree, how long it takes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlvr.config import DataConfig
from rlvr.data import DataError, read_rows
from rlvr.reward_function import Reward
from rlvr.rollout.composition import says_right
from rlvr.rollout.scoring import Scorer, check_arguments
from rlvr.types import FinishReason, Message, Outcome, Score, Task, Trajectory

# Enough to keep worker processes busy, few enough that a verdict's time is not time in a queue.
_CONCURRENT = 4
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the file's columns. `label` is a bool or number, right when it is above 0."""

    completion: str
    target: str
    label: str | None


@dataclass(frozen=True, slots=True)
class Checked:
    """One verdict on one row."""

    row: int
    completion: str
    target: Any
    score: Score
    label: bool | None
    seconds: float

    @property
    def agrees(self) -> bool | None:
        """With the label; None where there is no label or no verdict."""
        right = says_right(self.score)
        return None if self.label is None or right is None else right == self.label


async def check_file(
    file: Path, reward: Reward, columns: Columns, limit: int | None, deadline_s: float
) -> list[Checked]:
    """A verdict on each row of the file. Raises DataError and RewardError."""
    rows = read_rows(DataConfig(path=str(file), limit=limit))
    if not rows:
        raise DataError(f"{file}: no rows")
    for number, row in enumerate(rows, start=1):
        for column in filter(None, (columns.completion, columns.target, columns.label)):
            if column not in row:
                raise DataError(f"{file}, row {number} has no column {column!r}; it has {', '.join(row)}")
    check_arguments(reward, list(rows[0]))
    scorer = Scorer([Reward(reward.function, reward.name)], deadline_s=deadline_s, retries=0, workers=2)
    gate = asyncio.Semaphore(_CONCURRENT)

    async def check(number: int, row: dict[str, Any]) -> Checked:
        async with gate:
            started = time.perf_counter()
            task, trajectory = _as_trajectory(row, columns)
            (score,) = await scorer.score(task, [trajectory])
            label = _label(row[columns.label], file, number) if columns.label else None
            return Checked(number, trajectory.text, task.target, score, label, time.perf_counter() - started)

    try:
        return list(await asyncio.gather(*(check(number, row) for number, row in enumerate(rows, start=1))))
    finally:
        scorer.close()


def _label(value: Any, file: Path, number: int) -> bool:
    try:
        return float(value) > 0
    except (TypeError, ValueError):
        raise DataError(f"{file}, row {number}: the label must be a bool or a number, found {value!r:.80}") from None


def _as_trajectory(row: dict[str, Any], columns: Columns) -> tuple[Task, Trajectory]:
    text = str(row[columns.completion])
    prompt = Message(role="user", content=str(row.get("prompt", "")))
    task = Task("", (prompt,), (), row[columns.target], row)
    return task, Trajectory((), [], [], [], [], FinishReason.STOP, text)


def show(checked: Sequence[Checked]) -> None:
    """Verdicts, agreement, timings, and the rows worth reading."""
    console = Console(highlight=False)
    summary = Table("verdict", "answers", "share", title=f"{len(checked)} answers")
    counts = Counter(_verdict(c.score) for c in checked)
    for verdict, count in counts.most_common():
        summary.add_row(verdict, str(count), f"{count / len(checked):.1%}")
    console.print(summary)
    judged = [c for c in checked if c.agrees is not None]
    if judged:
        agreeing = sum(bool(c.agrees) for c in judged)
        console.print(f"agreement with labels: {agreeing} of {len(judged)} ({agreeing / len(judged):.2%})")
        differing = [c for c in judged if not c.agrees]
        _list(console, f"the first of {len(differing)} that differ", differing[:_SHOWN])
    seconds = sorted(c.seconds for c in checked)
    console.print(
        f"seconds for a verdict: median {_quantile(seconds, 0.5):.4f}, 95 % {_quantile(seconds, 0.95):.4f}, "
        f"slowest {seconds[-1]:.3f}"
    )
    _list(console, "the slowest", sorted(checked, key=lambda c: -c.seconds)[:3])


def _list(console: Console, title: str, checked: Sequence[Checked]) -> None:
    if not checked:
        return
    table = Table("row", "verdict", "label", "target", "completion ends", "why", "s", title=title)
    for c in checked:
        label = "" if c.label is None else str(c.label).lower()
        ends, target = c.completion[-60:].replace("\n", " "), str(c.target)[-30:].replace("\n", " ")
        table.add_row(str(c.row), _verdict(c.score), label, target, ends, c.score.detail[:60], f"{c.seconds:.3f}")
    console.print(table, markup=False)


def _verdict(score: Score) -> str:
    return f"{score.value:g}" if score.outcome is Outcome.SCORED and score.value is not None else score.outcome.value


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
