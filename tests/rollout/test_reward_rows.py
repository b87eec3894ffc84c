"""Rewards that judge some rows of a dataset only: two kinds of tasks in one run."""

from __future__ import annotations

from typing import Any

import pytest

from rlvr.evaluation import summarize
from rlvr.learn.gdpo import GDPO
from rlvr.reward_function import Combine, Reward, judges_of, reward, verifier_of
from rlvr.rollout.scoring import Scorer
from rlvr.types import FinishReason, Group, Message, Score, Task, Trajectory


@reward
async def sums(completion: str, answer: str) -> float:
    return float(completion == answer)


@reward
async def runs(completion: str, tests: list[str]) -> float:
    return float(all(test in completion for test in tests))


@reward
async def praised(completion: str, is_correct: bool | None) -> float:
    return 10.0 if is_correct else 5.0


def task(**columns: Any) -> Task:
    return Task("t", (Message(role="user", content="?"),), (1,), columns.get("answer"), {"prompt": "?"} | columns)


MATH = task(family="math", answer="4")
CODE = task(family="code", tests=["def f"])
REWARDS = [sums.for_rows(family="math"), runs.for_rows(family="code")]


def answer(text: str) -> Trajectory:
    return Trajectory((1,), [5], [True], [-0.5], [0], FinishReason.STOP, text)


async def scores(rewards: list[Reward], of: Task, *texts: str, rule: Combine = Combine.SUM) -> list[Score]:
    scorer = Scorer(rewards, deadline_s=30, retries=0, workers=1, rule=rule)
    try:
        return await scorer.score(of, [answer(text) for text in texts])
    finally:
        scorer.close()


async def test_each_row_is_judged_by_its_own_reward() -> None:
    """`runs` could not even be called with a row of the other family: it has no column `tests`."""
    of_math = await scores(REWARDS, MATH, "4", "def f")
    assert [(s.value, dict(s.parts)) for s in of_math] == [(1.0, {"sums": 1.0}), (0.0, {"sums": 0.0})]
    of_code = await scores(REWARDS, CODE, "4", "def f")
    assert [(s.value, dict(s.parts)) for s in of_code] == [(0.0, {"runs": 0.0}), (1.0, {"runs": 1.0})]


@pytest.mark.parametrize(("rule", "right"), [(Combine.SUM, 11.0), (Combine.GATE, 11.0), (Combine.PRODUCT, 10.0)])
async def test_rewards_of_all_rows_follow_the_one_that_judged(rule: Combine, right: float) -> None:
    for of, text in ((MATH, "4"), (CODE, "def f")):
        (score,) = await scores([*REWARDS, praised], of, text, rule=rule)
        assert score.value == right


def test_a_reward_judges_rows_with_all_its_values() -> None:
    both = sums.for_rows(family="math", level=2)
    assert both.judges({"family": "math", "level": 2, "other": 1})
    assert not both.judges({"family": "math", "level": 3}) and not both.judges({"family": "math"})
    assert not sums.for_rows(hint=None).judges({}), "a column that is not there has no value"
    assert sums.judges({})


async def test_gdpo_normalises_the_rewards_that_judged() -> None:
    trajectories = [answer("4"), answer("5")]
    for trajectory, score in zip(trajectories, await scores(REWARDS, MATH, "4", "5"), strict=True):
        trajectory.score = score
    high, low = GDPO(tuple(REWARDS)).of_group(Group(0, MATH, trajectories))
    assert high == -low > 0


async def test_an_evaluation_tells_the_verifiers_apart() -> None:
    def verifier(of: Task) -> str:
        found = verifier_of(judges_of(REWARDS, of.columns))
        assert found is not None
        return found.name

    groups = []
    for number, (of, texts) in enumerate([(MATH, "4"), (MATH, "5"), (CODE, "def f"), (MATH, "4"), (MATH, "6")]):
        trajectory = answer(texts)
        (trajectory.score,) = await scores(REWARDS, of, texts)
        groups.append(Group(number, of, [trajectory]))
    metrics = summarize(groups, 0, verifier).metrics()
    assert metrics["evaluation/pass@1"] == 3 / 5
    assert metrics["evaluation/accuracy/sums"] == 2 / 4
    assert metrics["evaluation/accuracy/runs"] == 1.0
    one_kind = summarize([group for group in groups if group.task is MATH], 0, verifier).metrics()
    assert not [name for name in one_kind if "accuracy" in name], "pass@1 says it already"
