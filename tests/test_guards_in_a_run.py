"""Guards in a whole run: skipped updates, the way back to a checkpoint, and a step trained again offline.

One thing is a stand-in: advantages that are not numbers, which no reward of ours can give.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig

import rlvr
from rlvr import replay as replay_module
from rlvr import training
from rlvr.config import ModelConfig
from rlvr.demo.problems import Split, rows
from rlvr.events import EventKind, read_events
from rlvr.learn.learner_report import LearnerReport
from rlvr.learn.own import Weight
from rlvr.learn.rows import rows_from
from rlvr.replay import replay, show
from rlvr.rollout.rollouts import RolloutError
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.training import RunResult, TrainingStopped
from rlvr.types import Group, Row

Weights = Sequence[Sequence[Weight]]
MakeRows = Callable[[Sequence[Group], Weights, int], list[Row]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """So that sums come out alike in a run and in its replay."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


async def letters(completion: str) -> float:
    """In this process, so that no busy machine makes it late."""
    return float(len(completion))


def run(
    folder: Path,
    steps: int,
    ranks: int = 1,
    model: str = "tiny",
    learner: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> RunResult:
    return rlvr.train(
        model=model,
        data={"path": rows(Split.TRAIN, 64, 0), "prompt": "question"},
        reward=letters,
        rollout={"max_staleness": 1, "groups_per_step": 2, "group_size": 4, "drop_zero_variance": False},
        sampling={"max_new_tokens": 12},
        learner={"learning_rate": 1e-4, "warmup_steps": 0, "ranks": ranks, **learner},
        generator={"engine": "transformers"},
        cluster={"backend": "local" if ranks == 1 else "ray"},
        steps=steps,
        run_dir=folder,
        tensorboard=False,
        **settings,
    )


def poison(steps: range) -> MakeRows:
    """Rows as they are, but those of calls in `steps`, counted from 1, whose advantages are not numbers."""
    calls = 0

    def make(groups: Sequence[Group], advantages: Weights, version: int) -> list[Row]:
        nonlocal calls
        calls += 1
        made = rows_from(groups, advantages, version)
        for row in made if calls in steps else ():
            assert row.rl is not None
            row.rl.advantages = [math.nan] * len(row)
        return made

    return make


def logged(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "ledger/issued" in line]


def assert_as_logged(report: LearnerReport, line: dict[str, float]) -> None:
    """Bit for bit."""
    for name in ("learner/grad_norm", "learner/loss", "learner/mismatch_kl", "learner/entropy"):
        assert report.metrics()[name] == line[name], name


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 9 steps whose steps 3 to 7 had gradients that are not finite."""
    folder = tmp_path_factory.mktemp("rolled_back") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "rows_from", poison(range(3, 8)))
        run(folder, 9, checkpoint={"every_steps": 1, "keep": 20})
    return folder


def test_after_five_skipped_updates_the_learner_goes_back_as_a_new_version(rolled_back: Path) -> None:
    steps = logged(rolled_back)
    assert [line["policy/version"] for line in steps] == [1, 2, 2, 2, 2, 2, 3, 4, 5]
    assert [line["learner/updates"] for line in steps] == [1, 1, 0, 0, 0, 0, 0, 1, 1]
    for line in steps:
        settled = sum(v for name, v in line.items() if name.startswith(("ledger/filtered/", "ledger/failed/")))
        assert line["ledger/issued"] == line["ledger/trained"] + settled + line["ledger/in_flight"]
    saved = sorted(path.name for path in (rolled_back / "checkpoints").iterdir())
    assert saved == [f"step-{step:06d}" for step in (1, 2, 8, 9)], "none of the steps that were skipped"


def test_each_skip_and_the_way_back_are_in_the_log_and_in_the_report(rolled_back: Path) -> None:
    warnings = [event for event in read_events(RunFolder(rolled_back)) if event.kind is EventKind.WARNING]
    skips = [(event.step, event.text) for event in warnings if event.text.startswith("no update: ")]
    assert [step for step, _ in skips] == [3, 4, 5, 6, 7]
    assert all(f"rlvr replay {rolled_back} {step}" in text for step, text in skips)
    (back,) = [event for event in warnings if "back to the learner of step 2" in event.text]
    assert back.step == 7 and "policy version 3" in back.text
    assert "back to the learner of step 2" in (rolled_back / "report.html").read_text()


def test_a_replay_stands_where_the_run_stood(
    rolled_back: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replay_module, "rows_from", poison(range(5)))  # steps 3 to 6; then step 7 as it was sampled
    healthy = replay(rolled_back, 7, [], exact=True)
    assert (healthy.version, healthy.report.version, healthy.report.skipped) == (2, 3, ())

    monkeypatch.setattr(replay_module, "rows_from", poison(range(1, 6)))
    (rolled_back / "checkpoints" / "step-000008").rename(rolled_back / "step-000008")
    try:
        made = replay(rolled_back, 9, [], exact=True)
    finally:
        (rolled_back / "step-000008").rename(rolled_back / "checkpoints" / "step-000008")
    line = logged(rolled_back)[-1]
    assert (made.version, made.report.version) == (4, 5)
    assert_as_logged(made.report, line)
    capsys.readouterr()
    show(made)
    printed = capsys.readouterr().out
    assert "step 9, from policy version 4" in printed and "mismatch KL" in printed and "no limit yet" in printed
    assert "1 update, now policy version 5" in printed


def test_a_replay_of_a_mixture_of_experts_sends_tokens_where_they_went(tmp_path: Path) -> None:
    """Its routers are moved between sampling and training by as much as one update is: at this rate much."""
    model = tmp_path / "model"
    base = AutoTokenizer.from_pretrained(ModelConfig(name="tiny").name)
    base.save_pretrained(model)
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "initializer_range": 0.3}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        Qwen3MoeConfig(vocab_size=len(base), head_dim=8, eos_token_id=base.eos_token_id, **sizes, **experts)
    ).save_pretrained(model)
    run(tmp_path / "run", 3, model=str(model), learner={"learning_rate": 1e-2, "router": {"balance_loss": 0.1}})
    made = replay(tmp_path / "run", 3, [], exact=True)
    line = logged(tmp_path / "run")[-1]
    assert line["experts/replay_agreement"] < 1
    assert_as_logged(made.report, line)


def test_the_result_of_a_resumed_run_begins_where_the_run_began(tmp_path: Path) -> None:
    held_out = {"path": rows(Split.HELD_OUT, 2, 0), "prompt": "question"}
    run(tmp_path / "run", 1, evaluation_data=held_out)
    result = run(tmp_path / "run", 2, evaluation_data=held_out, resume=True)
    assert result.before is not None and result.after is not None
    assert (result.before.version, result.after.version) == (0, 2)
    texts = [event.text for event in read_events(RunFolder(tmp_path / "run"))]
    assert [text for text in texts if not text.startswith("the end took")] == [
        "resumed from the checkpoint of step 1, policy version 1"
    ]


def test_a_resume_with_another_group_size_is_refused_before_anything_starts(
    rolled_back: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "start_roles", None)
    with pytest.raises(RolloutError, match=r"rollout\.group_size=3: .* resume with rollout\.group_size=4"):
        rlvr.train(
            reward=letters,
            config=rolled_back / "config.yaml",
            resume=True,
            run_dir=rolled_back,
            rollout={"group_size": 3},
        )


def test_a_replay_may_take_other_settings_and_leave_out_what_lies_between(
    rolled_back: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "rows_from", poison(range(1, 2)))
    made = replay(rolled_back, 6, ["learner.learning_rate=1e-9"], exact=False)
    assert made.report.skipped == ("the gradient's norm is nan",)
    assert made.report.learning_rate == 1e-9
    with pytest.raises(RunFolderError, match=r"no rollouts of step 12: its steps are 1 to 9"):
        replay(rolled_back, 12, [], exact=True)


def test_a_step_that_a_function_of_ones_own_weighed_is_not_trained_again_with_other_weights(tmp_path: Path) -> None:
    def all_alike(groups: Sequence[Group]) -> list[list[float]]:
        return [[2.5] * len(group.judged()) for group in groups]

    run(tmp_path / "run", 1, algorithm=all_alike)
    with pytest.raises(RunFolderError, match=r"the advantages of step 1 are not those .*algorithm=a function"):
        replay(tmp_path / "run", 1, [], exact=True)


def test_two_ranks_go_back_together_and_a_replay_on_two_stands_where_they_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actors under Ray, which sum gradients by gloo, with one thread each in the run and in its replay."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    folder = tmp_path / "run"
    monkeypatch.setattr(training, "rows_from", poison(range(2, 7)))
    run(folder, 7, ranks=2, checkpoint={"every_steps": 1})
    steps = logged(folder)
    assert [line["policy/version"] for line in steps] == [1, 1, 1, 1, 1, 2, 3]
    assert [line["learner/updates"] for line in steps] == [1, 0, 0, 0, 0, 0, 1]

    monkeypatch.setattr(replay_module, "rows_from", poison(range(1, 6)))
    made = replay(folder, 7, [], exact=True)
    assert (made.version, made.report.version, made.report.skipped) == (2, 3, ())
    assert_as_logged(made.report, steps[-1])


def test_without_a_checkpoint_there_is_no_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "rows_from", poison(range(1, 9)))
    with pytest.raises(TrainingStopped, match=r"5 batches in a row.*no checkpoint to go back to"):
        run(tmp_path / "run", 9)
    assert read_events(RunFolder(tmp_path / "run"))[-1].kind is EventKind.FAILURE


def test_a_checkpoint_is_gone_back_to_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "rows_from", poison(range(2, 99)))
    with pytest.raises(TrainingStopped, match="went back to the checkpoint of step 1 3 times"):
        run(tmp_path / "run", 30, checkpoint={"every_steps": 1})
    assert [line["policy/version"] for line in logged(tmp_path / "run")][-1] == 4
