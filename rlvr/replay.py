"""A step of a run once more, in the learner alone: what its update does, and what each guard sees.

The run's log of rollouts has every batch with its tokens, their log-probabilities and experts, so the learner can take
up the newest checkpoint before the step, train what came after it again, and stand where it stood. On a processor, bit
for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from rlvr.api import run_coroutine
from rlvr.checkpoint import Checkpoint, latest_checkpoint
from rlvr.cluster import disconnect_ray, start_learner
from rlvr.config import Config
from rlvr.config_loading import load_config
from rlvr.learn.algorithms import Algorithm
from rlvr.learn.guards import SKIPS_BEFORE_ROLLBACK, HealthWatch, Reading
from rlvr.learn.learner_report import LearnerReport
from rlvr.learn.rows import rows_from
from rlvr.learner_handle import LearnerHandle
from rlvr.metrics import read_metrics
from rlvr.prepare import load_reward
from rlvr.reward_function import Combine
from rlvr.rollout.ledger import Fate
from rlvr.rollout_log import read_rollouts, read_trained_groups
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.training import algorithm_of, mean_advantages

# Metrics of steps in which more than the log of rollouts was trained on.
_OF_TEACHERS = ("learner/divergence", "learner/cross_entropy", "teacher/", "codistill/")


@dataclass(frozen=True, slots=True)
class Replay:
    """What a step does: the version it began with, and what came of it."""

    step: int
    version: int
    report: LearnerReport
    readings: list[Reading]


def replay(run: Path, step: int, words: Sequence[str], *, exact: bool, tell: Callable[[str], None] = print) -> Replay:
    """Train the batch of `step` again. `words` are settings in place of the run's own.

    Not `exact`, the batch is trained on the newest checkpoint before it, and what lies between is left out. Nothing in
    the run's folder is changed. Raises RunFolderError, CheckpointError, ConfigError and ClusterError.
    """
    folder = RunFolder(run)
    if step not in folder.rollout_steps():
        known = folder.rollout_steps()
        there = f"its steps are {known[0]} to {known[-1]}" if known else "it has none"
        raise RunFolderError(f"{run} has no rollouts of step {step}: {there}")
    config = load_config([folder.config], words)
    checkpoint = latest_checkpoint(folder.checkpoints, before=step)
    begin = checkpoint.state.step if checkpoint else 0
    _refuse_taught(folder, range(begin + 1 if exact else step, step + 1))
    _refuse_own_algorithm(folder, step)
    try:
        return run_coroutine(_replay(folder, config, checkpoint, step, exact, tell))
    finally:
        if config.learner.is_sharded:
            disconnect_ray()


async def _replay(
    folder: RunFolder,
    config: Config,
    checkpoint: Checkpoint | None,
    step: int,
    exact: bool,
    tell: Callable[[str], None],
) -> Replay:
    learner, _ = await start_learner(config, folder.path)
    again = _Training(folder, config, learner)
    begin = 0
    if checkpoint is not None:
        begin, again.version = checkpoint.state.step, checkpoint.state.version
        await again.learner.load(checkpoint.learner)
    tell(f"from {f'the checkpoint of step {begin}' if checkpoint else 'the model the run began with'}")
    for earlier in range(begin + 1, step) if exact else ():
        report = await again.train(earlier)
        tell(f"step {earlier}: {_outcome(report)}")
        if report.skipped_in_a_row >= SKIPS_BEFORE_ROLLBACK and checkpoint is not None:
            again.version += 1
            await again.learner.load(checkpoint.learner, again.version)
            tell(f"back to the checkpoint of step {begin}, as version {again.version}")
    version = again.version
    report = await again.train(step)
    return Replay(step, version, report, _readings(folder, step, report))


class _Training:
    """A learner that trains batches of a run's log of rollouts; `version` is the policy's."""

    def __init__(self, folder: RunFolder, config: Config, learner: LearnerHandle) -> None:
        self.folder = folder
        self.learner = learner
        self.version = 0
        self.algorithm = _algorithm(config)

    async def train(self, step: int) -> LearnerReport:
        groups = read_trained_groups(self.folder.rollouts(step))
        newest = max([self.version, *(v for g in groups for t in g.trajectories for v in t.versions)])
        report = await self.learner.train(rows_from(groups, self.algorithm.advantage(groups), newest))
        self.version = report.version
        return report


def _algorithm(config: Config) -> Algorithm:
    gdpo = config.reward.combine is Combine.GDPO
    return algorithm_of(config, [load_reward(spec) for spec in config.reward.functions] if gdpo else [])


def _refuse_taught(folder: RunFolder, steps: range) -> None:
    for record in read_metrics(folder.metrics):
        if record.step in steps and any(name.startswith(_OF_TEACHERS) for name in record.values):
            raise RunFolderError(
                f"{folder.path}: step {record.step} was trained on what teachers said too, which the log of rollouts "
                "does not keep: it cannot be trained again"
            )


def _refuse_own_algorithm(folder: RunFolder, step: int) -> None:
    """A function of one's own is in no config: what it made of the step's answers is in the log, and tells."""
    path = folder.rollouts(step)
    groups, algorithm = read_trained_groups(path), _algorithm(load_config([folder.config], []))
    of_groups = mean_advantages(groups, algorithm.advantage(groups))
    made = list(chain.from_iterable(of_groups))
    logged = [r.advantage for r in read_rollouts(path) if r.fate is Fate.TRAINED and r.advantage is not None]
    if len(made) != len(logged) or not np.allclose(made, logged, equal_nan=True):
        raise RunFolderError(
            f"{folder.path}: the advantages of step {step} are not those of the algorithm that its config names, as "
            "after rlvr.train(algorithm=a function): it cannot be trained again"
        )


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
    bound = "no limit yet" if math.isinf(made.report.grad_norm_limit) else f"at most {made.report.grad_norm_limit:.3g}"
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
