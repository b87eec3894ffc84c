"""Every preset's gradient against autograd of the objective that its paper prints, on a small vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from rlvr.config import AlgorithmConfig, Preset
from rlvr.learn.algorithms import Algorithm
from rlvr.learn.loss import LossSums, policy_loss, view_of
from rlvr.learn.masks import CovarianceClip
from rlvr.learn.presets import PRESETS, algorithm_from
from rlvr.learn.streams import RLTokens, rl_tokens
from rlvr.types import RLStream, Row, TokenFate

from .conftest import rl_of

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
    reference: Tensor  # [N]
    rows: list[Row]

    def logprobs(self) -> Tensor:
        return self.logits.log_softmax(-1).gather(1, self.chosen[:, None]).squeeze(1)

    def entropy(self) -> Tensor:
        log_p = self.logits.detach().log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

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
    reference = current + 0.3 * normal(count)
    advantage = torch.tensor([1.2, -0.7, 0.4, -1.9], dtype=torch.float64)
    answer = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    # One answer on which sampler and learner agree, for masks that let nothing else through.
    sampler = torch.where(answer == 0, proximal + 1e-4 * normal(count), sampler)
    rows = []
    for i, length in enumerate(lengths):
        mine = answer == i
        rows.append(
            Row(
                group_id=i // 2,
                token_ids=[0, *chosen[mine].tolist()],
                trained=[False] + [True] * length,
                rl=RLStream(
                    advantages=[0.0] + [advantage[i].item()] * length,
                    sampler_logprobs=[0.0, *sampler[mine].tolist()],
                    staleness=[0] * (length + 1),
                ),
            )
        )
    return Batch(logits, chosen, answer, advantage, sampler, proximal, reference, rows)


def preset(name: Preset) -> Algorithm:
    return algorithm_from(AlgorithmConfig(preset=name), max_staleness=2, max_new_tokens=LONGEST)


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """PPO's surrogate objective."""
    return torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def answers(b: Batch, of: Callable[[Tensor, Tensor], Tensor], anchor: Tensor) -> Tensor:
    """Mean over answers of `of(ratios of its tokens, its advantage)`."""
    ratios = b.per_answer((b.logprobs() - anchor).exp())
    return sum(of(r, a) for r, a in zip(ratios, b.advantage, strict=True)) / 4


def grpo(b: Batch) -> Tensor:
    log_ratio = b.reference - b.logprobs()
    k3 = torch.stack([part.mean() for part in b.per_answer(log_ratio.exp() - log_ratio - 1)]).mean()
    return answers(b, lambda r, a: clipped(r, a, 0.2, 0.2).mean(), b.proximal) - 0.001 * k3


def dr_grpo(b: Batch) -> Tensor:
    return answers(b, lambda r, a: clipped(r, a, 0.2, 0.2).sum() / LONGEST, b.proximal)


def tokenwise(b: Batch, low: float, high: float) -> Tensor:
    """PPO's surrogate of each token, against the proximal policy."""
    return clipped((b.logprobs() - b.proximal).exp(), b.advantage[b.answer], low, high)


def dapo(b: Batch) -> Tensor:
    return tokenwise(b, 0.2, 0.28).sum() / len(b.answer)


def ppo_dual(b: Batch) -> Tensor:
    a = b.advantage[b.answer]
    surrogate = tokenwise(b, 0.2, 0.2)
    return torch.where(a < 0, torch.max(surrogate, 3.0 * a), surrogate).mean()


def reinforce_pp(b: Batch) -> Tensor:
    k2 = (b.logprobs() - b.reference) ** 2 / 2
    return (tokenwise(b, 0.2, 0.2) - 0.001 * k2).mean()


def sequence_ratio(b: Batch, advantage: Callable[[Tensor], Tensor]) -> list[Tensor]:
    # s_i = (pi(y) / pi_old(y)) ** (1 / |y|)
    totals = b.per_answer(b.logprobs() - b.proximal)
    return [advantage((total.sum() / len(total)).exp()) for total in totals]


