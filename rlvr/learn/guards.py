"""Guards: updates that would do harm are left out, and numbers that tell of harm to come are watched.

Limits are constants with their sources. They are wide: none is reached by a run that goes well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

# Updates whose norms a spike is measured against are counted first, and then make a running mean of about as many.
WARM_UP = 20
_KEPT = 1 - 1 / WARM_UP
# A gradient is a spike when its norm is this many times the running mean, and this many times `max_grad_norm`.
SPIKE = 10.0
SPIKE_OF_LIMIT = 20.0
# Batches in a row that were left out, after which the learner goes back to its last checkpoint.
SKIPS_BEFORE_ROLLBACK = 5
# Times that it goes back to the same checkpoint; then the run stops.
ROLLBACKS = 3


@dataclass(slots=True)
class GradientGuard:
    """Judges each update's gradient by its norm. `mean` is a running one, of the `seen` updates that were made."""

    max_grad_norm: float
    mean: float = 0.0
    seen: int = 0
    skipped_in_a_row: int = 0  # batches

    @property
    def limit(self) -> float:
        """The largest norm that is no spike; none is while there is nothing to compare with."""
        return max(SPIKE * self.mean, SPIKE_OF_LIMIT * self.max_grad_norm) if self.seen >= WARM_UP else math.inf

    def objection(self, norm: float) -> str | None:
        """Why the update must not be made; None where it is made, and counts."""
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        if norm > self.limit:
            return f"the gradient's norm is {norm:.3g}, over {self.limit:.3g} (of late it was {self.mean:.3g})"
        self.mean = norm if self.seen == 0 else _KEPT * self.mean + (1 - _KEPT) * norm
        self.seen += 1
        return None

    def end_batch(self, updates: int, objections: int) -> None:
        """Count a batch, of which `updates` were made. One with nothing to train does not count."""
        if updates:
            self.skipped_in_a_row = 0
        elif objections:
            self.skipped_in_a_row += 1

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"norm_mean": self.mean, "norms_seen": self.seen, "skipped_in_a_row": self.skipped_in_a_row}

    def load(self, state: Mapping[str, float]) -> None:
        self.mean = state["norm_mean"]
        self.seen, self.skipped_in_a_row = int(state["norms_seen"]), int(state["skipped_in_a_row"])


@dataclass(frozen=True, slots=True)
class Limit:
    """Where the sum of some metrics should be: from `low` to `high`, and from `fraction` to `times` its running mean.

    A multiple of the mean is no limit below `noise`. `meaning` is what a reader should know when it is not there.
    """

    name: str
    metrics: tuple[str, ...]
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    fraction: float = -math.inf
    times: float = math.inf
    noise: float = 0.0


LIMITS = (
    # 0.1: verl's bound for drift off the policy. Dense models have 1e-5 to 1e-3 from the engine alone, MoE to 1e-1.
    Limit(
        "mismatch KL",
        ("learner/mismatch_kl",),
        "sampler and learner disagree: the engine's numerics, routing of experts, or tokens that are too old",
        high=0.1,
        times=10.0,
        noise=0.01,
    ),
    # verl's bounds for importance weights.
    Limit(
        "effective sample size",
        ("learner/effective_sample_size",),
        "a few tokens carry the whole gradient",
        low=0.3,
    ),
    Limit("mean ratio", ("learner/mean_ratio",), "sampler and learner disagree in one direction", low=0.5, high=2.0),
    # The 99th percentile of the ratio is above 10.
    Limit(
        "share of tokens with a ratio above 10",
        ("learner/ratio_above_10_share",),
        "many tokens are far likelier to the learner than to the sampler",
        high=0.01,
    ),
    # Fireworks saw a reward fall from 0.9 to 0.2 within 20 steps of 45 % of tokens being clipped.
    Limit(
        "share of tokens without their gradient",
        ("masked/bounded_share", "masked/corrected_share", "masked/unusable_share", "masked/stale_share"),
        "bounds, correction or staleness stop most of what was sampled",
        high=0.45,
    ),
    # At 0 the policy samples one answer and learns nothing more (Cui et al., arXiv 2505.22617).
    Limit("entropy", ("learner/entropy",), "the policy has nearly stopped exploring", low=0.005),
    Limit(
        "mean answer length",
        ("answer/mean_tokens",),
        "answers changed their length within a few steps: the reward may be gamed, or the policy is breaking",
        fraction=1 / 3,
        times=3.0,
    ),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a guard sees: the value, and the bounds it had at this step."""

    limit: Limit
    value: float
    low: float
    high: float

    @property
    def is_outside(self) -> bool:
        return not self.low <= self.value <= self.high

    def __str__(self) -> str:
        side = f"over {self.high:.3g}" if self.value > self.high else f"under {self.low:.3g}"
        return f"{self.limit.name} is {self.value:.3g}, {side}: {self.limit.meaning}"


@dataclass(slots=True)
class _Mean:
    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.value = value if self.count == 0 else _KEPT * self.value + (1 - _KEPT) * value
        self.count += 1


@dataclass(slots=True)
class HealthWatch:
    """Watches the metrics of steps. Changes nothing: a reader is told when a limit is passed, and when all is well."""

    _means: dict[str, _Mean] = field(default_factory=dict)
    _outside: set[str] = field(default_factory=set)

    def read(self, metrics: Mapping[str, float]) -> list[Reading]:
        """Of one step, which then counts in the running means. A step that trained nothing has no readings."""
        if not metrics.get("learner/trained_tokens"):
            return []
        readings = []
        for limit in LIMITS:
            if not all(math.isfinite(metrics.get(name, math.nan)) for name in limit.metrics):
                continue
            value = sum(metrics[name] for name in limit.metrics)
            mean = self._means.setdefault(limit.name, _Mean())
            readings.append(self._reading(limit, value, mean))
            mean.add(value)
        return readings

    def news(self, readings: list[Reading]) -> list[str]:
        """What changed since the last step: limits that are passed now, and those that no longer are."""
        outside = {reading.limit.name for reading in readings if reading.is_outside}
        told = [str(r) for r in readings if r.is_outside and r.limit.name not in self._outside]
        told += [
            f"{r.limit.name} is {r.value:.3g}, within its limits again"
            for r in readings
            if not r.is_outside and r.limit.name in self._outside
        ]
        self._outside = outside | (self._outside - {reading.limit.name for reading in readings})
        return told

    @staticmethod
    def _reading(limit: Limit, value: float, mean: _Mean) -> Reading:
        if mean.count < WARM_UP or mean.value <= 0:
            return Reading(limit, value, limit.low, limit.high)
        low = max(limit.low, limit.fraction * mean.value)
        high = min(limit.high, max(limit.times * mean.value, limit.noise))
        return Reading(limit, value, low, high)
