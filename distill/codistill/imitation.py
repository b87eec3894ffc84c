"""Where peers think too differently, what one says of the other's tokens teaches nothing. Its right answers do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlvr.types import Group, Row, Trajectory


@dataclass(frozen=True, slots=True)
class Solution:
    """A right answer to a prompt: what follows the prompt, and which of it was sampled. `tag` is the prompt's."""

    tag: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]


def solution_in(group: Group, tag: str, right: Sequence[bool | None]) -> Solution | None:
    """The shortest right answer of a group."""
    answers: list[Trajectory] = [t for t, is_right in zip(group.trajectories, right, strict=True) if is_right]
    if not answers:
        return None
    shortest = min(answers, key=lambda answer: len(answer.token_ids))
    return Solution(tag, tuple(group.task.prompt_ids), tuple(shortest.token_ids), tuple(shortest.sampled))


def chosen(asked: Iterable[tuple[int, str, str]], known: OrderedDict[str, Solution]) -> dict[int, Solution]:
    """A right answer for each group that is asked for, by its id; `asked` has id, task and tag of each.

    That to the very prompt, else the newest one to another prompt with its tag: a peer that is behind in the data,
    or has other prompts, has met few of them. None is taken twice. `known` is by task, the newest last.
    """
    wanted = list(asked)
    taken = {group: task for group, task, _ in wanted if task in known}
    used = set(taken.values())
    newest = [(task, solution.tag) for task, solution in reversed(known.items()) if task not in used]
    for group, _, tag in wanted:
        if group in taken:
            continue
        other = next((place for place, (_, of) in enumerate(newest) if of == tag), None)
        if other is not None:
            taken[group] = newest.pop(other)[0]
    return {group: known[task] for group, task in taken.items()}


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
        prompt = solution.prompt_ids
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
