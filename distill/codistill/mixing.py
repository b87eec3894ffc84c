"""What peers say of a row, made into what the row trains, beside the verifier's word on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlvr.distill.codistill.plan import PeerSignal
from rlvr.distill.codistill.weights import Tokens, alpha, arithmetic_mean, geometric_mean, mixed, soft
from rlvr.distill.signals import first_trained, kl_stream
from rlvr.types import Divergence, Row, TokenScores


@dataclass(frozen=True, slots=True)
class Word:
    """What a peer says of one row's tokens, from the first trained on, and how far it is followed there."""

    followed: float
    scores: TokenScores


def hard(row: Row) -> Tokens:
    """The verifier's advantage of each token."""
    assert row.rl is not None, "rows of a policy's own answers have an rl stream"
    return np.asarray(row.rl.advantages)


def softs(row: Row, words: Sequence[Word], clip: float) -> list[Tokens]:
    """Each peer's word on the sampled tokens, from the first trained on; 0 where a token is not trained."""
    assert row.rl is not None
    first = first_trained(row)
    own, trained = np.asarray(row.rl.sampler_logprobs[first:]), row.trained[first:]
    return [np.where(trained, soft(word.scores.logprobs, own, clip), 0.0) for word in words]


def with_advantages(row: Row, words: Sequence[Word], clip: float, kappa: float) -> Row:
    """A row whose advantages are the verifier's and the peers'."""
    assert row.rl is not None
    first = first_trained(row)
    told = mixed(hard(row)[first:], softs(row, words, clip), [word.followed for word in words], kappa)
    advantages: list[float] = [*row.rl.advantages[:first], *told.tolist()]
    return replace(row, rl=replace(row.rl, advantages=advantages))


def with_divergences(
    rows: Sequence[Row], words: Mapping[int, Sequence[Word]], signal: PeerSignal, kappa: float
) -> list[Row]:
    """The rows with less of the verifier's advantages, and a divergence from the peers in the place of what is missing.

    A learner normalises each loss by its own tokens. With these weights a token's divergence counts as much as its
    advantage does among all tokens of the step.
    """
    tokens = [sum(row.trained) for row in rows]
    share = sum(tokens[place] for place in words) / max(sum(tokens), 1)
    return [
        _with_divergence(row, words[place], signal, kappa * share) if place in words else row
        for place, row in enumerate(rows)
    ]


def _with_divergence(row: Row, words: Sequence[Word], signal: PeerSignal, scale: float) -> Row:
    assert row.rl is not None
    followed = [word.followed for word in words]
    ids, logprobs = [word.scores.ids for word in words], [word.scores.id_logprobs for word in words]
    if signal is PeerSignal.STUDENT_TOPK:
        divergence, pooled = Divergence.reverse_kl(), (ids[0], geometric_mean(logprobs, followed))
    else:
        divergence, pooled = Divergence.forward_kl(), arithmetic_mean(ids, logprobs, followed)
    peers = replace(words[0].scores, ids=pooled[0], id_logprobs=pooled[1])
    stream = kl_stream(row, peers, divergence)
    weights = [alpha(followed) * scale * weight for weight in stream.weights]
    advantages: list[float] = ((1 - alpha(followed)) * hard(row)).tolist()
    return replace(row, rl=replace(row.rl, advantages=advantages), kl=replace(stream, weights=weights))


def shares(rows: Sequence[Row], words: Mapping[int, Sequence[Word]]) -> dict[str, float]:
    """Means over the step: alpha over its trained tokens, and the share of its rows that a peer taught."""
    tokens = [sum(row.trained) for row in rows]
    alphas = [alpha([word.followed for word in words.get(place, ())]) for place in range(len(rows))]
    whole = sum(tokens)
    return {
        "codistill/alpha": sum(n * a for n, a in zip(tokens, alphas, strict=True)) / whole if whole else 0.0,
        "codistill/taught_share": len(words) / len(rows) if rows else 0.0,
    }
