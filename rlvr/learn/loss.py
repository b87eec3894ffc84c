"""The loss of a micro-batch, in weight form.

    L = - sum_t  n_t * sg[ keep_t * w_t * G(ratio_t, A_t) ] * log pi(t)

    ratio_t = pi(t) / pi_anchor(t), of the token or as a geometric mean over its row
    G       = the kernel                          w_t = min(pi_proximal(t) / pi_sampler(t), cap), or 1
    keep_t  = young enough, and its sampler log-probability finite
    n_t     = the token's share, fixed for the whole optimizer step

The value of L is not that of the objective a paper prints; its gradient is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.learn.algorithms import Algorithm, Anchor, Level
from rlvr.learn.streams import TokenStreams

# exp(20) is finite in every number format, and no algorithm's bounds are near it.
LARGEST_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """The detached weight of each token, and what the kernel's bounds acted on. Tensors of shape [N]."""

    weight: Tensor
    keep: Tensor
    outside: Tensor


@dataclass(slots=True)
class LossSums:
    """Sums over tokens, from which the metrics of a batch are made. They add up over micro-batches.

    `ratio` is pi_learner / pi_sampler, summed over the kept tokens, as are its square and `k3 = ratio - 1 - log
    ratio`, whose mean estimates KL(sampler || learner) (Schulman, "Approximating KL divergence").
    """

    loss: float = 0.0
    tokens: float = 0.0
    kept: float = 0.0
    stale: float = 0.0
    unusable: float = 0.0
    outside: float = 0.0
    entropy: float = 0.0
    ratio: float = 0.0
    ratio_squared: float = 0.0
    k3: float = 0.0

    def add(self, other: LossSums) -> None:
        self.loss += other.loss
        self.tokens += other.tokens
        self.kept += other.kept
        self.stale += other.stale
        self.unusable += other.unusable
        self.outside += other.outside
        self.entropy += other.entropy
        self.ratio += other.ratio
        self.ratio_squared += other.ratio_squared
        self.k3 += other.k3


def policy_loss(
    algorithm: Algorithm, logprobs: Tensor, entropy: Tensor, tokens: TokenStreams
) -> tuple[Tensor, LossSums]:
    """The micro-batch's part of L, a scalar to call `backward` on, and its sums.

    `logprobs` [N] carry the gradient; `entropy` [N] is a metric.
    """
    current = logprobs.detach()
    weights = token_weights(algorithm, current, tokens)
    loss = -(tokens.scale * weights.weight * logprobs).sum()
    return loss, _sums(loss.detach(), current, entropy, tokens, weights)


def token_weights(algorithm: Algorithm, logprobs: Tensor, tokens: TokenStreams) -> TokenWeights:
    """c_t = keep_t * w_t * G(ratio_t, A_t), from detached log-probabilities [N]."""
    keep = tokens.fresh & tokens.usable
    sampler = torch.where(tokens.usable, tokens.sampler_logprobs, logprobs)
    proximal = logprobs if tokens.proximal_logprobs is None else tokens.proximal_logprobs
    anchor = sampler if algorithm.anchor is Anchor.ROLLOUT else proximal

    log_ratio = clamped(logprobs - anchor)
    if algorithm.level is Level.SEQUENCE_MEAN:
        log_ratio = mean_of_row(log_ratio, tokens.row)
    ratio = log_ratio.exp()

    weight = algorithm.kernel.weight(ratio, tokens.advantages)
    if algorithm.correction is not None:
        weight = weight * clamped(proximal - sampler).exp().clamp(max=algorithm.correction.cap)
    return TokenWeights(
        weight=torch.where(keep, weight, 0.0),
        keep=keep,
        outside=keep & algorithm.kernel.outside(ratio, tokens.advantages),
    )


def clamped(log_ratio: Tensor) -> Tensor:
    """A log-ratio whose exponential is finite."""
    return log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def mean_of_row(values: Tensor, row: Tensor) -> Tensor:
    """Each token's value replaced by the mean over its row; a row's tokens are all here."""
    rows, place = torch.unique(row, return_inverse=True)
    zeros = torch.zeros(len(rows), dtype=values.dtype, device=values.device)
    return (zeros.index_add(0, place, values) / zeros.index_add(0, place, torch.ones_like(values)))[place]


def _sums(loss: Tensor, logprobs: Tensor, entropy: Tensor, tokens: TokenStreams, weights: TokenWeights) -> LossSums:
    keep = weights.keep
    log_ratio = clamped(logprobs - tokens.sampler_logprobs)[keep].double()
    ratio = log_ratio.exp()
    sums = torch.stack(
        [
            loss.double(),
            keep.sum().double(),
            (~tokens.fresh).sum().double(),
            (~tokens.usable).sum().double(),
            weights.outside.sum().double(),
            entropy.double().sum(),
            ratio.sum(),
            ratio.square().sum(),
            (ratio - 1 - log_ratio).sum(),
        ]
    )
    # One transfer from the device, whatever the number of metrics.
    total, kept, stale, unusable, outside, entropies, ratios, squares, k3 = sums.tolist()
    return LossSums(
        loss=total,
        tokens=len(tokens),
        kept=kept,
        stale=stale,
        unusable=unusable,
        outside=outside,
        entropy=entropies,
        ratio=ratios,
        ratio_squared=squares,
        k3=k3,
    )
