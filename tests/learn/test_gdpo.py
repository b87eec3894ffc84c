"""GDPO against numpy, and which groups have no gradient under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from rlvr.config import AlgorithmConfig
from rlvr.learn.algorithms import Algorithm
from rlvr.learn.gdpo import GDPO
from rlvr.learn.presets import algorithm_from
from rlvr.learn.rows import rows_from
from rlvr.reward_function import LinearWeight, Reward
from rlvr.types import FinishReason, Group, Outcome, Score, Task, Trajectory

from .conftest import rl_of

RIGHT = Reward(lambda completion: 1.0, "right", 1.0)
BRIEF = Reward(lambda completion: 1.0, "brief", 0.3)
WATCHED = Reward(lambda completion: 1.0, "watched", 0.0)


def algorithm(*rewards: Reward) -> Algorithm:
    made = algorithm_from(AlgorithmConfig(preset="grpo"), max_staleness=2, max_new_tokens=32)
    return replace(made, advantage=GDPO(rewards))


def group(number: int, verdicts: Sequence[tuple[float, float] | None], version: int = 0) -> Group:
    """`verdicts` are of (right, brief), None for an answer whose reward timed out."""
    trajectories = [
        Trajectory((7,), [10, 11], [True, True], [-0.5] * 2, [0, version], FinishReason.STOP, "", score_of(both))
        for both in verdicts
    ]
    return Group(number, Task("t", (), (7,), None, {}), trajectories)


def score_of(both: tuple[float, float] | None) -> Score:
    if both is None:
        return Score(None, Outcome.TIMEOUT)
    return Score(sum(both), parts={"right": both[0], "brief": both[1], "watched": 5.0, "right/steps": 3.0})


def expected(groups: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Equations 4 to 6 of the paper, with the spread of a sample; each array is [answers, rewards]."""
    totals = []
    for values in groups:
        spread = values.std(axis=0, ddof=1)
        normal = np.where(spread > 0, (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1), 0)
        totals.append(normal @ weights)
    every = np.concatenate(totals)
    return [(total - every.mean()) / every.std(ddof=1) for total in totals]


def test_advantages_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    values = [np.stack([rng.integers(0, 2, 6), rng.normal(0, 50, 6)], axis=1).astype(float) for _ in range(3)]
    values[1][:, 0] = 1.0  # all right: only brevity speaks in this group
    groups = [group(i, [(right, brief) for right, brief in of_group]) for i, of_group in enumerate(values)]
    got = algorithm(RIGHT, BRIEF, WATCHED).advantage(groups)
    for mine, theirs in zip(got, expected(values, np.array([1.0, 0.3])), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_rows_carry_them_and_answers_without_a_verdict_move_nothing() -> None:
    with_hole = group(0, [(1.0, 3.0), None, (0.0, 1.0), (0.0, 2.0)])
    other = group(1, [(1.0, 0.0), (0.0, 0.0)])
    groups = [with_hole, other]
    rows = rows_from(groups, algorithm(RIGHT, BRIEF).advantage(groups), version=0)
    values = [np.array([[1.0, 3.0], [0.0, 1.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 0.0]])]
    theirs = np.concatenate(expected(values, np.array([1.0, 0.3])))
    np.testing.assert_allclose([rl_of(row).advantages[-1] for row in rows], theirs, rtol=1e-9)


def test_no_reward_drowns_another() -> None:
    """What a sum would lose: a thousandfold scale of one reward leaves the order of advantages as it is."""
    small = [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0)]
    large = [(right, 1000 * brief) for right, brief in small]
    made = algorithm(RIGHT, BRIEF)
    np.testing.assert_allclose(made.advantage([group(0, small)])[0], made.advantage([group(0, large)])[0])


def test_weights_are_those_of_the_version_that_sampled_the_group() -> None:
    later = BRIEF.weighted(LinearWeight(0.0, 1.0, to_step=10))
    verdicts = [(1.0, 0.0), (0.0, 1.0), (0.0, 5.0)]
    advantages = [GDPO((RIGHT, later)).of_group(group(0, verdicts, version)) for version in (0, 4, 8)]
    np.testing.assert_allclose(advantages[0], GDPO((RIGHT,)).of_group(group(0, verdicts)))
    steps = [np.subtract(after, before) for before, after in pairwise(advantages)]
    np.testing.assert_allclose(steps[0], steps[1], atol=1e-12)


@pytest.mark.parametrize(
    ("verdicts", "flat"),
    [
        ([(1.0, 0.0), (0.0, 1.0)], False),  # equal sums, and yet one reward counts more: the scores are no measure
        ([(1.0, 2.0), (1.0, 2.0)], True),
        ([(1.0, 2.0), (1.0, 3.0)], False),
    ],
)
def test_a_group_is_flat_when_its_advantages_are(verdicts: list[tuple[float, float]], flat: bool) -> None:
    assert algorithm(RIGHT, BRIEF).is_flat(group(0, verdicts)) is flat


def test_rewards_that_cancel_leave_no_gradient_though_their_sums_differ() -> None:
    opposed = group(0, [(1.0, 0.0), (0.0, 7.0)])
    assert algorithm(RIGHT, BRIEF.weighted(1.0)).is_flat(opposed)
    assert len(set(opposed.values())) == 2


def test_without_gdpo_a_group_is_flat_when_its_scores_are_equal() -> None:
    plain = algorithm_from(AlgorithmConfig(), max_staleness=2, max_new_tokens=32)
    assert plain.is_flat(group(0, [(1.0, 0.0), (0.0, 1.0)]))
    assert not plain.is_flat(group(0, [(1.0, 0.0), (0.0, 0.5)]))


def test_a_step_without_any_difference_has_no_advantage() -> None:
    assert algorithm(RIGHT, BRIEF).advantage([group(0, [(1.0, 1.0)] * 3)]) == [[0.0] * 3]
    assert algorithm(RIGHT, BRIEF).advantage([]) == []
