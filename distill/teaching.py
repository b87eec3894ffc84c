"""On-policy distillation's stage of a training run: between rollouts and learner, teachers are asked about rows."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlvr.distill.signals import Signal
from rlvr.distill.teachers import Teacher, TeacherError
from rlvr.generate.pool import GeneratorPool
from rlvr.types import Group, Row, TokenScores

# The tag of the teacher of all rows.
ALL = "all"


@dataclass(frozen=True)
class Teachers:
    """Several teachers, each for the rows with its tag in `column`; one that is called ALL teaches every row."""

    by_tag: Mapping[str, Teacher]
    column: str = "tag"

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

    async def start(self) -> None:
        """One after the other: transformers cannot load two models at once in one process."""
        for teacher in self.by_tag.values():
            await teacher.start()

    async def close(self) -> None:
        await asyncio.gather(*(teacher.close() for teacher in self.by_tag.values()))


class OnPolicyDistillation:
    """The stage: each row is taught by its tag's teacher. `temperature` is that of the student's sampling."""

    def __init__(self, teachers: Teachers, signal: Signal, temperature: float) -> None:
        self._teachers = teachers
        self._signal = signal
        self._temperature = temperature

    async def start(self) -> None:
        await self._teachers.start()

    async def close(self) -> None:
        await self._teachers.close()

    async def teach(
        self, groups: Sequence[Group], rows: Sequence[Row], students: GeneratorPool
    ) -> tuple[list[Row], dict[str, float]]:
        """The rows with the teachers' streams, and metrics by tag."""
        tags = {group.id: self._teachers.tag_of(group) for group in groups}
        scores = await asyncio.gather(
            *(self._ask(row, self._teachers.by_tag[tags[row.group_id]], students) for row in rows)
        )
        taught = [self._signal.taught(row, of_row) for row, of_row in zip(rows, scores, strict=True)]
        return taught, _metrics(groups, tags, rows, scores)

    async def _ask(self, row: Row, teacher: Teacher, students: GeneratorPool) -> TokenScores:
        question = self._signal.question(row, self._temperature)
        if self._signal.asks_student:
            # Temperature changes no order: the likeliest ids are the same at 1, at which every engine can score.
            own = await students.score(replace(question, temperature=1.0))
            question = replace(question, top_k=0, ids=own.ids)
        return await teacher.score(question)


def _metrics(
    groups: Sequence[Group], tags: Mapping[int, str], rows: Sequence[Row], scores: Sequence[TokenScores]
) -> dict[str, float]:
    """By tag: the estimate of KL(student || teacher) in nats a token, from sampled tokens; the reward; the answers."""
    gaps: dict[str, list[float]] = defaultdict(list)
    rewards: dict[str, list[float]] = defaultdict(list)
    for row, of_row in zip(rows, scores, strict=True):
        if row.rl is not None:
            places = np.flatnonzero(row.trained)
            teacher = of_row.logprobs[places - places[0]]
            gaps[tags[row.group_id]] += (np.asarray(row.rl.sampler_logprobs)[places] - teacher).tolist()
    for group in groups:
        rewards[tags[group.id]] += group.values()
    metrics = {f"teacher/{tag}/reverse_kl": float(np.mean(of_tag)) for tag, of_tag in gaps.items() if of_tag}
    metrics |= {f"teacher/{tag}/reward": float(np.mean(of_tag)) for tag, of_tag in rewards.items() if of_tag}
    return metrics | {f"teacher/{tag}/answers": float(len(of_tag)) for tag, of_tag in rewards.items()}
