"""The numbers of a step: counted once, of what they say, and shares that add up."""

from __future__ import annotations

import math
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.generate.protocol import GeneratorStatus
from rlvr.in_words import end_in_words
from rlvr.rollout.ledger import Fate
from rlvr.stages import Stages
from rlvr.step_metrics import Clock, batch_metrics, staleness_metrics, throughput_metrics
from rlvr.types import FinishReason, Group, Outcome, RLStream, Row, Score, Task, Trajectory

TASK = Task("t", (), (1,), None, {})
ROLES = ("generator", "learner")


def answer(value: float | None, sampled: int, read: int = 0, finish: FinishReason = FinishReason.STOP) -> Trajectory:
    """An answer of so many tokens that the policy sampled, and so many that it read."""
    score = Score(value, parts={"right": value}) if value is not None else Score(None, Outcome.TIMEOUT)
    count = sampled + read
    mask = [True] * sampled + [False] * read
    return Trajectory((1,), [3] * count, mask, [0.0] * count, [0] * count, finish, "", score)


def group(*answers: Trajectory) -> Group:
    return Group(0, TASK, list(answers))


# -------------------------------------------------------------------- of a batch


def test_the_mean_is_of_all_that_was_sampled_filtered_groups_too() -> None:
    trained = group(answer(1.0, 10), answer(0.0, 30, read=100))
    filtered = [(group(answer(0.0, 20, finish=FinishReason.LENGTH), answer(None, 40)), Fate.TOO_FEW_VALID)]
    metrics = batch_metrics([trained], filtered)
    assert metrics["reward/mean"] == pytest.approx(1 / 3)
    assert metrics["reward/std"] == pytest.approx(math.sqrt(2 / 9))
    assert metrics["reward/part/right"] == pytest.approx(1 / 3)
    assert metrics["answer/count"] == 4
    assert metrics["answer/sampled_tokens"] == 100, "what was read is not sampled"
    assert metrics["answer/mean_tokens"] == 25
    assert metrics["answer/truncated_share"] == 0.25
    assert metrics["staleness/length_ratio"] == pytest.approx(statistics.mean([10, 30]) / 25)


def test_without_answers_there_are_no_numbers_and_no_error() -> None:
    metrics = batch_metrics([], [])
    assert metrics["answer/count"] == 0
    assert math.isnan(metrics["reward/mean"]) and math.isnan(metrics["staleness/length_ratio"])


def test_an_episode_that_came_to_no_token_makes_no_answer_shorter() -> None:
    never = answer(None, 0, finish=FinishReason.ABORT)
    metrics = batch_metrics([group(answer(1.0, 10), answer(0.0, 30), never)], [(group(never, never), Fate.ENV_FAILED)])
    assert (metrics["answer/count"], metrics["answer/sampled_tokens"]) == (2, 40)
    assert (metrics["answer/mean_tokens"], metrics["staleness/length_ratio"]) == (20, 1)


def test_staleness_is_of_the_trained_tokens() -> None:
    rows = [
        Row(0, [1, 2, 3], [False, True, True], RLStream([0.0] * 3, [0.0] * 3, [9, 0, 2])),
        Row(1, [1, 2], [False, True], RLStream([0.0] * 2, [0.0] * 2, [9, 4])),
    ]
    assert staleness_metrics(rows) == {"staleness/mean": 2.0, "staleness/max": 4.0}
    assert all(math.isnan(value) for value in staleness_metrics([]).values())


def test_throughput_is_of_the_whole_step() -> None:
    counts = {"answer/count": 8.0, "answer/sampled_tokens": 800.0, "learner/trained_tokens": 600.0}
    assert throughput_metrics(counts, step_s=4.0) == {
        "throughput/answers_per_s": 2.0,
        "throughput/sampled_tokens_per_s": 200.0,
        "throughput/trained_tokens_per_s": 150.0,
    }


# -------------------------------------------------------------------- of the time


def status(name: str, busy: float, updating: float, waiting: float) -> GeneratorStatus:
    return GeneratorStatus(name, 0, 0, 0, 0, busy, updating, waiting)


