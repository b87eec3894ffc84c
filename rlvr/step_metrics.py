"""What a step's numbers are made of. A metric says what it claims: tokens are counted once, idle time adds up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from rlvr.generate.protocol import GeneratorStatus
from rlvr.rollout.ledger import Fate
from rlvr.types import FinishReason, Group, Row


def batch_metrics(groups: Sequence[Group], filtered: Sequence[tuple[Group, Fate]]) -> dict[str, float]:
    """Of all answers that finished since the last step, filtered ones included: their mean is the policy's.

    An episode of which nothing was sampled is none of them. `staleness/length_ratio` is the mean length of trained
    answers over that of all sampled ones: 1 means that long answers are trained as often as they are sampled.
    """
    finished = [*groups, *(group for group, _ in filtered)]
    trajectories = [t for g in finished for t in g.trajectories if any(t.sampled)]
    values = [v for g in finished for v in g.values()]
    lengths = [float(sum(t.sampled)) for t in trajectories]
    trained_lengths = [float(sum(t.sampled)) for g in groups for t in g.trajectories if any(t.sampled)]
    parts: dict[str, list[float]] = {}
    for trajectory in trajectories:
        for name, value in (trajectory.score.parts if trajectory.score else {}).items():
            parts.setdefault(name, []).append(value)
    metrics = {
        "reward/mean": _mean(values),
        "reward/std": statistics.pstdev(values) if values else math.nan,
        "answer/mean_tokens": _mean(lengths),
        "answer/truncated_share": _mean([float(t.finish is FinishReason.LENGTH) for t in trajectories]),
        "answer/count": float(len(trajectories)),
        "answer/sampled_tokens": sum(lengths),
        "staleness/length_ratio": _mean(trained_lengths) / _mean(lengths) if sum(lengths) else math.nan,
    }
    return metrics | {f"reward/part/{name}": _mean(of_part) for name, of_part in parts.items()}


def staleness_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """How many versions old the trained tokens are: mean over tokens, and the oldest."""
    ages = [
        float(age)
        for row in rows
        if row.rl is not None
        for age, trained in zip(row.rl.staleness, row.trained, strict=True)
        if trained
    ]
    return {"staleness/mean": _mean(ages), "staleness/max": max(ages, default=math.nan)}


def throughput_metrics(metrics: Mapping[str, float], step_s: float) -> dict[str, float]:
    """Per second of the whole step. A token is sampled once and trained at most once."""
    return {
        "throughput/answers_per_s": metrics["answer/count"] / step_s,
        "throughput/sampled_tokens_per_s": metrics["answer/sampled_tokens"] / step_s,
        "throughput/trained_tokens_per_s": metrics["learner/trained_tokens"] / step_s,
    }


LEARNER_STAGES = ("learn", "roll_back", "publish", "checkpoint")


class Clock:
    """Turns counters of the roles into shares of the time between two steps."""

    def __init__(self) -> None:
        self._before: dict[str, GeneratorStatus] = {}

    def times(
        self,
        stage_s: Mapping[str, float],
        step_s: float,
        statuses: Sequence[GeneratorStatus],
    ) -> dict[str, float]:
        """Seconds by stage, and by role the shares busy, updating and waiting: they add up to 1.

        A step lasts until it is recorded: what it causes after that, an evaluation or a checkpoint, counts in the next.
        The learner works in the stages `learn`, `roll_back`, `publish` and `checkpoint`, and waits in the others.
        """
        times = {f"time/{name}_s": seconds for name, seconds in stage_s.items()} | {"time/step_s": step_s}
        spans = [_since(self._before.get(status.name), status) for status in statuses]
        whole = sum(sum(span) for span in spans)
        if whole:
            times["time/generator_busy_share"] = sum(busy for busy, _, _ in spans) / whole
            times["time/generator_updating_share"] = sum(updating for _, updating, _ in spans) / whole
            times["time/generator_waiting_share"] = sum(waiting for _, _, waiting in spans) / whole
        learner_s = sum(stage_s.get(name, 0.0) for name in LEARNER_STAGES)
        times["time/learner_busy_share"] = learner_s / step_s
        times["time/learner_waiting_share"] = 1.0 - learner_s / step_s
        self._before = {status.name: status for status in statuses}
        return times


def _since(before: GeneratorStatus | None, now: GeneratorStatus) -> tuple[float, float, float]:
    if before is None:
        return now.busy_s, now.updating_s, now.waiting_s
    return now.busy_s - before.busy_s, now.updating_s - before.updating_s, now.waiting_s - before.waiting_s


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
