"""The divergence of the policy from a teacher, on the ids that the teacher was asked about and the tail.

    L = sum_t  w_t * D(p_t, q_t) / N
    D(p, q) = forward * KL(p || a p + (1 - a) q) + reverse * KL(q || b p + (1 - b) q)

p_t is the teacher's distribution in the place of token t and q_t the policy's, over K + 1 outcomes: the ids, and the
tail, which is all other tokens together. N counts the tokens of the whole optimizer step that have a weight. Merging
outcomes never raises a divergence, so D is at most that over the whole vocabulary, at least 0, and 0 for equal
distributions. Without the tail none of this would hold: the policy could move there what the teacher has not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlvr.learn.streams import KLTokens

# The tail has at least this probability: what is smaller is rounding of the others' sum.
LEAST_TAIL = 1e-7


def divergence_loss(at: Tensor, tokens: KLTokens) -> Tensor:
    """A micro-batch's part of L, a scalar. `at` [N, K], what the policy says of the ids, carries the gradient."""
    return (tokens.weights * divergences(at, tokens)).sum() / max(tokens.count, 1)


def divergences(at: Tensor, tokens: KLTokens) -> Tensor:
    """D of each token, [N], in nats."""
    log_p = with_tail(tokens.logprobs)
    log_q = with_tail(torch.where(tokens.known, at, tokens.logprobs))
    forward, reverse, forward_mix, reverse_mix = tokens.divergence.unsqueeze(-1).unbind(1)
    to_forward = torch.logaddexp(log_p + forward_mix.log(), log_q + (-forward_mix).log1p())
    to_reverse = torch.logaddexp(log_p + reverse_mix.log(), log_q + (-reverse_mix).log1p())
    each = forward * log_p.exp() * (log_p - to_forward) + reverse * log_q.exp() * (log_q - to_reverse)
    return each.sum(1)


def with_tail(logprobs: Tensor) -> Tensor:
    """Log-probabilities [N, K], and in one column more that of everything else, [N, K + 1]."""
    total = logprobs.logsumexp(1, keepdim=True).clamp(max=-LEAST_TAIL)
    return torch.cat([logprobs, (-torch.expm1(total)).log()], dim=1)
