"""What a run says to its reader, where a number is not enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlvr.rollout.ledger import Fate
from rlvr.types import Group


def end_in_words(stage_s: Mapping[str, float], whole_s: float) -> str:
    """Where the time goes after the last step's record, which no later step counts."""
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stage_s.items())
    return f"the end took {whole_s:.1f} s: {parts}"


def failure_in(groups: Sequence[Group]) -> str:
    """Why the last answer without a verdict has none, in words."""
    scores = [t.score for group in groups for t in group.trajectories if t.score is not None and t.score.value is None]
    return next((score.detail[:300] for score in reversed(scores) if score.detail), "no reason given")


def nothing_trained(filtered: Sequence[tuple[Group, Fate]]) -> str:
    """Why a step has no groups, in words."""
    flat = sum(fate is Fate.ZERO_VARIANCE for _, fate in filtered)
    return (
        f"none of the {len(filtered)} groups sampled for this step is worth training: in {flat} all answers score the "
        f"same, {len(filtered) - flat} have too few verdicts. Easier or harder tasks, a reward with more steps between "
        "right and wrong, or a larger rollout.group_size or rollout.max_refill may help"
    )