def gspo(b: Batch) -> Tensor:
    ratios = sequence_ratio(b, lambda s: s)
    return sum(clipped(s, a, 3e-4, 4e-4) for s, a in zip(ratios, b.advantage, strict=True)) / 4


def luspo(b: Batch) -> Tensor:
    ratios, lengths = sequence_ratio(b, lambda s: s), [3, 7, 1, 5]
    return sum(n * clipped(s, a, 2e-3, 2.5e-3) for n, s, a in zip(lengths, ratios, b.advantage, strict=True)) / 4


def gmpo(b: Batch) -> Tensor:
    def of(ratio: Tensor, a: Tensor) -> Tensor:
        # The geometric mean of min(sgn * log r, sgn * clip(log r)) over the answer, times A.
        sign = torch.sign(a)
        log_ratio = ratio.log()
        kept = sign * torch.min(sign * log_ratio, sign * log_ratio.clamp(-0.4, 0.4))
        return kept.mean().exp() * a

    return answers(b, of, b.proximal)


def vespo(b: Batch) -> Tensor:
    def of(total: Tensor, a: Tensor) -> Tensor:
        ratio = total.sum().exp()
        k, rate = (2.0, 3.0) if a > 0 else (3.0, 2.0)
        return torch.exp(rate * (1 - ratio)) * ratio**k * a

    weights = [
        of(total, a).detach() for total, a in zip(b.per_answer(b.logprobs() - b.sampler), b.advantage, strict=True)
    ]
    return (torch.stack(weights)[b.answer] * b.logprobs()).mean()


def kimi_k2(b: Batch) -> Tensor:
    # L = (A - tau log(pi(y) / pi_old(y)))^2 / (2 tau), the mean over answers
    totals = b.per_answer(b.logprobs() - b.proximal)
    return -sum((a - 0.01 * t.sum()) ** 2 / (2 * 0.01) for t, a in zip(totals, b.advantage, strict=True)) / 4


def kimi_k2_5(b: Batch) -> Tensor:
    log_ratio = b.logprobs() - b.sampler
    ratio = log_ratio.exp()
    inside = (ratio > 0.7) & (ratio < 6.0)
    return (inside * ratio * b.advantage[b.answer] - 0.01 * log_ratio**2).mean()


def capped(b: Batch, anchor: Tensor) -> Tensor:
    ratio = (b.logprobs() - anchor).exp().detach()
    return ratio.clamp(max=5.0) * b.advantage[b.answer] * b.logprobs()


def cispo(b: Batch) -> Tensor:
    return capped(b, b.proximal).mean()


def scalerl(b: Batch) -> Tensor:
    # The mean over prompts of the mean over their tokens: answers 0 and 1 are of one prompt, 2 and 3 of another.
    tokens = capped(b, b.sampler)
    return (tokens[b.answer < 2].mean() + tokens[b.answer >= 2].mean()) / 2


def sapo(b: Batch) -> Tensor:
    def of(ratio: Tensor, a: Tensor) -> Tensor:
        tau = 1.0 if a > 0 else 1.05
        return (4 / tau * torch.sigmoid(tau * (ratio - 1)) * a).mean()

    return answers(b, of, b.proximal)


def prime_rl(b: Batch) -> Tensor:
    a, log_ratio = b.advantage[b.answer], b.logprobs() - b.sampler
    moved = b.logprobs().exp() - b.sampler.exp()
    inside = ~(((a > 0) & (moved > 0.2)) | ((a < 0) & (moved < -0.2)))
    return (inside * log_ratio.exp() * a - 1e-3 * log_ratio**2).mean()


def rloo(b: Batch) -> Tensor:
    # REINFORCE with the log-probability of whole answers.
    return sum(a * total.sum() for a, total in zip(b.advantage, b.per_answer(b.logprobs()), strict=True)) / 4


def opo(b: Batch) -> Tensor:
    return (b.advantage[b.answer] * b.logprobs()).mean()


def mismatch(b: Batch) -> Tensor:
    return (b.proximal - b.sampler).exp()


def tis(b: Batch) -> Tensor:
    return (mismatch(b).clamp(max=2.0) * tokenwise(b, 0.2, 0.28)).mean()


