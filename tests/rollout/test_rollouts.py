"""Rollouts: what starts when, what is handed out, and that nothing is lost or used twice.

Episodes are scripted here: each group waits until the test lets it finish, with the values that the test names.
"""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.config import RolloutConfig
from rlvr.data import Cursor
from rlvr.rollout.episode import EpisodeRunner
from rlvr.rollout.ledger import Fate, Ledger, LedgerError
from rlvr.rollout.rollouts import RolloutError, Rollouts, RolloutState, judge
from rlvr.types import FinishReason, Group, Message, Outcome, Score, Task, Trajectory

GROUP_SIZE = 2
GOOD = (0.0, 1.0)
EQUAL = (1.0, 1.0)
FAILED = (None, None)
HALF_FAILED = (None, 1.0)

Values = Sequence[float | None]


def make_tasks(count: int) -> list[Task]:
    return [Task(f"t{i}", (Message(role="user", content=f"task {i}"),), (i,), None, {}) for i in range(count)]


def scored(group_id: int, task: Task, values: Values) -> Group:
    scores = [
        Score(None, Outcome.TIMEOUT, detail="the judge slept") if value is None else Score(value) for value in values
    ]
    trajectories = [
        Trajectory(task.prompt_ids, [7], [True], [-0.1], [0], FinishReason.STOP, "x", score) for score in scores
    ]
    return Group(group_id, task, trajectories)


def equal_scores(group: Group) -> bool:
    return len(set(group.values())) == 1


