"""Evaluation: answers to held-out tasks from the generators that training uses, at one named version."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.reward_function import RIGHT_FROM
from rlvr.rollout.episode import EpisodeRunner
from rlvr.types import FinishReason, Group, Task

# Enough to keep generators full; the deadline of an episode then does not run while it waits for thousands of others.
_GROUPS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What the policy can do at a version. `pass_at` maps k to pass@k, of answers with a verdict; `mean_tokens` and
    `truncated_share` are of those of which anything was sampled.

    `accuracy` is pass@1 by the verifier that judged, where the rows have several. `rights` tell of each group which of
    its answers with a verdict are right.
    """

    version: int
    tasks: int
    answers: int
    without_verdict: int
    mean_score: float
    pass_at: dict[int, float]
    accuracy: dict[str, float]
    mean_tokens: float
    truncated_share: float
    groups: list[Group]
    rights: list[list[bool]]

    def accuracy_by(self, name_of: Callable[[Task], str]) -> dict[str, float]:
        """pass@1 of the tasks of each name."""
        return _accuracy_by([name_of(group.task) for group in self.groups], self.rights)

    def metrics(self) -> dict[str, float]:
        """As `evaluation/...`."""
        numbers = {
            "evaluation/version": float(self.version),
            "evaluation/tasks": float(self.tasks),
            "evaluation/without_verdict": float(self.without_verdict),
            "evaluation/mean_score": self.mean_score,
            "evaluation/mean_tokens": self.mean_tokens,
            "evaluation/truncated_share": self.truncated_share,
        }
        numbers |= {f"evaluation/pass@{k}": value for k, value in self.pass_at.items()}
        return numbers | {f"evaluation/accuracy/{verifier}": value for verifier, value in self.accuracy.items()}


VerifierOf = Callable[[Task], str]


class MixedVersions(RuntimeError):
    """Weights changed while an evaluation ran: its result would belong to no version."""


async def evaluate_tasks(
    runner: EpisodeRunner, tasks: Sequence[Task], version: int, verifier: VerifierOf | None = None
) -> EvaluationReport:
    """Answer every task with the runner's group size and sampling; `verifier` is as in `summarize`.

    Raises MixedVersions.
    """
    gate = asyncio.Semaphore(_GROUPS_AT_ONCE)

    async def answer(number: int, task: Task) -> Group:
        async with gate:
            return await runner.run(number, task)

    groups = await asyncio.gather(*(answer(i, t) for i, t in enumerate(tasks)))
    sampled_by = {v for g in groups for t in g.trajectories for v, s in zip(t.versions, t.sampled, strict=True) if s}
    if sampled_by - {version}:
        raise MixedVersions(f"evaluation of version {version} holds tokens of versions {sorted(sampled_by)}")
    return summarize(groups, version, verifier)


def summarize(groups: Sequence[Group], version: int, verifier: VerifierOf | None = None) -> EvaluationReport:
    """`verifier` names the reward that says whether an answer to a task is right; without it the score does.

    k goes through the powers of two up to the answers per task.
    """
    names = [verifier(group.task) if verifier is not None else None for group in groups]
    rights = [_rights(group, name) for group, name in zip(groups, names, strict=True)]
    trajectories = [t for g in groups for t in g.trajectories]
    sampled = [t for t in trajectories if any(t.sampled)]
    values = [v for g in groups for v in g.values()]
    most = max((len(g.trajectories) for g in groups), default=1)
    ks = [k for k in (2**i for i in range(most.bit_length())) if k <= most]
    return EvaluationReport(
        version=version,
        tasks=len(groups),
        answers=len(trajectories),
        without_verdict=len(trajectories) - len(values),
        mean_score=_mean(values),
        pass_at={k: _mean([pass_at_k(r, k) for r in rights if len(r) >= k]) for k in ks},
        accuracy=_by_verifier(names, rights),
        mean_tokens=_mean([float(sum(t.sampled)) for t in sampled]),
        truncated_share=_mean([float(t.finish is FinishReason.LENGTH) for t in sampled]),
        groups=list(groups),
        rights=rights,
    )


def _by_verifier(names: Sequence[str | None], rights: Sequence[list[bool]]) -> dict[str, float]:
    """pass@1 of each verifier's tasks; nothing where one judged them all."""
    named = [name for name in names if name is not None]
    return _accuracy_by(named, rights) if len(set(named)) > 1 else {}


def _accuracy_by(names: Sequence[str], rights: Sequence[list[bool]]) -> dict[str, float]:
    """pass@1 by name; tasks without a verdict are left out."""
    judged: dict[str, list[float]] = {name: [] for name in sorted(set(names))}
    for name, right in zip(names, rights, strict=True):
        if right:
            judged[name].append(pass_at_k(right, 1))
    return {name: _mean(values) for name, values in judged.items()}


def _rights(group: Group, verifier: str | None) -> list[bool]:
    """Of the answers with a verdict."""
    scores = [t.score for t in group.trajectories if t.score is not None and t.score.value is not None]
    values = [score.value if verifier is None else score.parts.get(verifier) for score in scores]
    return [value >= RIGHT_FROM for value in values if value is not None]


def pass_at_k(rights: Sequence[bool], k: int) -> float:
    """Chance that one of k answers, drawn without replacement, is right: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al., 2021 (arXiv 2107.03374), equation 1.
    """
    return 1 - math.comb(len(rights) - sum(rights), k) / math.comb(len(rights), k)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