def icepop(b: Batch) -> Tensor:
    w = mismatch(b)
    popped = torch.where((w >= 0.5) & (w <= 2.0), w, 0.0) * tokenwise(b, 0.2, 0.28)
    return torch.stack([part.mean() for part in b.per_answer(popped)]).mean()


def sequence_mis(b: Batch) -> Tensor:
    whole = torch.stack([part.prod() for part in b.per_answer(mismatch(b))])
    return (torch.where(whole <= 2.0, whole, 0.0)[b.answer] * tokenwise(b, 0.2, 0.2)).mean()


def decoupled_ppo(b: Batch) -> Tensor:
    return (mismatch(b).clamp(max=5.0) * tokenwise(b, 0.2, 0.2)).mean()


def geo_rs_tis(b: Batch) -> Tensor:
    mean = torch.stack([part.prod() ** (1 / len(part)) for part in b.per_answer(mismatch(b))])
    keep = ((mean >= 0.999) & (mean <= 1.001))[b.answer]
    return (keep * mismatch(b).clamp(max=2.0) * tokenwise(b, 0.2, 0.2)).mean()


def k3_rs(b: Batch) -> Tensor:
    k3 = torch.stack([(part - part.log() - 1).mean() for part in b.per_answer(mismatch(b))])
    return ((k3 <= 0.01)[b.answer] * tokenwise(b, 0.2, 0.2)).mean()


def m2po(b: Batch) -> Tensor:
    log_ratio = b.logprobs() - b.sampler
    squared = (log_ratio.detach() ** 2).tolist()
    keep = set(range(len(squared)))
    while keep and sum(squared[i] for i in keep) / len(keep) > 0.04:
        keep.remove(max(keep, key=lambda i: squared[i]))
    mask = torch.tensor([i in keep for i in range(len(squared))])
    return (mask * log_ratio.exp() * b.advantage[b.answer]).mean()


def deepseek_v3_2(b: Batch) -> Tensor:
    # M = 0 where A < 0 and mean log(mu / pi) > delta; the KL is r k3, whose gradient has r = pi / mu in it.
    log_mu, log_ratio = b.sampler, b.reference - b.logprobs()
    total = torch.zeros(())
    for i, a in enumerate(b.advantage):
        mine = b.answer == i
        left = (log_mu[mine] - b.logprobs()[mine]).mean() > 0.5
        surrogate = clipped((b.logprobs() - b.proximal)[mine].exp(), a, 0.2, 0.2)
        k3 = log_ratio[mine].exp() - log_ratio[mine] - 1
        kl = (b.logprobs() - b.sampler)[mine].exp() * k3
        total = total + (surrogate * (0.0 if a < 0 and left else 1.0) - 0.001 * kl).mean()
    return total / 4


def high_entropy(b: Batch) -> Tensor:
    log_p = b.logits.detach().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    fifth = torch.tensor(sorted(entropy.tolist())[-4:]).min()  # of 16 tokens, linear interpolation at rank 12
    return ((entropy >= fifth - 1e-9) * tokenwise(b, 0.2, 0.28))[:].sum() / 16


def dis(b: Batch) -> Tensor:
    ratio = (b.logprobs() - b.sampler).exp().detach()
    inside = (ratio > 0.7) & (ratio < 6.0)
    return (ratio * inside * b.advantage[b.answer] * b.logprobs()).mean()


