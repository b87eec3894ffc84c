"""Advantages of a group: how much better an answer was than its siblings.

Each function takes the scores of one group, those without a verdict left out, and gives one number per score,
in the same order. Equal scores give zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, stdev

Advantage = Callable[[Sequence[float]], list[float]]

# Scores nearer to each other than this are equal: dividing by their spread would make rounding a signal.
EQUAL_WITHIN = 1e-6


def group_mean(scores: Sequence[float]) -> list[float]:
    """`r - mean(r)`, as in Dr. GRPO (arXiv 2503.20783): hard and easy tasks keep their own scale."""
    if _equal(scores):
        return [0.0] * len(scores)
    mean = fmean(scores)
    return [score - mean for score in scores]


def group_std(scores: Sequence[float]) -> list[float]:
    """`(r - mean(r)) / std(r)`, as in GRPO (arXiv 2402.03300), with the standard deviation of a sample (n - 1)."""
    if _equal(scores):
        return [0.0] * len(scores)
    mean, deviation = fmean(scores), stdev(scores)
    return [(score - mean) / deviation for score in scores]


def rloo(scores: Sequence[float]) -> list[float]:
    """`r_i` less the mean of the others (arXiv 2402.14740), which is `(r_i - mean(r)) * G / (G - 1)`."""
    if _equal(scores):
        return [0.0] * len(scores)
    mean, count = fmean(scores), len(scores)
    return [(score - mean) * count / (count - 1) for score in scores]


def _equal(scores: Sequence[float]) -> bool:
    return not scores or max(scores) - min(scores) <= EQUAL_WITHIN
