"""On-policy distillation's stage of a training run: between rollouts and learner, teachers are asked about rows."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rlvr.checkpoint import WriteState
from rlvr.distill.average import AveragedPolicy
from rlvr.distill.readings import AsItStands, Reading, UnreadableRow
from rlvr.distill.regression import TagWatch
from rlvr.distill.signals import Signal
from rlvr.distill.state_file import read_state, writing
from rlvr.distill.teachers import ALL, OwnPolicy, Teacher, TeacherError
from rlvr.evaluation import EvaluationReport
from rlvr.generate.pool import GeneratorPool
from rlvr.types import Group, Row, Task, TokenScores
from rlvr.weights.update import WeightUpdate

_AS_IT_STANDS = AsItStands()
_FILE = "stage.json"


@dataclass(frozen=True)
class Teachers:
    """Several teachers, each for the rows with its tag in `column`; one that is called ALL teaches every row.

    `readings` are of the tags whose teacher does not read rows as they stand.
    """

    by_tag: Mapping[str, Teacher | OwnPolicy]
    column: str = "tag"
    readings: Mapping[str, Reading] = field(default_factory=dict)

    def tag_of(self, group: Group) -> str:
        """Raises TeacherError for a row that nobody teaches."""
        if ALL in self.by_tag:
            return ALL
        tag = str(group.task.columns.get(self.column))
        if tag not in self.by_tag:
            raise TeacherError(
                f"task {group.task.id} has {self.column}={tag!r}, and there are teachers for "
                f"{', '.join(self.by_tag)}: name one more, or leave the row out"
            )
        return tag

    def reading(self, tag: str) -> Reading:
        """How the tag's teacher reads."""
        return self.readings.get(tag, _AS_IT_STANDS)

    def others(self) -> list[Teacher]:
        """All that are not the policy itself, each once."""
        return list(dict.fromkeys(one for one in self.by_tag.values() if not isinstance(one, OwnPolicy)))

    def averages(self) -> list[AveragedPolicy]:
        """Those of `others` whose weights change with the policy's."""
        return [one for one in self.others() if isinstance(one, AveragedPolicy)]


@dataclass(frozen=True, slots=True)
class StageState:
    """What a checkpoint keeps of the stage: each tag's first accuracy in the run."""

    start: dict[str, float]


class OnPolicyDistillation:
    """The stage: each row is taught by its tag's teacher. `temperature` is that of the student's sampling."""

    def __init__(self, teachers: Teachers, signal: Signal, temperature: float, watch: TagWatch | None = None) -> None:
        self._teachers = teachers
        self._signal = signal
        self._temperature = temperature
        self._watch = watch or TagWatch(teachers.column)
        self._answers = 0

    async def start(self) -> None:
        """Start all teachers, and hear that they can answer. Raises TeacherError."""
        for teacher in self._teachers.others():  # by turns: transformers cannot load two models at once in one process
            await teacher.start()
            await teacher.score(self._signal.rehearsal(self._temperature))

    def progress(self) -> int:
        """Answers of teachers and students, since the start."""
        return self._answers

    async def load(self, folder: Path) -> None:
        self._watch.start = read_state(folder / _FILE, StageState).start
        for average in self._teachers.averages():
            await average.load(folder)

    async def published(self, update: WeightUpdate) -> None:
        for average in self._teachers.averages():
            await average.published(update)

    def state(self) -> WriteState:
        of_parts = [writing(_FILE, StageState(self._watch.start.copy()))]
        of_parts += [average.state() for average in self._teachers.averages()]

        def write(folder: Path) -> None:
            for write_part in of_parts:
                write_part(folder)

        return write

    async def close(self) -> None:
        await asyncio.gather(*(teacher.close() for teacher in self._teachers.others()))

    async def teach(
        self, groups: Sequence[Group], rows: Sequence[Row], students: GeneratorPool
    ) -> tuple[list[Row], dict[str, float]]:
        """The rows with the teachers' streams, and metrics by tag."""
        tasks = {group.id: group.task for group in groups}
        tags = {group.id: self._teachers.tag_of(group) for group in groups}
        scores = await asyncio.gather(
            *(self._ask(row, tasks[row.group_id], tags[row.group_id], students) for row in rows)
        )
        taught = [
            self._signal.untaught(row) if of_row is None else self._signal.taught(row, of_row)
            for row, of_row in zip(rows, scores, strict=True)
        ]
        return taught, _metrics(groups, tags, rows, scores)

    def evaluated(self, report: EvaluationReport) -> tuple[dict[str, float], str | None]:
        """Accuracy by tag, and what was lost of it."""
        return self._watch.evaluated(report)

    async def _ask(self, row: Row, task: Task, tag: str, students: GeneratorPool) -> TokenScores | None:
        """What the tag's teacher says of the row's tokens; None where it cannot read them."""
        asked = self._signal.question(row, self._temperature)
        if self._signal.asks_student:
            # Temperature changes no order: the likeliest ids are the same at 1, at which every engine can score.
            own = await students.score(replace(asked, temperature=1.0))
            self._answers += 1
            asked = replace(asked, top_k=0, ids=own.ids)
        try:
            question = self._teachers.reading(tag).question(row, task, asked)
        except UnreadableRow:
            return None
        teacher = self._teachers.by_tag[tag]
        scorer = students if isinstance(teacher, OwnPolicy) else teacher
        scores = await scorer.score(question.request)
        self._answers += 1
        return question.of_the_row(scores)


def _metrics(
    groups: Sequence[Group], tags: Mapping[int, str], rows: Sequence[Row], scores: Sequence[TokenScores | None]
) -> dict[str, float]:
    """By tag: the estimate of KL(student || teacher) in nats a token, from sampled tokens; the reward; the answers.

    And, where there are any, how many rows the teacher could not read.
    """
    unread = Counter(tags[row.group_id] for row, of_row in zip(rows, scores, strict=True) if of_row is None)
    gaps: dict[str, list[float]] = defaultdict(list)
    rewards: dict[str, list[float]] = defaultdict(list)
    for row, of_row in zip(rows, scores, strict=True):
        if row.rl is not None and of_row is not None:
            places = np.flatnonzero(row.trained)
            teacher = of_row.logprobs[places - places[0]]
            gaps[tags[row.group_id]] += (np.asarray(row.rl.sampler_logprobs)[places] - teacher).tolist()
    for group in groups:
        rewards[tags[group.id]] += group.values()
    metrics = {f"teacher/{tag}/reverse_kl": float(np.mean(of_tag)) for tag, of_tag in gaps.items() if of_tag}
    metrics |= {f"teacher/{tag}/reward": float(np.mean(of_tag)) for tag, of_tag in rewards.items() if of_tag}
    metrics |= {f"teacher/{tag}/unread": float(count) for tag, count in unread.items()}
    return metrics | {f"teacher/{tag}/answers": float(len(of_tag)) for tag, of_tag in rewards.items()}
