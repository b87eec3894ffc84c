"""Runs reward functions over the answers of a group, each call under a deadline that counts from its dispatch."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlvr.reward_function import Form, Reward
from rlvr.types import Outcome, Score, Task, Trajectory
from rlvr.workers import WorkerCrashed, WorkerFailed, WorkerPool, WorkerTimeout

BUILT_IN = ("completion", "prompt", "target", "answer", "finish", "completion_tokens", "task_id")
BUILT_IN_BATCH = ("completions", "prompts", "completion_ids", "target", "answer", "finish", "task_id")


class RewardError(ValueError):
    """A reward function that cannot be called with what the data offers."""


def check_arguments(reward: Reward, columns: Sequence[str]) -> None:
    """Refuse, before anything is started, a function that asks for what is not there. Raises RewardError."""
    offered = {*columns, *(BUILT_IN_BATCH if reward.form is Form.BATCH else BUILT_IN)}
    missing = [name for name in reward.required if name not in offered]
    if missing:
        raise RewardError(
            f"reward {reward.name!r} takes {', '.join(missing)}, which is neither a column of the data "
            f"({', '.join(columns)}) nor one of {', '.join(sorted(offered - set(columns)))}"
        )


def check_rewards(rewards: Sequence[Reward]) -> None:
    """Refuse rewards that cannot make a score together. Raises RewardError."""
    if not any(reward.weight for reward in rewards):
        raise RewardError("a run needs a reward function with a weight other than 0: set `reward`")
    names = [reward.name for reward in rewards]
    if len(set(names)) < len(names):
        raise RewardError(f"reward functions need names of their own, got {', '.join(names)}")


class Scorer:
    """Scores the trajectories of a task with the weighted sum of the reward functions.

    Synchronous functions run in processes that are killed at the deadline; coroutine functions are awaited here
    under the same deadline. A timeout or crash is tried again, then is an outcome without a value: never a 0.
    """

    def __init__(self, rewards: Sequence[Reward], *, deadline_s: float, retries: int, workers: int) -> None:
        check_rewards(rewards)
        self._rewards = rewards
        self._deadline_s = deadline_s
        self._retries = retries
        self._pool = WorkerPool(size=workers)

    async def score(self, task: Task, trajectories: Sequence[Trajectory]) -> list[Score]:
        """One score per trajectory, in order."""
        columns = await asyncio.gather(*(self._run(reward, task, trajectories) for reward in self._rewards))
        return [_combine(self._rewards, verdicts) for verdicts in zip(*columns, strict=True)]

    def close(self) -> None:
        self._pool.close()

    async def _run(self, reward: Reward, task: Task, trajectories: Sequence[Trajectory]) -> list[Score]:
        if reward.form is Form.BATCH:
            return await self._try(reward, _batch_arguments(reward, task, trajectories), len(trajectories))
        calls = (self._try(reward, _sample_arguments(reward, task, t), 1) for t in trajectories)
        return [verdicts[0] for verdicts in await asyncio.gather(*calls)]

    async def _try(self, reward: Reward, arguments: dict[str, Any], count: int) -> list[Score]:
        for _ in range(self._retries + 1):
            verdicts = await self._call(reward, arguments, count)
            if all(v.outcome not in (Outcome.TIMEOUT, Outcome.CRASHED) for v in verdicts):
                break
        return verdicts

    async def _call(self, reward: Reward, arguments: dict[str, Any], count: int) -> list[Score]:
        try:
            if reward.is_async:
                async with asyncio.timeout(self._deadline_s):
                    result = await reward.function(**arguments)
            else:
                result = await self._pool.run(reward.function, deadline_s=self._deadline_s, **arguments)
        except (TimeoutError, WorkerTimeout):
            return [_failure(Outcome.TIMEOUT, f"{reward.name}: no answer in {self._deadline_s:g} s")] * count
        except (WorkerCrashed, WorkerFailed) as error:
            return [_failure(Outcome.CRASHED, f"{reward.name}: {error}")] * count
        except Exception as error:  # noqa: BLE001 - a user's coroutine may raise anything; it becomes an outcome
            return [_failure(Outcome.CRASHED, f"{reward.name}: {type(error).__name__}: {error}")] * count
        return _read_result(reward, result, count)


def _failure(outcome: Outcome, detail: str) -> Score:
    return Score(None, outcome, detail=detail)


def _read_result(reward: Reward, result: Any, count: int) -> list[Score]:
    if reward.form is Form.PER_SAMPLE:
        return [_verdict(reward, result)]
    if not isinstance(result, Sequence) or isinstance(result, str) or len(result) != count:
        detail = f"{reward.name}: expected a list of {count} numbers, got {result!r:.80}"
        return [_failure(Outcome.CRASHED, detail)] * count
    return [_verdict(reward, value) for value in result]


def _verdict(reward: Reward, result: Any) -> Score:
    if result is None:
        return _failure(Outcome.NO_VERDICT, f"{reward.name}: no verdict")
    score = result if isinstance(result, Score) else None
    if score is not None and score.value is None:
        return score
    value = _finite(result if score is None else score.value)
    parts = {} if score is None else {name: _finite(part) for name, part in score.parts.items()}
    finite_parts = {name: part for name, part in parts.items() if part is not None}
    if value is None or len(finite_parts) < len(parts):
        return _failure(Outcome.CRASHED, f"{reward.name}: expected a finite number, None or Score, got {result!r:.80}")
    return Score(value) if score is None else replace(score, value=value, parts=finite_parts)


def _finite(number: Any) -> float | None:
    """A Python, numpy or torch number as a float; None for anything else, and for what a float cannot hold."""
    if isinstance(number, (str, bytes, bytearray)):  # float("1.0") would take them
        return None
    try:
        value = float(number)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a torch tensor of many numbers
        return None
    return value if math.isfinite(value) else None


def _combine(rewards: Sequence[Reward], verdicts: Sequence[Score]) -> Score:
    """The weighted sum. Without a verdict of each weighted function there is none of the whole."""
    parts: dict[str, float] = {}
    for reward, verdict in zip(rewards, verdicts, strict=True):
        if verdict.value is not None:
            parts[reward.name] = verdict.value
        parts |= {f"{reward.name}/{part}": value for part, value in verdict.parts.items()}
    weighted = [(r.weight, v) for r, v in zip(rewards, verdicts, strict=True) if r.weight]
    detail = "; ".join(v.detail for v in verdicts if v.detail)
    missing = next((v for _, v in weighted if v.value is None), None)
    if missing is not None:
        return Score(None, missing.outcome, parts, detail)
    return Score(sum(weight * (v.value or 0.0) for weight, v in weighted), Outcome.SCORED, parts, detail)


def _sample_arguments(reward: Reward, task: Task, trajectory: Trajectory) -> dict[str, Any]:
    offered = dict(task.columns) | {
        "completion": trajectory.text,
        "prompt": task.prompt[-1]["content"],
        "target": task.target,
        "answer": task.target,
        "finish": trajectory.finish.value,
        "completion_tokens": sum(trajectory.sampled),
        "task_id": task.id,
    }
    return _pick(reward, offered)


def _batch_arguments(reward: Reward, task: Task, trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """TRL's form: lists of one entry per answer; chats as messages where the data's prompt is a list of messages."""
    count = len(trajectories)
    is_chat = any(_is_conversation(value, task.prompt[-1]["content"]) for value in task.columns.values())
    texts = [t.text for t in trajectories]
    offered: dict[str, Any] = {name: [value] * count for name, value in task.columns.items()} | {
        "prompts": [list(task.prompt) if is_chat else task.prompt[-1]["content"]] * count,
        "completions": [[{"role": "assistant", "content": t}] for t in texts] if is_chat else texts,
        "completion_ids": [t.token_ids for t in trajectories],
        "target": [task.target] * count,
        "answer": [task.target] * count,
        "finish": [t.finish.value for t in trajectories],
        "task_id": [task.id] * count,
    }
    return _pick(reward, offered)


def _is_conversation(value: Any, last: str) -> bool:
    """Whether a column holds the prompt as messages; a system message from the config does not make it a chat."""
    return isinstance(value, list) and bool(value) and isinstance(value[-1], dict) and value[-1].get("content") == last


def _pick(reward: Reward, offered: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(reward.function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in signature.values()):
        return offered
    return {name: value for name, value in offered.items() if name in signature}
