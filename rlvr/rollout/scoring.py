"""Runs reward functions over the answers of a group, each call under a deadline that counts from its dispatch."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

from rlvr.reward_function import Combine, Form, Reward, judges_of, verifier_of
from rlvr.rollout.composition import RewardError, check_rewards, combined, says_right
from rlvr.types import Outcome, Score, Task, Trajectory, newest_version
from rlvr.workers.pool import WorkerCrashed, WorkerFailed, WorkerPool, WorkerTimeout

BUILT_IN = ("completion", "prompt", "target", "answer", "finish", "completion_tokens", "task_id")
BUILT_IN_BATCH = (
    *("completions", "prompts", "completion_ids", "completion_tokens"),
    *("target", "answer", "finish", "task_id"),
)


# By the reward's name, one for each answer; None where the reward was not asked.
_Verdicts = dict[str, list[Score | None]]


def check_arguments(reward: Reward, columns: Sequence[str], verifier: Reward | None = None) -> None:
    """Refuse, before anything is started, a function that asks for what is not there. Raises RewardError.

    `verifier` is the run's, whose verdict the others may ask for.
    """
    offered = {*columns, *(BUILT_IN_BATCH if reward.form is Form.BATCH else BUILT_IN)}
    if verifier is not None and reward is not verifier:
        offered.add("is_correct")
    missing = [name for name in reward.required if name not in offered]
    if "is_correct" in missing:
        raise RewardError(
            f"reward {reward.name!r} takes is_correct, the verdict of the run's first reward with a weight other "
            f"than 0: put the reward that says what is right before it, or give the data a column of that name"
        )
    if missing:
        raise RewardError(
            f"reward {reward.name!r} takes {', '.join(missing)}, which is neither a column of the data "
            f"({', '.join(columns)}) nor one of {', '.join(sorted(offered - set(columns)))}"
        )


@dataclass(frozen=True, slots=True)
class _Panel:
    """The rewards that judge one task."""

    rewards: Sequence[Reward]

    @property
    def verifier(self) -> Reward | None:
        return verifier_of(self.rewards)

    def waits_for_verdict(self, reward: Reward) -> bool:
        return reward.asks_for_verdict and reward is not self.verifier

    def is_correct(self, reward: Reward, verdicts: _Verdicts) -> list[bool | None] | None:
        """What the verifier said of each answer, for a reward that wants to know."""
        if self.verifier is None or not self.waits_for_verdict(reward):
            return None
        return [says_right(verdict) for verdict in verdicts[self.verifier.name]]


class Scorer:
    """Scores the trajectories of a task with the reward functions, combined by a rule.

    Synchronous functions run in processes that are killed at the deadline; coroutine functions are awaited here
    under the same deadline. A timeout or crash is tried again, then is an outcome without a value: never a 0.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        *,
        deadline_s: float,
        retries: int,
        workers: int,
        rule: Combine = Combine.SUM,
    ) -> None:
        check_rewards(rewards, rule)
        self._rewards = rewards
        self._rule = rule
        self._deadline_s = deadline_s
        self._retries = retries
        self._pool = WorkerPool(size=workers)
        self.ended_calls = 0  # moves with each call of a reward, whatever comes of it: the watchdog looks at it

    async def score(self, task: Task, trajectories: Sequence[Trajectory]) -> list[Score]:
        """One score per trajectory, in order, of the rewards that judge the task's row."""
        panel = _Panel(judges_of(self._rewards, task.columns))
        if self._rule is Combine.GATE:
            verdicts = await self._ask_in_order(panel, task, trajectories)
        else:
            verdicts = await self._ask(panel, task, trajectories)
        version = newest_version(trajectories)
        return [
            combined(self._rule, panel.rewards, [verdicts[reward.name][i] for reward in panel.rewards], version)
            for i in range(len(trajectories))
        ]

    def close(self) -> None:
        self._pool.close()

    async def _ask(self, panel: _Panel, task: Task, trajectories: Sequence[Trajectory]) -> _Verdicts:
        """All at one time, except those that want to know what the verifier said: they come after it."""
        verdicts: _Verdicts = {}
        later = [reward for reward in panel.rewards if panel.waits_for_verdict(reward)]
        for rewards in ([reward for reward in panel.rewards if reward not in later], later):
            answers = (self._run(reward, task, trajectories, panel.is_correct(reward, verdicts)) for reward in rewards)
            for reward, given in zip(rewards, await asyncio.gather(*answers), strict=True):
                verdicts[reward.name] = [*given]
        return verdicts

    async def _ask_in_order(self, panel: _Panel, task: Task, trajectories: Sequence[Trajectory]) -> _Verdicts:
        """One reward after the other, the verifier first: a closed gate saves the calls behind it.

        Metrics, and functions that want the whole group, are asked in any case.
        """
        verdicts: _Verdicts = {}
        still_open = [True] * len(trajectories)
        for reward in sorted(panel.rewards, key=lambda reward: reward is not panel.verifier):
            everyone = reward.is_metric or reward.form is Form.BATCH
            asked = [everyone or is_open for is_open in still_open]
            is_correct = panel.is_correct(reward, verdicts)
            chosen = None if is_correct is None else [*compress(is_correct, asked)]
            answers = iter(await self._run(reward, task, [*compress(trajectories, asked)], chosen))
            verdicts[reward.name] = [next(answers) if was_asked else None for was_asked in asked]
            if not reward.is_metric:
                passed = [bool(says_right(verdict)) for verdict in verdicts[reward.name]]
                still_open = [before and now for before, now in zip(still_open, passed, strict=True)]
        return verdicts

    async def _run(
        self,
        reward: Reward,
        task: Task,
        trajectories: Sequence[Trajectory],
        is_correct: Sequence[bool | None] | None,
    ) -> list[Score]:
        if not trajectories:
            return []
        if reward.form is Form.BATCH:
            offered = _batch_arguments(task, trajectories)
            offered |= {} if is_correct is None else {"is_correct": [*is_correct]}
            return await self._try(reward, _pick(reward, offered), len(trajectories))
        each = [_sample_arguments(task, trajectory) for trajectory in trajectories]
        for arguments, right in zip(each, is_correct or (), strict=False):
            arguments["is_correct"] = right
        calls = (self._try(reward, _pick(reward, arguments), 1) for arguments in each)
        return [verdicts[0] for verdicts in await asyncio.gather(*calls)]

    async def _try(self, reward: Reward, arguments: dict[str, Any], count: int) -> list[Score]:
        for _ in range(self._retries + 1):
            verdicts = await self._call(reward, arguments, count)
            self.ended_calls += 1
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


