"""The rewards for shape and for length."""

from __future__ import annotations

import pytest

from rlvr.rewards.format import format_reward
from rlvr.rewards.length import length_reward


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>2 + 2</think>4", 1.0),
        ("<think>\n2 + 2\n</think>\n\nIt is 4.", 1.0),
        ("2 + 2</think>4", 1.0),  # the template opened the tag
        ("4", 0.0),
        ("", 0.0),
        ("<think>2 + 2</think>", 0.0),
        ("<think>2 + 2</think>  \n", 0.0),
        ("<think>2 + 2", 0.0),
        ("4 <think>2 + 2</think> 4", 0.0),
        ("</think>2 + 2<think>4", 0.0),
        ("<think><think>2 + 2</think>4", 0.0),
        ("<think>2</think>4<think>2</think>4", 0.0),
        ("<think>2</think></think>4", 0.0),
    ],
)
async def test_format(completion: str, value: float) -> None:
    assert await format_reward.function(completion) == value
    assert format_reward(completion) == value


@pytest.mark.parametrize(
    ("tokens", "value"),
    # The paper's setting: free up to 16,384, then a straight line down to -1 at 20,480.
    [(0, 0.0), (16_384, 0.0), (17_408, -0.25), (18_432, -0.5), (20_480, -1.0), (20_481, -1.0), (10**6, -1.0)],
)
async def test_overlong_penalty(tokens: int, value: float) -> None:
    assert await length_reward.function(completion_tokens=tokens) == value
    assert length_reward(completion_tokens=tokens) == value


def test_overlong_penalty_with_limits_of_ones_own() -> None:
    assert length_reward(950, max_tokens=1000, cache_tokens=100) == -0.5
    with pytest.raises(ValueError, match="cache_tokens"):
        length_reward(5, max_tokens=10, cache_tokens=11)


def test_neither_is_sent_to_a_process() -> None:
    assert format_reward.is_async and length_reward.is_async
    assert format_reward.required == ["completion"]
    assert length_reward.required == ["completion_tokens"]
