"""Every preset's gradient against autograd of the objective that its paper prints, on a small vocabulary."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from rlvr.config import AlgorithmConfig
from rlvr.learn.algorithms import TIS, Algorithm, Denominator, algorithm_from
from rlvr.learn.loss import LossSums, policy_loss
from rlvr.learn.streams import streams_of
from rlvr.types import Row

LONGEST = 9
CPU = torch.device("cpu")


@dataclass
class Batch:
    """Four answers over five tokens, as tensors of the test's own, and as rows."""

    logits: Tensor  # [N, 5], the policy's parameters
    chosen: Tensor  # [N]
    answer: Tensor  # [N], which answer a token belongs to
    advantage: Tensor  # [4]
    sampler: Tensor  # [N]
    proximal: Tensor  # [N]
    rows: list[Row]

    def logprobs(self) -> Tensor:
        return self.logits.log_softmax(-1).gather(1, self.chosen[:, None]).squeeze(1)

    def per_answer(self, values: Tensor) -> list[Tensor]:
        return [values[self.answer == i] for i in range(4)]


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    lengths = [3, 7, 1, 5]
    count = sum(lengths)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits = normal(count, 5).requires_grad_()
    chosen = torch.randint(5, (count,), generator=generator)
    current = logits.detach().log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)
    # Far enough that every bound of every preset is crossed on both sides.
    proximal, sampler = current + 0.5 * normal(count), current + 0.9 * normal(count)
    advantage = torch.tensor([1.2, -0.7, 0.4, -1.9], dtype=torch.float64)
    answer = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    rows = []
    for i, length in enumerate(lengths):
        mine = answer == i
        rows.append(
            Row(
                group_id=0,
                token_ids=[0, *chosen[mine].tolist()],
                trained=[False] + [True] * length,
                advantages=[0.0] + [advantage[i].item()] * length,
                sampler_logprobs=[0.0, *sampler[mine].tolist()],
                staleness=[0] * (length + 1),
            )
        )
    return Batch(logits, chosen, answer, advantage, sampler, proximal, rows)


def preset(name: str) -> Algorithm:
    return algorithm_from(AlgorithmConfig(preset=name), max_staleness=2, max_new_tokens=LONGEST)


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """PPO's surrogate objective."""
    return torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def grpo(b: Batch) -> Tensor:
    ratios = b.per_answer((b.logprobs() - b.proximal).exp())
    return sum(clipped(r, a, 0.2, 0.2).mean() for r, a in zip(ratios, b.advantage, strict=True)) / 4


def dr_grpo(b: Batch) -> Tensor:
    ratios = b.per_answer((b.logprobs() - b.proximal).exp())
    return sum(clipped(r, a, 0.2, 0.2).sum() / LONGEST for r, a in zip(ratios, b.advantage, strict=True)) / 4


def dapo(b: Batch) -> Tensor:
    ratio = (b.logprobs() - b.proximal).exp()
    return clipped(ratio, b.advantage[b.answer], 0.2, 0.28).sum() / len(b.answer)


def gspo(b: Batch) -> Tensor:
    # s_i = (pi(y) / pi_old(y)) ** (1 / |y|)
    totals = b.per_answer(b.logprobs() - b.proximal)
    ratios = [(total.sum() / len(total)).exp() for total in totals]
    return sum(clipped(s, a, 3e-4, 4e-4) for s, a in zip(ratios, b.advantage, strict=True)) / 4


def cispo(b: Batch) -> Tensor:
    ratio = (b.logprobs() - b.proximal).exp().detach()
    return (ratio.clamp(max=5.0) * b.advantage[b.answer] * b.logprobs()).mean()


def rloo(b: Batch) -> Tensor:
    # REINFORCE with the log-probability of whole answers.
    return sum(a * total.sum() for a, total in zip(b.advantage, b.per_answer(b.logprobs()), strict=True)) / 4


def dis(b: Batch) -> Tensor:
    ratio = (b.logprobs() - b.sampler).exp().detach()
    inside = (ratio > 0.7) & (ratio < 6.0)
    return (ratio * inside * b.advantage[b.answer] * b.logprobs()).mean()


