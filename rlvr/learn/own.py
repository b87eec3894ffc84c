"""An algorithm of one's own: a Python function from groups to the weight of each token.

The function takes the groups of an optimizer step and gives for each group one entry per trajectory that has a
verdict, in their order: a number for all its tokens, or a list with one number for each of its `token_ids`. A number
stands where an advantage stands: it multiplies the gradient of the token's log-probability, times what the kernel,
correction and masks of the run's preset make of the policy's ratio. 0 is not trained.

It is called once a step that has groups. With `rollout.drop_zero_variance` it is also called with each finished group
alone, which is left out where all its weights are 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.types import Group, Trajectory

Weight = float | Sequence[float]
WeightsOfGroups = Callable[[Sequence[Group]], Sequence[Sequence[Weight]]]


class AlgorithmError(ValueError):
    """An algorithm's function gave something that is not the weights of its groups' tokens."""


@dataclass(frozen=True)
class OwnAlgorithm:
    """An `Advantage` whose answers are checked. Raises AlgorithmError."""

    function: WeightsOfGroups

    def __call__(self, groups: Sequence[Group]) -> Sequence[Sequence[Weight]]:
        if not groups:  # all were filtered, so there is nothing to ask
            return []
        weights = self.function(groups)
        if len(weights) != len(groups):
            raise AlgorithmError(f"{self._name} gave {len(weights)} entries for {len(groups)} groups")
        for group, of_group in zip(groups, weights, strict=True):
            judged = group.judged()
            if len(of_group) != len(judged):
                raise AlgorithmError(
                    f"{self._name} gave {len(of_group)} entries for group {group.id}, of which {len(judged)} "
                    "trajectories have a verdict"
                )
            for trajectory, weight in zip(judged, of_group, strict=True):
                self._check(group, trajectory, weight)
        return weights

    @property
    def _name(self) -> str:
        return f"algorithm {getattr(self.function, '__name__', type(self.function).__name__)}"

    def _check(self, group: Group, trajectory: Trajectory, weight: Weight) -> None:
        values = [weight] if isinstance(weight, (int, float)) else list(weight)
        if not isinstance(weight, (int, float)) and len(values) != len(trajectory.token_ids):
            raise AlgorithmError(
                f"{self._name} gave {len(values)} weights for a trajectory of group {group.id} that has "
                f"{len(trajectory.token_ids)} tokens"
            )
        if not all(math.isfinite(value) for value in values):
            raise AlgorithmError(f"{self._name} gave a weight for group {group.id} that is not finite")


def per_token(weight: Weight, trajectory: Trajectory) -> list[float]:
    """The weight of each of the trajectory's tokens; 0 where it was not sampled."""
    values = [weight] * len(trajectory.token_ids) if isinstance(weight, (int, float)) else weight
    return [float(value) if sampled else 0.0 for value, sampled in zip(values, trajectory.sampled, strict=True)]


def mean_weight(weight: Weight, trajectory: Trajectory) -> float:
    """Over the tokens that were sampled."""
    return sum(per_token(weight, trajectory)) / max(1, sum(trajectory.sampled))
