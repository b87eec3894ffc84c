"""Training on what a teacher left: its answers as text, or what it said of each token.

`rlvr distill sft` trains the cross-entropy of answers, `rlvr distill logits` the divergence from a teacher store. Both
are the engine's training on examples (`rlvr.supervised`), with a licence gate before it and a record after it. The
file or the store is the run's `data.path`; a step takes `sft.rows_per_step` of its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlvr.api import run_coroutine, with_run_dir
from rlvr.config import Config
from rlvr.distill.gate import Gate, leave_records
from rlvr.distill.provenance import TeacherRecord, merged, read_provenance
from rlvr.distill.rows_file import example_of, read_rows_file
from rlvr.distill.signals import kl_stream, parse_divergence
from rlvr.distill.store import StoredRow, StoreError, TeacherStore
from rlvr.distill.tokenizers import fingerprint
from rlvr.files import replacing
from rlvr.plugins import CommandError
from rlvr.run_folder import RunFolder, refuse_used
from rlvr.supervised.examples import ExampleSet, that_fit
from rlvr.supervised.run import SupervisedJob, SupervisedResult, prepare_sft, prepare_supervised, run_supervised
from rlvr.types import Divergence, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPTIONS_FILE = "offline.yaml"


@dataclass(frozen=True, slots=True)
class OfflineOptions:
    """What a run needs besides its config; kept in its folder for a resume.

    `divergence` is that from a store's teacher, in the words of `parse_divergence`; None: answers are trained as text.
    """

    divergence: str | None = None
    gate: Gate = dataclasses.field(default_factory=Gate)

    @property
    def made_by(self) -> str:
        """The command."""
        return "distill sft" if self.divergence is None else "distill logits"


def run_offline(config: Config, options: OfflineOptions) -> SupervisedResult:
    """Train on the file or the store at `data.path`. Raises what the parts raise before anything is started.

    Licences are those that it brings along; they are checked again, for this student's use.
    """
    config = with_run_dir(config)
    assert config.run_dir is not None
    refuse_used(RunFolder(config.run_dir))
    teachers = _teachers_of(Path(config.data.path), options.gate)
    job = _prepare(config, options)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with replacing(config.run_dir / _OPTIONS_FILE) as partial:
        partial.write_text(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), encoding="utf-8")
    return _run(job, options, teachers, resume=False)


def resume_offline(config: Config) -> SupervisedResult:
    """Go on with the run in `config.run_dir`, from its newest checkpoint."""
    assert config.run_dir is not None
    options = _read_options(config.run_dir / _OPTIONS_FILE)
    teachers = _teachers_of(Path(config.data.path), options.gate)
    return _run(_prepare(config, options), options, teachers, resume=True)


def _run(
    job: SupervisedJob, options: OfflineOptions, teachers: Sequence[TeacherRecord], *, resume: bool
) -> SupervisedResult:
    result = run_coroutine(run_supervised(job, resume=resume))
    leave_records(result.policy, Path(job.config.model.name), teachers, options.made_by, options.gate)
    return result


def _prepare(config: Config, options: OfflineOptions) -> SupervisedJob:
    if options.divergence is None:
        return prepare_sft(config, _of_answers)
    divergence = parse_divergence(options.divergence)
    return prepare_supervised(config, lambda config, tokenizer: _of_store(config, tokenizer, divergence))


def _of_answers(config: Config, tokenizer: PreTrainedTokenizerBase) -> ExampleSet:
    file = Path(config.data.path)
    found = [example_of(row, tokenizer) for row in read_rows_file(file)]
    return that_fit(found, config.learner.token_budget, str(file))


def _of_store(config: Config, tokenizer: PreTrainedTokenizerBase, divergence: Divergence) -> ExampleSet:
    """Raises StoreError for a store of another tokenizer or temperature."""
    folder = Path(config.data.path)
    store = TeacherStore(folder)
    if store.header.tokenizer != fingerprint(tokenizer):
        raise StoreError(f"{folder}: its ids are of another tokenizer or chat template than the student's")
    if store.header.temperature != config.sampling.temperature:
        raise StoreError(
            f"{folder}: was captured at temperature {store.header.temperature:g}, and the student is trained at "
            f"sampling.temperature={config.sampling.temperature:g}: set it to the store's"
        )
    return that_fit([_Scored(row, divergence) for row in store], config.learner.token_budget, str(folder))


@dataclass(frozen=True, slots=True)
class _Scored:
    """A row of a store, learned by its divergence from what the teacher said."""

    stored: StoredRow
    divergence: Divergence

    def __len__(self) -> int:
        return len(self.stored.token_ids)

    def row(self, number: int) -> Row:
        trained = [place >= self.stored.first for place in range(len(self))]
        row = Row(number, list(self.stored.token_ids), trained)
        row.kl = kl_stream(row, self.stored.scores, self.divergence)
        return row


def _teachers_of(made: Path, gate: Gate) -> tuple[TeacherRecord, ...]:
    """Those that a file or a store records, their licences checked again for this student's use."""
    known = merged([read_provenance(made)])
    for teacher in known:
        given = [f"{teacher.teacher}={licence}" for licence in teacher.licences]
        Gate(gate.use, given, gate.accepted).check([teacher.teacher])
    return known


def _read_options(file: Path) -> OfflineOptions:
    if not file.is_file():
        raise CommandError(f"{file.parent}: not a run of `rlvr distill sft` or `logits`, it has no {file.name}")
    read: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return OfflineOptions(read["divergence"], Gate(**read["gate"]))
