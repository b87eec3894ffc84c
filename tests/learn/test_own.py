"""An algorithm of one's own: its weights reach their tokens, and what cannot be is refused with its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rlvr.config import AlgorithmConfig
from rlvr.learn.algorithms import Algorithm
from rlvr.learn.own import AlgorithmError, OwnAlgorithm, mean_weight
from rlvr.learn.presets import algorithm_from
from rlvr.learn.rows import rows_from
from rlvr.types import FinishReason, Group, Outcome, Score, Task, Trajectory

from .conftest import rl_of


def trajectory(value: float | None, sampled: list[bool]) -> Trajectory:
    count = len(sampled)
    score = Score(value) if value is not None else Score(None, Outcome.TIMEOUT)
    versions = [0 if s else -1 for s in sampled]
    return Trajectory(
        (7, 8), list(range(10, 10 + count)), sampled, [-1.0] * count, versions, FinishReason.STOP, "", score
    )


def group(*trajectories: Trajectory) -> Group:
    return Group(3, Task("t", (), (7, 8), None, {}), list(trajectories))


def own(function: Any) -> Algorithm:
    return replace(algorithm_from(AlgorithmConfig(), 2, 64), advantage=OwnAlgorithm(function))


GROUP = group(trajectory(1.0, [True, False, True]), trajectory(None, [True]), trajectory(0.0, [True, True]))


def early(groups: Sequence[Group]) -> list[list[float | list[float]]]:
    """The score less a half, for the first token alone; all tokens where the answer is wrong."""
    return [
        [
            [0.5, 9.0, 0.0] if t.score and t.score.value else -0.5
            for t in g.trajectories
            if t.score and t.score.value is not None
        ]
        for g in groups
    ]


def test_weights_reach_the_tokens_they_are_for() -> None:
    first, second = rows_from([GROUP], own(early).advantage([GROUP]), version=0)
    assert rl_of(first).advantages == [0, 0, 0.5, 0, 0]  # what was read has no weight, whatever was given
    assert rl_of(second).advantages == [0, 0, -0.5, -0.5]
    assert (first.trajectory, second.trajectory) == (0, 2)


def test_the_log_shows_the_mean_over_sampled_tokens() -> None:
    assert mean_weight([0.5, 9.0, 0.0], GROUP.trajectories[0]) == 0.25
    assert mean_weight(-0.5, GROUP.trajectories[2]) == -0.5


def test_a_group_is_flat_when_no_sampled_token_has_a_weight() -> None:
    assert not own(early).is_flat(GROUP)
    assert own(lambda groups: [[[0.0, 9.0, 0.0], 0] for _ in groups]).is_flat(GROUP)


def test_a_step_whose_groups_were_all_filtered_asks_for_nothing() -> None:
    def mean_of_all(groups: Sequence[Group]) -> list[list[float]]:
        values = [value for g in groups for value in g.values()]
        return [[value - sum(values) / len(values) for value in g.values()] for g in groups]

    assert own(mean_of_all).advantage([]) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda groups: [], "gave 0 entries for 1 groups"),
        (lambda groups: [[1.0, 2.0, 3.0]], "gave 3 entries for group 3, of which 2 trajectories have a verdict"),
        (lambda groups: [[[1.0], 2.0]], "gave 1 weights for a trajectory of group 3 that has 3 tokens"),
        (lambda groups: [[math.nan, 2.0]], "gave a weight for group 3 that is not finite"),
    ],
)
def test_what_are_no_weights_is_refused(function: Any, message: str) -> None:
    with pytest.raises(AlgorithmError, match=f"algorithm <lambda> {message}"):
        own(function).advantage([GROUP])
