"""Kernels: what the gradient of a token's log-probability is multiplied by, given its ratio and advantage.

A paper prints an objective such as `min(ratio * A, clip(ratio) * A)`. Its gradient is a weight times
`grad log pi`, and the weight is all a learner needs; a kernel is that weight. Below, r is the token's ratio
pi / pi_anchor at the algorithm's level, and A its advantage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlvr.learn.token_view import finite_exp

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.learn.token_view import TokenView


class Kernel(Protocol):
    """What an algorithm of one's own must offer."""

    def weight(self, tokens: TokenView) -> Tensor:
        """The weight of each token, shape [N]."""
        ...

    def outside(self, tokens: TokenView) -> Tensor:
        """Tokens that the kernel's bounds act on, bool [N]. Says why a token was not trained, or not fully."""
        ...


class _Unbounded:
    """Of kernels without bounds."""

    def outside(self, tokens: TokenView) -> Tensor:
        return tokens.log_ratio.isnan()  # none: log-ratios are finite


@dataclass(frozen=True, slots=True)
class Reinforce(_Unbounded):
    """`A`: the policy gradient itself, right for tokens of the current policy."""

    def weight(self, tokens: TokenView) -> Tensor:
        return tokens.advantages


@dataclass(frozen=True, slots=True)
class ImportanceSampling(_Unbounded):
    """`r A`: unbiased for tokens of the anchor, with nothing against a few large ratios."""

    def weight(self, tokens: TokenView) -> Tensor:
        return tokens.ratio * tokens.advantages


@dataclass(frozen=True, slots=True)
class PPOClip:
    """`r A`, and 0 once r has left [1 - low, 1 + high] in the direction the advantage pushes (arXiv 1707.06347).

    `dual` also ends the gradient of a token with A < 0 whose r is above it (dual clip, arXiv 1912.09729).
    """

    low: float
    high: float
    dual: float = math.inf

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high > 0):
            raise ValueError(f"PPOClip needs 0 <= low <= 1 and high > 0; got low={self.low}, high={self.high}")
        if not self.dual > 1:
            raise ValueError(f"PPOClip needs dual > 1, where an unchanged policy lies below it; got {self.dual}")

    def weight(self, tokens: TokenView) -> Tensor:
        return (tokens.ratio * tokens.advantages).masked_fill(self.outside(tokens), 0.0)

    def outside(self, tokens: TokenView) -> Tensor:
        ratio, advantage = tokens.ratio, tokens.advantages
        too_likely = (advantage > 0) & (ratio > 1 + self.high)
        too_unlikely = (advantage < 0) & ((ratio < 1 - self.low) | (ratio > self.dual))
        return too_likely | too_unlikely


@dataclass(frozen=True, slots=True)
class CISPO:
    """`clip(r, 1 - low, 1 + high) A` (arXiv 2506.13585): no token loses its gradient. low=1 is no lower bound."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high > 0):
            raise ValueError(f"CISPO needs 0 <= low <= 1 and high > 0; got low={self.low}, high={self.high}")

    def weight(self, tokens: TokenView) -> Tensor:
        return tokens.ratio.clamp(1 - self.low, 1 + self.high) * tokens.advantages

    def outside(self, tokens: TokenView) -> Tensor:
        return (tokens.ratio < 1 - self.low) | (tokens.ratio > 1 + self.high)


@dataclass(frozen=True, slots=True)
class Band:
    """`r A` while low < r < high, else 0, whatever the sign of A. The bounds are of the ratio itself."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1 < self.high:
            raise ValueError(f"Band needs 0 <= low < 1 < high; got low={self.low}, high={self.high}")

    def weight(self, tokens: TokenView) -> Tensor:
        return (tokens.ratio * tokens.advantages).masked_fill(self.outside(tokens), 0.0)

    def outside(self, tokens: TokenView) -> Tensor:
        return (tokens.ratio <= self.low) | (tokens.ratio >= self.high)


