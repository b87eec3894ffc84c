"""`rlvr distill opd`: the training loop on a policy's own answers, with teachers between rollouts and learner."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlvr.api import run_config, with_run_dir
from rlvr.config import Config
from rlvr.distill.gate import Gate, leave_records
from rlvr.distill.provenance import TeacherRecord
from rlvr.distill.served_teacher import ServedTeacher
from rlvr.distill.signals import Signal, SignalKind, parse_divergence, parse_kind
from rlvr.distill.teachers import Teacher, TeacherError, local_teacher
from rlvr.distill.teaching import ALL, OnPolicyDistillation, Teachers
from rlvr.distill.tokenizers import fingerprint, refuse_mismatch
from rlvr.files import replacing
from rlvr.prepare import load_tokenizer
from rlvr.reward_function import reward
from rlvr.run_folder import RunFolder, refuse_used

if TYPE_CHECKING:
    from rlvr.reward_function import Reward
    from rlvr.training import RunResult

_OPTIONS_FILE = "opd.yaml"
_WORD = re.compile(r"(?:(?P<tag>\w+)=)?(?P<name>.+)")


@dataclass(frozen=True, slots=True)
class OPDOptions:
    """What a run of on-policy distillation needs besides the run's config; kept in its folder for a resume.

    `teachers` are words `[TAG=]NAME`, a name being a folder, a hub name, or `URL#MODEL` of a server.
    """

    teachers: tuple[str, ...]
    tag_column: str = "tag"
    tokenizer: str | None = None  # of served teachers, where their model's name does not lead to it
    signal: str = SignalKind.STUDENT_TOPK.value
    k: int = 32
    divergence: str = "reverse"
    clip: float = 5.0
    reward: float = 0.0
    gate: Gate = dataclasses.field(default_factory=Gate)

    def make_signal(self) -> Signal:
        """Raises SignalError."""
        divergence = parse_divergence(self.divergence)
        return Signal(parse_kind(self.signal), self.k, divergence, self.clip, self.reward)


@dataclass(frozen=True, slots=True)
class TeacherWord:
    """One `--teacher`, taken apart."""

    tag: str
    name: str  # of the model
    url: str | None


def teacher_word(word: str) -> TeacherWord:
    """Raises TeacherError."""
    match = _WORD.fullmatch(word)
    if match is None:
        raise TeacherError(f"--teacher {word!r}: expected NAME, TAG=NAME, or TAG=URL#MODEL")
    tag, name = match["tag"] or ALL, match["name"]
    if not name.startswith(("http://", "https://")):
        return TeacherWord(tag, name, None)
    url, separator, model = name.partition("#")
    if not separator or not model:
        raise TeacherError(f"--teacher {word}: a server needs its model's name: http://host:8000/v1#MODEL")
    return TeacherWord(tag, model, url)


@reward(name="unjudged")
async def unjudged(completion: str) -> float:
    """Where a run has teachers and no verifier: every answer is worth the same."""
    return 0.0


def run_opd(config: Config, options: OPDOptions) -> RunResult:
    """Train a student on its own answers under teachers. Raises what the parts raise before anything is started."""
    config = with_run_dir(config)
    assert config.run_dir is not None
    refuse_used(RunFolder(config.run_dir))
    teaching, records = _teaching(config, options)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with replacing(config.run_dir / _OPTIONS_FILE) as partial:
        partial.write_text(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), encoding="utf-8")
    return _run(config, options, teaching, records, resume=False)


def resume_opd(config: Config) -> RunResult:
    """Go on with the run in `config.run_dir`, with the teachers it began with."""
    assert config.run_dir is not None
    options = _read_options(config.run_dir / _OPTIONS_FILE)
    teaching, records = _teaching(config, options)
    return _run(config, options, teaching, records, resume=True)


def _run(
    config: Config,
    options: OPDOptions,
    teaching: OnPolicyDistillation,
    records: Sequence[TeacherRecord],
    *,
    resume: bool,
) -> RunResult:
    rewards: list[Reward] | None = None if config.reward.functions else [unjudged]
    result = run_config(config, rewards, resume=resume, teaching=teaching)
    leave_records(result.policy, Path(config.model.name), records, "distill opd", options.gate)
    return result


def _teaching(config: Config, options: OPDOptions) -> tuple[OnPolicyDistillation, list[TeacherRecord]]:
    """The stage and its teachers' records, licences and tokenizers checked."""
    words = [teacher_word(word) for word in options.teachers]
    if len({word.tag for word in words}) < len(words) or not words:
        raise TeacherError(f"--teacher: expected one for each tag, got {', '.join(options.teachers) or 'none'}")
    signal = options.make_signal()
    terms = options.gate.check([word.name for word in words])
    student = load_tokenizer(config.model.name)
    by_tag: dict[str, Teacher] = {}
    records = []
    for number, (word, of_teacher) in enumerate(zip(words, terms, strict=True)):
        tokenizer = load_tokenizer(options.tokenizer if word.url and options.tokenizer else word.name)
        refuse_mismatch(student, tokenizer, word.name)
        licences = tuple(licence.id for licence in of_teacher.licences)
        records.append(TeacherRecord(word.name, licences, fingerprint(tokenizer)))
        by_tag[word.tag] = (
            local_teacher(config, word.name, number) if word.url is None else ServedTeacher(word.url, word.name)
        )
    stage = OnPolicyDistillation(Teachers(by_tag, options.tag_column), signal, config.sampling.temperature)
    return stage, records


def _read_options(file: Path) -> OPDOptions:
    if not file.is_file():
        raise TeacherError(f"{file.parent}: not a run of on-policy distillation, it has no {file.name}")
    read: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return OPDOptions(**read | {"teachers": tuple(read["teachers"]), "gate": Gate(**read["gate"])})
