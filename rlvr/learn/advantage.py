"""Advantages: how much better an answer was than the others.

An `Advantage` takes the groups of an optimizer step and gives a list per group: one number per trajectory that has
a verdict, in their order. A group of equal scores gets zeros from all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from statistics import fmean, stdev

from rlvr.types import Group

# One's own may give a list of numbers, one per token, in the place of a number: `rlvr.learn.own`.
Advantage = Callable[[Sequence[Group]], Sequence[Sequence[float | Sequence[float]]]]

# Scores nearer to each other than this are equal: dividing by their spread would make rounding a signal.
EQUAL_WITHIN = 1e-6


def of_scores(function: Callable[[Sequence[float]], list[float]]) -> Callable[[Sequence[Group]], list[list[float]]]:
    """An advantage that looks at the scores of one group at a time."""

    @functools.wraps(function)
    def of_groups(groups: Sequence[Group]) -> list[list[float]]:
        scores = (group.values() for group in groups)
        return [[0.0] * len(group) if _equal(group) else function(group) for group in scores]

    return of_groups


@of_scores
def group_mean(scores: Sequence[float]) -> list[float]:
    """`r - mean(r)`, as in Dr. GRPO (arXiv 2503.20783): hard and easy tasks keep their own scale."""
    mean = fmean(scores)
    return [score - mean for score in scores]


def standardised(scores: Sequence[float]) -> list[float]:
    """`(r - mean(r)) / std(r)` with the standard deviation of a sample (n - 1); zeros where all are equal."""
    if _equal(scores):
        return [0.0] * len(scores)
    mean, deviation = fmean(scores), stdev(scores)
    return [(score - mean) / deviation for score in scores]


@of_scores
def group_std(scores: Sequence[float]) -> list[float]:
    """`(r - mean(r)) / std(r)`, as in GRPO (arXiv 2402.03300)."""
    return standardised(scores)


@of_scores
def rloo(scores: Sequence[float]) -> list[float]:
    """`r_i` less the mean of the others (arXiv 2402.14740), which is `(r_i - mean(r)) * G / (G - 1)`."""
    mean, count = fmean(scores), len(scores)
    return [(score - mean) * count / (count - 1) for score in scores]


@of_scores
def maxrl(scores: Sequence[float]) -> list[float]:
    """`(r - mean(r)) / mean(r)`: a task that is seldom solved counts as much more as its success is rarer.

    For scores of 0 or more; a mean of 0 or less gives zeros.
    """
    mean = fmean(scores)
    return [(score - mean) / mean if mean > 0 else 0.0 for score in scores]


def opo(groups: Sequence[Group]) -> list[list[float]]:
    """`r - sum(n r) / sum(n)` with n the tokens of an answer: the baseline of least variance (arXiv 2505.23585)."""

    def of_group(group: Group) -> list[float]:
        scores, lengths = group.values(), _lengths(group)
        if _equal(scores) or not sum(lengths):
            return [0.0] * len(scores)
        baseline = sum(n * r for n, r in zip(lengths, scores, strict=True)) / sum(lengths)
        return [score - baseline for score in scores]

    return [of_group(group) for group in groups]


def batch_std(groups: Sequence[Group]) -> list[list[float]]:
    """`(r - mean of the group) / std of the step's scores`: one scale for all tasks (ScaleRL, arXiv 2510.13786)."""
    scores = list(chain.from_iterable(group.values() for group in groups))
    deviation = 1.0 if _equal(scores) else stdev(scores)
    return [[advantage / deviation for advantage in group] for group in group_mean(groups)]


def whiten(groups: Sequence[Group]) -> list[list[float]]:
    """`r - mean of the group`, then mean 0 and deviation 1 over the step's tokens (REINFORCE++, arXiv 2501.03262).

    An answer counts as often as it has tokens. Here a group of equal scores need not get zeros: the step's mean is
    taken from all.
    """
    centred = group_mean(groups)
    lengths = [_lengths(group) for group in groups]
    values, weights = list(chain.from_iterable(centred)), list(chain.from_iterable(lengths))
    count = sum(weights)
    if _equal(values) or count < 2:
        return [[0.0] * len(group) for group in centred]
    mean = sum(n * a for n, a in zip(weights, values, strict=True)) / count
    variance = sum(n * (a - mean) ** 2 for n, a in zip(weights, values, strict=True)) / (count - 1)
    return [[(advantage - mean) / variance**0.5 for advantage in group] for group in centred]


ADVANTAGES: Mapping[str, Advantage] = {
    "group_mean": group_mean,
    "group_std": group_std,
    "batch_std": batch_std,
    "rloo": rloo,
    "opo": opo,
    "maxrl": maxrl,
    "whiten": whiten,
}


def _equal(scores: Sequence[float]) -> bool:
    return not scores or max(scores) - min(scores) <= EQUAL_WITHIN


def _lengths(group: Group) -> list[int]:
    """Sampled tokens of each trajectory with a verdict."""
    judged = (t for t in group.trajectories if t.score is not None and t.score.value is not None)
    return [sum(t.sampled) for t in judged]
