"""Score the rollouts of a run anew, offline: what would another reward have said, and what would it have trained?

The run's own log is only read. The new verdicts go into a file beside it.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rlvr.files import replacing
from rlvr.prepare import PreparationError, load_reward_with
from rlvr.reward_function import Reward, verifier_of
from rlvr.rollout.scoring import Scorer, check_arguments
from rlvr.rollout_log import read_groups
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.types import Group, Outcome, Score, Task

# Groups whose answers are scored at one time: enough for all workers, few enough to show progress.
_GROUPS_AT_ONCE = 32
_RANGES, _SHOWN = 8, 8

_COLUMNS = pa.schema(
    [
        ("step", pa.int64()),
        ("group_id", pa.int64()),
        ("place", pa.int64()),  # of the answer in its group
        ("task_id", pa.string()),
        ("answer", pa.string()),
        ("score", pa.float64()),  # as the run had it; null: no verdict
        ("outcome", pa.string()),
        ("new_score", pa.float64()),
        ("new_outcome", pa.string()),
        ("new_detail", pa.string()),
        ("new_parts", pa.string()),  # JSON: a number by name
    ]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with both verdicts."""

    step: int
    group_id: int
    place: int
    task: Task
    text: str
    old: Score
    new: Score

    @property
    def both(self) -> tuple[float, float] | None:
        """The old value and the new one; None where a verdict is missing."""
        if self.old.value is None or self.new.value is None:
            return None
        return self.old.value, self.new.value

    @property
    def difference(self) -> float:
        """By how much the verdicts differ; 0 where one is missing."""
        return abs(self.both[1] - self.both[0]) if self.both else 0.0


@dataclass(frozen=True, slots=True)
class Reverified:
    """All answers of the steps, and groups that would have had a gradient under one reward and not the other."""

    answers: list[Answer]
    groups: int
    gained: int
    lost: int


async def reverify_run(
    run: Path, names: Sequence[str], arguments: Sequence[str], deadline_s: float, workers: int
) -> None:
    """What `rlvr reward reverify` does: score, write, and show, with progress.

    `arguments` are `key=value` with a YAML value, for a single reward. Raises RunFolderError, RewardError and
    PreparationError.
    """
    rewards = _rewards(names, arguments)
    folder = RunFolder(run)
    _check_columns(folder, rewards)
    console = Console(highlight=False)
    scorer = Scorer(rewards, deadline_s=deadline_s, retries=1, workers=workers)
    try:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("steps")
            tell = functools.partial(bar.update, task)
            result = await reverify(
                folder, folder.rollout_steps(), scorer, lambda done, total: tell(completed=done, total=total)
            )
    finally:
        scorer.close()
    show(result, console)
    written = write(folder.reverified("+".join(reward.name for reward in rewards)), result.answers)
    console.print(f"written: {written.resolve()}", soft_wrap=True)


def _rewards(names: Sequence[str], arguments: Sequence[str]) -> list[Reward]:
    if arguments and len(names) > 1:
        raise PreparationError("--set is for one --reward: which of several it is for could not be told")
    return [load_reward_with(name, arguments) for name in names]


def _check_columns(folder: RunFolder, rewards: Sequence[Reward]) -> None:
    """Refuse a reward that takes what the run's rows do not have, before the first answer is scored."""
    first = next(
        (group.task for step in folder.rollout_steps()[:1] for group in read_groups(folder.rollouts(step))), None
    )
    for reward in rewards:
        if first is not None and reward.judges(first.columns):
            check_arguments(reward, [*first.columns], verifier_of(rewards))


async def reverify(
    folder: RunFolder, steps: Sequence[int], scorer: Scorer, progress: Callable[[int, int], None]
) -> Reverified:
    """Score every answer of the steps' rollouts; `progress` is told steps done and steps in all.

    An answer whose episode failed has no new verdict either. Raises RunFolderError.
    """
    if not steps:
        raise RunFolderError(f"{folder.path / 'rollouts'} holds no rollouts of these steps: is it a run's folder?")
    answers: list[Answer] = []
    groups = gained = lost = 0
    for done, step in enumerate(steps):
        progress(done, len(steps))
        logged = read_groups(folder.rollouts(step))
        for start in range(0, len(logged), _GROUPS_AT_ONCE):
            part = logged[start : start + _GROUPS_AT_ONCE]
            scored = await asyncio.gather(*(_scored_anew(group, scorer) for group in part))
            for old, new in zip(part, scored, strict=True):
                answers += _paired(step, old, new)
                groups += 1
                gained += _is_flat(old) and not _is_flat(new)
                lost += _is_flat(new) and not _is_flat(old)
    progress(len(steps), len(steps))
    return Reverified(answers, groups, gained, lost)


