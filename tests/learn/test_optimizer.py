"""Learning rates by hand, and what decays."""

from __future__ import annotations

import pytest
import torch

from rlvr.config import LearnerConfig
from rlvr.learn.optimizer import adamw, learning_rate


def rates(total: int, **settings) -> list[float]:
    config = LearnerConfig(learning_rate=0.1, **settings)
    return [learning_rate(config, update, total) for update in range(total)]


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    assert rates(6, warmup_steps=4) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_without_warm_up_the_first_update_has_the_peak() -> None:
    assert rates(2, warmup_steps=0) == [0.1, 0.1]


def test_linear_goes_to_zero_at_the_end() -> None:
    assert rates(6, warmup_steps=2, schedule="linear") == pytest.approx([0.05, 0.1, 0.1, 0.075, 0.05, 0.025])


def test_cosine_is_half_way_at_half_the_time() -> None:
    values = rates(9, warmup_steps=1, schedule="cosine")
    assert values[1] == pytest.approx(0.1)
    assert values[5] == pytest.approx(0.05)
    assert 0 < values[8] < 0.01


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warm_up_longer_than_the_run(schedule: str) -> None:
    assert rates(3, warmup_steps=10, schedule=schedule) == pytest.approx([0.01, 0.02, 0.03])


def test_an_update_past_the_end_does_not_go_negative() -> None:
    config = LearnerConfig(learning_rate=0.1, warmup_steps=0, schedule="linear")
    assert learning_rate(config, 12, 10) == 0.0


def test_weight_decay_is_for_matrices() -> None:
    matrix = torch.nn.Parameter(torch.ones(2, 2))
    vector = torch.nn.Parameter(torch.ones(2))
    optimizer = adamw([matrix, vector], LearnerConfig(learning_rate=0.1, weight_decay=0.5))
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert matrix.detach().flatten().tolist() == pytest.approx([0.95] * 4)
    assert vector.tolist() == [1.0, 1.0]
