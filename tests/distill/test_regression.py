"""Accuracy by tag, and the stop where one falls."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.checkpoint import CheckpointError
from rlvr.config import Config
from rlvr.config_loading import check
from rlvr.distill.regression import TagWatch, WatchError, check_watch
from rlvr.distill.signals import Signal
from rlvr.distill.teaching import OnPolicyDistillation, Teachers
from rlvr.evaluation import EvaluationReport, summarize
from rlvr.types import FinishReason, Group, Score, Task, Trajectory


def report(**rights: list[float | None]) -> EvaluationReport:
    """An evaluation with these scores, by tag; None is no verdict."""
    groups = []
    for tag, values in rights.items():
        for value in values:
            score = None if value is None else Score(value)
            trajectory = Trajectory((1,), [2], [True], [0.0], [0], FinishReason.STOP, "", score)
            columns = {} if tag == "none" else {"tag": tag}
            groups.append(Group(len(groups), Task(f"t{len(groups)}", (), (1,), None, columns), [trajectory]))
    return summarize(groups, version=0)


def test_accuracy_is_told_by_tag() -> None:
    watch = TagWatch("tag")
    metrics, lost = watch.evaluated(report(math=[1.0, 0.0, None], code=[1.0, 1.0], none=[0.0]))
    assert metrics == {"teacher/math/accuracy": 0.5, "teacher/code/accuracy": 1.0, "teacher/all/accuracy": 0.0}
    assert lost is None
    assert watch.evaluated(report(math=[0.0], code=[0.0]))[1] is None, "without a bound nothing stops"


def test_a_tag_that_falls_below_its_start_is_named_though_the_mean_rose() -> None:
    watch = TagWatch("tag", bound=0.25)
    assert watch.evaluated(report(math=[0.0] * 4, code=[1.0] * 4))[1] is None
    assert watch.evaluated(report(math=[1.0] * 4, code=[1.0, 1.0, 1.0, 0.0]))[1] is None, "0.25 is allowed"
    _, lost = watch.evaluated(report(math=[1.0] * 4, code=[1.0, 1.0, 0.0, 0.0]))
    assert lost == "tag code: held-out accuracy 0.500, at the start 1.000 (--max-regression 0.25)"


async def test_the_start_outlives_a_resume(tmp_path: Path) -> None:
    def stage() -> OnPolicyDistillation:
        return OnPolicyDistillation(Teachers({}), Signal(), temperature=1.0, watch=TagWatch("tag", 0.2))

    run, goes_on = stage(), stage()
    for first in (report(code=[1.0, 1.0, 1.0]), report(code=[1.0, 1.0, 1.0, 0.0], math=[0.0])):
        run.evaluated(first)
    write = run.state()
    run.evaluated(report(later=[1.0]))
    write(tmp_path)
    await goes_on.load(tmp_path)
    _, lost = goes_on.evaluated(report(code=[1.0, 0.0], math=[0.0], later=[0.0]))
    assert lost == "tag code: held-out accuracy 0.500, at the start 1.000 (--max-regression 0.2)"


async def test_what_a_checkpoint_lacks_is_named(tmp_path: Path) -> None:
    stage = OnPolicyDistillation(Teachers({}), Signal(), temperature=1.0)
    with pytest.raises(CheckpointError, match=r"stage\.json cannot be read: No such file"):
        await stage.load(tmp_path)
    (tmp_path / "stage.json").write_text('{"start": {"code": "high"}}')
    with pytest.raises(CheckpointError, match=r"stage\.json cannot be used: start\.code: .*valid number"):
        await stage.load(tmp_path)


def config(tmp_path: Path, *, held_out: str = "", evaluate: int = 5, save: int = 10) -> Config:
    data = tmp_path / "held_out.jsonl"
    data.write_text(held_out or '{"prompt": "?", "answer": "1", "tag": "math"}\n')
    return check(
        {
            "model": "tiny",
            "data": "unused.jsonl",
            "evaluation": {"data": str(data), "every_steps": evaluate},
            "checkpoint": {"every_steps": save},
        }
    )


def test_a_watch_that_could_not_see_is_refused(tmp_path: Path) -> None:
    check_watch(config(tmp_path), 0.1, "tag", ["math", "all"])
    with pytest.raises(WatchError, match=r"multiple of evaluation\.every_steps=5"):
        check_watch(config(tmp_path, save=7), 0.1, "tag", ["math"])
    with pytest.raises(WatchError, match=r"multiple of evaluation\.every_steps=5"):
        check_watch(config(tmp_path, save=0), 0.1, "tag", ["math"])
    with pytest.raises(WatchError, match=r"evaluation\.every_steps"):
        check_watch(config(tmp_path, evaluate=0), 0.1, "tag", ["math"])
    with pytest.raises(WatchError, match="no held-out task has tag=code"):
        check_watch(config(tmp_path), 0.1, "tag", ["math", "code"])
    with pytest.raises(WatchError, match="from 0 to below 1"):
        check_watch(config(tmp_path), 1.5, "tag", ["math"])
