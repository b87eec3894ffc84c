"""Ranks that share a learner: the same loss, gradient and policy as one process, whatever their number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlvr.config import Config
from rlvr.learn.experts import ExpertLoad
from rlvr.learn.learner import Learner, _Batch
from rlvr.learn.learner_report import LearnerReport
from rlvr.learn.model import whole
from rlvr.learn.sharded import ShardedRanks
from rlvr.types import Row, TokenFate
from rlvr.weights.transport import checksum, read_weights
from rlvr.weights.update import WeightUpdate

from .conftest import make_rows, rl_of
from .group import run_group

MakeConfig = Callable[..., Config]
LORA = {"lora": {"rank": 2, "alpha": 4.0}}


@dataclass(frozen=True)
class Trained:
    """What a rank saw: the first batch's loss and whole gradient, then the reports of all batches, and the policy."""

    loss: float
    gradient: dict[str, Tensor]
    reports: list[LearnerReport]
    weights: dict[str, Tensor]
    logprobs: list[list[float]]


def started(config: Config) -> Learner:
    learner = Learner(config, ranks=ShardedRanks(config)) if torch.distributed.is_initialized() else Learner(config)
    learner.start()
    return learner


def gradient_of(learner: Learner, rows: list[Row]) -> tuple[float, dict[str, Tensor]]:
    experts = learner.model.experts
    batch = _Batch(started=0.0, load=ExpertLoad(experts.shape[0], experts.experts))
    learner._accumulate(rows, learner._objective(rows, None, None), batch)
    gradient = {name: whole(p.grad).clone() for name, p in learner.parameters.items() if p.grad is not None}
    learner.optimizer.zero_grad()
    return batch.sums.over(learner.ranks).loss, gradient


def policy(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.model.weights()}


def train(config: Config, batches: list[list[Row]]) -> Trained:
    learner = started(config)
    loss, gradient = gradient_of(learner, batches[0])
    reports = [untimed(learner.train(batch)) for batch in batches]
    return Trained(loss, gradient, reports, policy(learner), learner.logprobs(batches[0]))


def untimed(report: LearnerReport) -> LearnerReport:
    return replace(report, seconds=0.0)


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


def assert_same(theirs: Trained, ours: Trained, *, rounding: float = 1e-6) -> None:
    assert theirs.loss == pytest.approx(ours.loss, rel=rounding, abs=rounding)
    assert theirs.gradient.keys() == ours.gradient.keys()
    expected = flat(ours.gradient)
    assert expected.norm() > 1e-3
    assert (flat(theirs.gradient) - expected).norm() <= rounding * expected.norm()
    # AdamW divides by the root of small second moments, which makes more of rounding.
    assert (flat(theirs.weights) - flat(ours.weights)).abs().max() <= 20 * rounding
    for one, other in zip(theirs.reports, ours.reports, strict=True):
        assert one.token_fates == other.token_fates
        assert one.metrics() == pytest.approx(other.metrics(), rel=20 * rounding, abs=20 * rounding)
    for mine, other_logprobs in zip(theirs.logprobs, ours.logprobs, strict=True):
        assert mine == pytest.approx(other_logprobs, abs=200 * rounding)


# ---------------------------------------------------------------------- the same policy


@pytest.mark.parametrize("family", ["qwen3", "olmoe"])  # with tied embeddings; with experts
def test_any_number_of_ranks_makes_the_same_policy(config: MakeConfig, family: str) -> None:
    settings = config(family, learner={"learning_rate": 1e-3, "token_budget": 128, "updates_per_step": 2})
    batches = [make_rows(seed, groups=5) for seed in range(3)]
    alone = train(settings, batches)
    for count in (2, 4):
        for rank in run_group(count, train, settings, batches):
            assert_same(rank, alone)


