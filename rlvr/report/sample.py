"""Which rollouts go onto the report's page, and how they are handed to its script.

A run may hold millions of answers and a browser holds thousands, so the page shows a sample: the first, the last
and evenly spaced steps, whole groups of them. The rest stays in the run's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from rlvr.rollout_log import LoggedRollout, count_rollouts, read_rollouts
from rlvr.run_folder import RunFolder

T = TypeVar("T")

# Which answer: its step, its group's id, its place in the group.
AnswerKey = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring tokens of one fate, None for those that were read. `text` is None where it is the whole answer."""

    text: str | None
    fate: str | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a kind of rollouts goes onto the page. `characters` are those of prompts and answers."""

    steps: int
    answers: int
    characters: int


TRAINING = Limits(steps=12, answers=1200, characters=6_000_000)
HELD_OUT = Limits(steps=3, answers=600, characters=3_000_000)


@dataclass(frozen=True, slots=True)
class Sample:
    """Whole groups of some steps. `answers_on_disk` counts all steps of the run."""

    groups: list[list[LoggedRollout]]
    answers_on_disk: int

    @property
    def answers(self) -> int:
        return sum(map(len, self.groups))

    @property
    def steps(self) -> list[int]:
        return sorted({group[0].step for group in self.groups})


def sample_training(run: RunFolder, last_step: int) -> Sample:
    """Of the steps that count: files after `last_step` are left from work that a resume does again."""
    return _sample([step for step in run.rollout_steps() if step <= last_step], run.rollouts, TRAINING)


def sample_held_out(run: RunFolder, last_step: int) -> Sample:
    """First, middle and last evaluation, the same tasks of each."""
    return _sample([step for step in run.evaluation_steps() if step <= last_step], run.evaluation, HELD_OUT)


def to_script(training: Sample, held_out: Sample, fates: Mapping[AnswerKey, Sequence[Stretch]]) -> str:
    """JSON for a `<script type="application/json">`: no character in it can end the script or start a tag.

    `fates` are those of the training answers' tokens, where they are known.
    """
    data = [_group(group, held_out=False, fates=fates) for group in training.groups]
    data += [_group(group, held_out=True, fates={}) for group in held_out.groups]
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items: the first, the last, and evenly spaced ones between."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _sample(steps: list[int], file_of: Callable[[int], Path], limits: Limits) -> Sample:
    on_disk = {step: count_rollouts(file_of(step)) for step in steps}
    chosen = evenly(steps, limits.steps)
    while len(chosen) > 2 and sum(on_disk[step] for step in chosen) > limits.answers:
        chosen = evenly(steps, len(chosen) - 1)
    groups = [group for step in chosen for group in _groups_of_step(file_of(step), len(chosen), limits)]
    return Sample(groups, sum(on_disk.values()))


def _groups_of_step(file: Path, of_steps: int, limits: Limits) -> list[list[LoggedRollout]]:
    """All groups of the step, or evenly spaced ones that fit its share of the limits; one group at least."""
    groups = [list(group) for _, group in groupby(read_rollouts(file), key=lambda rollout: rollout.group_id)]
    too_much = max(
        sum(map(len, groups)) * of_steps / limits.answers, sum(map(_characters, groups)) * of_steps / limits.characters
    )
    return evenly(groups, max(1, math.floor(len(groups) / too_much))) if too_much > 1 else groups


def _characters(group: list[LoggedRollout]) -> int:
    return len(group[0].prompt) + sum(len(rollout.answer) + len(rollout.detail) for rollout in group)


def _group(
    group: list[LoggedRollout], *, held_out: bool, fates: Mapping[AnswerKey, Sequence[Stretch]]
) -> dict[str, Any]:
    first = group[0]
    return {
        "step": first.step,
        "id": first.group_id,
        "task": first.task_id,
        "heldOut": held_out,
        "prompt": first.prompt,
        "target": _target_text(first.target),
        "answers": [
            _answer(rollout) | {"fates": _stretches(fates.get((first.step, first.group_id, place)))}
            for place, rollout in enumerate(group)
        ],
    }


def _target_text(target: str) -> str:
    """Text as it is, anything else as JSON; a browser would not read Python's NaN in it."""
    value = json.loads(target)
    return value if isinstance(value, str) else target


def _answer(rollout: LoggedRollout) -> dict[str, Any]:
    return {
        "text": rollout.answer,
        "score": _finite(rollout.score),
        "outcome": rollout.outcome,
        "detail": rollout.detail,
        "parts": {name: _finite(value) for name, value in rollout.parts.items()},
        "finish": rollout.finish,
        "tokens": rollout.tokens,
        "versions": [rollout.oldest_version, rollout.newest_version],
        "advantage": _finite(rollout.advantage),
        "fate": rollout.fate,
        "generateS": rollout.generate_s,
        "scoreS": rollout.score_s,
    }


def _stretches(of_answer: Sequence[Stretch] | None) -> list[list[str | int | None]] | None:
    return None if of_answer is None else [[stretch.text, stretch.fate, stretch.tokens] for stretch in of_answer]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
