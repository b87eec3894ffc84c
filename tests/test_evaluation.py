"""Evaluation: pass@k is what drawing k answers gives, and a result belongs to one version."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.evaluation import MixedVersions, evaluate_tasks, pass_at_k, summarize
from rlvr.rollout.episode import EpisodeRunner
from rlvr.types import FinishReason, Group, Outcome, Score, Task, Trajectory

TASK = Task("t", (), (1,), None, {})


def answer(
    value: float | None, tokens: int = 2, version: int = 5, finish: FinishReason = FinishReason.STOP
) -> Trajectory:
    score = Score(value) if value is not None else Score(None, Outcome.TIMEOUT)
    sampled, versions = [True] * tokens + [False], [version] * tokens + [-1]
    return Trajectory((1,), [3] * (tokens + 1), sampled, [0.0] * (tokens + 1), versions, finish, "", score)


def group(*values: float | None, number: int = 0) -> Group:
    return Group(number, TASK, [answer(value) for value in values])


@given(values=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=7), data=st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    draws = list(itertools.combinations(values, k))
    right = sum(any(value >= 1 for value in draw) for draw in draws)
    assert pass_at_k([value >= 1 for value in values], k) == pytest.approx(right / len(draws))


def test_k_goes_through_the_powers_of_two_up_to_the_answers() -> None:
    assert list(summarize([group(*[1.0] * 6)], 0).pass_at) == [1, 2, 4]
    assert list(summarize([group(1.0)], 0).pass_at) == [1]
    assert list(summarize([group(*[1.0] * 8)], 0).pass_at) == [1, 2, 4, 8]


def test_what_has_no_verdict_is_counted_and_is_no_wrong_answer() -> None:
    report = summarize([group(1.0, None), group(0.0, 0.0), group(None, None)], version=5)
    assert (report.tasks, report.answers, report.without_verdict) == (3, 6, 3)
    assert report.mean_score == pytest.approx(1 / 3)
    assert report.pass_at == {1: pytest.approx((1 + 0) / 2), 2: 0.0}


def test_without_any_verdict_there_is_no_number() -> None:
    report = summarize([group(None)], version=5)
    assert math.isnan(report.mean_score) and math.isnan(report.pass_at[1])


def test_tokens_and_truncation_are_of_what_was_sampled() -> None:
    cut = answer(0.0, tokens=6, finish=FinishReason.LENGTH)
    report = summarize([Group(0, TASK, [answer(1.0, tokens=2), cut])], version=5)
    assert (report.mean_tokens, report.truncated_share) == (4.0, 0.5)
    never = answer(None, tokens=0, finish=FinishReason.ABORT)
    with_a_failure = summarize([Group(0, TASK, [answer(1.0, tokens=2), cut, never])], version=5)
    assert (with_a_failure.answers, with_a_failure.without_verdict) == (3, 1)
    assert (with_a_failure.mean_tokens, with_a_failure.truncated_share) == (4.0, 0.5)


class Answering(EpisodeRunner):
    """Answers every task with one token of each of these versions."""

    def __init__(self, *versions: int) -> None:
        self.versions = versions

    async def run(self, group_id: int, task: Task) -> Group:
        return Group(group_id, task, [answer(1.0, tokens=1, version=version) for version in self.versions])


async def test_every_task_is_answered_in_its_order() -> None:
    tasks = [Task(str(i), (), (1,), None, {}) for i in range(5)]
    report = await evaluate_tasks(Answering(5, 5), tasks, version=5)
    assert [g.task.id for g in report.groups] == ["0", "1", "2", "3", "4"]
    assert report.metrics()["evaluation/version"] == 5.0
    assert report.metrics()["evaluation/pass@2"] == 1.0


async def test_the_episodes_of_a_large_set_do_not_all_wait_in_the_generators_queue() -> None:
    """Their deadline would run meanwhile."""

    class Counting(Answering):
        running = most = 0

        async def run(self, group_id: int, task: Task) -> Group:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0)
            self.running -= 1
            return await super().run(group_id, task)

    runner = Counting(5)
    report = await evaluate_tasks(runner, [TASK] * 2000, version=5)
    assert report.tasks == 2000
    assert runner.most <= 256


@pytest.mark.parametrize("versions", [(4, 4), (5, 6)])
async def test_tokens_of_another_version_are_refused(versions: tuple[int, int]) -> None:
    with pytest.raises(MixedVersions, match=r"evaluation of version 5 holds tokens of versions \["):
        await evaluate_tasks(Answering(*versions), [TASK], version=5)