@pytest.mark.parametrize(
    ("family", "sections"),
    [
        ("llama", {"learner": {"gradient_checkpointing": True}}),
        ("llama", {"learner": {"offload": True}}),
        ("olmoe", {"learner": {"optimizer": "muon"}}),
        ("olmoe", {"model": LORA}),
        ("qwen3", {"model": LORA, "learner": {"gradient_checkpointing": True}}),
        ("llama", {"algorithm": {"preset": "high_entropy", "beta": 0.1}}),  # a reference, and masks of a step
    ],
    ids=["checkpointing", "offload", "muon", "experts' adapters", "checkpointed adapters", "reference"],
)
def test_every_way_to_train_is_the_same_on_two_ranks(
    config: MakeConfig, family: str, sections: dict[str, dict[str, Any]]
) -> None:
    learner = {"learning_rate": 1e-3} | sections.get("learner", {})
    settings = config(family, **(sections | {"learner": learner}))
    batches = [make_rows(seed) for seed in range(2)]
    assert_same(run_group(2, train, settings, batches)[1], train(settings, batches))


def test_bfloat16_is_gathered_and_trained_near_one_process(config: MakeConfig) -> None:
    settings = config("olmoe", model={"dtype": "bfloat16"}, learner={"learning_rate": 1e-3})
    batches = [make_rows()]
    alone, rank = train(settings, batches), run_group(2, train, settings, batches)[1]
    expected = flat(alone.gradient)
    assert (flat(rank.gradient) - expected).norm() <= 0.1 * expected.norm()
    assert all(tensor.dtype == torch.float32 for tensor in rank.weights.values())


@pytest.mark.parametrize("rows", [1, 0])
def test_ranks_without_rows_take_part(config: MakeConfig, rows: int) -> None:
    settings, batches = config(), [make_rows()[:rows] + make_rows()[4:5], []]
    alone = train(settings, batches)
    for rank in run_group(4, train, settings, batches):
        assert_same(rank, alone)


# ---------------------------------------------------------------------- what is left out


@dataclass(frozen=True)
class Guarded:
    """What a rank saw of batches of which one is `spoiled`; the policy before it, after it, and at the end."""

    reports: list[LearnerReport]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    last: dict[str, Tensor]


def train_past(config: Config, batches: list[list[Row]], spoiled: int) -> Guarded:
    learner = started(config)
    reports = [learner.train(batch) for batch in batches[:spoiled]]
    before = policy(learner)
    reports.append(learner.train(batches[spoiled]))
    after = policy(learner)
    reports += [learner.train(batch) for batch in batches[spoiled + 1 :]]
    return Guarded(reports, before, after, policy(learner))


@pytest.mark.parametrize(("advantage", "says"), [(math.nan, "norm is nan"), (1e6, "of late it was")])
def test_all_ranks_leave_out_the_gradient_that_one_of_them_spoils(
    config: MakeConfig, advantage: float, says: str
) -> None:
    settings = config(algorithm="opo", learner={"learning_rate": 1e-4, "max_grad_norm": 1e-3})
    batches = [make_rows(seed) for seed in range(23)]
    spoiled = 21  # 20 updates are made before a spike is one
    rl_of(batches[spoiled][0]).advantages = [advantage] * len(batches[spoiled][0])
    alone = train_past(settings, batches, spoiled)
    for rank in run_group(2, train_past, settings, batches, spoiled):
        assert [report.version for report in rank.reports] == [*range(1, 22), 21, 22]
        assert [bool(report.skipped) for report in rank.reports] == [step == spoiled for step in range(23)]
        report = rank.reports[spoiled]
        assert says in report.skipped[0]
        assert {fate for fates in report.token_fates.values() for fate in fates} == {TokenFate.SKIPPED}
        assert all(torch.equal(rank.after[name], tensor) for name, tensor in rank.before.items())
        assert report.grad_norm_limit == pytest.approx(alone.reports[spoiled].grad_norm_limit, rel=1e-4)
        assert (flat(rank.last) - flat(alone.last)).abs().max() <= 2e-5


# ---------------------------------------------------------------------- what leaves them


def publish(config: Config, rows: list[Row], folder: Path) -> tuple[WeightUpdate | None, dict[str, Tensor]]:
    learner = started(config)
    learner.train(rows)
    learner.export(folder / "policy")
    return learner.publish(folder), policy(learner)


