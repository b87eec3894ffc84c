"""The policy loss of a micro-batch, in weight form.

    L = - sum_t  n_t * sg[ keep_t * w_t * G(ratio_t, A_t) - beta * K_t ] * log pi(t)

    ratio_t = pi(t) / pi_anchor(t), of the token or of its row
    G       = the kernel                        w_t = the correction, a function of pi_proximal(t) / pi_sampler(t)
    keep_t  = the algorithm's masks             beta * K_t = the KL that holds the policy
    n_t     = the token's share, fixed for the whole optimizer step

A token that is too old, or whose sampler log-probability is not finite, has no part in L at all. The value of L is
not that of the objective a paper prints; its gradient is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.learn.algorithms import Algorithm, Anchor, Level
from rlvr.learn.kl import KLTarget
from rlvr.learn.streams import RLTokens
from rlvr.learn.token_view import TokenView, finite_exp, mean_of_row, sum_of_row
from rlvr.types import TokenFate


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """The detached weight of each token, and what became of it as `TokenFate`, uint8. Tensors of shape [N]."""

    weight: Tensor
    fate: Tensor


@dataclass(slots=True)
class LossSums:
    """Sums over tokens, from which the metrics of a batch are made. They add up over micro-batches.

    `fates[f]` counts the tokens of TokenFate `f`. `ratio` is pi_learner / pi_sampler, summed over the tokens that are
    neither stale nor unusable, of which there are `usable`, as are its square, how often it is above 10, and `k3 =
    ratio - 1 - log ratio`, whose mean estimates KL(sampler || learner) (Schulman, "Approximating KL divergence").
    `reference_k3` is the same estimate of KL(learner || reference), over all tokens.
    """

    loss: float = 0.0
    tokens: float = 0.0
    usable: float = 0.0
    ratio: float = 0.0
    ratio_squared: float = 0.0
    ratio_above_10: float = 0.0
    k3: float = 0.0
    reference_k3: float = 0.0
    fates: tuple[float, ...] = (0.0,) * len(TokenFate)

    def add(self, other: LossSums) -> None:
        self.loss += other.loss
        self.tokens += other.tokens
        self.usable += other.usable
        self.ratio += other.ratio
        self.ratio_squared += other.ratio_squared
        self.ratio_above_10 += other.ratio_above_10
        self.k3 += other.k3
        self.reference_k3 += other.reference_k3
        self.fates = tuple(a + b for a, b in zip(self.fates, other.fates, strict=True))


@dataclass(frozen=True, slots=True)
class MicroBatchLoss:
    """A micro-batch's part of L, a scalar to call `backward` on; its sums; and each token's TokenFate, [N]."""

    loss: Tensor
    sums: LossSums
    fate: Tensor


def policy_loss(algorithm: Algorithm, logprobs: Tensor, entropy: Tensor, tokens: RLTokens) -> MicroBatchLoss:
    """`logprobs` [N] carry the gradient; `entropy` [N] does not."""
    current = logprobs.detach()
    weights = token_weights(algorithm, current, entropy, tokens)
    loss = -(tokens.scale * weights.weight * logprobs).sum()
    return MicroBatchLoss(loss, _sums(loss.detach(), current, tokens, weights.fate), weights.fate)


def token_weights(algorithm: Algorithm, logprobs: Tensor, entropy: Tensor, tokens: RLTokens) -> TokenWeights:
    """c_t = keep_t * w_t * G(ratio_t, A_t) - beta * K_t, from detached log-probabilities [N]."""
    view = view_of(algorithm, logprobs, entropy, tokens)
    weight = algorithm.kernel.weight(view)
    fate = torch.zeros(len(tokens), dtype=torch.uint8, device=weight.device)
    fate[view.advantages == 0] = TokenFate.NO_ADVANTAGE
    fate[algorithm.kernel.outside(view)] = TokenFate.BOUNDED

    if algorithm.correction is not None:
        correction = algorithm.correction.weight(view)
        weight = weight * correction
        fate[correction == 0] = TokenFate.CORRECTED

    keep = tokens.kept
    for mask in algorithm.row_masks:
        keep = keep & mask.keep(view)
    weight = weight.masked_fill(~keep, 0.0)
    fate[~keep] = TokenFate.MASKED

    if algorithm.kl is not None:
        target = view.sampler if algorithm.kl.target is KLTarget.SAMPLER else tokens.reference_logprobs
        if target is None:
            raise ValueError("the algorithm has a KL to the reference, whose log-probabilities are not in the streams")
        weight = weight - algorithm.kl.weight(logprobs, target, view.sampler)

    fate[~tokens.usable] = TokenFate.UNUSABLE
    fate[~tokens.fresh] = TokenFate.STALE
    return TokenWeights(weight.masked_fill(~(tokens.fresh & tokens.usable), 0.0), fate)


def view_of(algorithm: Algorithm, logprobs: Tensor, entropy: Tensor, tokens: RLTokens) -> TokenView:
    """What kernel, correction and masks see. Without a usable sampler log-probability, the policy's own stands in."""
    sampler = torch.where(tokens.usable, tokens.sampler_logprobs, logprobs)
    proximal = logprobs if tokens.proximal_logprobs is None else tokens.proximal_logprobs
    log_ratio = logprobs - (sampler if algorithm.anchor is Anchor.ROLLOUT else proximal)
    match algorithm.level:
        case Level.SEQUENCE_MEAN:
            log_ratio = mean_of_row(log_ratio, tokens.row, tokens.rows)
        case Level.SEQUENCE_SUM:
            log_ratio = sum_of_row(log_ratio, tokens.row, tokens.rows)
    return TokenView(logprobs, proximal, sampler, log_ratio, tokens.advantages, entropy, tokens.row, tokens.rows)


def _sums(loss: Tensor, logprobs: Tensor, tokens: RLTokens, fate: Tensor) -> LossSums:
    usable = tokens.fresh & tokens.usable
    log_ratio = (logprobs - tokens.sampler_logprobs)[usable].double()
    ratio = finite_exp(log_ratio)
    to_reference = torch.zeros((), device=loss.device, dtype=torch.double)
    if tokens.reference_logprobs is not None:
        distance = (tokens.reference_logprobs - logprobs).double()
        to_reference = (finite_exp(distance) - 1 - distance).sum()
    sums = torch.stack(
        [
            loss.double(),
            usable.sum().double(),
            ratio.sum(),
            ratio.square().sum(),
            (ratio > 10).sum().double(),
            (ratio - 1 - log_ratio).sum(),
            to_reference,
        ]
    )
    counts = torch.bincount(fate.int(), minlength=len(TokenFate)).double()
    # One transfer from the device, whatever the number of metrics.
    total, kept, ratios, squares, above, k3, reference_k3, *fates = torch.cat([sums, counts]).tolist()
    return LossSums(total, len(tokens), kept, ratios, squares, above, k3, reference_k3, tuple(fates))
