"""Masks: which tokens are trained at all, beyond those that are too old or have no usable log-probability.

A mask looks at rows, or at the whole optimizer step: a step's mask is computed before its update, in a forward pass
of its own, because what it keeps must not depend on how the step is cut into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

from rlvr.learn.token_view import finite_exp

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.learn.token_view import TokenView


class Scope(StrEnum):
    """What a mask must see at one time."""

    ROW = "row"
    STEP = "step"


class Mask(Protocol):
    """What a mask of one's own must offer."""

    scope: ClassVar[Scope]

    def keep(self, tokens: TokenView) -> Tensor:
        """Tokens that are trained, bool [N]."""
        ...


@dataclass(frozen=True, slots=True)
class GeometricBand:
    """Rows whose geometric mean of w = pi_proximal / pi_sampler lies in [low, high]."""

    scope: ClassVar[Scope] = Scope.ROW
    low: float
    high: float

    def keep(self, tokens: TokenView) -> Tensor:
        mean = finite_exp(tokens.mean_of_row(tokens.log_mismatch))
        return (mean >= self.low) & (mean <= self.high)


@dataclass(frozen=True, slots=True)
class K3Limit:
    """Rows whose mean of w - log w - 1, an estimate of KL(sampler || proximal) a token, is at most `limit` nats."""

    scope: ClassVar[Scope] = Scope.ROW
    limit: float

    def keep(self, tokens: TokenView) -> Tensor:
        log_weight = tokens.log_mismatch
        return tokens.mean_of_row(finite_exp(log_weight) - log_weight - 1) <= self.limit


@dataclass(frozen=True, slots=True)
class OffPolicyWrong:
    """All but rows with A < 0 from which the policy has moved away: mean log(pi_sampler / pi) above `limit` nats.

    Off-policy sequence masking of DeepSeek-V3.2: such a row teaches what the policy no longer does.
    """

    scope: ClassVar[Scope] = Scope.ROW
    limit: float

    def keep(self, tokens: TokenView) -> Tensor:
        left_behind = tokens.mean_of_row(tokens.sampler - tokens.logprobs) > self.limit
        return ~(left_behind & (tokens.advantages < 0))


@dataclass(frozen=True, slots=True)
class SecondMoment:
    """M2PO: the tokens with the largest log(pi / pi_sampler)^2 go, until the mean of the rest is at most `limit`."""

    scope: ClassVar[Scope] = Scope.STEP
    limit: float

    def keep(self, tokens: TokenView) -> Tensor:
        squared = (tokens.logprobs - tokens.sampler).double() ** 2
        ordered, order = squared.sort()
        counts = ordered.new_ones(len(ordered)).cumsum(0)
        # Means of the smallest 1, 2, 3 ... rise, so those that hold the bound come first.
        kept_in_order = ordered.cumsum(0) / counts <= self.limit
        return kept_in_order.new_zeros(len(order)).scatter(0, order, kept_in_order)


@dataclass(frozen=True, slots=True)
class HighestEntropy:
    """The `share` of tokens at which the policy is least sure (arXiv 2506.01939)."""

    scope: ClassVar[Scope] = Scope.STEP
    share: float

    def keep(self, tokens: TokenView) -> Tensor:
        return tokens.entropy >= tokens.entropy.quantile(1 - self.share)


@dataclass(frozen=True, slots=True)
class CovarianceClip:
    """Clip-Cov (arXiv 2505.22617): a random `share` of all tokens, of those whose (A - mean A)(log pi - mean log pi)
    is in [low, high], is not trained: they are what makes entropy fall."""

    scope: ClassVar[Scope] = Scope.STEP
    share: float
    low: float
    high: float

    def keep(self, tokens: TokenView) -> Tensor:
        advantage, logprobs = tokens.advantages, tokens.logprobs
        covariance = (advantage - advantage.mean()) * (logprobs - logprobs.mean())
        candidates = (covariance >= self.low) & (covariance <= self.high)
        # The global random state is part of a checkpoint, so a resumed run draws the same tokens.
        lots = candidates * (logprobs.new_empty(len(logprobs)).uniform_() + 1.0)
        drawn = lots.topk(min(int(self.share * len(lots)), int(candidates.sum()))).indices
        return (~candidates.new_zeros(len(lots))).index_fill(0, drawn, False)
