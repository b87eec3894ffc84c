"""Corrections: a token's weight for the difference between the policy that sampled it and the one before this batch.

With w = pi_proximal / pi_sampler, the ratio pi / pi_sampler is r w: the kernel bounds r, the correction bounds w.
A weight of 0 leaves the token out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlvr.learn.token_view import finite_exp

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.learn.token_view import TokenView


class Correction(Protocol):
    """What a correction of one's own must offer."""

    def weight(self, tokens: TokenView) -> Tensor:
        """The factor of each token, shape [N], not negative."""
        ...


@dataclass(frozen=True, slots=True)
class TIS:
    """Truncated importance sampling, `min(w, cap)`: no token is lost, none counts more than `cap` times."""

    cap: float

    def weight(self, tokens: TokenView) -> Tensor:
        return finite_exp(tokens.log_mismatch).clamp(max=self.cap)


@dataclass(frozen=True, slots=True)
class IcePop:
    """`w` while low <= w <= high, else 0: what sampler and learner disagree on is left out."""

    low: float
    high: float

    def weight(self, tokens: TokenView) -> Tensor:
        weight = finite_exp(tokens.log_mismatch)
        return weight.masked_fill((weight < self.low) | (weight > self.high), 0.0)


@dataclass(frozen=True, slots=True)
class SequenceMIS:
    """`W` where W, the product of w over the row, is at most `cap`, else 0: masked importance sampling."""

    cap: float

    def weight(self, tokens: TokenView) -> Tensor:
        weight = finite_exp(tokens.sum_of_row(tokens.log_mismatch))
        return weight.masked_fill(weight > self.cap, 0.0)