class ScriptedRunner(EpisodeRunner):
    """Episodes that end when the test says so."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[Values]] = {}
        self.started: list[tuple[int, str]] = []

    async def run(self, group_id: int, task: Task) -> Group:
        self.started.append((group_id, task.id))
        self.waiting[group_id] = asyncio.get_running_loop().create_future()
        return scored(group_id, task, await self.waiting[group_id])

    async def finish(self, *group_ids: int, values: Values = GOOD) -> None:
        for group_id in group_ids:
            self.waiting.pop(group_id).set_result(values)
        await settle()

    async def finish_all(self, values: Values = GOOD) -> None:
        await self.finish(*list(self.waiting), values=values)

    async def fail(self, group_id: int, error: Exception) -> None:
        self.waiting.pop(group_id).set_exception(error)
        await settle()


async def settle() -> None:
    """Until every task of the loop waits for the test."""
    for _ in range(20):
        await asyncio.sleep(0)


def settings_of(**keywords: object) -> RolloutConfig:
    return RolloutConfig.model_validate({"group_size": GROUP_SIZE, "groups_per_step": 2, "max_staleness": 0} | keywords)


class Bench:
    """Rollouts over scripted episodes."""

    def __init__(self, config: RolloutConfig, state: RolloutState | None = None, tasks: int = 100) -> None:
        self.runner = ScriptedRunner()
        cursor = Cursor(make_tasks(tasks), 0, state.cursor if state else None)
        self.rollouts = Rollouts(cursor, self.runner, config, equal_scores, state)

    async def start(self) -> None:
        self.rollouts.start()
        await settle()
        self.check()

    def check(self) -> None:
        self.rollouts.ledger.check(self.rollouts.in_flight_trajectories())

    async def take_now(self) -> list[Group]:
        """A batch that is ready; an error where the caller would have to wait."""
        return await asyncio.wait_for(self.rollouts.take(), timeout=1.0)

    async def must_wait(self) -> bool:
        taking = asyncio.create_task(self.rollouts.take())
        await settle()
        waits = not taking.done()
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        return waits


# -------------------------------------------------------------------- admission


@pytest.mark.parametrize(("max_staleness", "slots"), [(0, 2), (1, 4), (3, 8)])
async def test_no_more_groups_are_untrained_than_the_staleness_allows(max_staleness: int, slots: int) -> None:
    bench = Bench(settings_of(max_staleness=max_staleness))
    await bench.start()
    trained = 0
    for _ in range(6):
        assert len(bench.runner.started) == trained + slots
        await bench.runner.finish_all()
        assert len(bench.runner.started) == trained + slots, "a finished group keeps its slot until it is trained"
        groups = await bench.take_now()
        await settle()
        assert len(bench.runner.started) == trained + slots, "a group that is being trained keeps its slot"
        bench.rollouts.release(groups)
        trained += len(groups)
        await settle()
        bench.check()


async def test_a_slow_group_is_kept_and_handed_out_when_it_is_done() -> None:
    bench = Bench(settings_of(max_staleness=1))
    await bench.start()
    slow = 0
    for _ in range(5):
        await bench.runner.finish(*[i for i in bench.runner.waiting if i != slow])
        groups = await bench.take_now()
        assert slow not in [group.id for group in groups]
        bench.rollouts.release(groups)
        await settle()
    assert bench.rollouts.oldest_in_flight().startswith("group 0, task ")
    await bench.runner.finish(slow)
    handed_out = []
    while slow not in handed_out:
        groups = await bench.take_now()
        handed_out += [group.id for group in groups]
        bench.rollouts.release(groups)
    bench.check()


async def test_groups_are_handed_out_in_the_order_they_finished() -> None:
    bench = Bench(settings_of(max_staleness=1))
    await bench.start()
    await bench.runner.finish(3)
    assert await bench.must_wait()
    await bench.runner.finish(1)
    await bench.runner.finish(0)
    assert [group.id for group in await bench.take_now()] == [3, 1]


# -------------------------------------------------------------------- filtering and refilling


@pytest.mark.parametrize(
    ("values", "keywords", "fate"),
    [
        ((0.0, 1.0), {}, None),
        ((0.5, 0.5), {}, Fate.ZERO_VARIANCE),
        ((0.5, 0.5), {"drop_zero_variance": False}, None),
        ((None, 0.0, 1.0, 1.0), {}, None),
        ((None, None, 0.0, 1.0), {"min_valid": 0.5}, None),
        ((None, None, 0.0, 1.0), {"min_valid": 0.6}, Fate.TOO_FEW_VALID),
        ((None, None, None, 1.0), {"min_valid": 0.1}, Fate.TOO_FEW_VALID),  # one value has no baseline
        ((None, 1.0, 1.0, 1.0), {}, Fate.ZERO_VARIANCE),
    ],
)
def test_a_group_is_worth_training_when_its_verdicts_differ(
    values: Values, keywords: dict[str, object], fate: Fate | None
) -> None:
    assert judge(scored(0, make_tasks(1)[0], values), settings_of(**keywords), equal_scores) is fate


async def test_a_filtered_group_is_replaced_at_once_and_told_once() -> None:
    bench = Bench(settings_of())
    await bench.start()
    await bench.runner.finish(0, values=EQUAL)
    bench.check()
    assert [group_id for group_id, _ in bench.runner.started] == [0, 1, 2]
    await bench.runner.finish(1, 2)
    assert [group.id for group in await bench.take_now()] == [1, 2]
    assert [(group.id, fate) for group, fate in bench.rollouts.take_filtered()] == [(0, Fate.ZERO_VARIANCE)]
    assert bench.rollouts.take_filtered() == []


@pytest.mark.parametrize(("max_refill", "sampled"), [(1, 2), (1.5, 3), (3, 6)])
async def test_no_more_groups_are_sampled_for_a_batch_than_the_refill_allows(max_refill: float, sampled: int) -> None:
    bench = Bench(settings_of(max_refill=max_refill))
    await bench.start()
    for step in range(3):
        while bench.runner.waiting:
            assert await bench.must_wait()
            await bench.runner.finish_all(EQUAL)
            bench.check()
        assert len(bench.runner.started) == sampled * (step + 1)
        groups = await bench.take_now()
        assert groups == []
        assert len(bench.rollouts.take_filtered()) == sampled
        bench.rollouts.release(groups)
        await settle()


async def test_a_step_takes_what_there_is_when_the_refill_is_used_up() -> None:
    bench = Bench(settings_of(max_refill=2))
    await bench.start()
    await bench.runner.finish(0, values=GOOD)
    for group_id in (1, 2, 3):
        await bench.runner.finish(group_id, values=EQUAL)
    assert [group.id for group in await bench.take_now()] == [0]


async def test_a_step_whose_refill_is_used_up_does_not_wait_for_all_that_is_in_flight() -> None:
    """With stale slots more is in flight than a step may sample; that goes on, and is of the next step."""
    bench = Bench(settings_of(max_staleness=3, max_refill=2))
    await bench.start()
    for step in range(3):
        first, *others = list(bench.runner.waiting)[:4]
        await bench.runner.finish(first, values=GOOD)
        await bench.runner.finish(*others[:2], values=EQUAL)
        assert await bench.must_wait()
        await bench.runner.finish(others[2], values=EQUAL)
        assert len(bench.runner.waiting) == 6
        groups = await bench.take_now()
        assert [group.id for group in groups] == [first]
        assert [group.id for group, _ in bench.rollouts.take_filtered()] == others
        bench.rollouts.release(groups)
        await settle()
        bench.check()
        assert len(bench.runner.started) == 8 + 4 * (step + 1)


async def test_groups_that_wait_for_later_steps_do_not_use_the_refill_up() -> None:
    bench = Bench(settings_of(max_staleness=3, max_refill=2))
    await bench.start()
    await bench.runner.finish(*range(7))
    await bench.runner.finish(7, values=EQUAL)
    assert bench.runner.started[-1][0] == 8


async def test_the_ledger_names_every_fate() -> None:
    bench = Bench(settings_of(group_size=4, groups_per_step=1, min_valid=0.5))
    await bench.start()
    await bench.runner.finish(0, values=(1.0, 1.0, 1.0, None))
    await bench.runner.finish(1, values=(1.0, None, None, None))
    await bench.runner.finish(2, values=(1.0, 0.0, 0.0, None))
    bench.check()
    bench.rollouts.release(await bench.take_now())
    bench.check()
    metrics = bench.rollouts.ledger.metrics(bench.rollouts.in_flight_trajectories())
    assert {name: value for name, value in metrics.items() if value} == {
        "ledger/issued": 16.0,
        "ledger/in_flight": 4.0,
        "ledger/trained": 3.0,
        "ledger/filtered/zero_variance": 3.0,
        "ledger/filtered/too_few_valid": 1.0,
        "ledger/failed/timeout": 5.0,
    }


def test_a_ledger_that_does_not_balance_says_so_with_its_numbers() -> None:
    ledger = Ledger()
    ledger.issue(8)
    ledger.settle(Fate.TRAINED, 3)
    ledger.check(in_flight=5)
    with pytest.raises(LedgerError, match=r"8 trajectories issued, but 3 settled \(trained 3\) and 4 in flight make 7"):
        ledger.check(in_flight=4)


# -------------------------------------------------------------------- failures


async def test_what_a_generator_raises_stops_take_and_is_named() -> None:
    bench = Bench(settings_of())
    await bench.start()
    taking = asyncio.create_task(bench.rollouts.take())
    await settle()
    cause = ConnectionError("generator-1 is gone")
    await bench.runner.fail(1, cause)
    with pytest.raises(RolloutError, match=r"group 1, task t\d+: ConnectionError: generator-1 is gone") as caught:
        await asyncio.wait_for(taking, 1.0)
    assert caught.value.__cause__ is cause
    bench.check()


async def test_the_first_failure_is_told_also_when_a_batch_is_ready() -> None:
    bench = Bench(settings_of(max_staleness=1))
    await bench.start()
    await bench.runner.fail(0, ConnectionError("first"))
    await bench.runner.fail(1, ConnectionError("second"))
    await bench.runner.finish_all()
    with pytest.raises(RolloutError, match="first"):
        await bench.take_now()


async def test_a_run_whose_answers_all_fail_stops_and_says_why() -> None:
    bench = Bench(settings_of(max_refill=2))
    await bench.start()
    while bench.runner.waiting:
        await bench.runner.finish_all(FAILED)
        bench.check()
    with pytest.raises(RolloutError, match=r"in each of 4 groups.*task t\d+.*the judge slept"):
        await bench.take_now()


async def test_one_group_with_verdicts_keeps_the_run_going() -> None:
    bench = Bench(settings_of(max_refill=2))
    await bench.start()
    await bench.runner.finish(0, values=EQUAL)
    while bench.runner.waiting:
        await bench.runner.finish_all(HALF_FAILED)
    assert await bench.take_now() == []
    bench.check()


async def test_stop_ends_what_is_in_flight_and_keeps_the_books() -> None:
    bench = Bench(settings_of())
    await bench.start()
    await bench.rollouts.stop()
    assert all(future.cancelled() for future in bench.runner.waiting.values())
    bench.check()
    assert len(bench.rollouts.state().in_flight) == 2


# -------------------------------------------------------------------- resume


async def test_no_checkpoint_is_taken_while_groups_are_being_trained() -> None:
    bench = Bench(settings_of())
    await bench.start()
    await bench.runner.finish_all()
    groups = await bench.take_now()
    with pytest.raises(RuntimeError, match="after the trained groups were released"):
        bench.rollouts.state()
    bench.rollouts.release(groups)
    bench.rollouts.state()


async def test_a_resume_with_fewer_slots_starts_nothing_until_they_are_free() -> None:
    first = Bench(settings_of(max_staleness=3))
    await first.start()
    await first.runner.finish(0, 1, 2, 3)
    state = pickle.loads(pickle.dumps(first.rollouts.state()))
    second = Bench(settings_of(max_staleness=0), state)
    await second.start()
    assert second.runner.started == []
    second.rollouts.release(await second.take_now())
    await settle()
    assert second.runner.started == []
    second.rollouts.release(await second.take_now())
    await settle()
    assert second.runner.started == first.runner.started[4:6]
    assert sorted(i for i, _ in second.rollouts.state().in_flight) == [4, 5, 6, 7], "what waits to start again is kept"
    second.check()


@pytest.mark.parametrize("finished", [[], [0], [0, 1, 2, 3]])
async def test_a_resume_with_another_group_size_is_refused(finished: list[int]) -> None:
    """Whatever has finished when the checkpoint is taken."""
    first = Bench(settings_of(max_staleness=1))
    await first.start()
    await first.runner.finish(*finished)
    state = pickle.loads(pickle.dumps(first.rollouts.state()))
    with pytest.raises(RolloutError, match=r"rollout\.group_size=5: .* resume with rollout\.group_size=2"):
        Bench(settings_of(group_size=5), state)
    Bench(settings_of(), state).check()


@pytest.mark.parametrize("tasks", [99, 101])
async def test_a_resume_with_other_tasks_is_refused(tasks: int) -> None:
    """Some would be repeated and others skipped: their order is made anew."""
    first = Bench(settings_of())
    await first.start()
    state = pickle.loads(pickle.dumps(first.rollouts.state()))
    with pytest.raises(RolloutError, match="the tasks are not those that the run began with"):
        Bench(settings_of(), state, tasks)
    Bench(settings_of(), state).check()


# A script is a list of what happens: the n-th group in flight finishes, with these values; a checkpoint is taken;
# the run is killed and resumed from its last checkpoint.
FINISH = st.tuples(st.integers(0, 50), st.sampled_from([GOOD, GOOD, EQUAL, FAILED, HALF_FAILED]))
CHECKPOINT, KILL = "checkpoint", "kill"
EVENTS = st.one_of(FINISH, FINISH, FINISH, st.just(CHECKPOINT), st.just(KILL))


@settings(max_examples=40, deadline=None)
@given(
    script=st.lists(EVENTS, max_size=40),
    max_staleness=st.sampled_from([0, 1, 3]),
    tasks=st.sampled_from([3, 100]),
)
def test_no_task_is_skipped_or_repeated_whenever_a_run_is_killed(
    script: list[tuple[int, Values] | str], max_staleness: int, tasks: int
) -> None:
    asyncio.run(_play(script, settings_of(max_staleness=max_staleness, max_refill=100), tasks))


async def _play(script: list[tuple[int, Values] | str], config: RolloutConfig, tasks: int) -> None:
    bench = Bench(config, tasks=tasks)
    await bench.start()
    told: list[tuple[int, str]] = []  # groups that were handed out, as trained or filtered
    saved, told_then = pickle.dumps(bench.rollouts.state()), list(told)
    for event in script:
        if event == CHECKPOINT:
            saved, told_then = pickle.dumps(bench.rollouts.state()), list(told)
        elif event == KILL:
            await bench.rollouts.stop()
            bench, told = Bench(config, pickle.loads(saved), tasks), list(told_then)
            await bench.start()
        else:
            which, values = event
            in_flight = list(bench.runner.waiting)
            if in_flight:
                await bench.runner.finish(in_flight[which % len(in_flight)], values=values)
        bench.check()
        if len(bench.rollouts.state().ready) >= config.groups_per_step:
            groups = await bench.rollouts.take()
            bench.check()
            told += [(group.id, group.task.id) for group in groups]
            told += [(group.id, group.task.id) for group, _ in bench.rollouts.take_filtered()]
            bench.rollouts.release(groups)
            await settle()
        bench.check()
        _check_each_task_is_in_one_place(told, bench.rollouts.state(), config, tasks)
    await bench.rollouts.stop()


def _check_each_task_is_in_one_place(
    told: list[tuple[int, str]], state: RolloutState, config: RolloutConfig, tasks: int
) -> None:
    """Group i is task i of the cursor's order, and is handed out, filtered, ready or in flight: exactly one of them."""
    held = [*state.ready, *(group for group, _ in state.filtered)]
    places = [*told, *((group.id, group.task.id) for group in held), *((i, task.id) for i, task in state.in_flight)]
    order = Cursor(make_tasks(tasks), 0)
    assert Counter(places) == Counter((i, order.next().id) for i in range(state.next_id))
    assert state.ledger.issued == GROUP_SIZE * state.next_id
    assert len(state.in_flight) + len(state.ready) <= (config.max_staleness + 1) * config.groups_per_step
