"""Training on what a teacher left: its answers as text, or what it said of each token.

`rlvr distill sft` trains the cross-entropy of answers, `rlvr distill logits` the divergence from a teacher store. Both
are the engine's learner on rows with other streams than reinforcement learning's, in shuffled passes over the file;
generators are there to evaluate. The run's settings are those of `rlvr train`: a step takes
`rollout.groups_per_step * rollout.group_size` rows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlvr.api import with_run_dir
from rlvr.cluster import Roles, start_roles
from rlvr.config import Config
from rlvr.config_loading import to_yaml
from rlvr.console import Console
from rlvr.data import DataError
from rlvr.distill.gate import Gate, leave_records
from rlvr.distill.provenance import TeacherRecord, merged, read_provenance
from rlvr.distill.rows_file import read_rows_file, training_row
from rlvr.distill.signals import kl_stream
from rlvr.distill.store import StoredRow, StoreError, TeacherStore
from rlvr.distill.tokenizers import fingerprint
from rlvr.evaluation import EvaluationReport, evaluate_tasks
from rlvr.metrics import MetricLog
from rlvr.prepare import Job, prepare
from rlvr.report import write_report
from rlvr.rollout_log import write_evaluation
from rlvr.run_folder import RunFolder, refuse_used
from rlvr.training import RunResult
from rlvr.types import Divergence, Row


async def train_on_answers(config: Config, rows_file: Path, gate: Gate) -> RunResult:
    """`rlvr distill sft`. Licences are those that the file brings along, and count as when it was made."""
    teachers = _teachers_of(rows_file, gate)
    read = read_rows_file(rows_file)
    job = prepare(config)
    ends = job.sampling().stop_token_ids
    end = job.tokenizer.eos_token_id if job.tokenizer.eos_token_id in ends else ends[0]
    rows = [training_row(number, row, job.tokenizer, end) for number, row in enumerate(read)]
    return await _train(job, _that_fit(rows, config), teachers, "distill sft", gate)


async def train_on_store(config: Config, folder: Path, divergence: Divergence, gate: Gate) -> RunResult:
    """`rlvr distill logits`. Raises StoreError for a store of another tokenizer or temperature."""
    store = TeacherStore(folder)
    teachers = _teachers_of(folder, gate)
    job = prepare(config)
    if store.header.tokenizer != fingerprint(job.tokenizer):
        raise StoreError(f"{folder}: its ids are of another tokenizer or chat template than the student's")
    if store.header.temperature != config.sampling.temperature:
        raise StoreError(
            f"{folder}: was captured at temperature {store.header.temperature:g}, and the student is trained at "
            f"sampling.temperature={config.sampling.temperature:g}: set it to the store's"
        )
    rows = [_stored_row(stored, divergence) for stored in store]
    return await _train(job, _that_fit(rows, config), teachers, "distill logits", gate)


def batches(rows: Sequence[Row], size: int, seed: int) -> Iterator[list[Row]]:
    """Without end: each pass goes through all rows in an order of its own, and what is over begins the next batch."""
    batch: list[Row] = []
    epoch = 0
    while True:
        order = list(range(len(rows)))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        for place in order:
            batch.append(rows[place])
            if len(batch) == size:
                yield batch
                batch = []
        epoch += 1


def _stored_row(stored: StoredRow, divergence: Divergence) -> Row:
    trained = [place >= stored.first for place in range(len(stored.token_ids))]
    row = Row(stored.row, list(stored.token_ids), trained)
    row.kl = kl_stream(row, stored.scores, divergence)
    return row


def _that_fit(rows: Sequence[Row], config: Config) -> list[Row]:
    longest = max(len(row) for row in rows)
    if longest > config.learner.token_budget:
        raise DataError(
            f"a row has {longest} tokens, more than learner.token_budget={config.learner.token_budget}: raise it"
        )
    return list(rows)


def _teachers_of(made: Path, gate: Gate) -> tuple[TeacherRecord, ...]:
    """Those that a file or a store records, their licences checked again for this student's use."""
    known = merged([read_provenance(made)])
    for teacher in known:
        given = [f"{teacher.teacher}={licence}" for licence in teacher.licences]
        Gate(gate.use, given, gate.accepted).check([teacher.teacher])
    return known


async def _train(job: Job, rows: list[Row], teachers: Sequence[TeacherRecord], made_by: str, gate: Gate) -> RunResult:
    assert job.config.run_dir is not None
    folder = RunFolder(job.config.run_dir)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(to_yaml(job.config), encoding="utf-8")
    roles = await start_roles(job.config)
    try:
        with Console(job.config.steps) as console:
            result = await _Offline(job, folder, roles, console).run(rows)
    finally:
        await roles.close()
    leave_records(result.policy, Path(job.config.model.name), teachers, made_by, gate)
    return result


class _Offline:
    """One run: rows to the learner, and now and then an evaluation by the generators."""

    def __init__(self, job: Job, folder: RunFolder, roles: Roles, console: Console) -> None:
        self._job = job
        self._folder = folder
        self._roles = roles
        self._console = console
        self._log = MetricLog(folder, tensorboard=job.config.tensorboard)
        self._evaluations: list[EvaluationReport] = []

    async def run(self, rows: Sequence[Row]) -> RunResult:
        config = self._job.config
        size = config.rollout.groups_per_step * config.rollout.group_size
        source = batches(rows, size, config.seed)
        await self._evaluate(0, 0)
        for step in range(1, config.steps + 1):
            report = await self._roles.learner.train(next(source))
            self._log.log(step, report.metrics())
            last = step == config.steps
            every = config.evaluation.every_steps
            if last or (every and step % every == 0):
                await self._evaluate(step, report.version)
        self._log.close()
        await self._roles.learner.export(self._folder.policy)
        written = await asyncio.to_thread(write_report, self._folder)
        before, after = (self._evaluations[0], self._evaluations[-1]) if self._evaluations else (None, None)
        return RunResult(self._folder.path, written, self._folder.policy, config.steps, before, after)

    async def _evaluate(self, step: int, version: int) -> None:
        held_out = self._job.held_out
        if held_out is None:
            return
        await self._roles.pool.update_weights(await self._roles.learner.publish())
        scorer = self._job.scorer()
        samples = self._job.config.evaluation.samples
        try:
            runner = self._job.runner(
                self._roles.pool, scorer, self._job.evaluation_sampling(), samples, f"evaluation{step}-"
            )
            report = await evaluate_tasks(runner, held_out.tasks, version, self._job.verifier)
        finally:
            scorer.close()
        self._evaluations.append(report)
        self._log.log(step, report.metrics())
        write_evaluation(self._folder, step, report.groups)
        self._console.evaluation(step, report.metrics())


def offline_config(config: Config) -> Config:
    """The config with a run folder of its own. Raises RunFolderError for one that is used."""
    config = with_run_dir(config)
    assert config.run_dir is not None
    refuse_used(RunFolder(config.run_dir))
    return config
