"""Keeps groups in flight, a bounded number of them, and hands finished ones to the learner.

Admission bounds staleness. A slot is taken when a group starts and freed when it has been trained or filtered:

    start ──▶ in flight ──▶ ready ──▶ training ──▶ trained      (slot freed by `release`)
                  │
                  └──▶ filtered: zero variance, too few valid   (slot freed at once, another group starts)

With `(max_staleness + 1) * groups_per_step` slots, 0 is synchronous: nothing starts before the batch is trained.
Slow groups are never thrown away for being slow, so the learner sees long answers as often as they are sampled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rlvr.config import RolloutConfig
from rlvr.data import Cursor, CursorState, fingerprint
from rlvr.rollout.episode import EpisodeRunner
from rlvr.rollout.ledger import Fate, Ledger
from rlvr.types import Group, Outcome, Task


class RolloutError(RuntimeError):
    """Rollouts cannot go on: every answer fails, a generator or engine part broke, or a setting may not change now."""


@dataclass(frozen=True)
class RolloutState:
    """What a checkpoint keeps: groups that wait, tasks that were in flight, and the books.

    `filtered` are groups that are settled in the ledger, but not yet handed to `take_filtered`. `tasks` is the
    fingerprint of all tasks that the cursor goes through; empty in the checkpoints of an older rlvr.
    """

    cursor: CursorState
    next_id: int
    ready: list[Group]
    in_flight: list[tuple[int, Task]]
    filtered: list[tuple[Group, Fate]]
    ledger: Ledger
    tasks: str = ""

    def refuse_other_tasks(self, tasks: Iterable[Task]) -> None:
        """Raise RolloutError unless these are the tasks that the cursor went through."""
        if self.tasks and self.tasks != fingerprint(tasks):
            raise RolloutError(
                "data: the tasks are not those that the run began with (its rows, data.limit, data.system or "
                "data.max_prompt_tokens have changed), and some would be repeated and others skipped: a run goes on "
                "with the data it began with; start a new one from an export of its policy"
            )

    def refuse_other_group_size(self, group_size: int) -> None:
        """Raise RolloutError unless groups that wait, and those in flight by the books, have `group_size` answers."""
        sizes = [len(group.trajectories) for group in self.ready]
        in_flight, rest = divmod(self.ledger.unsettled - sum(sizes), max(len(self.in_flight), 1))
        if self.in_flight and not rest:
            sizes.append(in_flight)
        was = next((size for size in sizes if size != group_size), group_size)
        if was != group_size:
            raise RolloutError(
                f"rollout.group_size={group_size}: a run keeps its group size, and this one's groups have "
                f"{was} answers each; resume with rollout.group_size={was}, or start a new run from an export of its "
                "policy"
            )


class Rollouts:
    """Starts groups while slots are free. Lives on one event loop.

    `is_flat` tells whether a group has no gradient, which is for the algorithm to say. Raises RolloutError for a
    `state` of another group size or other tasks.
    """

    def __init__(
        self,
        cursor: Cursor[Task],
        runner: EpisodeRunner,
        config: RolloutConfig,
        is_flat: Callable[[Group], bool],
        state: RolloutState | None = None,
    ) -> None:
        if state is not None:
            state.refuse_other_group_size(config.group_size)
            state.refuse_other_tasks(cursor.items)
        self._is_flat = is_flat
        self._cursor = cursor
        self._tasks = fingerprint(cursor.items)
        self._runner = runner
        self._config = config
        self._slots = (config.max_staleness + 1) * config.groups_per_step
        self._next_id = state.next_id if state else 0
        self._ready: deque[Group] = deque(state.ready if state else ())
        self._restart: deque[tuple[int, Task]] = deque(state.in_flight if state else ())
        self._in_flight: dict[int, tuple[Task, asyncio.Task[None]]] = {}
        self._training: dict[int, Group] = {}
        self._filtered = list(state.filtered) if state else []  # since the last take_filtered
        self._refills = 0  # groups started in place of filtered ones since the last take
        self._left_out = 0  # groups filtered since then
        self._changed = asyncio.Condition()
        self._error: RolloutError | None = None
        self.ledger = state.ledger if state else Ledger()
        self.finished_groups = 0  # moves whenever a group finishes: the watchdog looks at it

    # ---------------------------------------------------------------- for the training loop

    def start(self) -> None:
        """Fill the slots."""
        while self._used() < self._slots:
            self._start_group()

    async def take(self) -> list[Group]:
        """The next `groups_per_step` finished groups, in order of finishing.

        Fewer, at worst none, when `max_refill` times as many were sampled and the rest was filtered: a step then
        trains on what there is. Raises RolloutError when all that was sampled failed, or when a part broke.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._error is not None or self._enough())
            if self._error is not None:
                raise self._error
            self._refuse_if_all_failed()
            count = min(len(self._ready), self._config.groups_per_step)
            groups = [self._ready.popleft() for _ in range(count)]
            self._refills = self._left_out = 0
        self._training |= {group.id: group for group in groups}
        return groups

    def take_filtered(self) -> list[tuple[Group, Fate]]:
        """Groups that were filtered since the last call, with the reason."""
        filtered, self._filtered = self._filtered, []
        return filtered

    def release(self, groups: Iterable[Group]) -> None:
        """These groups have been trained and published: book them and give their slots to new ones."""
        for group in groups:
            del self._training[group.id]
            for trajectory in group.trajectories:
                self.ledger.settle(_fate_when_trained(trajectory.score.outcome if trajectory.score else None))
        self.start()

    def in_flight_trajectories(self) -> int:
        """Trajectories that are being made, wait, or are being trained: counted where they live."""
        held = sum(len(group.trajectories) for group in (*self._ready, *self._training.values()))
        return held + self._config.group_size * (len(self._in_flight) + len(self._restart))

    def oldest_in_flight(self) -> str:
        """The group that has been in flight longest, for an error message."""
        if not self._in_flight:
            return "no group in flight"
        group_id, (task, _) = next(iter(self._in_flight.items()))
        return f"group {group_id}, task {task.id} ({task.prompt[-1]['content'][:60]!r})"

    def state(self) -> RolloutState:
        """For a checkpoint, taken between two steps, when no group is being trained."""
        if self._training:
            raise RuntimeError("a checkpoint is taken after the trained groups were released")
        in_flight = [(group_id, task) for group_id, (task, _) in self._in_flight.items()]
        return RolloutState(
            self._cursor.state(),
            self._next_id,
            list(self._ready),
            [*self._restart, *in_flight],
            list(self._filtered),
            self.ledger,
            self._tasks,
        )

    async def stop(self) -> None:
        """Cancel what is in flight."""
        tasks = [task for _, task in self._in_flight.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---------------------------------------------------------------- inside

    def _used(self) -> int:
        return len(self._in_flight) + len(self._ready) + len(self._training)

    def _start_group(self) -> None:
        if self._restart:
            group_id, task = self._restart.popleft()
        else:
            group_id, task = self._next_id, self._cursor.next()
            self._next_id += 1
            self.ledger.issue(self._config.group_size)
        self._in_flight[group_id] = (task, asyncio.create_task(self._run_group(group_id, task)))

    async def _run_group(self, group_id: int, task: Task) -> None:
        try:
            self._finish(await self._runner.run(group_id, task))
        except Exception as error:  # noqa: BLE001 - it stops the run: `take` raises it, naming what broke
            if self._error is None:  # the first is the cause of those that follow
                self._error = RolloutError(f"group {group_id}, task {task.id}: {type(error).__name__}: {error}")
                self._error.__cause__ = error
        async with self._changed:
            self._changed.notify_all()

    def _finish(self, group: Group) -> None:
        del self._in_flight[group.id]
        self.finished_groups += 1
        fate = judge(group, self._config, self._is_flat)
        if fate is None:
            self._ready.append(group)
            return
        self._filtered.append((group, fate))
        self._left_out += 1
        for trajectory in group.trajectories:
            outcome = trajectory.score.outcome if trajectory.score else Outcome.ENV_FAILED
            self.ledger.settle(fate if outcome is Outcome.SCORED else Fate(outcome.value))
        if self._refill_left():
            self._refills += 1
            self._start_group()

    def _refill_left(self) -> bool:
        return self._refills + 1 <= (self._config.max_refill - 1) * self._config.groups_per_step

    def _enough(self) -> bool:
        """What is in flight beyond what a step may sample is not waited for: its slowest may take long."""
        if len(self._ready) >= self._config.groups_per_step or (not self._in_flight and not self._refill_left()):
            return True
        return self._left_out + len(self._ready) >= int(self._config.max_refill * self._config.groups_per_step)

    def _refuse_if_all_failed(self) -> None:
        if self._ready or not self._filtered or any(fate is not Fate.TOO_FEW_VALID for _, fate in self._filtered):
            return
        group, _ = self._filtered[-1]
        details = {t.score.detail for t in group.trajectories if t.score and t.score.detail}
        raise RolloutError(
            f"too few verdicts (rollout.min_valid={self._config.min_valid:g}) in each of {len(self._filtered)} groups "
            f"in a row; the last one (task {group.task.id}): {'; '.join(sorted(details))[:500]}"
        )


def judge(group: Group, config: RolloutConfig, is_flat: Callable[[Group], bool]) -> Fate | None:
    """Why a group is not worth training, or None."""
    if len(group.values()) < max(min(2, config.group_size), config.min_valid * len(group.trajectories)):
        return Fate.TOO_FEW_VALID
    if config.drop_zero_variance and is_flat(group):
        return Fate.ZERO_VARIANCE
    return None


def _fate_when_trained(outcome: Outcome | None) -> Fate:
    if outcome is Outcome.SCORED:
        return Fate.TRAINED
    return Fate(outcome.value) if outcome is not None else Fate.ENV_FAILED