SECONDS = st.floats(0, 1e4)
SPANS = st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=4).filter(
    lambda spans: sum(map(sum, spans)) > 1e-3
)


@given(before=SPANS, spans=SPANS, stages=st.lists(st.floats(0, 100), min_size=4, max_size=4), rest=st.floats(0.1, 100))
def test_the_shares_of_every_role_add_up_to_one(
    before: list[tuple[float, float, float]],
    spans: list[tuple[float, float, float]],
    stages: list[float],
    rest: float,
) -> None:
    clock = Clock()
    stage_s = dict(zip(["wait_rollouts", "learn", "publish", "checkpoint"], stages, strict=True))
    step_s = sum(stages) + rest
    clock.times(stage_s, step_s, [status(f"g{i}", *span) for i, span in enumerate(before)])
    later = [
        status(f"g{i}", *(a + b for a, b in zip(span, before[i] if i < len(before) else (0, 0, 0), strict=True)))
        for i, span in enumerate(spans)
    ]
    times = clock.times(stage_s, step_s, later)
    for role in ROLES:
        shares = [value for name, value in times.items() if name.startswith(f"time/{role}_") and "share" in name]
        assert sum(shares) == pytest.approx(1.0)
        assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares)


def test_shares_are_of_the_time_since_the_last_step() -> None:
    clock = Clock()
    clock.times({}, 1.0, [status("a", 100.0, 100.0, 100.0), status("b", 5.0, 0.0, 0.0)])
    times = clock.times(
        {"wait_rollouts": 2.0, "learn": 5.0, "publish": 1.0, "record": 1.0},
        10.0,
        [status("a", 106.0, 101.0, 103.0), status("b", 7.0, 1.0, 7.0)],
    )
    assert times == pytest.approx(
        {
            "time/wait_rollouts_s": 2.0,
            "time/learn_s": 5.0,
            "time/publish_s": 1.0,
            "time/record_s": 1.0,
            "time/step_s": 10.0,
            "time/generator_busy_share": 0.4,
            "time/generator_updating_share": 0.1,
            "time/generator_waiting_share": 0.5,
            "time/learner_busy_share": 0.6,
            "time/learner_waiting_share": 0.4,
        }
    )


def test_a_generator_that_has_not_moved_has_no_shares() -> None:
    clock = Clock()
    clock.times({}, 1.0, [status("a", 1.0, 1.0, 1.0)])
    assert not [name for name in clock.times({}, 1.0, [status("a", 1.0, 1.0, 1.0)]) if "generator" in name]


def test_the_end_is_told_in_words() -> None:
    assert (
        end_in_words({"evaluate": 12.34, "export": 0.5}, 13.0) == "the end took 13.0 s: evaluate 12.3 s, export 0.5 s"
    )


# -------------------------------------------------------------------- stages


def test_stages_add_up_to_no_more_than_the_step_and_tell_where_it_stands() -> None:
    entered: list[str] = []
    stages = Stages(entered.append)
    for name in ("learn", "publish", "learn"):
        with stages(name):
            assert stages.current == name
            time.sleep(0.01)
    seconds, whole = stages.finish_step()
    assert entered == ["learn", "publish", "learn"] and stages.changes == 3
    assert set(seconds) == {"learn", "publish"}
    assert seconds["learn"] >= 0.02 and seconds["publish"] >= 0.01
    assert sum(seconds.values()) <= whole
    assert stages.finish_step()[0] == {}


def test_a_stage_under_way_counts_in_each_step_for_what_it_took_there() -> None:
    stages = Stages()
    with stages("record"):
        time.sleep(0.02)
        before, first = stages.finish_step()
        time.sleep(0.01)
    after, second = stages.finish_step()
    assert 0.02 <= before["record"] <= first
    assert 0.01 <= after["record"] <= second


def test_a_stage_that_fails_is_timed_and_still_named() -> None:
    stages = Stages()
    with pytest.raises(KeyError), stages("learn"):
        raise KeyError
    assert stages.current == "learn"
    assert set(stages.finish_step()[0]) == {"learn"}
