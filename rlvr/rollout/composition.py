"""Several rewards make one score.

With v_i the verdict of reward i and w_i its weight at the policy version that sampled the answer:

* sum:     sum_i w_i v_i
* product: prod_i v_i ** w_i, for values of 0 or more: a weight of 0 leaves a reward out, 1 takes it whole
* gate:    sum_i w_i v_i over the first reward, and each later one whose predecessors all say "right" (at least 1)
* gdpo:    sum_i w_i v_i for readers and evaluations; advantages are made of the verdicts one by one (`rlvr.learn`)

Without a verdict of each reward that counts there is none of the whole. A weight of 0, also one that a schedule
reaches for a while, makes a reward a metric; in a gate, a reward with a schedule guards those behind it throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlvr.reward_function import RIGHT_FROM, Combine, LinearWeight, Reward
from rlvr.types import Outcome, Score


class RewardError(ValueError):
    """Rewards that cannot be called with what the data offers, or cannot be combined."""


def check_rewards(rewards: Sequence[Reward], rule: Combine = Combine.SUM) -> None:
    """Refuse rewards that cannot make a score together. Raises RewardError."""
    counted = [reward for reward in rewards if not reward.is_metric]
    if not counted:
        raise RewardError("a run needs a reward function with a weight other than 0: set `reward`")
    names = [reward.name for reward in rewards]
    if len(set(names)) < len(names):
        raise RewardError(f"reward functions need names of their own, got {', '.join(names)}")
    if rule is not Combine.SUM and len(counted) < 2:
        raise RewardError(
            f"reward.combine={rule.value} is of two or more reward functions with a weight other than 0, but there is "
            f"only {counted[0].name!r}: add another, or leave reward.combine at sum"
        )
    negative = [reward.name for reward in counted if _least(reward.weight) < 0]
    if rule is Combine.PRODUCT and negative:
        raise RewardError(
            f"reward.combine=product raises each reward to the power of its weight: "
            f"the weight of {', '.join(negative)} must not be negative"
        )


def combined(rule: Combine, rewards: Sequence[Reward], verdicts: Sequence[Score | None], version: int) -> Score:
    """One answer's score. A verdict is None where the reward was not asked, because a gate before it is closed."""
    given = [(reward, verdict) for reward, verdict in zip(rewards, verdicts, strict=True) if verdict is not None]
    parts: dict[str, float] = {}
    for reward, verdict in given:
        if verdict.value is not None:
            parts[reward.name] = verdict.value
        parts |= {f"{reward.name}/{part}": value for part, value in verdict.parts.items()}
    detail = "; ".join(verdict.detail for _, verdict in given if verdict.detail)
    counted = [(reward.weight_at(version), verdict) for reward, verdict in given if _counts(rule, reward, version)]
    if rule is Combine.GATE:
        counted = _until_a_gate_closes(counted)
    missing = next((verdict for _, verdict in counted if verdict.value is None), None)
    if missing is not None:
        return Score(None, missing.outcome, parts, detail)
    try:
        return Score(_value(rule, counted), Outcome.SCORED, parts, detail)
    except (ValueError, OverflowError) as error:
        return Score(None, Outcome.CRASHED, parts, "; ".join(filter(None, (str(error), detail))))


def says_right(verdict: Score | None) -> bool | None:
    """Whether a reward found the answer right; None where it gave no verdict."""
    return None if verdict is None or verdict.value is None else verdict.value >= RIGHT_FROM


def _counts(rule: Combine, reward: Reward, version: int) -> bool:
    return not reward.is_metric if rule is Combine.GATE else reward.weight_at(version) != 0


def _until_a_gate_closes(counted: list[tuple[float, Score]]) -> list[tuple[float, Score]]:
    closed = next((i for i, (_, verdict) in enumerate(counted) if not says_right(verdict)), len(counted))
    return counted[: closed + 1]


def _value(rule: Combine, counted: Sequence[tuple[float, Score]]) -> float:
    pairs = [(weight, verdict.value) for weight, verdict in counted if verdict.value is not None]
    if rule is Combine.PRODUCT:
        negative = min((value for _, value in pairs), default=0.0)
        if negative < 0:
            raise ValueError(f"reward.combine=product takes values of 0 or more, got {negative:g}")
        value = math.prod(value**weight for weight, value in pairs)
    else:
        value = sum(weight * value for weight, value in pairs)
    if not math.isfinite(value):
        raise ValueError(f"the rewards combine to {value}, which is no score")
    return value


def _least(weight: float | LinearWeight) -> float:
    return min(weight.start, weight.end) if isinstance(weight, LinearWeight) else weight
