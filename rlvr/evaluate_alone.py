"""Evaluation of a checkpoint or model without training: one generator, the same episodes and rewards."""

from __future__ import annotations

from rlvr.cluster import start_generators
from rlvr.evaluation import EvaluationReport, evaluate_tasks
from rlvr.prepare import Job


async def evaluate_alone(job: Job) -> EvaluationReport:
    """Answer the job's held-out tasks with its model, as version 0."""
    if job.held_out is None:
        raise ValueError("evaluation.data must name the tasks to answer")
    config = job.config
    pool = await start_generators(config)
    scorer = job.scorer()
    runner = job.runner(pool, scorer, job.evaluation_sampling(), config.evaluation.samples, "evaluation")
    try:
        return await evaluate_tasks(runner, job.held_out.tasks, 0, job.verifier)
    finally:
        scorer.close()
        await pool.close()
