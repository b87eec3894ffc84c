"""The rewards for shape and for length."""

from __future__ import annotations

import pytest

from rlvr.reward_function import Form
from rlvr.rewards.format import format_reward, tags_reward
from rlvr.rewards.length import cosine_length, kimi_length, length_reward


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


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>2 + 2</think> <answer>4</answer>", 1.0),
        ("\n<think>2 + 2</think>\n<answer>\n4\n</answer>\n", 1.0),
        ("2 + 2</think><answer>4</answer>", 1.0),  # the template opened the tag
        ("<think>2 + 2</think>4", 0.0),
        ("<answer>4</answer><think>2 + 2</think>", 0.0),
        ("<think></think><answer>4</answer>", 0.0),
        ("<think>2</think><answer> </answer>", 0.0),
        ("<think>2</think><answer>4</answer> Good?", 0.0),
        ("<think>2</think>so<answer>4</answer>", 0.0),
        ("<think>2 <answer>3</answer></think><answer>4</answer>", 0.0),
        ("<think>2</think><answer>4</answer><answer>5</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_tags(completion: str, value: float) -> None:
    assert tags_reward(completion) == value


def test_tags_of_ones_own() -> None:
    assert tags_reward("<plan>a</plan><code>b</code><test>c</test>", tags=["plan", "code", "test"]) == 1.0
    assert tags_reward("<plan>a</plan><test>c</test><code>b</code>", tags=["plan", "code", "test"]) == 0.0


def test_kimi_length_compares_the_answers_of_a_group() -> None:
    # s = 0.5 - (length - 100) / (300 - 100); a wrong answer gets min(0, s)
    rewards = kimi_length(["a", "b", "c", "d", "e"], [100, 200, 300, 100, 250], [True, True, True, False, None])
    assert rewards == [0.5, 0.0, -0.5, 0.0, None]
    assert kimi_length(["a", "b"], [300, 100], [False, True]) == [-0.5, 0.5]
    assert kimi_length(["a", "b"], [70, 70], [True, False]) == [0.0, 0.0]
    assert kimi_length.form is Form.BATCH and kimi_length.asks_for_verdict


@pytest.mark.parametrize(
    ("tokens", "right", "value"),
    [(0, True, 1.0), (50, True, 0.75), (99, True, 0.5), (0, False, -1.0), (50, False, -0.75), (100, True, -1.0)],
)
def test_cosine_length(tokens: int, right: bool, value: float) -> None:
    assert cosine_length(tokens, right, max_tokens=100) == pytest.approx(value, abs=2e-3)


def test_cosine_length_at_its_edges() -> None:
    assert cosine_length(10, None, max_tokens=100) is None
    assert cosine_length(100, True, max_tokens=100, overlong=-10.0) == -10.0
    with pytest.raises(ValueError, match="max_tokens"):
        cosine_length(10, True, max_tokens=0)
