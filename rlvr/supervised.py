"""Supervised fine-tuning: the learner of reinforcement learning, with rows of examples. No generator, no Ray."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.checkpoint import Checkpoint, CheckpointState, CheckpointWriter
from rlvr.cluster import LocalLearner
from rlvr.config import AlgorithmConfig, Config, Transport
from rlvr.config_loading import to_yaml
from rlvr.console import Console, SupervisedConsole
from rlvr.data import Cursor, CursorState
from rlvr.events import EventKind, append_event
from rlvr.metrics import MetricLog
from rlvr.prepare import PreparationError, load_tokenizer, open_run, refuse_what_cannot_fit
from rlvr.report import write_report
from rlvr.run_folder import RunFolder
from rlvr.stages import Stages
from rlvr.supervised_data import Example, ExampleSet, load_examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlvr.types import Row


@dataclass(frozen=True, slots=True)
class SupervisedResult:
    """What a supervised run leaves. Losses are of the held-out examples, nats per token; None without any."""

    folder: Path
    report: Path
    policy: Path  # the trained policy, a folder in Hugging Face form
    steps: int
    loss_before: float | None
    loss_after: float | None


@dataclass(frozen=True, slots=True)
class SupervisedJob:
    """A checked run. `config.steps` are the steps that the epochs make, where those are set."""

    config: Config
    examples: ExampleSet
    held_out: ExampleSet | None


def prepare_supervised(config: Config) -> SupervisedJob:
    """Everything that can be known before the model is loaded. Raises DataError and PreparationError."""
    if config.learner.is_sharded:
        raise PreparationError(
            "rlvr sft runs the learner in its own process: leave learner.ranks=1 and learner.offload=false"
        )
    refuse_what_cannot_fit(config)
    tokenizer = load_tokenizer(config.model.name)
    longest = config.learner.token_budget
    examples = load_examples(config.data, tokenizer, longest)
    held_out = load_examples(config.evaluation.data, tokenizer, longest) if config.evaluation.data else None
    changes: dict[str, object] = {
        # The plain cross-entropy is of the model as it is, and no algorithm's reference needs to be loaded.
        "sampling": config.sampling.model_copy(update={"temperature": 1.0}),
        "algorithm": AlgorithmConfig(),
    }
    if config.sft.epochs is not None:
        changes["steps"] = max(1, round(config.sft.epochs * len(examples.examples) / config.sft.rows_per_step))
    return SupervisedJob(config.model_copy(update=changes), examples, held_out)


async def run_supervised(config: Config, *, resume: bool) -> SupervisedResult:
    """Train as a checked config says, whose `run_dir` is set."""
    job = prepare_supervised(config)
    folder, checkpoint = open_run(job.config, resume=resume)
    folder.config.write_text(to_yaml(job.config), encoding="utf-8")
    with SupervisedConsole(job.config.steps) as console:
        if job.examples.too_long:
            console.note(f"{job.examples.too_long} examples are longer than learner.token_budget and left out")
        training = Supervised(job, folder, checkpoint, console)
        try:
            return await training.run()
        except Exception as error:
            append_event(folder, training.step, EventKind.FAILURE, f"{type(error).__name__}: {error}")
            raise
        finally:
            training.log.close()


class Supervised:
    """The state of a run: the learner, and how many examples it has seen."""

    def __init__(self, job: SupervisedJob, folder: RunFolder, checkpoint: Checkpoint | None, console: Console) -> None:
        config = job.config
        self.config = config
        self.folder = folder
        self.console = console
        self.checkpoint = checkpoint
        self.step = checkpoint.state.step if checkpoint else 0
        seen = CursorState(*divmod(self.step * config.sft.rows_per_step, len(job.examples.examples)))
        self.cursor: Cursor[Example] = Cursor(job.examples.examples, config.seed, seen)
        self.held_out: Sequence[Row] | None = job.held_out.rows() if job.held_out else None
        self.stages = Stages(console.stage)
        self.log = MetricLog(folder, tensorboard=config.tensorboard, resume_step=self.step if checkpoint else None)
        self.learner = LocalLearner(config, folder.path, Transport.SHARED_MEMORY)
        self.checkpoints = CheckpointWriter(folder.checkpoints, self.learner, config.checkpoint.keep)
        self.version = checkpoint.state.version if checkpoint else 0
        self.losses: list[tuple[int, float]] = []  # of the held-out examples, by step

    async def run(self) -> SupervisedResult:
        """All steps of the run."""
        self.console.note("starting the learner")
        await self.learner.start()
        if self.checkpoint is not None:
            await self.learner.load(self.checkpoint.learner)
        await self.evaluate()
        self.stages.finish_step()  # counts from here
        while self.step < self.config.steps:
            await self.train_step()
        await self.evaluate()
        await self.checkpoints.finish()
        await self.learner.export(self.folder.policy)
        first, last = (self.losses[0][1], self.losses[-1][1]) if self.losses else (None, None)
        report = await asyncio.to_thread(write_report, self.folder)
        return SupervisedResult(self.folder.path, report, self.folder.policy, self.step, first, last)

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
        """The loss of the held-out examples, once a step."""
        if self.held_out is None or any(step == self.step for step, _ in self.losses):
            return
        with self.stages("evaluate"):
            loss = await self.learner.cross_entropy(self.held_out)
        self.losses.append((self.step, loss))
        metrics = {"evaluation/cross_entropy": loss, "evaluation/perplexity": math.exp(min(loss, 700.0))}
        self.log.log(self.step, metrics)
        self.console.note(f"step {self.step}: held-out cross-entropy {loss:.4f} nats per token")

    async def save(self) -> None:
        """A checkpoint of all that a resume needs: the examples seen follow from the step."""
        with self.stages("checkpoint"):
            await self.checkpoints.save(CheckpointState(self.step, self.version), None)

    def is_due(self, every_steps: int) -> bool:
        return every_steps > 0 and self.step % every_steps == 0
