"""Advantages against numpy, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.learn.advantage import group_mean, group_std, rloo

SCORES = [1.0, 0.0, 0.0, 0.5, 1.0]
ALL = [group_mean, group_std, rloo]


def test_group_mean() -> None:
    np.testing.assert_allclose(group_mean(SCORES), np.array(SCORES) - 0.5, rtol=1e-12)


def test_group_std_divides_by_the_deviation_of_a_sample() -> None:
    expected = (np.array(SCORES) - 0.5) / np.std(SCORES, ddof=1)
    np.testing.assert_allclose(group_std(SCORES), expected, rtol=1e-12)


def test_rloo_leaves_each_answer_out_of_its_own_baseline() -> None:
    expected = [score - np.mean(SCORES[:i] + SCORES[i + 1 :]) for i, score in enumerate(SCORES)]
    np.testing.assert_allclose(rloo(SCORES), expected, rtol=1e-12)


@pytest.mark.parametrize("advantage", ALL)
@pytest.mark.parametrize("scores", [[], [1.0], [0.1] * 7, [0.1 + 0.2, 0.3]])
def test_equal_scores_are_no_signal(advantage, scores: list[float]) -> None:
    assert advantage(scores) == [0.0] * len(scores)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_of_a_group_sum_to_zero(scores: list[float]) -> None:
    for advantage in ALL:
        assert abs(sum(advantage(scores))) < 1e-7
