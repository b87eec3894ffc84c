"""KL penalties: what holds a policy near another one, as a weight of each token's gradient.

With d = log(pi / pi_target), the estimators k1 = d, k2 = d^2 / 2 and k3 = exp(-d) - 1 + d (Schulman, "Approximating
KL divergence") all have the right value. Their gradients, put into a loss, have not: that of k1 is zero in
expectation, that of k3 is that of the *forward* KL. r d, with r = pi / pi_sampler, is the gradient of
KL(pi || pi_target) whoever sampled the tokens; k2's is so on policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rlvr.learn.token_view import finite_exp

if TYPE_CHECKING:
    from torch import Tensor


class KLTarget(StrEnum):
    """Which policy holds the trained one."""

    REFERENCE = "reference"  # the model as the run began with it: a second copy, and a forward pass more
    SAMPLER = "sampler"  # the policy that sampled the token


class KLGradient(StrEnum):
    """The weight of a token's gradient, with d = log(pi / pi_target)."""

    UNBIASED = "unbiased"  # r d: the gradient of KL(pi || target), also off policy (DeepSeek-V3.2)
    K2 = "k2"  # d
    K3 = "k3"  # 1 - exp(-d): GRPO as printed; grows without bound where pi is far below the target


@dataclass(frozen=True, slots=True)
class KLPenalty:
    """`beta` times the KL to `target`, in the loss."""

    beta: float
    target: KLTarget
    gradient: KLGradient = KLGradient.UNBIASED

    def weight(self, logprobs: Tensor, target: Tensor, sampler: Tensor) -> Tensor:
        """beta * K_t, to be taken from a token's weight; [N]."""
        distance = logprobs - target
        match self.gradient:
            case KLGradient.UNBIASED:
                weight = finite_exp(logprobs - sampler) * distance
            case KLGradient.K2:
                weight = distance
            case KLGradient.K3:
                weight = 1 - finite_exp(-distance)
        return self.beta * weight
