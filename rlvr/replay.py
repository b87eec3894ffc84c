"""A step of a run once more, in the learner alone: what its update does, and what each guard sees.

The run's log of rollouts has every batch with its tokens and log-probabilities, so the learner can take up the newest
checkpoint before the step, train what came after it again, and stand where it stood. On a processor, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.checkpoint import latest_checkpoint
from rlvr.config_loading import load_config
from rlvr.learn.guards import SKIPS_BEFORE_ROLLBACK, HealthWatch, Reading
from rlvr.learn.learner import Learner
from rlvr.learn.learner_report import LearnerReport
from rlvr.learn.rows import rows_from
from rlvr.metrics import read_metrics
from rlvr.prepare import load_reward
from rlvr.reward_function import Combine
from rlvr.rollout_log import read_trained_groups
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.training import algorithm_of


@dataclass(frozen=True, slots=True)
class Replay:
    """What a step does: the version it began with, the norm above which a gradient was a spike, and what came of it."""

    step: int
    version: int
    norm_limit: float
    report: LearnerReport
    readings: list[Reading]


def replay(run: Path, step: int, words: Sequence[str], *, exact: bool, tell: Callable[[str], None] = print) -> Replay:
    """Train the batch of `step` again. `words` are settings in place of the run's own.

    Not `exact`, the batch is trained on the newest checkpoint before it, and what lies between is left out. Nothing in
    the run's folder is changed. Raises RunFolderError, CheckpointError and ConfigError.
    """
    folder = RunFolder(run)
    if step not in folder.rollout_steps():
        known = folder.rollout_steps()
        there = f"its steps are {known[0]} to {known[-1]}" if known else "it has none"
        raise RunFolderError(f"{run} has no rollouts of step {step}: {there}")
    config = load_config([folder.config], words)
    rewards = [load_reward(spec) for spec in config.reward.functions] if config.reward.combine is Combine.GDPO else []
    learner = Learner(config, algorithm_of(config, rewards))
    learner.start()
    checkpoint = latest_checkpoint(folder.checkpoints, before=step)
    if checkpoint is not None:
        learner.load(checkpoint.learner)
    begin = checkpoint.state.step if checkpoint else 0
    _refuse_taught(folder, range(begin + 1 if exact else step, step + 1))
    tell(f"from {'the checkpoint of step ' + str(begin) if checkpoint else 'the model the run began with'}")
    for earlier in range(begin + 1, step) if exact else ():
        report = _train(learner, folder, earlier)
        tell(f"step {earlier}: {_outcome(report)}")
        if report.skipped_in_a_row >= SKIPS_BEFORE_ROLLBACK and checkpoint is not None:
            learner.load(checkpoint.learner, learner.version + 1)
            tell(f"back to the checkpoint of step {begin}, as version {learner.version}")
    version, limit = learner.version, learner.guard.limit
    report = _train(learner, folder, step)
    return Replay(step, version, limit, report, _readings(folder, step, report))


def _refuse_taught(folder: RunFolder, steps: range) -> None:
    for record in read_metrics(folder.metrics):
        if record.step in steps and {"learner/divergence", "learner/cross_entropy"} & record.values.keys():
            raise RunFolderError(
                f"{folder.path}: step {record.step} was trained on what teachers said too, which the log of rollouts "
                "does not keep: it cannot be trained again"
            )


def _train(learner: Learner, folder: RunFolder, step: int) -> LearnerReport:
    groups = read_trained_groups(folder.rollouts(step))
    version = max([learner.version, *(v for g in groups for t in g.trajectories for v in t.versions)])
    return learner.train(rows_from(groups, learner.algorithm, version))


def _readings(folder: RunFolder, step: int, report: LearnerReport) -> list[Reading]:
    """The guards' view of the replayed step, after the steps before it as the run logged them."""
    health = HealthWatch()
    logged: dict[str, float] = {}
    for record in read_metrics(folder.metrics):
        if record.step < step:
            health.read(record.values)
        elif record.step == step:
            logged |= record.values
    return health.read(logged | report.metrics())


def show(made: Replay) -> None:
    """Print what each guard sees."""
    norm = made.report.grad_norm if not made.report.skipped or made.report.grad_norm else math.nan
    bound = "no limit yet" if math.isinf(made.norm_limit) else f"at most {made.norm_limit:.3g}"
    print(f"step {made.step}, from policy version {made.version}")
    print(f"  {'gradient norm':40} {norm:>10.3g}   {bound}")
    for reading in made.readings:
        print(f"  {reading.limit.name:40} {reading.value:>10.3g}   {_bounds(reading)}")
        if reading.is_outside:
            print(f"      {reading.limit.meaning}")
    print(_outcome(made.report))


def _bounds(reading: Reading) -> str:
    parts = [] if math.isinf(reading.low) else [f"at least {reading.low:.3g}"]
    parts += [] if math.isinf(reading.high) else [f"at most {reading.high:.3g}"]
    return (" and ".join(parts) or "no limit yet") + ("  <-- OUTSIDE" if reading.is_outside else "")


def _outcome(report: LearnerReport) -> str:
    made = f"{report.updates} update{'s' * (report.updates != 1)}, now policy version {report.version}"
    return made + "".join(f"; left out: {reason}" for reason in report.skipped)