@pytest.mark.parametrize("lora", [False, True])
def test_the_first_rank_publishes_and_exports_the_whole_policy(config: MakeConfig, tmp_path: Path, lora: bool) -> None:
    settings = config("olmoe", model=LORA if lora else {}, learner={"ranks": 2})
    (update, weights), (nothing, _) = run_group(2, publish, settings, make_rows(), tmp_path)
    assert nothing is None
    assert update is not None and update.version == 1
    published = read_weights(update.source)
    assert checksum(published.values(), update.dtype) == update.checksum
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").state_dict()
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in weights.items())
    assert sum(t.numel() for t in published.values()) == sum(t.numel() for t in exported.values())


def test_adapters_leave_sharded_learners_whole(config: MakeConfig, tmp_path: Path) -> None:
    settings = config("llama", model={"lora": {"rank": 2, "publish": "adapter"}})
    (update, _), _ = run_group(2, publish, settings, make_rows(), tmp_path)
    assert update is not None
    shapes = {tuple(tensor.shape) for name, tensor in read_weights(update.source).items() if "q_proj" in name}
    assert shapes == {(2, 32), (32, 2)}


# ---------------------------------------------------------------------- checkpoints


def draw(config: Config, folder: Path | None) -> tuple[Tensor, Tensor]:
    """The adapter that a learner begins with, or as it was saved, and the lots that it draws next."""
    learner = started(config)
    if folder is not None:
        learner.load(folder)
    return flat({name: whole(p.detach()) for name, p in learner.parameters.items()}), torch.rand(8)


def draw_and_save(config: Config, folder: Path) -> Tensor:
    learner = started(config)
    torch.rand(8)
    learner.save(folder)
    learner.saved()
    return torch.rand(8)


def test_ranks_begin_and_draw_as_one_process_does_also_after_a_resume(config: MakeConfig, tmp_path: Path) -> None:
    settings = config(model=LORA)
    adapter, lots = draw(settings, None)
    for theirs, drawn in run_group(2, draw, settings, None):
        assert torch.equal(theirs, adapter) and torch.equal(drawn, lots)
    after = draw_and_save(settings, tmp_path)
    assert not torch.equal(after, lots)
    for _, drawn in run_group(2, draw, settings, tmp_path):
        assert torch.equal(drawn, after)


@dataclass(frozen=True)
class Resumed:
    version: int
    reports: list[LearnerReport]
    weights: dict[str, Tensor]


def train_and_save(config: Config, batches: list[list[Row]], folder: Path) -> Resumed:
    """Save after the first batch, while the others are trained."""
    learner = started(config)
    learner.train(batches[0])
    learner.save(folder)
    reports = [untimed(learner.train(batch)) for batch in batches[1:]]
    learner.saved()
    return Resumed(learner.version, reports, policy(learner))


def resume(config: Config, batches: list[list[Row]], folder: Path) -> Resumed:
    learner = started(config)
    learner.load(folder)
    reports = [untimed(learner.train(batch)) for batch in batches]
    return Resumed(learner.version, reports, policy(learner))


@pytest.mark.parametrize("way", [{}, {"model": LORA}, {"learner": {"optimizer": "muon"}}], ids=["all", "lora", "muon"])
def test_a_checkpoint_resumes_exactly_and_on_any_number_of_ranks(
    config: MakeConfig, tmp_path: Path, way: dict[str, dict[str, Any]]
) -> None:
    settings = config("olmoe", model=way.get("model", {}), learner={"learning_rate": 1e-3} | way.get("learner", {}))
    batches = [make_rows(seed) for seed in range(3)]
    straight = run_group(2, train_and_save, settings, batches, tmp_path / "of-two")[0]

    again = run_group(2, resume, settings, batches[1:], tmp_path / "of-two")[0]
    assert (again.version, again.reports) == (straight.version, straight.reports)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in straight.weights.items())

    for other in (
        run_group(4, resume, settings, batches[1:], tmp_path / "of-two")[3],
        resume(settings, batches[1:], tmp_path / "of-two"),
    ):
        assert other.version == straight.version
        assert (flat(other.weights) - flat(straight.weights)).abs().max() <= 2e-5

    alone = train_and_save(settings, batches, tmp_path / "of-one")
    on_two = run_group(2, resume, settings, batches[1:], tmp_path / "of-one")[1]
    assert (flat(on_two.weights) - flat(alone.weights)).abs().max() <= 2e-5
