"""Training on given examples: the learner of reinforcement learning, with rows that were not sampled by it.

One loop for all that learns so: supervised fine-tuning, and distillation from a teacher's answers or from what it said
of their tokens. Generators are started only where held-out tasks are answered, and Ray for them or a sharded learner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rlvr.checkpoint import Checkpoint, CheckpointState, CheckpointWriter
from rlvr.closing import close_with
from rlvr.cluster import disconnect_ray, start_learner, start_roles
from rlvr.config import AlgorithmConfig, Config
from rlvr.config_loading import load_config, write_yaml
from rlvr.console import Console, SupervisedConsole
from rlvr.data import Cursor, CursorState
from rlvr.events import EventKind, append_event
from rlvr.in_words import end_in_words
from rlvr.learner_handle import LearnerHandle
from rlvr.metrics import MetricLog
from rlvr.prepare import (
    Job,
    PreparationError,
    check_learner,
    check_room,
    load_tokenizer,
    open_run,
    prepare,
    refuse_what_cannot_fit,
)
from rlvr.report.page import write_report
from rlvr.resumed import first_evaluation, first_of, go_on
from rlvr.run_folder import RunFolder
from rlvr.stages import Stages
from rlvr.supervised.examples import ExampleSet, Learnable, has_answers, load_examples
from rlvr.supervised.held_out import HELD_OUT_LOSS, HeldOut, HeldOutAnswers, HeldOutLoss
from rlvr.training import RunResult

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LoadExamples = Callable[[Config, "PreTrainedTokenizerBase"], ExampleSet]


@dataclass(frozen=True, slots=True)
class SupervisedResult(RunResult):
    """What a run on examples leaves. Losses are of the held-out examples, nats per token; None without any."""

    loss_before: float | None
    loss_after: float | None


@dataclass(frozen=True, slots=True)
class SupervisedJob:
    """A checked run. `config.steps` are the steps that the epochs make, where those are set.

    The loss of the `held_out` examples is measured, and the held-out tasks of `asked` are answered.
    """

    config: Config
    examples: ExampleSet
    held_out: ExampleSet | None
    asked: Job | None


def prepare_sft(config: Config, load: LoadExamples | None = None) -> SupervisedJob:
    """Supervised fine-tuning: the plain cross-entropy is that of the model as it is, at temperature 1."""
    sampling = config.sampling.model_copy(update={"temperature": 1.0})
    return prepare_supervised(config.model_copy(update={"sampling": sampling}), load or _examples_of_data)


def prepare_supervised(config: Config, load: LoadExamples) -> SupervisedJob:
    """Everything that can be known before the model is loaded. Raises DataError, PreparationError, and as `load`."""
    refuse_what_cannot_fit(config)
    check_learner(config)
    if config.learner.router.balance_loss:
        raise PreparationError(
            "learner.router.balance_loss needs the experts that tokens were sampled with, which given examples do not "
            "name: set it to 0"
        )
    # A run without rollouts has neither tasks nor rewards but those of its evaluation.
    asked = prepare(config.model_copy(update={"data": config.evaluation.data})) if answers_held_out(config) else None
    if asked is not None:
        check_room(asked.tasks, config)
    tokenizer = load_tokenizer(config.model.name)
    examples = load(config, tokenizer)
    held_out = None
    if config.evaluation.data is not None and (asked is None or has_answers(config.evaluation.data)):
        held_out = load_examples(config.evaluation.data, tokenizer, config.learner.token_budget)
    changes: dict[str, object] = {"algorithm": AlgorithmConfig()}  # no algorithm's reference needs to be loaded
    if config.sft.epochs is not None:
        changes["steps"] = max(1, round(config.sft.epochs * len(examples.examples) / config.sft.rows_per_step))
    return SupervisedJob(config.model_copy(update=changes), examples, held_out, asked)


def answers_held_out(config: Config) -> bool:
    """Whether a run on examples has generators, which answer held-out tasks: where a reward says what is right."""
    return config.evaluation.data is not None and bool(config.reward.functions)


def _examples_of_data(config: Config, tokenizer: PreTrainedTokenizerBase) -> ExampleSet:
    return load_examples(config.data, tokenizer, config.learner.token_budget)


async def run_supervised(job: SupervisedJob, *, resume: bool) -> SupervisedResult:
    """Train as a checked config says, whose `run_dir` is set. Raises PreparationError and what a part raises."""
    folder, checkpoint = open_run(job.config, resume=resume)
    if checkpoint is not None:
        _refuse_other_rows_per_step(job.config, folder)
    async with AsyncExitStack() as parts:
        console = parts.enter_context(SupervisedConsole(job.config.steps))
        if job.examples.too_long:
            console.note(f"{job.examples.too_long} examples are longer than learner.token_budget and left out")
        training = Supervised(job, folder, checkpoint, console)
        parts.callback(training.log.close)
        try:
            return await training.run(parts)
        except Exception as error:
            append_event(folder, training.step, EventKind.FAILURE, f"{type(error).__name__}: {error}")
            raise


def _refuse_other_rows_per_step(config: Config, folder: RunFolder) -> None:
    """What a run has seen is counted in its steps: with another size some examples would be skipped or repeated."""
    had, asked = load_config([folder.config], []).sft.rows_per_step, config.sft.rows_per_step
    if had != asked:
        raise PreparationError(
            f"sft.rows_per_step={asked}: a run keeps the size of its steps; resume with sft.rows_per_step={had}, or "
            "start a new run from an export of its policy"
        )


class Supervised:
    """The state of a run: the learner, and how many examples it has seen."""

    def __init__(self, job: SupervisedJob, folder: RunFolder, checkpoint: Checkpoint | None, console: Console) -> None:
        config = job.config
        self.job = job
        self.config = config
        self.folder = folder
        self.console = console
        self.checkpoint = checkpoint
        self.step = checkpoint.state.step if checkpoint else 0
        self.version = checkpoint.state.version if checkpoint else 0
        seen = CursorState(*divmod(self.step * config.sft.rows_per_step, len(job.examples.examples)))
        self.cursor: Cursor[Learnable] = Cursor(job.examples.examples, config.seed, seen)
        self.loss = HeldOutLoss(job.held_out.rows()) if job.held_out else None
        self.answers: HeldOutAnswers | None = None
        self.measured_at: int | None = None  # the step of the last evaluation
        self.stages = Stages(console.stage)
        self.log = MetricLog(folder, tensorboard=config.tensorboard, resume_step=self.step if checkpoint else None)

    async def run(self, parts: AsyncExitStack) -> SupervisedResult:
        """All steps of the run. What is started is closed with `parts`."""
        self.learner = await self.start(parts)
        self.checkpoints = CheckpointWriter(self.folder.checkpoints, self.learner, self.config.checkpoint.keep)
        finish = partial(self.checkpoints.finish, self.config.cluster.watchdog_s)
        close_with(parts, "the checkpoint under way", finish)
        if self.checkpoint is not None:
            await self.learner.load(self.checkpoint.learner)
            go_on(self.folder, self.checkpoint.state)  # it removes files: a resume that is refused must not
        write_yaml(self.config, self.folder.config)  # only now: what a resume is refused for must not take its place
        await self.evaluate()
        self.stages.finish_step()  # counts from here
        while self.step < self.config.steps:
            await self.train_step()
        await self.evaluate()
        return await self.finish()

    async def start(self, parts: AsyncExitStack) -> LearnerHandle:
        """The learner; with generators where tasks are answered."""
        asked = self.job.asked
        if self.config.cluster.backend == "ray" and (asked is not None or self.config.learner.is_sharded):
            parts.callback(disconnect_ray)
        if asked is None:
            self.console.note("starting the learner")
            learner, notices = await start_learner(self.config, self.folder.path)
            self.tell(notices)
            return learner
        self.console.note("starting generators and learner")
        roles = await start_roles(self.config)
        close_with(parts, "generators and learner", roles.close)
        self.tell(roles.notices)
        scorer = asked.scorer()
        parts.callback(scorer.close)
        self.answers = HeldOutAnswers(asked, roles.pool, scorer, self.folder)
        return roles.learner

    async def train_step(self) -> None:
        """One optimizer step, and what is due after it."""
        rows = [self.cursor.next().row(number) for number in range(self.config.sft.rows_per_step)]
        with self.stages("learn"):
            report = await self.learner.train(rows)
        self.step, self.version = self.step + 1, report.version
        for reason in report.skipped:
            append_event(self.folder, self.step, EventKind.WARNING, f"no update: {reason}")
            self.console.note(f"step {self.step}: no update: {reason}")
        stage_s, step_s = self.stages.finish_step()
        metrics = report.metrics() | {
            "sft/epoch": self.step * len(rows) / len(self.cursor),
            "throughput/trained_tokens_per_s": report.trained_tokens / step_s,
            "time/step_s": step_s,
        }
        metrics |= {f"time/{stage}_s": seconds for stage, seconds in stage_s.items()}
        self.log.log(self.step, metrics)
        self.console.step(self.step, metrics)
        if self.is_due(self.config.evaluation.every_steps):
            await self.evaluate()
        if self.is_due(self.config.checkpoint.every_steps) or self.step == self.config.steps:
            await self.save()

    async def evaluate(self) -> None:
        """All that is held out, once a step."""
        ways: list[HeldOut] = [way for way in (self.loss, self.answers) if way is not None]
        if not ways or self.measured_at == self.step:
            return
        metrics: dict[str, float] = {}
        with self.stages("evaluate"):
            for way in ways:
                metrics |= await way.measure(self.learner, self.step, self.version)
        self.measured_at = self.step
        self.log.log(self.step, metrics)
        self.console.evaluation(self.step, metrics)

    async def save(self) -> None:
        """A checkpoint of all that a resume needs: the examples seen follow from the step."""
        with self.stages("checkpoint"):
            await self.checkpoints.save(CheckpointState(self.step, self.version), None)

    async def finish(self) -> SupervisedResult:
        """The last checkpoint on disk, the policy as a plain folder, and the report."""
        with self.stages("checkpoint"):
            await self.checkpoints.finish()
        with self.stages("export"):
            await self.learner.export(self.folder.policy)
        append_event(self.folder, self.step, EventKind.NOTE, end_in_words(*self.stages.finish_step()))
        report = await asyncio.to_thread(write_report, self.folder)
        asked = self.job.asked
        return SupervisedResult(
            folder=self.folder.path,
            report=report,
            policy=self.folder.policy,
            steps=self.step,
            before=first_evaluation(self.folder, asked.verifier) if asked is not None else None,
            after=self.answers.latest if self.answers else None,
            loss_before=first_of(self.folder, HELD_OUT_LOSS) if self.loss else None,
            loss_after=self.loss.latest if self.loss else None,
        )

    def tell(self, notices: tuple[str, ...]) -> None:
        for notice in notices:
            append_event(self.folder, self.step, EventKind.NOTE, notice)
            self.console.note(notice)

    def is_due(self, every_steps: int) -> bool:
        return every_steps > 0 and self.step % every_steps == 0
