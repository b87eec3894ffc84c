"""What was sampled, how it was scored and what became of it: a parquet file per step, one row per trajectory.

The first columns are for readers: any tool that opens parquet shows prompt, answer, score and why. The last ones
hold the tokens, so that a step can be scored or trained again from its file alone; what teachers said is not in it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlvr.files import replacing
from rlvr.rollout.ledger import Fate
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.types import FinishReason, Group, Message, Outcome, Score, Task, TokenFate, Trajectory, TrajectoryKey

if TYPE_CHECKING:
    from rlvr.types import Experts

_READABLE = [
    ("step", pa.int64()),
    ("group_id", pa.int64()),
    ("task_id", pa.string()),
    ("prompt", pa.string()),  # the messages as text, a role before each
    ("target", pa.string()),  # JSON
    ("answer", pa.string()),
    ("score", pa.float64()),  # null: no verdict, which is not 0
    ("outcome", pa.string()),  # null: never scored
    ("detail", pa.string()),
    ("parts", pa.string()),  # JSON: a number by name
    ("finish", pa.string()),
    ("tokens", pa.int64()),  # that the policy sampled
    ("oldest_version", pa.int64()),  # null: nothing was sampled
    ("newest_version", pa.int64()),
    ("advantage", pa.float64()),  # null: not trained
    ("fate", pa.string()),  # null: held-out, never meant for training
    ("generate_s", pa.float64()),
    ("score_s", pa.float64()),
]
_EXACT = [
    ("messages", pa.string()),  # JSON: the prompt as it was
    ("columns", pa.string()),  # JSON: all columns of the task's row
    ("prompt_ids", pa.list_(pa.int32())),
    ("token_ids", pa.list_(pa.int32())),
    ("sampled", pa.list_(pa.bool_())),
    ("logprobs", pa.list_(pa.float32())),  # the precision that samplers compute them in
    ("versions", pa.list_(pa.int32())),
    ("token_fates", pa.list_(pa.string())),  # what the learner did with each token; null: not sampled, or not trained
    # NumPy's .npy of those that routers chose, [tokens, layers, top_k]; null: nothing was recorded, or not trained
    ("experts", pa.large_binary()),
]
SCHEMA = pa.schema(_READABLE + _EXACT)


@dataclass(frozen=True, slots=True)
class LoggedRollout:
    """A trajectory as a reader sees it. `target` is JSON text; `advantage` is None when it was not trained."""

    step: int
    group_id: int
    task_id: str
    prompt: str
    target: str
    answer: str
    score: float | None
    outcome: Outcome | None
    detail: str
    parts: dict[str, float]
    finish: FinishReason
    tokens: int
    oldest_version: int | None
    newest_version: int | None
    advantage: float | None
    fate: Fate | None
    generate_s: float
    score_s: float


def write_rollouts(
    folder: RunFolder,
    step: int,
    groups: Sequence[Group],
    filtered: Sequence[tuple[Group, Fate]],
    advantages: Sequence[Sequence[float]] | None = None,
    token_fates: Mapping[TrajectoryKey, bytes] | None = None,
) -> Path:
    """Write what a step trained on and what was filtered before it; the same step's file is replaced.

    `advantages` are the algorithm's, for each group one per answer with a verdict; `token_fates` the learner's, a
    `TokenFate` for each sampled token of a trajectory. Without them their columns are null.
    """
    of_groups = advantages if advantages is not None else [()] * len(groups)
    fates = token_fates or {}
    rows = [r for g, a in zip(groups, of_groups, strict=True) for r in _rows(step, g, Fate.TRAINED, a, fates)]
    rows += [row for group, fate in filtered for row in _rows(step, group, fate)]
    return _write(folder.rollouts(step), rows)


def write_evaluation(folder: RunFolder, step: int, groups: Sequence[Group]) -> Path:
    """Write answers to held-out tasks, given after `step`; the same step's file is replaced."""
    return _write(folder.evaluation(step), [row for group in groups for row in _rows(step, group, None)])


def read_rollouts(path: Path) -> list[LoggedRollout]:
    """All rows for a reader, in order of writing; tokens are not loaded. Raises RunFolderError."""
    return [
        LoggedRollout(
            **row
            | {
                "outcome": Outcome(row["outcome"]) if row["outcome"] else None,
                "parts": json.loads(row["parts"]),
                "finish": FinishReason(row["finish"]),
                "fate": Fate(row["fate"]) if row["fate"] else None,
            }
        )
        for row in _read(path, [name for name, _ in _READABLE])
    ]


@dataclass(frozen=True, slots=True)
class FatedTokens:
    """A trajectory's tokens and what the learner did with each, in words; None for tokens that were read.

    `fates` are None where the learner never saw the trajectory.
    """

    group_id: int
    token_ids: list[int]
    fates: list[str | None] | None


def read_fated_tokens(path: Path) -> list[FatedTokens]:
    """Of all rows, in the order of `read_rollouts`. Raises RunFolderError."""
    rows = _read(path, ["group_id", "token_ids", "token_fates"])
    return [FatedTokens(row["group_id"], row["token_ids"], row["token_fates"]) for row in rows]


def read_groups(path: Path) -> list[Group]:
    """The groups with their tokens, to score or train them again. Raises RunFolderError.

    Equal to what was written, except that columns and targets are as JSON keeps them: a tuple comes back as a list.
    Experts are those of trained groups alone.
    """
    return _groups(_read(path, SCHEMA.names))