def _sample_arguments(task: Task, trajectory: Trajectory) -> dict[str, Any]:
    return dict(task.columns) | {
        "completion": trajectory.text,
        "prompt": task.prompt[-1]["content"],
        "target": task.target,
        "answer": task.target,
        "finish": trajectory.finish.value,
        "completion_tokens": sum(trajectory.sampled),
        "task_id": task.id,
    }


def _batch_arguments(task: Task, trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """TRL's form: lists of one entry per answer; chats as messages where the data's prompt is a list of messages."""
    count = len(trajectories)
    is_chat = any(_is_conversation(value, task.prompt[-1]["content"]) for value in task.columns.values())
    texts = [t.text for t in trajectories]
    columns: dict[str, Any] = {name: [value] * count for name, value in task.columns.items()}
    return columns | {
        "prompts": [list(task.prompt) if is_chat else task.prompt[-1]["content"]] * count,
        "completions": [[{"role": "assistant", "content": t}] for t in texts] if is_chat else texts,
        "completion_ids": [t.token_ids for t in trajectories],
        "completion_tokens": [sum(t.sampled) for t in trajectories],
        "target": [task.target] * count,
        "answer": [task.target] * count,
        "finish": [t.finish.value for t in trajectories],
        "task_id": [task.id] * count,
    }


def _is_conversation(value: Any, last: str) -> bool:
    """Whether a column holds the prompt as messages; a system message from the config does not make it a chat."""
    return isinstance(value, list) and bool(value) and isinstance(value[-1], dict) and value[-1].get("content") == last


def _pick(reward: Reward, offered: dict[str, Any]) -> dict[str, Any]:
    """What the function takes of it; an argument that is fixed stands before a column of the same name."""
    signature = inspect.signature(reward.function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    return {
        name: value for name, value in offered.items() if name not in reward.bound and (takes_any or name in signature)
    }
