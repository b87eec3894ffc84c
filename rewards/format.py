"""Rewards the shape of an answer: reasoning between think tags, then an answer."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.reward_function import inline_reward

_OPEN, _CLOSE = "<think>", "</think>"


@inline_reward("format")
def format_reward(completion: str) -> float:
    """1.0 where the completion is `<think>...</think>` once, then an answer; else 0.0.

    The opening tag may be missing, as it is where the chat template ends the prompt with it.
    """
    reasoning, closed, answer = completion.partition(_CLOSE)
    before, opened, thought = reasoning.partition(_OPEN)
    well_formed = bool(closed) and (not opened or not before.strip()) and _OPEN not in thought
    return float(well_formed and bool(answer.strip()) and _OPEN not in answer and _CLOSE not in answer)


@inline_reward("tags")
def tags_reward(completion: str, tags: Sequence[str] = ("think", "answer")) -> float:
    """1.0 where the completion is one block for each tag, in order, none of them empty, and nothing else; else 0.0.

    As DeepSeek-R1 asks for it (arXiv 2501.12948): `<think>...</think> <answer>...</answer>`. The first opening tag
    may be missing, as it is where the chat template ends the prompt with it.
    """
    rest = completion.strip()
    first = f"<{tags[0]}>"
    rest = rest if rest.startswith(first) else first + rest
    for tag in tags:
        if not rest.startswith(f"<{tag}>"):
            return 0.0
        content, closed, rest = rest.removeprefix(f"<{tag}>").partition(f"</{tag}>")
        if not closed or not content.strip() or any(f"<{t}>" in content or f"</{t}>" in content for t in tags):
            return 0.0
        rest = rest.lstrip()
    return float(not rest)
