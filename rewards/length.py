"""Rewards brevity: the soft penalty on overlong answers of DAPO (Yu et al. 2025, equation 13)."""

from __future__ import annotations

from rlvr.reward_function import reward


def _overlong_penalty(completion_tokens: int, max_tokens: int = 20_480, cache_tokens: int = 4096) -> float:
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


@reward(name="length", blocking=_overlong_penalty)
async def length_reward(completion_tokens: int, max_tokens: int = 20_480, cache_tokens: int = 4096) -> float:
    """0 up to `max_tokens - cache_tokens` tokens, then falling in a straight line to -1 at `max_tokens` and beyond.

    All in tokens; the defaults are the paper's. To set them, wrap it:
    `rlvr.reward(name="length")(functools.partial(length_reward.function, max_tokens=1024, cache_tokens=256))`.
    Raises ValueError where the stretch is not within the limit.
    """
    return _overlong_penalty(completion_tokens, max_tokens, cache_tokens)