@dataclass(frozen=True, slots=True)
class SoftGate(_Unbounded):
    """`4 s (1 - s) r A` with s = sigmoid(tau (r - 1)): SAPO's bounds without an edge (arXiv 2511.20347).

    tau is `positive` where A > 0 and `negative` elsewhere: a larger one closes sooner.
    """

    positive: float
    negative: float

    def weight(self, tokens: TokenView) -> Tensor:
        ratio, advantage = tokens.ratio, tokens.advantages
        tau = _by_sign(advantage, self.positive, self.negative)
        gate = (tau * (ratio - 1)).sigmoid()
        return 4 * gate * (1 - gate) * ratio * advantage


@dataclass(frozen=True, slots=True)
class TotalVariation:
    """`r A`, and 0 once pi has left pi_anchor by more than a probability of `low` or `high`, as A pushes (DPPO).

    A ratio says little of a rare token; a difference of probabilities is what the total variation sums.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 < self.low <= 1 and 0 < self.high <= 1):
            raise ValueError(f"TotalVariation needs bounds in (0, 1]; got low={self.low}, high={self.high}")

    def weight(self, tokens: TokenView) -> Tensor:
        return (tokens.ratio * tokens.advantages).masked_fill(self.outside(tokens), 0.0)

    def outside(self, tokens: TokenView) -> Tensor:
        probability = tokens.logprobs.exp()
        moved = probability - probability / tokens.ratio
        return ((tokens.advantages > 0) & (moved > self.high)) | ((tokens.advantages < 0) & (-moved > self.low))


@dataclass(frozen=True, slots=True)
class GeometricClip:
    """GMPO (arXiv 2507.20673): A times the geometric mean of a row's clipped ratios, for tokens that are not clipped.

    `low` and `high` bound the log-ratio, each against the direction in which A pushes. The level must be the token.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.low > 0 and self.high > 0):
            raise ValueError(f"GeometricClip needs low > 0 and high > 0; got low={self.low}, high={self.high}")

    def weight(self, tokens: TokenView) -> Tensor:
        log_ratio = tokens.log_ratio
        capped = log_ratio.clamp(max=self.high).where(tokens.advantages > 0, log_ratio.clamp(min=-self.low))
        mean = finite_exp(tokens.mean_of_row(capped))
        return (mean * tokens.advantages).masked_fill(self.outside(tokens), 0.0)

    def outside(self, tokens: TokenView) -> Tensor:
        too_likely = (tokens.advantages > 0) & (tokens.log_ratio > self.high)
        too_unlikely = (tokens.advantages <= 0) & (tokens.log_ratio < -self.low)
        return too_likely | too_unlikely


@dataclass(frozen=True, slots=True)
class VESPO(_Unbounded):
    """`exp(rate (1 - r)) r^power A`: a weight of the whole row's ratio that is largest near 1 and ends by itself.

    `power` and `rate` are the positive ones where A > 0. The level must be the sum over the sequence.
    """

    power_positive: float
    rate_positive: float
    power_negative: float
    rate_negative: float

    def weight(self, tokens: TokenView) -> Tensor:
        power = _by_sign(tokens.advantages, self.power_positive, self.power_negative)
        rate = _by_sign(tokens.advantages, self.rate_positive, self.rate_negative)
        return (rate * (1 - tokens.ratio) + power * tokens.log_ratio).exp() * tokens.advantages


@dataclass(frozen=True, slots=True)
class MirrorDescent(_Unbounded):
    """`A - tau log r`: Kimi's policy mirror descent, whose loss is (A - tau log r)^2 / (2 tau) (arXiv 2501.12599).

    The level must be the sum over the sequence.
    """

    tau: float

    def weight(self, tokens: TokenView) -> Tensor:
        return tokens.advantages - self.tau * tokens.log_ratio


def _by_sign(advantage: Tensor, positive: float, negative: float) -> Tensor:
    """`positive` where the advantage is above 0, `negative` elsewhere; [N]."""
    return advantage.new_full((), positive).where(advantage > 0, advantage.new_full((), negative))
