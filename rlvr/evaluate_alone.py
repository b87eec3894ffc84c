"""Evaluation of a checkpoint or model without training: one generator, the same episodes and rewards."""

from __future__ import annotations

from contextlib import AsyncExitStack

from rlvr.closing import close_with
from rlvr.cluster import start_generators
from rlvr.evaluation import EvaluationReport, evaluate_tasks
from rlvr.prepare import Job


async def evaluate_alone(job: Job) -> EvaluationReport:
    """Answer the job's held-out tasks with its model, as version 0."""
    if job.held_out is None:
        raise ValueError("evaluation.data must name the tasks to answer")
    config = job.config
    async with AsyncExitStack() as parts:
        pool = await start_generators(config)
        close_with(parts, "the generator", pool.close)
        scorer = job.scorer()
        parts.callback(scorer.close)
        runner = job.runner(pool, scorer, job.evaluation_sampling(), config.evaluation.samples, "evaluation")
        return await evaluate_tasks(runner, job.held_out.tasks, 0, job.verifier)
