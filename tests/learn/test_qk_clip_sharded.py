"""QK-Clip where ranks share a learner: the clip of one process, whoever computed the rows and holds the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlvr.config import Config
from rlvr.learn import qk_clip
from rlvr.learn.qk_clip import Effect, GroupedHeads
from rlvr.types import RLStream, Row

from .conftest import make_rows
from .group import run_group
from .test_qk_clip import Eager, between_heads
from .test_sharded import Trained, assert_same, policy, started, train

MakeConfig = Callable[..., Config]
RANKS = 3  # so that shards are uneven, and do not end where heads do
# Two tokens; with it alone in a batch, all ranks but one have nothing to compute.
SHORT = Row(0, [5, 9], [False, True], RLStream([0.0, 1.0], [0.0, -4.0], [0, 0]))


def muonclip(
    config: MakeConfig, family: str, limit: float, model: dict[str, str] | None = None, **learner: Any
) -> Config:
    """Of a learner that clips, and moves by nothing else unless it is given a rate."""
    settings = {"optimizer": "muonclip", "max_attention_logit": limit, "learning_rate": 1e-12, **learner}
    return config(family, model=model or {}, learner=settings)


def without_zeros(name: str, folder: Path) -> dict[str, str]:
    """The model with the zeros that it was made with, of biases and of the padding token, drawn as well."""
    network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[parameter == 0] = 0.3 * torch.randn(int((parameter == 0).sum()))
    network.save_pretrained(folder)
    return {"name": str(folder)}


@dataclass(frozen=True)
class Case:
    settings: Config
    rows: list[Row]


@dataclass(frozen=True)
class Clipped:
    """The policy as a learner began with it, as it was after a batch, and what the clip said."""

    first: dict[str, Tensor]
    last: dict[str, Tensor]
    max_logit: float | None
    clipped_heads: int | None


def clip(case: Case) -> Clipped:
    learner = started(case.settings)
    first = policy(learner)
    report = learner.train(case.rows)
    return Clipped(first, policy(learner), report.max_logit, report.clipped_heads)


def clip_each(_: Config, cases: Sequence[Case]) -> list[Clipped]:
    return [clip(case) for case in cases]


def largest_change(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_ranks_clip_as_one_process_does_and_no_head_stays_over_the_limit(config: MakeConfig, tmp_path: Path) -> None:
    cases, before = [], []
    biased = without_zeros(config("qwen2").model.name, tmp_path)
    for family, model, rows, learner in [
        ("llama", {}, make_rows(), {}),  # GQA
        ("deepseek_v3", {}, make_rows(), {}),  # MLA
        ("qwen2", biased, [SHORT], {"offload": True}),
    ]:
        eager = Eager(config(family, model=model).model.name)
        before.append(eager.largest(eager.inputs(rows)))
        limit = between_heads(before[-1].clamp(min=0.1))  # of two tokens most logits are small, or negative
        cases.append(Case(muonclip(config, family, limit, model, **learner), rows))
    alone = [clip(case) for case in cases]
    ranks = run_group(RANKS, clip_each, cases[0].settings, cases)
    for rank in ranks:
        for theirs, ours in zip(rank, alone, strict=True):
            assert largest_change(theirs.last, ours.last) <= 1e-6
            assert theirs.clipped_heads == ours.clipped_heads
            assert theirs.max_logit == pytest.approx(ours.max_logit, rel=1e-5)
    for clipped, case, largest in zip(ranks[-1], cases, before, strict=True):
        eager, limit = Eager(case.settings.model.name), case.settings.learner.max_attention_logit
        assert all(torch.equal(clipped.first[name], p) for name, p in eager.network.named_parameters())
        calls = eager.inputs(case.rows)
        eager.network.load_state_dict(clipped.last, strict=False)
        assert clipped.clipped_heads == (largest > limit).sum() > 0
        assert (eager.largest(calls) <= limit * (1 + 1e-4)).all()


def test_a_clip_of_bfloat16_layers_scales_their_float32_weights(config: MakeConfig) -> None:
    case = Case(muonclip(config, "llama_mha", 2.0, {"dtype": "bfloat16"}), make_rows())
    (clipped,) = run_group(2, clip_each, case.settings, [case])[1]
    name = "model.layers.0.self_attn.q_proj.weight"
    of_heads = (clipped.last[name].double() / clipped.first[name].double()).view(4, -1)
    assert of_heads.mean(1).min() < 0.9
    torch.testing.assert_close(of_heads, of_heads[:, :1].expand_as(of_heads), rtol=1e-6, atol=0)


def train_each(_: Config, cases: Sequence[Case]) -> list[Trained]:
    return [train(case.settings, [case.rows, make_rows(1)]) for case in cases]


def test_ranks_train_on_after_a_clip_as_one_process_does(config: MakeConfig) -> None:
    moving = {"learning_rate": 1e-3, "updates_per_step": 2}
    cases = [Case(muonclip(config, family, 0.5, **moving), make_rows()) for family in ("llama", "deepseek_v3")]
    alone = train_each(cases[0].settings, cases)
    for rank in run_group(2, train_each, cases[0].settings, cases):
        for theirs, ours in zip(rank, alone, strict=True):
            assert_same(theirs, ours)
            assert all(report.clipped_heads for report in theirs.reports)


def scale(rows: int) -> Tensor:
    """Weight and bias of sharded keys [rows, 3] of ones, after a clip of twice as many heads."""
    query, key = nn.Linear(3, 2 * rows), nn.Linear(3, rows)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for linear in (query, key):
        for name, parameter in list(linear.named_parameters()):
            ones = distribute_tensor(torch.ones_like(parameter), mesh, [Shard(0)])
            linear.register_parameter(name, nn.Parameter(ones))
    GroupedHeads(query, key, width=1).scale(1 / torch.arange(1.0, 2 * rows + 1))
    assert isinstance(key.weight, DTensor) and isinstance(key.bias, DTensor)
    return torch.cat([key.weight.full_tensor(), key.bias.full_tensor()[:, None]], dim=1).detach()


def scale_each(_: Config, numbers: Sequence[int]) -> list[Tensor]:
    return [scale(rows) for rows in numbers]


def test_a_rank_scales_the_rows_it_holds_few_or_none(config: MakeConfig) -> None:
    numbers = [1, 5]
    for scaled in run_group(RANKS, scale_each, config(), numbers):
        for keys, rows in zip(scaled, numbers, strict=True):
            torch.testing.assert_close(keys, (1 / torch.arange(2.0, 2 * rows + 1, 2)).sqrt()[:, None].expand(-1, 4))


def refuse_on_the_last(config: Config) -> str:
    """What is raised when a trial goes wrong on one rank."""
    if dist.get_rank() == dist.get_world_size() - 1:
        qk_clip._effect = lambda *_: Effect.OTHER
    with pytest.raises(ValueError) as raised:
        started(config)
    return str(raised.value)


def test_all_ranks_refuse_a_model_that_one_cannot_scale(config: MakeConfig) -> None:
    for refusal in run_group(2, refuse_on_the_last, muonclip(config, "llama", 1.0)):
        assert "cannot scale the attention logits of LlamaAttention" in refusal
