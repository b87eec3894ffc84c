"""GDPO (Liu et al. 2026, arXiv 2601.05242): each reward is normalised by itself, so that none drowns another.

A sum of rewards has one spread, that of the largest. Here reward k of answer i in a group has an advantage of its
own, `a_ik = (v_ik - mean_i v_ik) / std_i v_ik`, the answer's is `sum_k w_k a_ik`, and those of all answers of an
optimizer step are whitened together: less their mean, divided by their standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.learn.advantage import standardised
from rlvr.reward_function import Reward, judges_of
from rlvr.types import Group, newest_version


@dataclass(frozen=True)
class GDPO:
    """An `Advantage` of answers that several rewards judged. Verdicts are the scores' parts, by a reward's name."""

    rewards: tuple[Reward, ...]

    def __call__(self, groups: Sequence[Group]) -> list[list[float]]:
        """For each group, one per trajectory with a verdict; whitened over the groups together."""
        of_groups = [self.of_group(group) for group in groups]
        whitened = iter(standardised([advantage for of_group in of_groups for advantage in of_group]))
        return [[next(whitened) for _ in of_group] for of_group in of_groups]

    def of_group(self, group: Group) -> list[float]:
        """Not whitened yet. Rewards whose verdicts are equal add nothing."""
        scores = group.scores()
        totals = [0.0] * len(scores)
        version = newest_version(group.answered())
        for reward in judges_of(self.rewards, group.task.columns):
            if weight := reward.weight_at(version):
                advantages = standardised([score.parts[reward.name] for score in scores])
                totals = [total + weight * advantage for total, advantage in zip(totals, advantages, strict=True)]
        return totals