async def _scored_anew(group: Group, scorer: Scorer) -> Group:
    """The group with new scores; the one that was given stays as it was."""
    answered = group.answered()
    scores = await scorer.score(group.task, answered)
    by_answer = {id(trajectory): score for trajectory, score in zip(answered, scores, strict=True)}
    trajectories = [replace(t, score=by_answer.get(id(t), t.score)) for t in group.trajectories]
    return Group(group.id, group.task, trajectories)


def _is_flat(group: Group) -> bool:
    """Whether the scores of a group are equal, so that it has no gradient."""
    return len(set(group.values())) < 2


def _paired(step: int, old: Group, new: Group) -> list[Answer]:
    pairs = enumerate(zip(old.trajectories, new.trajectories, strict=True))
    return [
        Answer(step, old.id, place, old.task, before.text, _score(before.score), _score(after.score))
        for place, (before, after) in pairs
    ]


def _score(score: Score | None) -> Score:
    """An answer that was never scored came from an episode that broke."""
    return score or Score(None, Outcome.ENV_FAILED)


def write(path: Path, answers: Sequence[Answer]) -> Path:
    """One row per answer, in order; an earlier file of that name is replaced. Returns `path`."""
    rows = [
        {
            "step": a.step,
            "group_id": a.group_id,
            "place": a.place,
            "task_id": a.task.id,
            "answer": a.text,
            "score": a.old.value,
            "outcome": a.old.outcome,
            "new_score": a.new.value,
            "new_outcome": a.new.outcome,
            "new_detail": a.new.detail.encode("utf-8", "replace").decode("utf-8"),
            "new_parts": json.dumps(dict(a.new.parts)),
        }
        for a in answers
    ]
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=_COLUMNS), partial, compression="zstd")
    return path


# ---------------------------------------------------------------- what a reader sees


def show(result: Reverified, console: Console) -> None:
    """How verdicts moved, means by range of steps, what would have been trained, the answers that differ most."""
    answers = result.answers
    moves = Counter((_verdict(a.old), _verdict(a.new)) for a in answers)
    table = Table("was", "is", "answers", "share", title=f"{len(answers)} answers of {result.groups} groups")
    for (old, new), count in sorted(moves.items(), key=lambda move: (move[0][0] == move[0][1], -move[1])):
        table.add_row(old, new, str(count), f"{count / len(answers):.1%}")
    console.print(table)

    means = Table("steps", "mean was", "mean is", title="where both have a verdict")
    for part in _ranges(answers):
        pairs = [a.both for a in part if a.both is not None]
        if pairs:
            was, now = (fmean(values) for values in zip(*pairs, strict=True))
            means.add_row(f"{part[0].step} to {part[-1].step}", f"{was:.4g}", f"{now:.4g}")
    console.print(means)
    console.print(f"groups that would have gained a gradient: {result.gained}; would have lost theirs: {result.lost}")

    differing = sorted((a for a in answers if a.difference), key=lambda a: -a.difference)[:_SHOWN]
    failed = [a for a in answers if a.new.value is None and a.old.value is not None][:_SHOWN]
    _list(console, "the answers that differ most", differing)
    _list(console, "answers that have no verdict any more", failed)


def _ranges(answers: Sequence[Answer]) -> list[list[Answer]]:
    """The answers in at most `_RANGES` runs of whole steps."""
    steps = sorted({a.step for a in answers})
    size = -(-len(steps) // _RANGES)
    parts = [set(steps[i : i + size]) for i in range(0, len(steps), size)]
    return [[a for a in answers if a.step in part] for part in parts]


def _list(console: Console, title: str, answers: Sequence[Answer]) -> None:
    if not answers:
        return
    table = Table("step", "group", "was", "is", "target", "answer ends", "why", title=title)
    for a in answers:
        ends, target = a.text[-60:].replace("\n", " "), str(a.task.target)[-30:].replace("\n", " ")
        numbers = (str(a.step), str(a.group_id), _verdict(a.old), _verdict(a.new))
        table.add_row(*numbers, target, ends, a.new.detail[:60].replace("\n", " "))
    console.print(table, markup=False)


def _verdict(score: Score) -> str:
    return f"{score.value:g}" if score.value is not None else score.outcome.value
