"""What a token's advantage is made of where peers teach each other. Pure functions, one for each factor.

On the answers of peer i, with l the log-probability of a sampled token:

    A      = (1 - alpha) hard + alpha kappa soft
    hard   = the verifier's advantage, as in GRPO
    soft   = sum_j w_j clip(l_j - l_i, -c, c)                 or a loss, alpha kappa sum_j w_j D(i, j)
    a_j    = s(t) o_j h_j(x) d_j                              how far peer j is followed here
    alpha  = the mean of a_j, w_j = a_j / sum_j a_j           over the peers j with a_j > 0

s is the schedule, o the overlap of what both think likely, h the verifier's word on who is better at prompt x, and d
the age of the peer's weights. With one peer alpha is its a_j, and w is 1. The expected gradient of `soft` is that of
-KL(i || j): agreement of any kind is a fixed point of it, which is why the verifier keeps at least 0.3 of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlvr.learn.divergence import LEAST_TAIL

# (1 - alpha) of the verifier's word must stay: two peers that only imitate each other can agree on anything.
HIGHEST_ALPHA = 0.7

# Above this overlap, and with equal pass rates, peers have nothing left to tell each other.
_MERGED = 0.99

Tokens = NDArray[np.floating]


def schedule(progress: float, alpha_max: float, burn_in: float, ramp: float, fade: float) -> float:
    """s(t): 0 over `burn_in`, a straight line over `ramp`, then `alpha_max`, a cosine to 0 over the last `fade`.

    `progress` and the three spans are shares of the run, in [0, 1]. Burn-in: Anil et al. 2018 (arXiv 1804.03235).
    """
    if progress < burn_in:
        return 0.0
    if progress < burn_in + ramp:
        return alpha_max * (progress - burn_in) / ramp
    if progress <= 1 - fade:
        return alpha_max
    return alpha_max * (1 + math.cos(math.pi * (progress - (1 - fade)) / fade)) / 2


def overlap(own: NDArray[np.int32], peer: NDArray[np.int32]) -> NDArray[np.float64]:
    """Share of the K likeliest ids that two policies have in common, [N], from their ids, [N, K] each."""
    common = (own[:, :, None] == peer[:, None, :]).any(-1)
    return common.mean(-1)


def overlap_gate(share: float, low: float, high: float, gap: float, delta: float) -> float:
    """o: 0 up to `low`, 1 from `high`; 0 as well where the peers have merged.

    A peer whose thinking is too different teaches nothing (arXiv 2604.13016, 2604.27083). `gap` is the peer's pass rate
    less one's own.
    """
    if share > _MERGED and abs(gap) < delta:
        return 0.0
    return min(max((share - low) / (high - low), 0.0), 1.0)


def is_ahead(own_average: float | None, peer_average: float | None, delta: float) -> bool:
    """Whether the peer is the better one at such prompts: by the moving averages of both pass rates."""
    return own_average is not None and peer_average is not None and peer_average > own_average + delta


def verifier_gate(own: float, peer: float | None, ahead: bool, delta: float) -> float:
    """h: 1 where the verifier says that the peer is better at a prompt, else 0.

    `own` and `peer` are pass rates on this very prompt; a peer that solves what one never does counts however seldom it
    does, and so does one that is ahead at such prompts and not behind here. `peer` is None where the peer has not
    rolled it out: then it is enough to be ahead. A peer that never solves a prompt is not heard there, so two peers do
    not confirm each other in a mistake that both make.
    """
    if peer is None:
        return float(ahead)
    return float(peer > own + delta or (peer > 0 and (own == 0 or (ahead and peer >= own))))


def staleness(age: float, half_life: float, highest: float) -> float:
    """d: halves every `half_life` steps of the peer, 0 beyond `highest`."""
    return 0.0 if age > highest else 2.0 ** (-age / half_life)


def soft(peer: Tokens, own: Tokens, clip: float) -> Tokens:
    """`clip(l_j - l_i)` of each token, [N], in nats. No gradient flows through either."""
    return np.clip(peer - own, -clip, clip)


def mixed(hard: Tokens, softs: Sequence[Tokens], followed: Sequence[float], kappa: float) -> Tokens:
    """A, [N]: the verifier's advantage and what peers say, each followed as far as its a_j allows."""
    usable = [(a, of_peer) for a, of_peer in zip(followed, softs, strict=True) if a > 0]
    if not usable:
        return hard
    told = sum(a * of_peer for a, of_peer in usable)
    return (1 - alpha(followed)) * hard + kappa * told / len(usable)


def geometric_mean(logprobs: Sequence[Tokens], followed: Sequence[float]) -> Tokens:
    """One distribution p with KL(i || p) = sum_j w_j KL(i || j) + const, from the peers' at the same ids, [N, K] each.

    It is over the ids and, as one outcome more, what is left to all others.
    """
    whole = sum(a * _with_tail(of_peer) for a, of_peer in zip(followed, logprobs, strict=True)) / sum(followed)
    return (whole - np.logaddexp.reduce(whole, axis=1, keepdims=True))[:, :-1]


def arithmetic_mean(
    ids: Sequence[NDArray[np.int32]], logprobs: Sequence[Tokens], followed: Sequence[float]
) -> tuple[NDArray[np.int32], Tokens]:
    """One distribution p with KL(p || i) = sum_j w_j KL(j || i) + const: ids and log-probabilities, [N, at most all K].

    Each peer names its own ids, [N, K]; what it says of another's is in its tail, and counts as 0.
    """
    if len(ids) == 1:
        return ids[0], logprobs[0]
    every = np.concatenate(ids, axis=1)
    shares = [a / sum(followed) * np.exp(of_peer) for a, of_peer in zip(followed, logprobs, strict=True)]
    probabilities = np.concatenate(shares, axis=1)
    pooled_ids, pooled = np.full_like(every, -1), np.zeros(every.shape)
    for token in range(len(every)):
        known, place = np.unique(every[token], return_inverse=True)
        pooled_ids[token, : len(known)] = known
        pooled[token, : len(known)] = np.bincount(place, weights=probabilities[token])
    return pooled_ids, np.log(pooled, out=np.zeros_like(pooled), where=pooled > 0)


def _with_tail(logprobs: Tokens) -> Tokens:
    left = np.maximum(1 - np.exp(logprobs.astype(np.float64)).sum(1, keepdims=True), LEAST_TAIL)
    return np.concatenate([logprobs, np.log(left)], axis=1)


def alpha(followed: Sequence[float]) -> float:
    """The mean of the a_j above 0; 0 where there is none."""
    usable = [a for a in followed if a > 0]
    return sum(usable) / len(usable) if usable else 0.0


def rms(values: Tokens) -> float:
    """Root of the mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
