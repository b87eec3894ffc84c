"""From scored groups to the rows that a learner eats."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.learn.own import Weight, per_token
from rlvr.types import FinishReason, Group, RLStream, Row, Trajectory


def rows_from(groups: Sequence[Group], advantages: Sequence[Sequence[Weight]], version: int) -> list[Row]:
    """Rows of the trajectories that have a verdict and sampled tokens. The ids are those that were sampled.

    `advantages` are the algorithm's, for each group one per trajectory with a verdict. `version` is the learner's, and
    staleness counts from it. Raises ValueError for a token that is newer than `version`.
    """
    rows = []
    for group, of_group in zip(groups, advantages, strict=True):
        judged = [
            (place, trajectory)
            for place, trajectory in enumerate(group.trajectories)
            if trajectory.score is not None and trajectory.score.value is not None
        ]
        rows += [
            _row(group.id, place, trajectory, advantage, version)
            for (place, trajectory), advantage in zip(judged, of_group, strict=True)
            if any(trajectory.sampled)
        ]
    return rows


def _row(group_id: int, place: int, trajectory: Trajectory, advantage: Weight, version: int) -> Row:
    newest = max(v for v, s in zip(trajectory.versions, trajectory.sampled, strict=True) if s)
    if newest > version:
        raise ValueError(
            f"group {group_id}: a token was sampled by policy version {newest}, but the learner is at {version}; "
            "was the run resumed with rollouts that are newer than its checkpoint?"
        )
    sampled = trajectory.sampled
    prompt = len(trajectory.prompt_ids)
    return Row(
        group_id=group_id,
        token_ids=[*trajectory.prompt_ids, *trajectory.token_ids],
        trained=[False] * prompt + sampled,
        rl=RLStream(
            advantages=[0.0] * prompt + per_token(advantage, trajectory),
            sampler_logprobs=[0.0] * prompt
            + [lp if s else 0.0 for lp, s in zip(trajectory.logprobs, sampled, strict=True)],
            staleness=[0] * prompt
            + [version - v if s else 0 for v, s in zip(trajectory.versions, sampled, strict=True)],
        ),
        truncated=trajectory.finish is FinishReason.LENGTH,
        trajectory=place,
        experts=trajectory.experts,
    )
