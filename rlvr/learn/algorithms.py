"""Algorithms as points in one space: an advantage, a ratio, a kernel, a correction, masks, a KL and an aggregation.

Every algorithm here has the gradient of

    L = - sum_t n_t * sg[ keep_t * w_t * G(ratio_t, A_t) - beta * K_t ] * log pi(t)

over the trained tokens t of an optimizer step, where sg stops the gradient. What each factor is, an `Algorithm`
says; `rlvr.learn.loss` computes it; `rlvr.learn.presets` has the published ones by name. An algorithm of your own
is a function in the place of the advantage (`rlvr.learn.own`, `rlvr.train(algorithm=...)`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rlvr.learn.advantage import EQUAL_WITHIN, Advantage
from rlvr.learn.corrections import Correction
from rlvr.learn.kernels import Kernel
from rlvr.learn.kl import KLPenalty, KLTarget
from rlvr.learn.masks import Mask, Scope
from rlvr.learn.own import per_token
from rlvr.types import Group


class Anchor(StrEnum):
    """Whose probability the ratio is taken against."""

    ROLLOUT = "rollout"  # the sampler's own: no extra forward pass
    PROXIMAL = "proximal"  # the learner's, before the first update of the batch


class Level(StrEnum):
    """What one ratio is of."""

    TOKEN = "token"
    SEQUENCE_MEAN = "sequence_mean"  # the geometric mean over the trained tokens of a row
    SEQUENCE_SUM = "sequence_sum"  # their product: the ratio of the whole answer


class Aggregation(StrEnum):
    """How tokens are weighted against each other. Counts are those of the whole optimizer step, of all trained tokens:
    those that a kernel, a mask or their age leaves out shrink the step."""

    TOKEN_MEAN = "token_mean"  # 1 / tokens
    SEQUENCE_MEAN_TOKEN_MEAN = "sequence_mean_token_mean"  # 1 / (rows * tokens of the row)
    SEQUENCE_MEAN_TOKEN_SUM = "sequence_mean_token_sum"  # 1 / rows
    PROMPT_MEAN = "prompt_mean"  # 1 / (groups * tokens of the group)
    CONSTANT = "constant"  # 1 / (rows * longest answer allowed)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """From groups to the weight of each token.

    `max_staleness` is in policy versions; older tokens are masked. `longest_answer` is in tokens, and is the
    constant of `Aggregation.CONSTANT`. Both are the run's, not the algorithm's own.
    """

    advantage: Advantage
    kernel: Kernel
    aggregation: Aggregation
    anchor: Anchor = Anchor.PROXIMAL
    level: Level = Level.TOKEN
    correction: Correction | None = None
    masks: tuple[Mask, ...] = ()
    kl: KLPenalty | None = None
    drop_truncated: bool = False
    max_staleness: int = 0
    longest_answer: int = 1

    def is_flat(self, group: Group) -> bool:
        """Whether no answer of the group is better than another, so that the group has no gradient.

        That is not the same as equal scores: with GDPO, two rewards that differ may have equal sums, and make
        advantages; and they may cancel as advantages though the sums differ.
        """
        weights = zip(group.judged(), self.advantage([group])[0], strict=True)
        return all(
            abs(value) <= EQUAL_WITHIN for trajectory, weight in weights for value in per_token(weight, trajectory)
        )

    @property
    def needs_proximal(self) -> bool:
        """Whether log-probabilities from before the first update of a batch enter the weights."""
        return self.anchor is Anchor.PROXIMAL or self.correction is not None or bool(self.masks)

    @property
    def step_masks(self) -> tuple[Mask, ...]:
        """Masks that need the whole optimizer step at one time: a forward pass more."""
        return tuple(mask for mask in self.masks if mask.scope is Scope.STEP)

    @property
    def row_masks(self) -> tuple[Mask, ...]:
        return tuple(mask for mask in self.masks if mask.scope is Scope.ROW)

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of the model as the run began with it enter the weights."""
        return self.kl is not None and self.kl.target is KLTarget.REFERENCE
