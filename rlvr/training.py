"""The training loop: one page of named, timed stages. Synchronous and asynchronous are the same loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from rlvr.checkpoint import Checkpoint, CheckpointState, CheckpointWriter, WriteState, latest_checkpoint
from rlvr.closing import close_with
from rlvr.cluster import Roles, start_roles
from rlvr.config import Config
from rlvr.config_loading import write_yaml
from rlvr.console import Console
from rlvr.data import Cursor
from rlvr.evaluation import EvaluationReport, evaluate_tasks
from rlvr.events import EventKind, append_event
from rlvr.generate.pool import GeneratorPool
from rlvr.in_words import end_in_words, failure_in, nothing_trained
from rlvr.learn.algorithms import Algorithm
from rlvr.learn.gdpo import GDPO
from rlvr.learn.guards import ROLLBACKS, SKIPS_BEFORE_ROLLBACK, HealthWatch
from rlvr.learn.learner_report import LearnerReport
from rlvr.learn.own import OwnAlgorithm, Weight, WeightsOfGroups, mean_weight
from rlvr.learn.presets import algorithm_from
from rlvr.learn.rows import rows_from
from rlvr.metrics import MetricLog, read_metrics
from rlvr.prepare import Job
from rlvr.report.page import write_report
from rlvr.resumed import evaluation_after, first_evaluation, go_on
from rlvr.reward_function import Combine, Reward
from rlvr.rollout.ledger import Fate
from rlvr.rollout.rollouts import Rollouts
from rlvr.rollout.scoring import Scorer
from rlvr.rollout_log import write_evaluation, write_rollouts
from rlvr.run_folder import RunFolder
from rlvr.stages import Stages
from rlvr.step_metrics import Clock, batch_metrics, staleness_metrics, throughput_metrics
from rlvr.types import Group, Row, TrajectoryKey
from rlvr.watchdog import watch
from rlvr.weights.update import WeightReceipt, WeightUpdate


class TrainingStopped(RuntimeError):
    """The run cannot get better by going on."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves: its first and last evaluation, None without held-out tasks; accuracies are their pass@1."""

    folder: Path
    report: Path
    policy: Path  # the trained policy, a folder in Hugging Face form
    steps: int
    before: EvaluationReport | None
    after: EvaluationReport | None

    @property
    def accuracy_before(self) -> float | None:
        return self.before.pass_at[1] if self.before is not None else None

    @property
    def accuracy_after(self) -> float | None:
        return self.after.pass_at[1] if self.after is not None else None


class Teaching(Protocol):
    """What teachers add to a run: a stage between rollouts and learner that gives rows more streams."""

    async def start(self) -> None: ...

    def progress(self) -> int:
        """A count that changes while it teaches, for the watchdog."""
        ...

    async def load(self, folder: Path) -> None:
        """Take up what `state` wrote, after the start of a run that is resumed. Raises CheckpointError."""
        ...

    async def published(self, update: WeightUpdate) -> None:
        """Read a version that all generators hold; a resumed run publishes that of its checkpoint again."""
        ...

    async def teach(
        self, groups: Sequence[Group], rows: Sequence[Row], students: GeneratorPool
    ) -> tuple[list[Row], dict[str, float]]:
        """The rows with what teachers say of them, and metrics. `students` are the run's own generators."""
        ...

    def evaluated(self, report: EvaluationReport) -> tuple[dict[str, float], str | None]:
        """Metrics of an evaluation, and why the run should stop here, if it should."""
        ...

    def state(self) -> WriteState:
        """What a resume needs of it, as it is now."""
        ...

    async def close(self) -> None: ...


async def train(
    job: Job, folder: RunFolder, checkpoint: Checkpoint | None, console: Console, teaching: Teaching | None = None
) -> RunResult:
    """Start the roles, run the loop under the watchdog, and leave a folder that a reader can open."""
    console.note("starting generators and learner")
    async with AsyncExitStack() as parts:
        if teaching is not None:
            close_with(parts, "the teachers", teaching.close)
            await teaching.start()
        roles = await start_roles(job.config)
        close_with(parts, "generators and learner", roles.close)
        return await train_with(roles, job, folder, checkpoint, console, teaching)


