"""`rlvr distill sample`: what a teacher writes, and of that what is worth teaching.

Each task is answered several times. An answer is kept if its verifier says that it is right, if it ended, if it is no
longer than asked, and if it is not word for word another one; of a task no more than `cap` are kept, the shortest ones
first counted, so that easy tasks do not crowd out hard ones.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlvr.closing import close_with
from rlvr.cluster import start_generators
from rlvr.config import Config, LoraConfig
from rlvr.distill.gate import Gate, leave_records
from rlvr.distill.opd import TeacherWord, teacher_word
from rlvr.distill.provenance import TeacherRecord
from rlvr.distill.rows_file import write_rows_file
from rlvr.distill.served_teacher import ServedTeacher
from rlvr.distill.teachers import TeacherError
from rlvr.distill.tokenizers import fingerprint
from rlvr.prepare import Job, load_tokenizer, prepare
from rlvr.reward_function import RIGHT_FROM
from rlvr.rollout.episode import Generates
from rlvr.types import FinishReason, Group, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
_TASKS_AT_ONCE = 64
_TELL_EVERY_S = 10.0


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
    record = TeacherRecord(word.name, tuple(licence.id for licence in terms.licences), fingerprint(tokenizer))
    dropped = Counter[str]()

    def keep(group: Group) -> list[dict[str, Any]]:
        return [_row(group, trajectory, record, job) for trajectory in _kept(group, options, tokenizer, dropped)]

    of_tasks = await _answers(job, word, keep)
    rows = [row for of_task in of_tasks for row in of_task]
    if not rows:
        raise TeacherError(f"none of {sum(dropped.values())} answers was kept ({dict(dropped)}); nothing is written")
    write_rows_file(rows, out)
    leave_records(out, Path(config.model.name), [record], "distill sample", options.gate)
    solved = sum(1 for of_task in of_tasks if of_task)
    return SampleReport(out, len(of_tasks), solved, len(rows) + sum(dropped.values()), len(rows), dict(dropped))


def _as_the_teacher_reads(config: Config, options: SampleOptions, tokenizer: str) -> Config:
    """Prompts are rendered, and answers read, by the teacher's tokenizer: only text goes to the student."""
    model = config.model.model_copy(update={"name": tokenizer, "lora": LoraConfig()})
    rollout = config.rollout.model_copy(update={"group_size": options.n})
    return config.model_copy(update={"model": model, "rollout": rollout})


async def _answers(job: Job, word: TeacherWord, keep: Callable[[Group], list[T]]) -> list[list[T]]:
    """What is kept of the answers to each task; the others are let go at once, and only counted."""
    gate = asyncio.Semaphore(_TASKS_AT_ONCE)
    scorer = job.scorer()
    try:
        async with _asked(job.config, word) as teacher:
            runner = job.runner(teacher, scorer, job.sampling(), job.config.rollout.group_size, "sample")

            progress = _Progress(len(job.tasks.tasks))

            async def answer(number: int) -> list[T]:
                async with gate:
                    kept = keep(await runner.run(number, job.tasks.tasks[number]))
                progress.another()
                return kept

            return list(await asyncio.gather(*(answer(number) for number in range(len(job.tasks.tasks)))))
    finally:
        scorer.close()


@asynccontextmanager
async def _asked(config: Config, word: TeacherWord) -> AsyncIterator[Generates]:
    """The teacher as an episode asks it: a server, or a generator of the config's own kind with the teacher's model."""
    async with AsyncExitStack() as parts:
        if word.url is None:
            model = config.model.model_copy(update={"name": word.name})
            pool = await start_generators(config.model_copy(update={"model": model}))
            close_with(parts, "the teacher's generators", pool.close)
            yield pool
        else:
            served = ServedTeacher(word.url, word.name)
            close_with(parts, "the teacher", served.close)
            await served.start()
            yield _Served(served)


class _Progress:
    """Tells now and then how many tasks are answered."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._answered = 0
        self._told_at = time.monotonic()

    def another(self) -> None:
        self._answered += 1
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._told_at = time.monotonic()
            print(f"{self._answered:,} of {self._tasks:,} tasks answered", flush=True)


class _Served:
    """A server as an episode asks a generator."""

    def __init__(self, teacher: ServedTeacher) -> None:
        self.generate = teacher.generate

    async def abort(self, request_id: str) -> None:
        """A server is not told: its answer is dropped when it comes."""


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
