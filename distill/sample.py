"""`rlvr distill sample`: what a teacher writes, and of that what is worth teaching.

Each task is answered several times. An answer is kept if its verifier says that it is right, if it ended, if it is no
longer than asked, and if it is not word for word another one; of a task no more than `cap` are kept, the shortest ones
first counted, so that easy tasks do not crowd out hard ones.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.config import Config
from rlvr.distill.gate import Gate, leave_records
from rlvr.distill.opd import teacher_word
from rlvr.distill.provenance import TeacherRecord
from rlvr.distill.rows_file import write_rows_file
from rlvr.distill.served_teacher import ServedTeacher
from rlvr.distill.teachers import Teacher, TeacherError, local_teacher
from rlvr.distill.tokenizers import fingerprint
from rlvr.prepare import Job, load_tokenizer, prepare
from rlvr.reward_function import RIGHT_FROM
from rlvr.types import FinishReason, Group, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TASKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """What is asked of a teacher, and what of its answers is kept. `max_tokens` of an answer; `language` is a
    pattern that the whole answer must match, such as one for its script."""

    teacher: str
    n: int = 8
    cap: int = 4
    max_tokens: int | None = None
    language: str | None = None
    tokenizer: str | None = None
    gate: Gate = field(default_factory=Gate)


@dataclass(frozen=True, slots=True)
class SampleReport:
    """How many answers there were, and what became of them, by reason."""

    file: Path
    tasks: int
    solved_tasks: int
    answers: int
    kept: int
    dropped: dict[str, int]


async def sample(config: Config, options: SampleOptions, out: Path) -> SampleReport:
    """Answer the config's tasks with the teacher, and write what is kept to `out`, with its record beside it."""
    if out.exists():
        raise TeacherError(f"{out}: exists already; name another file")
    word = teacher_word(options.teacher)
    (terms,) = options.gate.check([word.name])
    tokenizer = load_tokenizer(options.tokenizer or word.name)
    job = prepare(_as_the_teacher_reads(config, options, options.tokenizer or word.name))
    teacher: Teacher = local_teacher(config, word.name) if word.url is None else ServedTeacher(word.url, word.name)
    groups = await _answers(job, teacher)
    record = TeacherRecord(word.name, tuple(licence.id for licence in terms.licences), fingerprint(tokenizer))
    rows, dropped = [], Counter[str]()
    for group in groups:
        rows += [_row(group, trajectory, record, job) for trajectory in _kept(group, options, tokenizer, dropped)]
    if not rows:
        raise TeacherError(f"none of {sum(dropped.values())} answers was kept ({dict(dropped)}); nothing is written")
    write_rows_file(rows, out)
    leave_records(out, Path(config.model.name), [record], "distill sample", options.gate)
    solved = len({row["task"] for row in rows})
    return SampleReport(out, len(groups), solved, len(rows) + sum(dropped.values()), len(rows), dict(dropped))


def _as_the_teacher_reads(config: Config, options: SampleOptions, tokenizer: str) -> Config:
    """Prompts are rendered, and answers read, by the teacher's tokenizer: only text goes to the student."""
    model = config.model.model_copy(update={"name": tokenizer})
    rollout = config.rollout.model_copy(update={"group_size": options.n})
    return config.model_copy(update={"model": model, "rollout": rollout})


async def _answers(job: Job, teacher: Teacher) -> list[Group]:
    gate = asyncio.Semaphore(_TASKS_AT_ONCE)
    scorer = job.scorer()
    runner = job.runner(_Asked(teacher), scorer, job.sampling(), job.config.rollout.group_size, "sample")

    async def answer(number: int) -> Group:
        async with gate:
            return await runner.run(number, job.tasks.tasks[number])

    try:
        await teacher.start()
        return list(await asyncio.gather(*(answer(number) for number in range(len(job.tasks.tasks)))))
    finally:
        scorer.close()
        await teacher.close()


class _Asked:
    """A teacher as an episode asks a generator."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.generate = teacher.generate

    async def abort(self, request_id: str) -> None:
        """A teacher is not told: its answer is dropped when it comes."""


def _kept(
    group: Group, options: SampleOptions, tokenizer: PreTrainedTokenizerBase, dropped: Counter[str]
) -> list[Trajectory]:
    """The answers worth teaching, the shortest first, and the others counted by reason."""
    kept: list[Trajectory] = []
    texts: set[str] = set()
    for trajectory in sorted(group.trajectories, key=lambda one: len(one.token_ids)):
        reason = _fault(trajectory, options)
        if reason is None and trajectory.text in texts:
            reason = "duplicate"
        if reason is None and len(kept) == options.cap:
            reason = "above the cap"
        if reason is None:
            kept.append(trajectory)
            texts.add(trajectory.text)
        else:
            dropped[reason] += 1
    return kept


def _fault(trajectory: Trajectory, options: SampleOptions) -> str | None:
    score = trajectory.score
    if score is None or score.value is None:
        return "no verdict"
    if score.value < RIGHT_FROM:
        return "wrong"
    if trajectory.finish is not FinishReason.STOP:
        return "truncated"
    if options.max_tokens is not None and len(trajectory.token_ids) > options.max_tokens:
        return "too long"
    if options.language is not None and re.fullmatch(options.language, trajectory.text, re.DOTALL) is None:
        return "other language"
    return None


def _row(group: Group, trajectory: Trajectory, record: TeacherRecord, job: Job) -> dict[str, Any]:
    assert trajectory.score is not None
    return {
        **group.task.columns,
        "task": group.task.id,
        "messages": [dict(message) for message in group.task.prompt],
        "completion": trajectory.text,
        "tokens": len(trajectory.token_ids),
        "score": trajectory.score.value,
        "verifier": job.verifier(group.task),
        "teacher": record.teacher,
        "licences": list(record.licences),
        "tokenizer": record.tokenizer,
        "temperature": job.config.sampling.temperature,
    }
