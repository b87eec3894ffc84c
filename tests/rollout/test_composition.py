"""Several rewards as one score: each rule against its formula, and a failure that counts is a failure of the whole."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.reward_function import Combine, LinearWeight, Reward
from rlvr.rollout.composition import RewardError, check_rewards, combined
from rlvr.rollout.scoring import Scorer, check_arguments
from rlvr.types import FinishReason, Message, Outcome, Score, Task, Trajectory

TASK = Task("t", (Message(role="user", content="?"),), (1,), "4", {"prompt": "?", "answer": "4"})
TIMEOUT = Score(None, Outcome.TIMEOUT, detail="slow: no answer in 1 s")


def said(value: float) -> Score:
    return Score(value)


def named(*weights: float | LinearWeight) -> list[Reward]:
    return [Reward(lambda completion: 1.0, name, weight) for name, weight in zip("abcd", weights, strict=False)]


def score(rule: Combine, rewards: list[Reward], *verdicts: Score | None, version: int = 0) -> Score:
    return combined(rule, rewards, verdicts, version)


def answers(*texts: str, version: int = 0) -> list[Trajectory]:
    return [Trajectory((1,), [5, 6], [True, True], [-0.5] * 2, [0, version], FinishReason.STOP, t) for t in texts]


async def score_all(rule: Combine, rewards: list[Reward], *texts: str, version: int = 0) -> list[Score]:
    scorer = Scorer(rewards, deadline_s=30, retries=0, workers=1, rule=rule)
    try:
        return await scorer.score(TASK, answers(*texts, version=version))
    finally:
        scorer.close()


# -------------------------------------------------------------------- the rules


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 5)), min_size=2, max_size=4))
def test_sum_and_product_are_those_of_numpy(pairs: list[tuple[float, float]]) -> None:
    weights, values = np.array(pairs).T
    rewards, verdicts = named(*weights), [said(value) for value in values]
    assert score(Combine.SUM, rewards, *verdicts).value == pytest.approx(float(np.dot(weights, values)))
    assert score(Combine.GDPO, rewards, *verdicts).value == pytest.approx(float(np.dot(weights, values)))
    assert score(Combine.PRODUCT, rewards, *verdicts).value == pytest.approx(float(np.prod(values**weights)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 1.0, 0.5), 2.0 + 0.5 + 0.05),
        ((1.0, 0.9, 1.0), 2.0 + 0.45),  # nearly right is not right: the last does not count
        ((0.0, 1.0, 1.0), 0.0),
        ((0.5, 1.0, 1.0), 1.0),
        ((1.0, -1.0, 1.0), 1.5),
    ],
)
def test_a_gate_lets_a_reward_count_only_behind_right_answers(values: tuple[float, ...], expected: float) -> None:
    assert score(Combine.GATE, named(2.0, 0.5, 0.1), *map(said, values)).value == pytest.approx(expected)


def test_a_failure_behind_a_closed_gate_takes_nothing_away() -> None:
    assert score(Combine.GATE, named(1.0, 1.0), said(0.0), TIMEOUT).value == 0.0
    assert score(Combine.GATE, named(1.0, 1.0), said(0.0), None).value == 0.0
    failed = score(Combine.GATE, named(1.0, 1.0), said(1.0), TIMEOUT)
    assert (failed.value, failed.outcome, failed.detail) == (None, Outcome.TIMEOUT, TIMEOUT.detail)


@pytest.mark.parametrize("rule", list(Combine))
def test_a_failure_that_counts_is_never_a_number(rule: Combine) -> None:
    got = score(rule, named(1.0, 1.0), TIMEOUT, said(1.0))
    assert (got.value, got.outcome) == (None, Outcome.TIMEOUT)
    assert dict(got.parts) == {"b": 1.0}


@pytest.mark.parametrize("rule", list(Combine))
def test_a_metric_has_no_part_in_any_rule(rule: Combine) -> None:
    got = score(rule, named(0.0, 1.0, 1.0), TIMEOUT, said(1.0), said(0.5))
    expected = {Combine.PRODUCT: 0.5}.get(rule, 1.5)
    assert got.value == expected


def test_a_product_of_a_negative_value_is_refused_as_a_failure_with_a_reason() -> None:
    got = score(Combine.PRODUCT, named(1.0, 1.0), said(1.0), said(-0.5))
    assert (got.value, got.outcome) == (None, Outcome.CRASHED)
    assert "values of 0 or more, got -0.5" in got.detail


@pytest.mark.parametrize("rule", [Combine.SUM, Combine.PRODUCT])
def test_what_grows_beyond_a_float_is_no_score(rule: Combine) -> None:
    assert score(rule, named(2.0, 2.0), said(1e308), said(1e308)).outcome is Outcome.CRASHED


# -------------------------------------------------------------------- weights that change


@pytest.mark.parametrize(
    ("version", "weight"), [(0, 0.0), (10, 0.0), (15, -0.1), (20, -0.2), (30, -0.4), (31, -0.4), (10**6, -0.4)]
)
def test_a_linear_weight_is_a_straight_line_between_two_versions(version: int, weight: float) -> None:
    assert LinearWeight(0.0, -0.4, from_step=10, to_step=30).at(version) == pytest.approx(weight)


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5), (-1, 5)])
def test_a_weight_that_changes_over_no_steps_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="0 <= from_step < to_step, got from_step"):
        LinearWeight(0.0, 1.0, from_step=start, to_step=end)


def test_a_reward_whose_weight_is_zero_for_now_is_a_metric_for_now() -> None:
    later = named(1.0, LinearWeight(0.0, 2.0, to_step=10))
    assert score(Combine.SUM, later, said(1.0), TIMEOUT, version=0).value == 1.0
    assert score(Combine.SUM, later, said(1.0), TIMEOUT, version=1).outcome is Outcome.TIMEOUT
    assert score(Combine.SUM, later, said(1.0), said(1.0), version=5).value == 2.0
    assert score(Combine.PRODUCT, later, said(1.0), said(0.5), version=0).value == 1.0
    assert score(Combine.PRODUCT, later, said(1.0), said(0.5), version=10).value == 0.25


def test_a_scheduled_reward_guards_those_behind_it_from_the_first_step() -> None:
    rewards = named(LinearWeight(0.0, 1.0, to_step=10), 1.0)
    assert score(Combine.GATE, rewards, said(0.0), said(1.0), version=0).value == 0.0
    assert score(Combine.GATE, rewards, said(1.0), said(1.0), version=0).value == 1.0


async def test_the_weight_is_that_of_the_newest_version_that_sampled_the_group() -> None:
    rewards = [Reward(lambda completion: 1.0, "long", LinearWeight(0.0, 1.0, to_step=10))]
    scorer = Scorer(rewards, deadline_s=30, retries=0, workers=1)
    try:
        mixed = answers("a", version=2) + answers("b", version=4)
        assert [s.value for s in await scorer.score(TASK, mixed)] == [pytest.approx(0.4)] * 2
    finally:
        scorer.close()


# -------------------------------------------------------------------- who is asked what


async def test_a_closed_gate_saves_the_calls_behind_it() -> None:
    asked: list[str] = []

    async def right(completion: str) -> float:
        await asyncio.sleep(0.01)
        return float(completion == "4")

    async def judge(completion: str) -> float:
        asked.append(completion)
        return 0.5

    async def watched(completion: str) -> float:
        return float(len(completion))

    rewards = [Reward(watched, "watched", 0.0), Reward(right, "right"), Reward(judge, "judge", 0.5)]
    scores = await score_all(Combine.GATE, rewards, "4", "55", "4")
    assert asked == ["4", "4"]
    assert [s.value for s in scores] == [1.25, 0.0, 1.25]
    assert dict(scores[1].parts) == {"watched": 2.0, "right": 0.0}


@pytest.mark.parametrize("rule", [Combine.SUM, Combine.GATE])
async def test_a_reward_may_ask_what_the_verifier_said(rule: Combine) -> None:
    async def right(completion: str) -> float | None:
        await asyncio.sleep(0.01)
        return None if completion == "?" else float(completion == "4")

    async def one(completion: str, is_correct: bool | None) -> float:
        told.append(("one", completion, is_correct))
        return 0.0

    async def group(completions: list[str], is_correct: list[bool | None]) -> list[float]:
        told.append(("group", tuple(completions), tuple(is_correct)))
        return [0.0] * len(completions)

    told: list[tuple[object, ...]] = []
    rewards = [Reward(one, "one", 0.0), Reward(right, "right"), Reward(group, "group", 0.1)]
    await score_all(rule, rewards, "4", "5", "?")
    assert sorted(told, key=str) == [
        ("group", ("4", "5", "?"), (True, False, None)),
        ("one", "4", True),
        ("one", "5", False),
        ("one", "?", None),
    ]


async def test_lengths_reach_a_batch_function_as_counts_of_sampled_tokens() -> None:
    async def lengths(completions: list[str], completion_tokens: list[int]) -> list[float]:
        return [float(n) for n in completion_tokens]

    tool = Trajectory((1,), [5, 6, 7], [True, False, True], [0.0] * 3, [0, -1, 0], FinishReason.STOP, "x")
    scorer = Scorer([Reward(lengths, "lengths")], deadline_s=30, retries=0, workers=1)
    try:
        assert [s.value for s in await scorer.score(TASK, [*answers("a"), tool])] == [2.0, 2.0]
    finally:
        scorer.close()


async def test_a_fixed_argument_stands_before_a_column_of_the_same_name() -> None:
    async def equal(completion: str, answer: str, **more: str) -> float:
        return float(completion == answer)

    (score,) = await score_all(Combine.SUM, [Reward(equal, "equal").bind(answer="5")], "5")
    assert score.value == 1.0


def test_binding_a_name_that_is_not_taken_is_refused() -> None:
    with pytest.raises(TypeError, match="'a' takes no strict; it takes completion"):
        named(1.0)[0].bind(strict=True)


# -------------------------------------------------------------------- refused before anything starts


@pytest.mark.parametrize(
    ("rule", "weights", "word"),
    [
        (Combine.GATE, (1.0,), "reward.combine=gate is of two or more .* only 'a'"),
        (Combine.PRODUCT, (1.0, 0.0), "reward.combine=product is of two or more"),
        (Combine.GDPO, (0.0, 1.0), "reward.combine=gdpo is of two or more .* only 'b'"),
        (Combine.PRODUCT, (1.0, -1.0), "the weight of b must not be negative"),
        (Combine.PRODUCT, (1.0, LinearWeight(1.0, -1.0, to_step=5)), "the weight of b must not be negative"),
        (Combine.SUM, (0.0,), "weight other than 0"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule: Combine, weights: tuple[float, ...], word: str) -> None:
    with pytest.raises(RewardError, match=word):
        check_rewards(named(*weights), rule)


def test_the_verifier_cannot_ask_for_its_own_verdict() -> None:
    def shorter(completion: str, is_correct: bool) -> float:
        return math.nan

    right, asks = named(1.0)[0], Reward(shorter, "shorter")
    check_arguments(asks, ["prompt"], right)
    check_arguments(asks, ["prompt", "is_correct"])
    for verifier in (asks, None):
        with pytest.raises(RewardError, match=r"'shorter' takes is_correct.*put the reward that says what is right"):
            check_arguments(asks, ["prompt"], verifier)
