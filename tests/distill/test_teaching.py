"""The stage between rollouts and learner: who teaches which row, what is asked, and what is told of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlvr.distill.signals import Signal, SignalKind
from rlvr.distill.teachers import TeacherError
from rlvr.distill.teaching import ALL, OnPolicyDistillation, Teachers
from rlvr.generate.pool import GeneratorPool
from rlvr.types import (
    Completion,
    FinishReason,
    GenerateRequest,
    Group,
    RLStream,
    Row,
    Score,
    ScoreRequest,
    Task,
    TokenScores,
    Trajectory,
)


class Scorer:
    """Says that every token has probability `p`, and keeps what it was asked. Stands for a teacher and a generator."""

    def __init__(self, p: float = 0.5) -> None:
        self.name = "scorer"
        self.logprob = math.log(p)
        self.asked: list[ScoreRequest] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        raise AssertionError("nobody asks for continuations here")

    async def score(self, request: ScoreRequest) -> TokenScores:
        self.asked.append(request)
        ids = request.ids if request.ids is not None else np.tile(np.arange(request.top_k), (request.places, 1))
        say = np.full(ids.shape, self.logprob - math.log(max(ids.shape[1], 1)), np.float32)
        return TokenScores(np.full(request.places, self.logprob, np.float32), ids.astype(np.int32), say, 0)


def group(number: int, tag: str, value: float) -> Group:
    task = Task(f"t{number}", (), (1, 2), None, {"tag": tag})
    trajectory = Trajectory((1, 2), [3, 4], [True, True], [-1.0, -2.0], [0, 0], FinishReason.STOP, "", Score(value))
    return Group(number, task, [trajectory])


def row(number: int, advantage: float = 0.0) -> Row:
    stream = RLStream([0, 0, advantage, advantage], [0, 0, -1.0, -2.0], [0] * 4)
    return Row(number, [1, 2, 3, 4], [False, False, True, True], stream)


def pool(generator: Scorer) -> GeneratorPool:
    return GeneratorPool([generator])  # type: ignore[list-item]


async def test_a_slow_teachers_answers_are_progress_one_by_one() -> None:
    """A step's answers may take longer than the watchdog waits; each of them does not."""
    stage = OnPolicyDistillation(Teachers({ALL: Scorer()}), Signal(SignalKind.SAMPLED), temperature=1.0)
    seen = [stage.progress()]
    for number in range(3):
        await stage.teach([group(number, "math", 1.0)], [row(number), row(number)], pool(Scorer()))
        seen.append(stage.progress())
    assert seen == [0, 2, 4, 6]


async def test_each_row_goes_to_its_tags_teacher() -> None:
    math_teacher, code_teacher, student = Scorer(0.5), Scorer(0.25), Scorer()
    teachers = Teachers({"math": math_teacher, "code": code_teacher})
    stage = OnPolicyDistillation(teachers, Signal(SignalKind.SAMPLED, reward=0.5), temperature=0.8)
    groups = [group(0, "math", 1.0), group(1, "code", 0.0)]
    rows, metrics = await stage.teach(groups, [row(0, 2.0), row(1, -2.0)], pool(student))
    assert rows[0].rl is not None and rows[1].rl is not None
    half, quarter = math.log(0.5), math.log(0.25)
    assert rows[0].rl.advantages == pytest.approx([0, 0, 1 + half + 1, 1 + half + 2], abs=1e-6)
    assert rows[1].rl.advantages == pytest.approx([0, 0, -1 + quarter + 1, -1 + quarter + 2], abs=1e-6)
    assert [one.temperature for one in math_teacher.asked] == [0.8] and student.asked == []
    assert metrics == pytest.approx(
        {
            "teacher/math/reverse_kl": -1.5 - half,
            "teacher/code/reverse_kl": -1.5 - quarter,
            "teacher/math/reward": 1.0,
            "teacher/code/reward": 0.0,
            "teacher/math/answers": 1.0,
            "teacher/code/answers": 1.0,
        }
    )


async def test_what_a_teacher_will_be_asked_is_asked_once_at_the_start() -> None:
    for kind, expected in (("sampled", (0, None)), ("teacher_topk", (3, None)), ("student_topk", (0, (1, 3)))):
        teacher = Scorer()
        await OnPolicyDistillation(Teachers({ALL: teacher}), Signal(SignalKind(kind), k=3), temperature=0.8).start()
        (asked,) = teacher.asked
        assert (asked.top_k, None if asked.ids is None else asked.ids.shape) == expected
        assert (asked.places, asked.temperature) == (1, 0.8)


async def test_the_students_ids_are_asked_of_the_student_first() -> None:
    teacher, student = Scorer(), Scorer()
    stage = OnPolicyDistillation(Teachers({ALL: teacher}), Signal(SignalKind.STUDENT_TOPK, k=3), temperature=0.8)
    (taught,), _ = await stage.teach([group(0, "any", 1.0)], [row(0)], pool(student))
    assert [(one.top_k, one.temperature, one.first) for one in student.asked] == [(3, 1.0, 2)]
    (asked,) = teacher.asked
    assert asked.ids is not None and asked.ids.tolist() == [[0, 1, 2]] * 2
    assert (asked.temperature, asked.top_k) == (0.8, 0)
    assert taught.kl is not None and taught.kl.ids[2:].tolist() == [[0, 1, 2]] * 2


async def test_a_row_that_nobody_teaches_is_told() -> None:
    stage = OnPolicyDistillation(Teachers({"math": Scorer()}), Signal(), temperature=1.0)
    with pytest.raises(TeacherError, match="task t0 has tag='code', and there are teachers for math"):
        await stage.teach([group(0, "code", 1.0)], [row(0)], pool(Scorer()))
