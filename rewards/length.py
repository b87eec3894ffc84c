"""Rewards that shape how long answers become. All lengths are in tokens that the policy sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlvr.reward_function import inline_reward


@inline_reward("length")
def length_reward(completion_tokens: int, max_tokens: int = 20_480, cache_tokens: int = 4096) -> float:
    """0 up to `max_tokens - cache_tokens` tokens, then falling in a straight line to -1 at `max_tokens` and beyond.

    The soft penalty on overlong answers of DAPO (Yu et al. 2025, arXiv 2503.14476, equation 13); the defaults are
    the paper's. Raises ValueError where the stretch is not within the limit.
    """
    if not 0 < cache_tokens <= max_tokens:
        raise ValueError(
            f"cache_tokens: expected 1 to max_tokens ({max_tokens}), got {cache_tokens}; "
            "it is the stretch before max_tokens over which the penalty grows"
        )
    free = max_tokens - cache_tokens
    if completion_tokens <= free:
        return 0.0
    if completion_tokens <= max_tokens:
        return (free - completion_tokens) / cache_tokens
    return -1.0


@inline_reward("kimi_length")
def kimi_length(
    completions: Sequence[object], completion_tokens: Sequence[int], is_correct: Sequence[bool | None]
) -> list[float | None]:
    """Of the answers to one task, the shortest gets 0.5 and the longest -0.5; a wrong one never more than 0.

    Kimi K1.5 (arXiv 2501.12599, section 2.3.3): with `s = 0.5 - (length - shortest) / (longest - shortest)`, a right
    answer gets s and a wrong one min(0, s); all get 0 where all lengths are equal. The paper leaves it out in the
    first part of training: give it a weight that grows. None where the verifier has no verdict.
    """
    shortest, longest = min(completion_tokens), max(completion_tokens)
    rewards: list[float | None] = []
    for length, right in zip(completion_tokens, is_correct, strict=True):
        share = 0.5 - (length - shortest) / (longest - shortest) if longest > shortest else 0.0
        rewards.append(None if right is None else share if right else min(0.0, share))
    return rewards


@inline_reward("cosine_length")
def cosine_length(
    completion_tokens: int,
    is_correct: bool | None,
    max_tokens: int,
    right: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    overlong: float = -1.0,
) -> float | None:
    """Rewards brevity in right answers and effort in wrong ones, along half a cosine over the length.

    Yeo et al. 2025 (arXiv 2502.03373): from the first number of `right`, at no tokens, to the second, at `max_tokens`:
    `end + (start - end) / 2 * (1 + cos(pi * length / max_tokens))`; likewise of `wrong`. An answer of `max_tokens`
    or more gets `overlong`. The form is the paper's, the numbers are mild ones, for use beside a verifier. None where
    the verifier has no verdict. Raises ValueError where max_tokens is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens: expected at least 1, got {max_tokens}; set it to sampling.max_new_tokens")
    if is_correct is None:
        return None
    if completion_tokens >= max_tokens:
        return overlong
    start, end = right if is_correct else wrong
    return end + (start - end) / 2 * (1 + math.cos(math.pi * completion_tokens / max_tokens))