OBJECTIVES: dict[Preset, Callable[[Batch], Tensor]] = {
    Preset.DIS: dis,
    Preset.GRPO: grpo,
    Preset.DR_GRPO: dr_grpo,
    Preset.DAPO: dapo,
    Preset.PPO_DUAL: ppo_dual,
    Preset.REINFORCE_PP: reinforce_pp,
    Preset.RLOO: rloo,
    Preset.OPO: opo,
    Preset.MAXRL: lambda b: tokenwise(b, 0.2, 0.2).mean(),
    Preset.GSPO: gspo,
    Preset.LUSPO: luspo,
    Preset.GMPO: gmpo,
    Preset.VESPO: vespo,
    Preset.KIMI_K2: kimi_k2,
    Preset.KIMI_K2_5: kimi_k2_5,
    Preset.CISPO: cispo,
    Preset.SCALERL: scalerl,
    Preset.SAPO: sapo,
    Preset.PRIME_RL: prime_rl,
    Preset.TIS: tis,
    Preset.ICEPOP: icepop,
    Preset.SEQUENCE_MIS: sequence_mis,
    Preset.DECOUPLED_PPO: decoupled_ppo,
    Preset.GEO_RS_TIS: geo_rs_tis,
    Preset.K3_RS: k3_rs,
    Preset.M2PO: m2po,
    Preset.DEEPSEEK_V3_2: deepseek_v3_2,
    Preset.HIGH_ENTROPY: high_entropy,
}


def streams(batch: Batch, algorithm: Algorithm, proximal: Tensor | None, dtype: torch.dtype) -> RLTokens:
    reference = batch.reference.to(dtype) if algorithm.needs_reference else None
    tokens = rl_tokens(batch.rows, algorithm, CPU, proximal, reference, dtype)
    view = view_of(algorithm, batch.logprobs().detach().to(dtype), batch.entropy().to(dtype), tokens)
    for mask in algorithm.step_masks:
        tokens = replace(tokens, kept=tokens.kept & mask.keep(view))
    return tokens


def gradient_of(
    batch: Batch, algorithm: Algorithm, proximal: Tensor | None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, LossSums, list[TokenFate]]:
    tokens = streams(batch, algorithm, None if proximal is None else proximal.to(dtype), dtype)
    part = policy_loss(algorithm, batch.logprobs().to(dtype), batch.entropy().to(dtype), tokens)
    (gradient,) = torch.autograd.grad(part.loss, batch.logits)
    return gradient, part.sums, [TokenFate(f) for f in part.fate.tolist()]


def assert_same(ours: Tensor, theirs: Tensor, within: float = 1e-9) -> None:
    assert theirs.norm() > 1e-3
    assert (ours - theirs).norm() <= within * theirs.norm()


def test_every_preset_has_an_objective_here() -> None:
    assert set(PRESETS) == set(Preset) == set(OBJECTIVES) | {Preset.CLIP_COV}  # which draws lots: tested below


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_that_of_the_paper(batch: Batch, name: Preset) -> None:
    (theirs,) = torch.autograd.grad(-OBJECTIVES[name](batch), batch.logits)
    ours, _, _ = gradient_of(batch, preset(name), batch.proximal)
    assert_same(ours, theirs)
    ours, _, _ = gradient_of(batch, preset(name), batch.proximal, torch.float32)
    assert_same(ours, theirs, within=1e-5)


def test_without_earlier_updates_the_proximal_policy_is_the_current_one(batch: Batch) -> None:
    ours, _, _ = gradient_of(batch, preset(Preset.DAPO), None)
    policy_gradient = (batch.advantage[batch.answer] * batch.logprobs()).mean()
    (theirs,) = torch.autograd.grad(-policy_gradient, batch.logits)
    assert_same(ours, theirs)


def test_clip_cov_leaves_out_a_share_of_the_tokens_with_large_covariance(batch: Batch) -> None:
    advantage, logprobs = batch.advantage[batch.answer], batch.logprobs().detach()
    covariance = (advantage - advantage.mean()) * (logprobs - logprobs.mean())
    candidates = {i for i, c in enumerate(covariance.tolist()) if 0.1 <= c <= 5.0}
    algorithm = replace(preset(Preset.CLIP_COV), masks=(CovarianceClip(share=0.125, low=0.1, high=5.0),))
    drawn = set()
    for seed in range(20):
        torch.manual_seed(seed)
        kept = streams(batch, algorithm, None, torch.float64).kept
        left_out = {i for i, k in enumerate(kept.tolist()) if not k}
        assert len(left_out) == 2 and left_out <= candidates  # an eighth of 16 tokens
        drawn |= left_out
    assert len(candidates) > 2 and drawn == candidates