OBJECTIVES = {"grpo": grpo, "dr_grpo": dr_grpo, "dapo": dapo, "gspo": gspo, "cispo": cispo, "rloo": rloo, "dis": dis}


def gradient_of(batch: Batch, algorithm: Algorithm, proximal: Tensor | None) -> tuple[Tensor, LossSums]:
    tokens = streams_of(batch.rows, algorithm, CPU, proximal, torch.float64)
    loss, sums = policy_loss(algorithm, batch.logprobs(), torch.zeros(len(tokens)), tokens)
    (gradient,) = torch.autograd.grad(loss, batch.logits)
    return gradient, sums


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.norm() > 1e-3
    assert (ours - theirs).norm() <= 1e-9 * theirs.norm()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_that_of_the_paper(batch: Batch, name: str) -> None:
    ours, _ = gradient_of(batch, preset(name), batch.proximal)
    (theirs,) = torch.autograd.grad(-OBJECTIVES[name](batch), batch.logits)
    assert_same(ours, theirs)


def test_without_earlier_updates_the_proximal_policy_is_the_current_one(batch: Batch) -> None:
    ours, _ = gradient_of(batch, preset("dapo"), None)
    policy_gradient = (batch.advantage[batch.answer] * batch.logprobs()).mean()
    (theirs,) = torch.autograd.grad(-policy_gradient, batch.logits)
    assert_same(ours, theirs)


def test_truncated_importance_sampling(batch: Batch) -> None:
    ours, _ = gradient_of(batch, replace(preset("dapo"), correction=TIS(cap=1.5)), batch.proximal)
    weight = (batch.proximal - batch.sampler).exp().clamp(max=1.5)
    ratio = (batch.logprobs() - batch.proximal).exp()
    (theirs,) = torch.autograd.grad(
        -(weight * clipped(ratio, batch.advantage[batch.answer], 0.2, 0.28)).mean(), batch.logits
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("unusable", [math.nan, -math.inf, math.inf])
def test_a_token_without_a_finite_sampler_logprob_is_not_trained_but_counted(batch: Batch, unusable: float) -> None:
    batch.rows[1].sampler_logprobs[2] = unusable
    gradient, sums = gradient_of(batch, preset("dis"), None)
    assert gradient.isfinite().all()
    assert not gradient[3 + 1].any()  # answer 1 begins at token 3 of the batch
    assert sums.unusable == 1 and sums.tokens == 16 and sums.kept == 15
    assert math.isfinite(sums.k3) and math.isfinite(sums.ratio)


def test_stale_tokens_are_masked_and_counted_and_the_denominator_is_explicit(batch: Batch) -> None:
    batch.rows[3].staleness[1:3] = [3, 3]  # tokens 11 and 12
    algorithm = preset("dis")
    masked, sums = gradient_of(batch, algorithm, None)
    assert sums.stale == 2
    assert not masked[11:13].any() and masked[13:].any()

    renormalised, _ = gradient_of(batch, replace(algorithm, denominator=Denominator.KEPT), None)
    assert_same(renormalised, masked * 16 / 14)


def test_a_log_ratio_beyond_all_bounds_stays_finite(batch: Batch) -> None:
    batch.rows[0].sampler_logprobs[1] = -1e4
    for name in OBJECTIVES:
        gradient, sums = gradient_of(batch, preset(name), batch.proximal - 1e4)
        assert gradient.isfinite().all()
        assert math.isfinite(sums.ratio_squared)


def test_metrics_against_their_definitions(batch: Batch) -> None:
    _, sums = gradient_of(batch, preset("dis"), None)
    ratio = (batch.logprobs().detach() - batch.sampler).exp()
    assert sums.k3 == pytest.approx((ratio - 1 - ratio.log()).sum().item())
    assert sums.ratio == pytest.approx(ratio.sum().item())
    assert sums.ratio_squared == pytest.approx((ratio**2).sum().item())
    assert sums.outside == ((ratio <= 0.7) | (ratio >= 6.0)).sum().item()
    assert 0 < sums.outside < 16
