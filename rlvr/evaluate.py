"""Evaluation: answers to held-out tasks from the generators that training uses, at one named version."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.rollout.episode import EpisodeRunner
from rlvr.types import FinishReason, Group, Task, Trajectory

# Enough to keep generators full; the deadline of an episode then does not run while it waits for thousands of others.
_GROUPS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What the policy can do at a version. Shares are of answers with a verdict; `pass_at` maps k to pass@k."""

    version: int
    tasks: int
    answers: int
    without_verdict: int
    mean_score: float
    pass_at: dict[int, float]
    mean_tokens: float
    truncated_share: float
    groups: list[Group]

    def metrics(self) -> dict[str, float]:
        """As `evaluation/...`."""
        return {
            "evaluation/version": float(self.version),
            "evaluation/tasks": float(self.tasks),
            "evaluation/without_verdict": float(self.without_verdict),
            "evaluation/mean_score": self.mean_score,
            "evaluation/mean_tokens": self.mean_tokens,
            "evaluation/truncated_share": self.truncated_share,
        } | {f"evaluation/pass@{k}": value for k, value in self.pass_at.items()}


class MixedVersions(RuntimeError):
    """Weights changed while an evaluation ran: its result would belong to no version."""


async def evaluate_tasks(runner: EpisodeRunner, tasks: Sequence[Task], version: int) -> EvaluationReport:
    """Answer every task with the runner's group size and sampling. Raises MixedVersions."""
    gate = asyncio.Semaphore(_GROUPS_AT_ONCE)

    async def answer(number: int, task: Task) -> Group:
        async with gate:
            return await runner.run(number, task)

    groups = await asyncio.gather(*(answer(i, t) for i, t in enumerate(tasks)))
    sampled_by = {v for g in groups for t in g.trajectories for v, s in zip(t.versions, t.sampled, strict=True) if s}
    if sampled_by - {version}:
        raise MixedVersions(f"evaluation of version {version} holds tokens of versions {sorted(sampled_by)}")
    return summarize(groups, version)


def summarize(groups: Sequence[Group], version: int) -> EvaluationReport:
    """An answer is right when its score is at least 1; k goes through the powers of two up to the answers per task."""
    trajectories = [t for g in groups for t in g.trajectories]
    values = [v for g in groups for v in g.values()]
    most = max((len(g.trajectories) for g in groups), default=1)
    ks = [k for k in (2**i for i in range(most.bit_length())) if k <= most]
    return EvaluationReport(
        version=version,
        tasks=len(groups),
        answers=len(trajectories),
        without_verdict=len(trajectories) - len(values),
        mean_score=_mean(values),
        pass_at={k: _mean([pass_at_k(g, k) for g in groups if len(g.values()) >= k]) for k in ks},
        mean_tokens=_mean([float(sum(t.sampled)) for t in trajectories]),
        truncated_share=_mean([float(_is_truncated(t)) for t in trajectories]),
        groups=list(groups),
    )


def pass_at_k(group: Group, k: int) -> float:
    """Chance that one of k answers, drawn without replacement, is right: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al., 2021 (arXiv 2107.03374), equation 1.
    """
    values = group.values()
    right = sum(value >= 1 for value in values)
    return 1 - math.comb(len(values) - right, k) / math.comb(len(values), k)


def _is_truncated(trajectory: Trajectory) -> bool:
    return trajectory.finish is FinishReason.LENGTH


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
