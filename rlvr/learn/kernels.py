"""Kernels: what the gradient of a token's log-probability is multiplied by, given its ratio and advantage.

A paper prints an objective such as `min(ratio * A, clip(ratio) * A)`. Its gradient is a weight times
`grad log pi`, and the weight is all a learner needs; a kernel is that weight. `ratio` is pi / pi_anchor,
`advantage` the token's advantage; both have shape [N], and are free of gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a process that makes rows needs an algorithm, and should not have to load torch
    from torch import Tensor


class Kernel(Protocol):
    """What an algorithm of one's own must offer."""

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """The weight of each token, shape [N]."""
        ...

    def outside(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """Tokens that the kernel's bounds act on, bool [N]. A metric only."""
        ...


@dataclass(frozen=True, slots=True)
class Reinforce:
    """`A`: the policy gradient itself, right for tokens of the current policy."""

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return advantage

    def outside(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return ratio < 0  # no ratio is: there are no bounds


@dataclass(frozen=True, slots=True)
class PPOClip:
    """`ratio * A`, and 0 once the ratio has left [1 - low, 1 + high] in the direction the advantage pushes."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high > 0):
            raise ValueError(f"PPOClip needs 0 <= low <= 1 and high > 0; got low={self.low}, high={self.high}")

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return (ratio * advantage).masked_fill(self.outside(ratio, advantage), 0.0)

    def outside(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        too_likely = (advantage > 0) & (ratio > 1 + self.high)
        too_unlikely = (advantage < 0) & (ratio < 1 - self.low)
        return too_likely | too_unlikely


@dataclass(frozen=True, slots=True)
class CISPO:
    """`clip(ratio, 1 - low, 1 + high) * A` (arXiv 2506.13585): no token loses its gradient. low=1 is no lower bound."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high > 0):
            raise ValueError(f"CISPO needs 0 <= low <= 1 and high > 0; got low={self.low}, high={self.high}")

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return ratio.clamp(1 - self.low, 1 + self.high) * advantage

    def outside(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return (ratio < 1 - self.low) | (ratio > 1 + self.high)


@dataclass(frozen=True, slots=True)
class Band:
    """`ratio * A` while low < ratio < high, else 0, whatever the sign of A. The bounds are of the ratio itself."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1 < self.high:
            raise ValueError(f"Band needs 0 <= low < 1 < high; got low={self.low}, high={self.high}")

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return (ratio * advantage).masked_fill(self.outside(ratio, advantage), 0.0)

    def outside(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return (ratio <= self.low) | (ratio >= self.high)
