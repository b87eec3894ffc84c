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
from rlvr.data import load_tasks, read_rows
from rlvr.distill.average import AveragedPolicy, averaged_policy
from rlvr.distill.gate import Gate, leave_records
from rlvr.distill.provenance import TeacherRecord
from rlvr.distill.readings import (
    AsItStands,
    OtherPrompt,
    OtherTokenizer,
    PromptError,
    PromptTemplate,
    Reading,
    same_conversation,
)
from rlvr.distill.regression import TagWatch, check_watch
from rlvr.distill.served_teacher import ServedTeacher
from rlvr.distill.signals import Signal, SignalKind, parse_divergence, parse_kind
from rlvr.distill.teachers import ALL, OwnPolicy, Teacher, TeacherError, local_teacher
from rlvr.distill.teaching import OnPolicyDistillation, Teachers
from rlvr.distill.tokenizers import fingerprint, refuse_mismatch
from rlvr.files import replacing
from rlvr.prepare import load_tokenizer, stop_token_ids
from rlvr.reward_function import reward
from rlvr.run_folder import RunFolder, refuse_used

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlvr.reward_function import Reward
    from rlvr.training import RunResult

_OPTIONS_FILE = "opd.yaml"
_SELF, _AVERAGE = "self", "ema"
_WORD = re.compile(r"(?:(?P<tag>\w+)=)?(?P<name>.+)")


@dataclass(frozen=True, slots=True)
class OPDOptions:
    """What a run of on-policy distillation needs besides the run's config; kept in its folder for a resume.

    `teachers` are words `[TAG=]NAME`, a name being a folder, a hub name, `URL#MODEL` of a server, `self` or `ema`.
    `ema_rate` is what a version counts in the average `ema`. `prompt` is the template of what teachers read in the
    place of a task's last message; `max_regression` is how far a tag's held-out accuracy may fall below its first.
    """

    teachers: tuple[str, ...]
    tag_column: str = "tag"
    tokenizer: str | None = None  # of served teachers, where their model's name does not lead to it
    signal: str = SignalKind.STUDENT_TOPK.value
    k: int = 32
    divergence: str = "reverse"
    clip: float = 5.0
    reward: float = 0.0
    prompt: str | None = None
    ema_rate: float = 0.05
    max_regression: float | None = None
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

    @property
    def is_own_policy(self) -> bool:
        """Whether the policy that learns is meant."""
        return self.url is None and self.name == _SELF

    @property
    def is_average(self) -> bool:
        """Whether the moving average of its versions is."""
        return self.url is None and self.name == _AVERAGE

    @property
    def is_student(self) -> bool:
        """Whether it is either of these: a student needs no licence to teach itself, and speaks its own language."""
        return self.is_own_policy or self.is_average


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
    """The stage and its teachers' records, all checked that can be."""
    words = [teacher_word(word) for word in options.teachers]
    if len({word.tag for word in words}) < len(words) or not words:
        raise TeacherError(f"--teacher: expected one for each tag, got {', '.join(options.teachers) or 'none'}")
    signal = options.make_signal()
    if options.max_regression is not None:
        check_watch(config, options.max_regression, options.tag_column, [word.tag for word in words])
    models = [word.name for word in words if not word.is_student]
    terms = dict(zip(models, options.gate.check(models), strict=True))
    reader = _Reader(config, signal, options.prompt)
    by_tag: dict[str, Teacher | OwnPolicy] = {}
    readings: dict[str, Reading] = {}
    made: dict[tuple[str | None, str], Teacher] = {}  # one that teaches several tags is there once
    average: AveragedPolicy | None = None
    records = []
    for number, word in enumerate(words):
        if word.is_own_policy:
            by_tag[word.tag], readings[word.tag] = OwnPolicy(), reader.of_own_policy()
            continue
        if word.is_average:
            average = average or averaged_policy(config, options.ema_rate, number)
            by_tag[word.tag], readings[word.tag] = average, reader.of_student()
            continue
        tokenizer = load_tokenizer(options.tokenizer if word.url and options.tokenizer else word.name)
        readings[word.tag] = reader.of_teacher(word.name, tokenizer)
        key = (word.url, word.name)
        if key not in made:
            licences = tuple(licence.id for licence in terms[word.name].licences)
            records.append(TeacherRecord(word.name, licences, fingerprint(tokenizer)))
            made[key] = ServedTeacher(word.url, word.name) if word.url else local_teacher(config, word.name, number)
        by_tag[word.tag] = made[key]
    watch = TagWatch(options.tag_column, options.max_regression)
    teachers = Teachers(by_tag, options.tag_column, readings)
    return OnPolicyDistillation(teachers, signal, config.sampling.temperature, watch), records


class _Reader:
    """How the teachers of a run read its rows."""

    def __init__(self, config: Config, signal: Signal, template: str | None) -> None:
        """Raises PromptError."""
        self._config = config
        self._signal = signal
        self._student = load_tokenizer(config.model.name)
        self._conversation = None if template is None else PromptTemplate(template, [*read_rows(config.data)[0]])

    def of_teacher(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Reading:
        """Raises TokenizerMismatch where the signal needs the student's tokens, and UnreadableTokenizer."""
        if self._signal.kind is SignalKind.SPANS:
            c = self._config
            ends = stop_token_ids(self._student, c.sampling.stop, c.model.name)
            return OtherTokenizer(self._student, ends, tokenizer, name, self._conversation or same_conversation)
        refuse_mismatch(self._student, tokenizer, name)
        return self.of_student()

    def of_student(self) -> Reading:
        """For a teacher with the student's tokenizer."""
        return AsItStands() if self._conversation is None else OtherPrompt(self._student, self._conversation)

    def of_own_policy(self) -> Reading:
        """Raises PromptError for a prompt that the run's generators have no room for."""
        if self._conversation is None:
            raise TeacherError(
                "--teacher self: on its own prompt the policy says what it said; give it --teacher-prompt"
            )
        reading = OtherPrompt(self._student, self._conversation)
        longest = max(len(reading.prompt_ids(task)) for task in load_tasks(self._config.data, self._student).tasks)
        if longest > self._config.data.max_prompt_tokens:
            raise PromptError(
                f"--teacher-prompt: the longest has {longest} tokens, and the run's generators, which --teacher self "
                f"asks, have room for data.max_prompt_tokens={self._config.data.max_prompt_tokens}: raise it to "
                f"{longest}"
            )
        return reading


def _read_options(file: Path) -> OPDOptions:
    if not file.is_file():
        raise TeacherError(f"{file.parent}: not a run of on-policy distillation, it has no {file.name}")
    read: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return OPDOptions(**read | {"teachers": tuple(read["teachers"]), "gate": Gate(**read["gate"])})