async def train_with(
    roles: Roles,
    job: Job,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    console: Console,
    teaching: Teaching | None = None,
) -> RunResult:
    """The loop on roles, and with teachers, that run already and go on running when it ends."""
    folder.path.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as parts:
        for notice in (*roles.notices, *job.notices()):
            append_event(folder, 0 if checkpoint is None else checkpoint.state.step, EventKind.NOTE, notice)
            console.note(notice)
        scorer = job.scorer()
        parts.callback(scorer.close)
        training = Training(job, folder, roles, scorer, checkpoint, console, teaching)
        watchdog_s = job.config.cluster.watchdog_s
        parts.callback(training.log.close)
        close_with(parts, "the checkpoint under way", partial(training.checkpoints.finish, watchdog_s))
        close_with(parts, "the rollouts", training.rollouts.stop)
        try:
            # To load and to export takes as long as it takes, in calls that have deadlines of their own.
            await training.resume()
            write_yaml(job.config, folder.config)  # only now: what a resume is refused for must not take its place
            await watch(training.run(), training.progress, training.where_it_stands, watchdog_s)
            return await training.finish()
        except Exception as error:
            append_event(folder, training.step, EventKind.FAILURE, f"{type(error).__name__}: {error}")
            raise


def algorithm_of(c: Config, rewards: Sequence[Reward], own: WeightsOfGroups | None = None) -> Algorithm:
    """The config's algorithm; with `reward.combine=gdpo` it makes advantages of each reward by itself.

    A function of one's own stands in for the advantage of either.
    """
    algorithm = algorithm_from(c.algorithm, c.rollout.max_staleness, c.sampling.max_new_tokens)
    if own is not None:
        return replace(algorithm, advantage=OwnAlgorithm(own))
    return replace(algorithm, advantage=GDPO(tuple(rewards))) if c.reward.combine is Combine.GDPO else algorithm


def mean_advantages(groups: Sequence[Group], advantages: Sequence[Sequence[Weight]]) -> list[list[float]]:
    """For each group one of each answer with a verdict, as the log of rollouts keeps them."""
    return [
        [mean_weight(weight, t) for t, weight in zip(group.judged(), of_group, strict=True)]
        for group, of_group in zip(groups, advantages, strict=True)
    ]


