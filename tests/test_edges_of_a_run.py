"""Runs at their edges, whole and in this process: nothing to train, many evaluations, a resume at the end."""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import rlvr
from rlvr.config_loading import load_config
from rlvr.data import DataError
from rlvr.demo.problems import Split, rows
from rlvr.evaluation import EvaluationReport
from rlvr.events import read_events
from rlvr.metrics import read_metrics
from rlvr.rollout.episode import EpisodeRunner
from rlvr.rollout.rollouts import RolloutError
from rlvr.run_folder import RunFolder
from rlvr.training import RunResult, Training
from rlvr.types import Group


async def letters(completion: str) -> float:
    return float(len(completion))


async def nothing(completion: str) -> float:
    return 0.0


def run(folder: Path, steps: int, reward: Any = letters, **settings: Any) -> RunResult:
    usual: dict[str, Any] = {
        "model": "tiny",
        "data": {"path": rows(Split.TRAIN, 16, 0), "prompt": "question"},
        "evaluation_data": {"path": rows(Split.HELD_OUT, 2, 0), "prompt": "question"},
        "rollout": {"max_staleness": 1, "groups_per_step": 2, "group_size": 4},
        "sampling": {"max_new_tokens": 8},
        "generator": {"engine": "transformers"},
        "cluster": {"backend": "local"},
        "tensorboard": False,
    }
    return rlvr.train(reward=reward, steps=steps, run_dir=folder, **usual | settings)


async def half_fails(completion: str, task_id: str) -> float:
    if int(task_id, 16) % 2:
        raise ConnectionError("the judge is away")
    return 1.0


def evaluated(folder: Path) -> list[int]:
    """The steps whose evaluations are in the log."""
    return [r.step for r in read_metrics(RunFolder(folder).metrics) if "evaluation/pass@1" in r.values]


def test_a_step_without_a_group_worth_training_says_why(tmp_path: Path) -> None:
    """Also to an algorithm of one's own, which has no groups to make a mean of."""

    def above_the_mean_of_all(groups: Sequence[Group]) -> list[list[float]]:
        values = [value for group in groups for value in group.values()]
        return [[value - sum(values) / len(values) for value in group.values()] for group in groups]

    run(tmp_path / "run", 2, nothing, algorithm=above_the_mean_of_all)
    texts = [e.text for e in read_events(RunFolder(tmp_path / "run")) if e.text.startswith("no update")]
    assert len(texts) == 2
    assert all(
        re.search(r"none of the (\d+) groups .*: in \1 all answers score the same, 0 have", text) for text in texts
    )
    assert not any("rlvr replay" in text for text in texts)


def test_an_evaluation_whose_accuracy_is_of_some_answers_alone_says_so(tmp_path: Path) -> None:
    held_out = {"path": rows(Split.HELD_OUT, 6, 0), "prompt": "question"}
    result = run(tmp_path / "run", 1, half_fails, evaluation_data=held_out)
    assert result.before is not None and 0 < result.before.without_verdict < 6
    told = f"{result.before.without_verdict} of 6 held-out answers have no verdict, and the accuracy is of the others"
    (text, *_) = [e.text for e in read_events(RunFolder(tmp_path / "run")) if "held-out" in e.text]
    assert text == f"{told}; the last: half_fails: ConnectionError: the judge is away"


def test_of_many_evaluations_the_answers_of_the_last_alone_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    finish = Training.finish

    async def counting(self: Training) -> RunResult:
        gc.collect()
        kept.append(sum(isinstance(thing, EvaluationReport) for thing in gc.get_objects()))
        return await finish(self)

    monkeypatch.setattr(Training, "finish", counting)
    run(tmp_path / "run", 3, evaluation={"every_steps": 1})
    assert evaluated(tmp_path / "run") == [0, 1, 2, 3]
    assert kept == [1]


def test_a_resume_does_not_answer_again_what_was_answered_at_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    first = run(folder, 1)
    asked: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(EpisodeRunner, "run", lambda _, group, task: asked.append(group))
        again = run(folder, 1, resume=True)
    assert asked == [], "nothing at all is sampled: the run had ended"
    assert evaluated(folder) == [0, 1]
    assert again.before is not None and again.after is not None and first.after is not None
    assert (again.before.version, again.after.version, again.steps) == (0, 1, 1)
    assert again.after.metrics() == first.after.metrics()

    run(folder, 2, resume=True, evaluation={"samples": 2})  # more answers than there are: those are asked for
    assert evaluated(folder) == [0, 1, 1, 2]


def test_a_resume_that_is_refused_leaves_what_the_run_had(tmp_path: Path) -> None:
    """The next one reads its settings, which say which data and which model the run began with."""
    folder = tmp_path / "run"
    run(folder, 1)
    (folder / "rollouts" / "step-000002.parquet").write_bytes(b"of a step after the checkpoint")
    events, written = read_events(RunFolder(folder)), (folder / "config.yaml").read_text()
    assert load_config([folder / "config.yaml"], []).steps == 1
    for other in (rows(Split.TRAIN, 3, 0), rows(Split.TRAIN, 17, 0)):
        with pytest.raises(DataError, match="a run goes on with the data it began with"):
            run(folder, 2, resume=True, data={"path": other, "prompt": "question"})
    data = {"path": str(folder / "data" / "train.jsonl"), "prompt": "question"}
    with pytest.raises(RolloutError, match="a run goes on with the data it began with"):
        run(folder, 2, resume=True, data=data | {"limit": 15})
    with pytest.raises(ValueError, match="is of another model"):
        run(folder, 2, resume=True, model={"name": "tiny", "lora": {"rank": 4}})
    assert (folder / "config.yaml").read_text() == written
    assert RunFolder(folder).rollout_steps() == [1, 2]
    assert len((folder / "data" / "train.jsonl").read_text().splitlines()) == 16
    assert not any(event.text.startswith("resumed") for event in read_events(RunFolder(folder))[len(events) :])
