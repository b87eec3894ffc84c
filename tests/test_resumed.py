"""A resume takes up a run's folder: what is made again goes, and what the run began with is still its beginning."""

from __future__ import annotations

from pathlib import Path

from fake_run import make_run

from rlvr.checkpoint import CheckpointState
from rlvr.events import EventKind, read_events
from rlvr.metrics import read_metrics
from rlvr.resumed import first_evaluation, first_of, go_on
from rlvr.run_folder import RunFolder


def test_answers_of_later_steps_are_removed_and_the_resume_is_on_record(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=6, of_steps=6, evaluate_every=2)
    go_on(run, CheckpointState(step=4, version=3))
    assert run.rollout_steps() == [1, 2, 3, 4]
    assert run.evaluation_steps() == [0, 2, 4]
    last = read_events(run)[-1]
    assert (last.step, last.kind) == (4, EventKind.NOTE)
    assert last.text == "resumed from the checkpoint of step 4, policy version 3"


def test_the_first_evaluation_is_the_runs_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=4, of_steps=4, evaluate_every=2)
    first = read_metrics(run.metrics)[0]
    found = first_evaluation(run, lambda task: "math_answer")
    assert found is not None and found.pass_at[1] == first.values["evaluation/pass@1"] == first_of(
        run, "evaluation/pass@1"
    )
    assert first_evaluation(RunFolder(tmp_path / "none"), lambda task: "math_answer") is None
    assert first_of(run, "no such number") is None