@pytest.mark.parametrize("unusable", [math.nan, -math.inf, math.inf])
def test_a_token_without_a_finite_sampler_logprob_is_not_trained_but_counted(batch: Batch, unusable: float) -> None:
    rl_of(batch.rows[1]).sampler_logprobs[2] = unusable
    for name in OBJECTIVES:
        gradient, sums, fates = gradient_of(batch, preset(name), None)
        assert gradient.isfinite().all()
        assert not gradient[3 + 1].any()  # answer 1 begins at token 3 of the batch
        assert sums.tokens == 16 and sums.usable == 15
        assert fates.count(TokenFate.UNUSABLE) == 1 == sums.fates[TokenFate.UNUSABLE]
        assert math.isfinite(sums.k3) and math.isfinite(sums.ratio)


def test_stale_tokens_are_masked_and_counted_and_shrink_the_step(batch: Batch) -> None:
    algorithm = preset(Preset.DIS)
    whole, _, _ = gradient_of(batch, algorithm, None)
    rl_of(batch.rows[3]).staleness[1:3] = [3, 3]  # tokens 11 and 12
    masked, sums, fates = gradient_of(batch, algorithm, None)
    assert sums.fates[TokenFate.STALE] == 2
    assert [i for i, fate in enumerate(fates) if fate is TokenFate.STALE] == [11, 12]
    assert not masked[11:13].any() and masked[13:].any()
    others = [token for token in range(16) if token not in (11, 12)]
    assert torch.equal(masked[others], whole[others]), "those that are left count no more than before"


def test_a_log_ratio_beyond_all_bounds_stays_finite(batch: Batch) -> None:
    rl_of(batch.rows[0]).sampler_logprobs[1] = -1e4
    for name in OBJECTIVES:
        gradient, sums, _ = gradient_of(batch, preset(name), batch.proximal - 1e4)
        assert gradient.isfinite().all()
        assert math.isfinite(sums.ratio_squared)


def test_every_token_has_a_reason(batch: Batch) -> None:
    """The gradient of a token is zero exactly where its fate says so."""
    rl_of(batch.rows[2]).advantages = [0.0, 0.0]
    ratio = (batch.logprobs() - batch.sampler).exp().detach()
    for name in (Preset.DIS, Preset.ICEPOP, Preset.GEO_RS_TIS, Preset.TIS):
        gradient, sums, fates = gradient_of(batch, preset(name), batch.proximal)
        trained = [bool(g.any()) for g in gradient]
        assert trained == [fate is TokenFate.TRAINED for fate in fates]
        assert sum(sums.fates) == 16 and sums.fates[TokenFate.TRAINED] == sum(trained)
        if name is Preset.DIS:
            inside = ((ratio > 0.7) & (ratio < 6.0)).tolist()
            assert [fate is not TokenFate.BOUNDED for fate in fates] == inside
    assert gradient_of(batch, preset(Preset.DAPO), None)[2][10] is TokenFate.NO_ADVANTAGE
    assert {TokenFate.BOUNDED, TokenFate.TRAINED} <= set(gradient_of(batch, preset(Preset.DIS), None)[2])
    assert TokenFate.CORRECTED in gradient_of(batch, preset(Preset.ICEPOP), batch.proximal)[2]


def test_metrics_against_their_definitions(batch: Batch) -> None:
    _, sums, _ = gradient_of(batch, preset(Preset.DIS), None)
    ratio = (batch.logprobs().detach() - batch.sampler).exp()
    assert sums.k3 == pytest.approx((ratio - 1 - ratio.log()).sum().item())
    assert sums.ratio == pytest.approx(ratio.sum().item())
    assert sums.ratio_squared == pytest.approx((ratio**2).sum().item())
    assert sums.fates[TokenFate.BOUNDED] == ((ratio <= 0.7) | (ratio >= 6.0)).sum().item()
    assert 0 < sums.fates[TokenFate.BOUNDED] < 16
    _, sums, _ = gradient_of(batch, preset(Preset.GRPO), None)
    back = (batch.reference - batch.logprobs().detach()).exp()
    assert sums.reference_k3 == pytest.approx((back - 1 - back.log()).sum().item())
