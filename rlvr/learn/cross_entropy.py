"""The cross-entropy of given tokens: supervised fine-tuning, alone or beside reinforcement learning.

    L = - sum_t  w_t * log pi(t) / N

with w_t a token's weight and N the number of tokens of the whole optimizer step that have one, so that equal
weights of 1 make the mean over tokens.
"""

from __future__ import annotations

from torch import Tensor

from rlvr.learn.streams import CETokens


def cross_entropy(logprobs: Tensor, tokens: CETokens) -> Tensor:
    """A micro-batch's part of L, a scalar. `logprobs` [N] carry the gradient."""
    return -(tokens.weights * logprobs).sum() / max(tokens.count, 1)
