"""How good a policy is that learns from examples: the loss of held-out ones, and answers to held-out tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from rlvr.evaluation import EvaluationReport, evaluate_tasks
from rlvr.generate.pool import GeneratorPool
from rlvr.learner_handle import LearnerHandle
from rlvr.prepare import Job
from rlvr.rollout.scoring import Scorer
from rlvr.rollout_log import write_evaluation
from rlvr.run_folder import RunFolder
from rlvr.types import Row

HELD_OUT_LOSS = "evaluation/cross_entropy"


class HeldOut(Protocol):
    """One way to measure a policy."""

    async def measure(self, learner: LearnerHandle, step: int, version: int) -> dict[str, float]:
        """Metrics of the learner's policy as it is after `step`, at `version`."""
        ...


class HeldOutLoss:
    """The mean cross-entropy of held-out rows, nats per token."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.latest = math.nan

    async def measure(self, learner: LearnerHandle, step: int, version: int) -> dict[str, float]:
        loss = self.latest = await learner.cross_entropy(self._rows)
        return {HELD_OUT_LOSS: loss, "evaluation/perplexity": math.exp(min(loss, 700.0))}


class HeldOutAnswers:
    """Answers of generators, which get the learner's weights, to held-out tasks, judged by the job's rewards."""

    def __init__(self, job: Job, pool: GeneratorPool, scorer: Scorer, folder: RunFolder) -> None:
        """`scorer` is to be closed by the caller."""
        assert job.held_out is not None
        self._job = job
        self._tasks = job.held_out.tasks
        self._pool = pool
        self._folder = folder
        samples = job.config.evaluation.samples
        self._runner = job.runner(pool, scorer, job.evaluation_sampling(), samples, "evaluation")
        self.latest: EvaluationReport | None = None  # it holds all its answers

    async def measure(self, learner: LearnerHandle, step: int, version: int) -> dict[str, float]:
        await self._pool.update_weights(await learner.publish())
        report = await evaluate_tasks(self._runner, self._tasks, version, self._job.verifier)
        self.latest = report
        write_evaluation(self._folder, step, report.groups)
        return report.metrics()
