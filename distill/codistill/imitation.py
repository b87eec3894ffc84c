"""Where peers think too differently, what one says of the other's tokens teaches nothing. Its right answers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvr.types import Group, Row, Trajectory


@dataclass(frozen=True, slots=True)
class Solution:
    """A right answer to a prompt: what follows the prompt, and which of it was sampled."""

    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]


def solution_in(group: Group, right: Sequence[bool | None]) -> Solution | None:
    """The shortest right answer of a group."""
    answers: list[Trajectory] = [t for t, is_right in zip(group.trajectories, right, strict=True) if is_right]
    if not answers:
        return None
    shortest = min(answers, key=lambda answer: len(answer.token_ids))
    return Solution(tuple(shortest.token_ids), tuple(shortest.sampled))


def imitating(groups: Sequence[Group], solutions: Mapping[int, Solution], strength: float, rl_tokens: int) -> list[Row]:
    """A row for each group with a solution, by id: the cross-entropy of the peer's tokens.

    A learner normalises each loss by its own tokens. With these weights one of them counts `strength` times what a
    token of the step's `rl_tokens` does.
    """
    tokens = sum(sum(solution.sampled) for solution in solutions.values())
    weight = strength * tokens / max(rl_tokens, 1)
    rows = []
    for group in groups:
        solution = solutions.get(group.id)
        if solution is None:
            continue
        prompt = group.task.prompt_ids
        trained = [False] * len(prompt) + list(solution.sampled)
        rows.append(
            Row(
                group_id=group.id,
                token_ids=[*prompt, *solution.token_ids],
                trained=trained,
                ce=[weight * is_trained for is_trained in trained],
                trajectory=len(group.trajectories),
            )
        )
    return rows