class Training:
    """The state of a run: what has been trained, what is in flight, and the books."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        roles: Roles,
        scorer: Scorer,
        checkpoint: Checkpoint | None,
        console: Console,
        teaching: Teaching | None = None,
    ) -> None:
        config = job.config
        self.config = config
        self.job = job
        self.folder = folder
        self.roles = roles
        self.scorer = scorer
        self.console = console
        self.teaching = teaching
        self.algorithm = algorithm_of(config, job.rewards, job.algorithm)
        self.step = checkpoint.state.step if checkpoint else 0
        self.version = checkpoint.state.version if checkpoint else 0
        self.checkpoint = checkpoint
        self.checkpoints = CheckpointWriter(folder.checkpoints, roles.learner, config.checkpoint.keep)
        self.stages = Stages(console.stage)
        self.clock = Clock()
        self.health = HealthWatch()
        self.rollbacks: Counter[int] = Counter()  # by the step of the checkpoint
        self.log = MetricLog(folder, tensorboard=config.tensorboard, resume_step=self.step if checkpoint else None)
        if checkpoint is not None:
            for record in read_metrics(folder.metrics):
                self.health.news(self.health.read(record.values))
        self.evaluation: EvaluationReport | None = None  # the last; it holds all its answers
        self.evaluation_runner = job.runner(
            roles.pool, scorer, job.evaluation_sampling(), config.evaluation.samples, "evaluation"
        )
        saved = checkpoint.rollouts() if checkpoint else None
        self.rollouts = Rollouts(
            Cursor(job.tasks.tasks, config.seed, saved.cursor if saved else None),
            job.runner(roles.pool, scorer, job.sampling(), config.rollout.group_size, "g"),
            config.rollout,
            self.algorithm.is_flat,
            saved,
        )

    async def resume(self) -> None:
        """The learner and the folder as the checkpoint has them, if there is one."""
        if self.checkpoint is not None:
            await self.roles.learner.load(self.checkpoint.learner)
            if self.teaching is not None:
                await self.teaching.load(self.checkpoint.teaching())
            go_on(self.folder, self.checkpoint.state)  # it removes files: a resume that is refused must not
            self.evaluation = self.evaluation_before_resume()

    async def run(self) -> None:
        """All steps of the run."""
        with self.stages("publish"):
            await self.publish()  # learner and generators start from weights that are shown to be the same
        with self.stages("evaluate"):
            await self.evaluate()
        self.clock.times(*self.stages.finish_step(), await self.roles.pool.statuses())  # counts from here
        if self.step < self.config.steps:  # else the run had ended: nothing is sampled for no step
            self.rollouts.start()
        while self.step < self.config.steps:
            await self.train_step()

    async def train_step(self) -> None:
        """One batch, from finished groups to the next policy version in every generator."""
        stages = self.stages
        with stages("wait_rollouts"):
            groups = await self.rollouts.take()
            filtered = self.rollouts.take_filtered()
        with stages("make_rows"):
            advantages = self.algorithm.advantage(groups)
            rows = rows_from(groups, advantages, self.version)
        taught: dict[str, float] = {}
        if self.teaching is not None:
            with stages("ask_teachers"):
                rows, taught = await self.teaching.teach(groups, rows, self.roles.pool)
        with stages("learn"):
            report = await self.roles.learner.train(rows)
            self.step, self.version = self.step + 1, report.version
        if report.skipped_in_a_row >= SKIPS_BEFORE_ROLLBACK:
            with stages("roll_back"):
                await self.roll_back(report)
        with stages("publish"):
            receipts = await self.publish()
        self.rollouts.release(groups)
        with stages("record"):
            metrics = batch_metrics(groups, filtered) | staleness_metrics(rows) | report.metrics() | taught
            self.tell_failures(groups, filtered, report.skipped)
            self.warn(*self.health.news(self.health.read(metrics)))
            await self.record(groups, advantages, filtered, metrics, receipts, report.token_fates)
        # Before the checkpoint: what an evaluation objects to does not take the place of a better one.
        if self.is_due(self.config.evaluation.every_steps) or self.step == self.config.steps:
            with stages("evaluate"):
                await self.evaluate()
        # What led to skipped updates must not take the place of the checkpoint to go back to.
        is_sound = report.skipped_in_a_row == 0
        if (is_sound and self.is_due(self.config.checkpoint.every_steps)) or self.step == self.config.steps:
            with stages("checkpoint"):
                await self.save()

    async def roll_back(self, report: LearnerReport) -> None:
        """The learner as the last checkpoint has it, as a new version; tasks and generators go on from here."""
        why = f"no update in {report.skipped_in_a_row} batches in a row, the last because {report.skipped[-1]}"
        await self.checkpoints.finish()
        checkpoint = latest_checkpoint(self.folder.checkpoints)
        if checkpoint is None:
            raise TrainingStopped(
                f"{why}; there is no checkpoint to go back to: save one earlier (checkpoint.every_steps is "
                f"{self.config.checkpoint.every_steps}; 0 is at the end only) or lower learner.learning_rate, and look "
                f"at `{self.replay_command()}`"
            )
        step = checkpoint.state.step
        if self.rollbacks[step] == ROLLBACKS:
            raise TrainingStopped(
                f"{why}; the learner went back to the checkpoint of step {step} {ROLLBACKS} times already: lower "
                f"learner.learning_rate, and look at `{self.replay_command()}`"
            )
        self.rollbacks[step] += 1
        await self.roles.learner.load(checkpoint.learner, self.version + 1)
        self.version += 1
        self.warn(f"{why}: back to the learner of step {step}, which is now policy version {self.version}")

    async def publish(self) -> list[WeightReceipt]:
        """The learner's weights to every generator; each answers with what it holds, or the run stops."""
        update = await self.roles.learner.publish()
        receipts = await self.roles.pool.update_weights(update)
        if self.teaching is not None:
            await self.teaching.published(update)
        return receipts

    async def evaluate(self) -> None:
        """Held-out tasks at the version just published; no update arrives while this waits."""
        if self.job.held_out is None or (self.evaluation is not None and self.evaluation.version == self.version):
            return
        report = await evaluate_tasks(self.evaluation_runner, self.job.held_out.tasks, self.version, self.job.verifier)
        self.evaluation = report
        of_teachers, objection = self.teaching.evaluated(report) if self.teaching is not None else ({}, None)
        self.log.log(self.step, report.metrics() | of_teachers)
        await asyncio.to_thread(write_evaluation, self.folder, self.step, report.groups)
        self.console.evaluation(self.step, report.metrics())
        if report.without_verdict:
            self.warn(
                f"{report.without_verdict} of {report.answers} held-out answers have no verdict, and the accuracy is "
                f"of the others; the last: {failure_in(report.groups)}"
            )
        if objection is not None:
            raise TrainingStopped(f"{objection}; {await self.what_is_left()}")

    def evaluation_before_resume(self) -> EvaluationReport | None:
        """That of the checkpoint's step, where it was of these held-out tasks and as many answers: it stands."""
        done = evaluation_after(self.folder, self.step, self.job.verifier)
        if done is None or self.job.held_out is None:
            return None
        tasks = [task.id for task in self.job.held_out.tasks for _ in range(self.config.evaluation.samples)]
        return done if tasks == [group.task.id for group in done.groups for _ in group.trajectories] else None

    async def what_is_left(self) -> str:
        """Of a run that stops before its end."""
        await self.checkpoints.finish()
        checkpoint = latest_checkpoint(self.folder.checkpoints)
        if checkpoint is None:
            return "there is no checkpoint from before"
        return (
            f"the checkpoint before is of step {checkpoint.state.step}: `rlvr export {checkpoint.folder} --out FOLDER`"
        )

    async def record(
        self,
        groups: list[Group],
        advantages: Sequence[Sequence[Weight]],
        filtered: list[tuple[Group, Fate]],
        metrics: dict[str, float],
        receipts: list[WeightReceipt],
        token_fates: Mapping[TrajectoryKey, bytes],
    ) -> None:
        """Check the books, then write down what was sampled, what became of it, and where the time went."""
        in_flight = self.rollouts.in_flight_trajectories()
        self.rollouts.ledger.check(in_flight)
        metrics |= self.rollouts.ledger.metrics(in_flight) | {"policy/version": float(self.version)}
        stage_s, step_s = self.stages.finish_step()
        metrics |= self.clock.times(stage_s, step_s, await self.roles.pool.statuses())
        metrics |= throughput_metrics(metrics, step_s)
        metrics["time/update_stall_s"] = max(receipt.stall_s for receipt in receipts)
        means = mean_advantages(groups, advantages)
        await asyncio.to_thread(write_rollouts, self.folder, self.step, groups, filtered, means, token_fates)
        self.log.log(self.step, metrics)
        self.console.step(self.step, metrics)

    def tell_failures(self, groups: list[Group], filtered: list[tuple[Group, Fate]], skipped: tuple[str, ...]) -> None:
        """What a reader should know of this step: updates left out, and groups that failed, with one reason."""
        if groups:
            warnings = [f"no update: {reason}; `{self.replay_command()}` does it again" for reason in skipped]
        else:
            warnings = [f"no update: {nothing_trained(filtered)}"]
        failed = [group for group, fate in filtered if fate is Fate.TOO_FEW_VALID]
        if failed:
            warnings.append(f"{len(failed)} groups had too few verdicts; the last: {failure_in(failed)}")
        self.warn(*warnings)

    def warn(self, *warnings: str) -> None:
        """Now, in the log of events, and so in the report."""
        for warning in warnings:
            append_event(self.folder, self.step, EventKind.WARNING, warning)
            self.console.note(f"step {self.step}: {warning}")

    def replay_command(self) -> str:
        """What trains this step's batch again, by itself."""
        return f"rlvr replay {self.folder.path} {self.step}"

    async def save(self) -> None:
        """A checkpoint of all that a resume needs, which is written while training goes on."""
        teaching = self.teaching.state() if self.teaching is not None else None
        await self.checkpoints.save(CheckpointState(self.step, self.version), self.rollouts.state(), teaching)

    async def finish(self) -> RunResult:
        """The last checkpoint on disk, the policy as a plain folder, and the report."""
        with self.stages("checkpoint"):
            await self.checkpoints.finish()
        with self.stages("export"):
            await self.roles.learner.export(self.folder.policy)
        append_event(self.folder, self.step, EventKind.NOTE, end_in_words(*self.stages.finish_step()))
        before = first_evaluation(self.folder, self.job.verifier) if self.evaluation is not None else None
        report = await asyncio.to_thread(write_report, self.folder)
        return RunResult(self.folder.path, report, self.folder.policy, self.step, before, self.evaluation)

    # ---------------------------------------------------------------- for the watchdog

    async def progress(self) -> Hashable:
        """Changes with all that moves: a stage, a group, a token, a verdict, a teacher's answer, a micro-batch."""
        statuses, micro_batches = await asyncio.gather(self.roles.pool.statuses(), self.roles.learner.micro_batches())
        tokens = sum(status.generated_tokens for status in statuses)
        taught = self.teaching.progress() if self.teaching is not None else 0
        groups, calls = self.rollouts.finished_groups, self.scorer.ended_calls
        return self.stages.changes, groups, tokens, calls, taught, micro_batches

    def where_it_stands(self) -> str:
        oldest = self.rollouts.oldest_in_flight()
        return f"step {self.step + 1}, stage {self.stages.current}; longest in flight: {oldest}"

    # ---------------------------------------------------------------- small questions

    def is_due(self, every_steps: int) -> bool:
        return every_steps > 0 and self.step % every_steps == 0
