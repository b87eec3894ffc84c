"""What became of one batch: the numbers that logs show, and what happened to each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlvr.types import TokenFate, TrajectoryKey


@dataclass(frozen=True, slots=True)
class LearnerReport:
    """What became of one batch.

    All is of the policy before each update. `loss` is the sum of the streams' losses; that of `rl` is a sum of weighted
    log-probabilities, whose gradient is the objective's but whose value is not. `entropy` (nats) is a mean over trained
    tokens, `cross_entropy` and `divergence` (nats, times their weights) over those with such a stream; None for none.

    Of tokens with an `rl` stream are `mismatch_kl` (k3 estimate of KL(sampler || learner), nats), `reference_kl` (the
    same of KL(learner || reference); None without a reference), `mean_ratio` (learner / sampler),
    `ratio_above_10_share`, `ess`, the effective sample size as a share of them, and `shares`, by fate, but for
    TRUNCATED, which is of rows. `token_fates` has a `TokenFate` for each sampled token of a row. `grad_norm` is the
    largest finite one over the batch's updates, those left out included, before scaling down; `grad_norm_limit` is what
    the guard held the first against, infinity while there is nothing to compare with. `skipped` says why updates were
    left out, and `skipped_in_a_row` of how many batches now all were. `max_logit` is the largest attention logit of any
    head (a bound, unless it is over the limit), and `clipped_heads` how many were scaled down; None where neither is
    watched. `expert_load` has the metrics of `rlvr.learn.experts`.
    """

    version: int
    loss: float
    grad_norm: float
    grad_norm_limit: float
    learning_rate: float
    entropy: float
    mismatch_kl: float
    reference_kl: float | None
    mean_ratio: float
    ratio_above_10_share: float
    ess: float
    cross_entropy: float | None
    divergence: float | None
    shares: Mapping[TokenFate, float]
    trained_tokens: int
    updates: int
    seconds: float
    skipped: tuple[str, ...]
    skipped_in_a_row: int
    max_logit: float | None
    clipped_heads: int | None
    token_fates: Mapping[TrajectoryKey, bytes]
    expert_load: Mapping[str, float]

    def metrics(self) -> dict[str, float]:
        """By the names they have in logs."""
        of_tokens = (TokenFate.BOUNDED, TokenFate.CORRECTED, TokenFate.MASKED, TokenFate.UNUSABLE, TokenFate.STALE)
        metrics = {
            "learner/loss": self.loss,
            "learner/grad_norm": self.grad_norm,
            "learner/learning_rate": self.learning_rate,
            "learner/entropy": self.entropy,
            "learner/trained_tokens": float(self.trained_tokens),
            "learner/updates": float(self.updates),
            "learner/skipped_updates": float(len(self.skipped)),
            "learner/seconds": self.seconds,
            "learner/mismatch_kl": self.mismatch_kl,
            "learner/mean_ratio": self.mean_ratio,
            "learner/ratio_above_10_share": self.ratio_above_10_share,
            "learner/effective_sample_size": self.ess,
            "learner/masked_share": sum(self.shares[fate] for fate in of_tokens),
            **{f"masked/{fate.name.lower()}_share": self.shares[fate] for fate in of_tokens},
            "masked/truncated_rows_share": self.shares[TokenFate.TRUNCATED],
        }
        not_always = {
            "learner/reference_kl": self.reference_kl,
            "learner/cross_entropy": self.cross_entropy,
            "learner/divergence": self.divergence,
            "attention/max_logit": self.max_logit,
            "attention/clipped_heads": self.clipped_heads,
        }
        known = {name: float(value) for name, value in not_always.items() if value is not None}
        return {**metrics, **known, **self.expert_load}
