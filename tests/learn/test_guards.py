"""Guards: which gradients are left out, and when a number is worth a word."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.config import Config
from rlvr.learn.guards import LIMITS, GradientGuard, HealthWatch
from rlvr.learn.learner import Learner
from rlvr.types import Row, TokenFate

from .conftest import make_rows

MakeConfig = Callable[..., Config]
WELL = {
    "learner/trained_tokens": 100.0,
    "learner/mismatch_kl": 1e-3,
    "learner/effective_sample_size": 0.9,
    "learner/mean_ratio": 1.0,
    "learner/ratio_above_10_share": 0.0,
    "masked/bounded_share": 0.05,
    "masked/corrected_share": 0.0,
    "masked/unusable_share": 0.0,
    "masked/stale_share": 0.0,
    "learner/entropy": 0.5,
    "answer/mean_tokens": 100.0,
}


def seen(*norms: float, max_grad_norm: float = 1.0) -> GradientGuard:
    guard = GradientGuard(max_grad_norm)
    assert [guard.objection(norm) for norm in norms] == [None] * len(norms)
    return guard


def test_a_spike_is_ten_times_the_mean_and_twenty_times_the_limit() -> None:
    guard = seen(*[1.0] * 20)
    assert guard.limit == 20.0
    assert "over 20" in (guard.objection(20.1) or "")
    assert guard.objection(19.9) is None
    large = seen(*[5.0] * 20)
    assert large.limit == pytest.approx(50.0)
    assert large.objection(50.1) is not None
    assert large.objection(49.9) is None


def test_nothing_is_a_spike_before_there_is_something_to_compare_with() -> None:
    assert seen(*[1e-3] * 19).objection(1e6) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_left_out_always_and_does_not_count(bad: float) -> None:
    guard = GradientGuard(1.0)
    assert guard.objection(bad) == f"the gradient's norm is {bad}"
    assert (guard.seen, guard.mean) == (0, 0.0)


def test_skips_in_a_row_are_counted_in_batches() -> None:
    guard = GradientGuard(1.0)
    counts = []
    for updates, objections in [(0, 4), (0, 1), (0, 0), (1, 3), (0, 1)]:
        guard.end_batch(updates, objections)
        counts.append(guard.skipped_in_a_row)
    assert counts == [1, 2, 2, 0, 1]


def scaled(rows: list[Row], factor: float) -> list[Row]:
    for row in rows:
        assert row.rl is not None
        row.rl.advantages = [factor * advantage for advantage in row.rl.advantages]
    return rows


def test_a_learner_leaves_a_spike_out_and_goes_on_bit_for_bit(config: MakeConfig, tmp_path: Path) -> None:
    """Also after a resume, which remembers what gradients were like."""
    settings = config(algorithm="opo", learner={"learning_rate": 1e-4, "max_grad_norm": 1e-3})
    first, other = Learner(settings), Learner(settings)
    first.start(), other.start()
    for seed in range(20):
        assert first.train(make_rows(seed)).updates == other.train(make_rows(seed)).updates == 1
    first.save(tmp_path / "learner")
    first.saved()
    resumed = Learner(settings)
    resumed.start()
    resumed.load(tmp_path / "learner")
    usual = resumed.guard.mean
    assert usual == first.guard.mean > 0

    report = resumed.train(scaled(make_rows(20), 1e3))
    assert "of late it was" in report.skipped[0]
    assert report.grad_norm > 10 * usual
    assert (report.version, report.updates, report.skipped_in_a_row) == (20, 0, 1)
    assert {fate for fates in report.token_fates.values() for fate in fates} == {TokenFate.SKIPPED}
    after, untouched = resumed.train(make_rows(21)), other.train(make_rows(21))
    assert (after.loss, after.grad_norm, after.skipped_in_a_row) == (untouched.loss, untouched.grad_norm, 0)


def test_a_state_is_taken_up_as_a_new_version(config: MakeConfig, tmp_path: Path) -> None:
    learner = Learner(config())
    learner.start()
    learner.train(make_rows())
    learner.save(tmp_path / "learner")
    learner.saved()
    rows = make_rows(1)
    before = learner.logprobs(rows)
    learner.train(rows)
    learner.guard.skipped_in_a_row = 5
    learner.load(tmp_path / "learner", version=7)
    assert (learner.version, learner.updates, learner.guard.skipped_in_a_row) == (7, 1, 0)
    assert learner.logprobs(rows) == before
    assert learner.train(rows).version == 8


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mismatch KL", {"learner/mismatch_kl": 0.11}),
        ("effective sample size", {"learner/effective_sample_size": 0.29}),
        ("mean ratio", {"learner/mean_ratio": 2.1}),
        ("mean ratio", {"learner/mean_ratio": 0.4}),
        ("share of tokens with a ratio above 10", {"learner/ratio_above_10_share": 0.011}),
        ("share of tokens without their gradient", {"masked/bounded_share": 0.25, "masked/stale_share": 0.25}),
        ("entropy", {"learner/entropy": 0.004}),
    ],
)
def test_each_limit_has_its_say_once_and_again_when_all_is_well(name: str, changes: dict[str, float]) -> None:
    watch = HealthWatch()
    assert watch.news(watch.read(WELL)) == []
    (warning,) = watch.news(watch.read(WELL | changes))
    assert warning.startswith(f"{name} is ")
    assert watch.news(watch.read(WELL | changes)) == []
    assert ["within its limits again" in news for news in watch.news(watch.read(WELL))] == [True]


@pytest.mark.parametrize(
    ("metric", "fine", "bad"),
    [
        ("answer/mean_tokens", 290.0, 310.0),
        ("answer/mean_tokens", 34.0, 33.0),
        ("learner/mismatch_kl", 0.0099, 0.0101),
    ],
)
def test_what_changes_within_a_few_steps_is_told(metric: str, fine: float, bad: float) -> None:
    for value, outside in ((fine, False), (bad, True)):
        watch = HealthWatch()
        for _ in range(19):
            watch.read(WELL)
        assert not any(reading.is_outside for reading in watch.read(WELL | {metric: WELL[metric]}))
        assert any(reading.is_outside for reading in watch.read(WELL | {metric: value})) == outside


def test_a_step_that_trained_nothing_says_nothing() -> None:
    watch = HealthWatch()
    empty = dict.fromkeys(WELL, 0.0)
    assert watch.read(empty) == watch.read({"evaluation/pass@1": 0.5}) == []


def test_the_metrics_that_are_watched_are_a_learners(config: MakeConfig) -> None:
    learner = Learner(config())
    learner.start()
    metrics = learner.train(make_rows()).metrics()
    watched = {name for limit in LIMITS for name in limit.metrics}
    assert watched - metrics.keys() == {"answer/mean_tokens"}


def test_tokens_far_likelier_to_the_learner_are_counted(config: MakeConfig) -> None:
    learner = Learner(config(algorithm="opo"))
    learner.start()
    rows = make_rows(tool_output=False)
    for row, logprobs in zip(rows, learner.logprobs(rows), strict=True):
        assert row.rl is not None
        row.rl.sampler_logprobs = [lp - 0.1 if t else 0.0 for lp, t in zip(logprobs, row.trained, strict=True)]
    assert rows[0].rl is not None
    rows[0].rl.sampler_logprobs[-1] -= 2.3
    report = learner.train(rows)
    assert report.ratio_above_10_share == pytest.approx(1 / report.trained_tokens)
