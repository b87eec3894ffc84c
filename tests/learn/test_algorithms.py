"""From groups to rows, and what a config may change in a preset."""

from __future__ import annotations

import pytest

from rlvr.config import AlgorithmConfig
from rlvr.learn.advantage import rloo
from rlvr.learn.algorithms import Aggregation, Anchor
from rlvr.learn.kernels import Band, PPOClip
from rlvr.learn.kl import KLGradient, KLPenalty, KLTarget
from rlvr.learn.presets import algorithm_from
from rlvr.learn.rows import rows_from
from rlvr.types import FinishReason, Group, Outcome, Row, Score, Task, Trajectory

from .conftest import rl_of


def algorithm(**settings):
    return algorithm_from(AlgorithmConfig(**settings), max_staleness=2, max_new_tokens=32)


def trajectory(value: float | None, versions: list[int], finish=FinishReason.STOP, sampled=None) -> Trajectory:
    count = len(versions)
    return Trajectory(
        prompt_ids=(7, 8),
        token_ids=[10 + i for i in range(count)],
        sampled=sampled or [True] * count,
        logprobs=[-0.5 * (i + 1) for i in range(count)],
        versions=versions,
        finish=finish,
        text="",
        score=Score(value) if value is not None else Score(None, Outcome.TIMEOUT),
    )


def group(*trajectories: Trajectory) -> Group:
    return Group(5, Task("t", (), (7, 8), None, {}), list(trajectories))


def made(groups: list[Group], version: int) -> list[Row]:
    return rows_from(groups, algorithm().advantage(groups), version)


def test_rows_hold_exactly_what_was_sampled() -> None:
    tool_call = trajectory(1.0, [3, 3, -1, -1, 4], sampled=[True, True, False, False, True])
    wrong = trajectory(0.0, [4], finish=FinishReason.LENGTH)
    right_row, wrong_row = made([group(tool_call, wrong)], version=4)

    assert right_row.group_id == 5
    assert right_row.token_ids == [7, 8, 10, 11, 12, 13, 14]
    assert right_row.trained == [False, False, True, True, False, False, True]
    assert rl_of(right_row).advantages == [0, 0, 0.5, 0.5, 0, 0, 0.5]
    assert rl_of(right_row).sampler_logprobs == [0, 0, -0.5, -1.0, 0, 0, -2.5]
    assert rl_of(right_row).staleness == [0, 0, 1, 1, 0, 0, 0]
    assert (right_row.truncated, wrong_row.truncated) == (False, True)


def test_an_answer_without_a_verdict_moves_no_baseline_and_gets_no_row() -> None:
    judged = [trajectory(1.0, [0]), trajectory(0.0, [0])]
    rows = made([group(judged[0], trajectory(None, [0]), judged[1])], version=0)
    assert [rl_of(row).advantages[-1] for row in rows] == [0.5, -0.5]
    assert [row.trajectory for row in rows] == [0, 2]


def test_a_trajectory_in_which_nothing_was_sampled_gets_no_row() -> None:
    rows = made([group(trajectory(1.0, []), trajectory(0.0, [0]))], version=0)
    assert [rl_of(row).advantages[-1] for row in rows] == [-0.5]


def test_a_token_from_the_future_is_refused() -> None:
    with pytest.raises(ValueError, match="policy version 9, but the learner is at 4"):
        made([group(trajectory(1.0, [9]), trajectory(0.0, [4]))], version=4)


def test_overrides_stand_over_the_preset() -> None:
    changed = algorithm(
        preset="grpo",
        advantage="rloo",
        clip_high=0.3,
        aggregation="constant",
        drop_truncated=True,
    )
    assert changed.advantage is rloo
    assert changed.kernel == PPOClip(0.2, 0.3)
    assert changed.aggregation is Aggregation.CONSTANT
    assert (changed.longest_answer, changed.max_staleness, changed.drop_truncated) == (32, 2, True)
    assert changed.anchor is Anchor.PROXIMAL


def test_beta_sets_the_strength_of_the_presets_kl_and_gives_the_others_one_to_the_reference() -> None:
    assert algorithm(preset="grpo", beta=0.04).kl == KLPenalty(0.04, KLTarget.REFERENCE, KLGradient.K3)
    assert algorithm(preset="grpo", beta=0).kl is None
    assert not algorithm(preset="grpo", beta=0).needs_reference
    assert algorithm(preset="dis", beta=0.01).kl == KLPenalty(0.01, KLTarget.REFERENCE, KLGradient.UNBIASED)
    assert algorithm(preset="prime_rl", beta=0.01).kl == KLPenalty(0.01, KLTarget.SAMPLER, KLGradient.K2)


def test_unset_fields_have_the_presets_value() -> None:
    assert algorithm().kernel == Band(0.7, 6.0)
    assert algorithm(preset="dapo").drop_truncated


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "rloo", "clip_high": 2.0}, "preset=rloo: its kernel .Reinforce. has no bounds"),
        ({"preset": "dis", "clip_low": 1.5}, "preset=dis: Band needs 0 <= low < 1 < high; got low=1.5, high=6.0"),
        ({"preset": "dis", "clip_high": 0.28}, "preset=dis: Band needs 0 <= low < 1 < high"),
        ({"preset": "grpo", "clip_low": 1.2}, "preset=grpo: PPOClip needs 0 <= low <= 1"),
    ],
)
def test_an_override_that_does_not_fit_says_why(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm(**settings)
