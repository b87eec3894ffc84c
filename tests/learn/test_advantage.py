"""Advantages against numpy, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.learn.advantage import ADVANTAGES, Advantage, batch_std, group_mean, group_std, maxrl, opo, rloo, whiten
from rlvr.types import FinishReason, Group, Outcome, Score, Task, Trajectory

SCORES = [1.0, 0.0, 0.0, 0.5, 1.0]
LENGTHS = [3, 7, 2, 5, 4]
OTHER_SCORES = [0.0, 0.0, 1.0]
OTHER_LENGTHS = [2, 6, 1]


def group(scores: list[float | None], lengths: list[int] | None = None) -> Group:
    """A group of answers of so many sampled tokens, each with one token more that a tool wrote."""
    trajectories = [
        Trajectory(
            prompt_ids=(1,),
            token_ids=[5] * (length + 1),
            sampled=[False] + [True] * length,
            logprobs=[0.0] * (length + 1),
            versions=[-1] + [0] * length,
            finish=FinishReason.STOP,
            text="",
            score=Score(score) if score is not None else Score(None, Outcome.TIMEOUT),
        )
        for score, length in zip(scores, lengths or [1] * len(scores), strict=True)
    ]
    return Group(0, Task("t", (), (1,), None, {}), trajectories)


def of_one(advantage: Advantage, scores: list[float], lengths: list[int] | None = None) -> list[float]:
    return advantage([group(list(scores), lengths)])[0]


def test_group_mean() -> None:
    np.testing.assert_allclose(of_one(group_mean, SCORES), np.array(SCORES) - 0.5, rtol=1e-12)


def test_group_std_divides_by_the_deviation_of_a_sample() -> None:
    expected = (np.array(SCORES) - 0.5) / np.std(SCORES, ddof=1)
    np.testing.assert_allclose(of_one(group_std, SCORES), expected, rtol=1e-12)


def test_rloo_leaves_each_answer_out_of_its_own_baseline() -> None:
    expected = [score - np.mean(SCORES[:i] + SCORES[i + 1 :]) for i, score in enumerate(SCORES)]
    np.testing.assert_allclose(of_one(rloo, SCORES), expected, rtol=1e-12)


def test_maxrl_divides_by_the_mean() -> None:
    np.testing.assert_allclose(of_one(maxrl, SCORES), np.array(SCORES) / 0.5 - 1, rtol=1e-12)
    assert of_one(maxrl, [-1.0, 0.0]) == [0.0, 0.0]


def test_opo_weights_its_baseline_by_length() -> None:
    baseline = np.average(SCORES, weights=LENGTHS)
    np.testing.assert_allclose(of_one(opo, SCORES, LENGTHS), np.array(SCORES) - baseline, rtol=1e-12)


def test_batch_std_divides_by_the_deviation_of_all_scores() -> None:
    first, second = batch_std([group(list(SCORES)), group(list(OTHER_SCORES))])
    deviation = np.std(SCORES + OTHER_SCORES, ddof=1)
    np.testing.assert_allclose(first, (np.array(SCORES) - np.mean(SCORES)) / deviation, rtol=1e-12)
    np.testing.assert_allclose(second, (np.array(OTHER_SCORES) - np.mean(OTHER_SCORES)) / deviation, rtol=1e-12)


def test_whiten_gives_the_tokens_of_a_step_mean_0_and_deviation_1() -> None:
    first, second = whiten([group(list(SCORES), LENGTHS), group(list(OTHER_SCORES), OTHER_LENGTHS)])
    tokens = np.repeat(first + second, LENGTHS + OTHER_LENGTHS)
    assert tokens.mean() == pytest.approx(0.0, abs=1e-12)
    assert np.std(tokens, ddof=1) == pytest.approx(1.0)
    # Within a group it is a linear map of the scores.
    np.testing.assert_allclose(np.polyval(np.polyfit(SCORES, first, 1), SCORES), first, atol=1e-9)


@pytest.mark.parametrize("advantage", ADVANTAGES.values(), ids=ADVANTAGES)
@pytest.mark.parametrize("scores", [[], [1.0], [0.1] * 7, [0.1 + 0.2, 0.3]])
def test_equal_scores_are_no_signal(advantage: Advantage, scores: list[float]) -> None:
    assert of_one(advantage, scores) == [0.0] * len(scores)


@pytest.mark.parametrize("advantage", ADVANTAGES.values(), ids=ADVANTAGES)
def test_an_answer_without_a_verdict_changes_nothing(advantage: Advantage) -> None:
    with_it = advantage([group([1.0, None, 0.0, 0.0], [3, 50, 2, 2])])
    assert with_it == advantage([group([1.0, 0.0, 0.0], [3, 2, 2])])
    assert len(with_it[0]) == 3


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_of_a_group_sum_to_zero(scores: list[float]) -> None:
    for name in ("group_mean", "group_std", "batch_std", "rloo"):
        assert abs(sum(of_one(ADVANTAGES[name], scores))) < 1e-7