def _groups(rows: Iterable[Mapping[str, Any]]) -> list[Group]:
    groups: dict[int, Group] = {}
    for row in rows:
        if row["group_id"] not in groups:
            groups[row["group_id"]] = Group(row["group_id"], _task(row), [])
        groups[row["group_id"]].trajectories.append(_trajectory(row))
    return list(groups.values())


def read_trained_groups(path: Path) -> list[Group]:
    """As `read_groups`, but only those that were handed to the learner, in that order."""
    rows = _read(path, SCHEMA.names)
    trained = {row["group_id"] for row in rows if row["fate"] == Fate.TRAINED}
    return _groups(row for row in rows if row["group_id"] in trained)


def count_rollouts(path: Path) -> int:
    """How many rows a file holds; only its footer is read. Raises RunFolderError."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def prompt_text(messages: Sequence[Message]) -> str:
    """A single user message as it is; a chat with each role before its text."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


# ---------------------------------------------------------------- groups to rows


def _rows(
    step: int,
    group: Group,
    group_fate: Fate | None,
    of_answers: Sequence[float] = (),
    token_fates: Mapping[TrajectoryKey, bytes] = MappingProxyType({}),
) -> Iterator[dict[str, Any]]:
    advantages = iter(of_answers)
    for place, trajectory in enumerate(group.trajectories):
        has_value = trajectory.score is not None and trajectory.score.value is not None
        yield {
            "step": step,
            "advantage": next(advantages, None) if has_value else None,
            "fate": _fate(trajectory, group_fate),
            **_task_columns(group),
            **_trajectory_columns(trajectory),
            "token_fates": _token_fates(trajectory, token_fates.get((group.id, place))),
            "experts": _stored(trajectory.experts) if group_fate is Fate.TRAINED else None,
        }


def _token_fates(trajectory: Trajectory, of_sampled: bytes | None) -> list[str | None] | None:
    """By token, in words; None for a token that was read, not sampled."""
    if of_sampled is None:
        return None
    fates = iter(of_sampled)
    return [TokenFate(next(fates)).name.lower() if sampled else None for sampled in trajectory.sampled]


def _stored(experts: Experts | None) -> bytes | None:
    if experts is None:
        return None
    file = io.BytesIO()
    np.save(file, experts, allow_pickle=False)
    return file.getvalue()


def _fate(trajectory: Trajectory, group_fate: Fate | None) -> Fate | None:
    """That of its group, unless it has no verdict: then why it has none, as the ledger counts it."""
    if group_fate is None:
        return None
    outcome = trajectory.score.outcome if trajectory.score else Outcome.ENV_FAILED
    return group_fate if outcome is Outcome.SCORED else Fate(outcome.value)


def _task_columns(group: Group) -> dict[str, Any]:
    task = group.task
    return {
        "group_id": group.id,
        "task_id": task.id,
        "prompt": _storable(prompt_text(task.prompt)),
        "target": _to_json(task.target),
        "messages": _to_json(task.prompt),
        "columns": _to_json(dict(task.columns)),
    }


def _trajectory_columns(trajectory: Trajectory) -> dict[str, Any]:
    score = trajectory.score
    versions = [v for v, s in zip(trajectory.versions, trajectory.sampled, strict=True) if s]
    return {
        "answer": _storable(trajectory.text),
        "score": score.value if score else None,
        "outcome": score.outcome if score else None,
        "detail": _storable(score.detail) if score else "",
        "parts": _to_json(dict(score.parts) if score else {}),
        "finish": trajectory.finish,
        "tokens": len(versions),
        "oldest_version": min(versions, default=None),
        "newest_version": max(versions, default=None),
        "generate_s": trajectory.generate_s,
        "score_s": trajectory.score_s,
        "prompt_ids": trajectory.prompt_ids,
        "token_ids": trajectory.token_ids,
        "sampled": trajectory.sampled,
        "logprobs": trajectory.logprobs,
        "versions": trajectory.versions,
    }


def _to_json(value: Any) -> str:
    """As JSON; what JSON has no form for (a date, bytes) as its text. Escapes keep lone surrogates."""
    return json.dumps(value, default=str)


def _storable(text: str) -> str:
    """Parquet text is UTF-8, which has no lone surrogates; a broken decoder or traceback may hold some."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")
    return path


# ---------------------------------------------------------------- rows to groups


def _read(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    return rows


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"{path} cannot be read as a log of rollouts: {error}")


def _task(row: Mapping[str, Any]) -> Task:
    return Task(
        id=row["task_id"],
        prompt=tuple(json.loads(row["messages"])),
        prompt_ids=tuple(row["prompt_ids"]),
        target=json.loads(row["target"]),
        columns=json.loads(row["columns"]),
    )


def _trajectory(row: Mapping[str, Any]) -> Trajectory:
    outcome = row["outcome"]
    return Trajectory(
        prompt_ids=tuple(row["prompt_ids"]),
        token_ids=row["token_ids"],
        sampled=row["sampled"],
        logprobs=row["logprobs"],
        versions=row["versions"],
        finish=FinishReason(row["finish"]),
        text=row["answer"],
        score=Score(row["score"], Outcome(outcome), json.loads(row["parts"]), row["detail"]) if outcome else None,
        generate_s=row["generate_s"],
        score_s=row["score_s"],
        experts=np.load(io.BytesIO(row["experts"]), allow_pickle=False) if row["experts"] is not None else None,
    )
