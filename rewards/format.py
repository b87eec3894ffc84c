"""Rewards the shape of an answer: reasoning between think tags, then an answer."""

from __future__ import annotations

from rlvr.reward_function import reward

_OPEN, _CLOSE = "<think>", "</think>"


def _has_format(completion: str) -> float:
    reasoning, closed, answer = completion.partition(_CLOSE)
    before, opened, thought = reasoning.partition(_OPEN)
    # A chat template may have opened the tag in the prompt; then the completion starts inside it.
    well_formed = bool(closed) and (not opened or not before.strip()) and _OPEN not in thought
    return float(well_formed and bool(answer.strip()) and _OPEN not in answer and _CLOSE not in answer)


@reward(name="format", blocking=_has_format)
async def format_reward(completion: str) -> float:
    """1.0 where the completion is `<think>...</think>` once, then an answer; else 0.0.

    The opening tag may be missing, as it is where the chat template ends the prompt with it.
    """
    return _has_format(completion)
