"""Algorithms as points in one space: an advantage, a ratio, a kernel, a correction, masks and an aggregation.

Every algorithm here has the gradient of

    L = - sum_t n_t * sg[ keep_t * w_t * G(ratio_t, A_t) ] * log pi(t)

over the trained tokens t of an optimizer step, where sg stops the gradient. What each factor is, an `Algorithm`
says; `rlvr.learn.loss` computes it. An algorithm of your own is an `Algorithm` with your own advantage function
or `Kernel`, given to `Learner` and to `rows_from`.

The presets follow the papers, with one exception: there is no reference model in this version, so `grpo` is
GRPO with beta = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rlvr.config import AlgorithmConfig
from rlvr.learn.advantage import EQUAL_WITHIN, Advantage, group_mean, group_std, rloo
from rlvr.learn.gdpo import GDPO
from rlvr.learn.kernels import CISPO, Band, Kernel, PPOClip, Reinforce
from rlvr.types import FinishReason, Group, Row, Trajectory


class Anchor(StrEnum):
    """Whose probability the ratio is taken against."""

    ROLLOUT = "rollout"  # the sampler's own: no extra forward pass
    PROXIMAL = "proximal"  # the learner's, before the first update of the batch


class Level(StrEnum):
    """What one ratio is of."""

    TOKEN = "token"
    SEQUENCE_MEAN = "sequence_mean"  # the geometric mean over the trained tokens of a row


class Aggregation(StrEnum):
    """How tokens are weighted against each other. Counts are those of the whole optimizer step."""

    TOKEN_MEAN = "token_mean"  # 1 / tokens
    SEQUENCE_MEAN_TOKEN_MEAN = "sequence_mean_token_mean"  # 1 / (rows * tokens of the row)
    SEQUENCE_MEAN_TOKEN_SUM = "sequence_mean_token_sum"  # 1 / rows
    CONSTANT = "constant"  # 1 / (rows * longest answer allowed)


class Denominator(StrEnum):
    """Which tokens an aggregation counts. Tokens that a kernel masks always count: the mask shrinks the step."""

    TRAINED = "trained"  # every trained token of the rows
    KEPT = "kept"  # of these, without the stale ones and those without a usable sampler log-probability


@dataclass(frozen=True, slots=True)
class TIS:
    """Truncated importance sampling: the token's weight is multiplied by `min(pi_proximal / pi_sampler, cap)`."""

    cap: float


@dataclass(frozen=True, slots=True)
class Algorithm:
    """From groups to the weight of each token.

    `max_staleness` is in policy versions; older tokens are masked. `longest_answer` is in tokens, and is the
    constant of `Aggregation.CONSTANT`. `gdpo`, where it is set, makes the advantages in place of `advantage`.
    """

    advantage: Advantage
    kernel: Kernel
    aggregation: Aggregation
    max_staleness: int
    longest_answer: int
    anchor: Anchor = Anchor.PROXIMAL
    level: Level = Level.TOKEN
    correction: TIS | None = None
    drop_truncated: bool = False
    denominator: Denominator = Denominator.TRAINED
    gdpo: GDPO | None = None

    def advantages(self, groups: Sequence[Group]) -> list[list[float]]:
        """For each group of an optimizer step, one per trajectory that has a verdict, in order."""
        if self.gdpo is not None:
            return self.gdpo.of_step(groups)
        return [self.advantage(group.values()) for group in groups]

    def is_flat(self, group: Group) -> bool:
        """Whether no answer of the group is better than another, so that the group has no gradient.

        With GDPO that is not the same as equal scores: two rewards that differ may have equal sums, and make
        advantages; and they may cancel as advantages though the sums differ.
        """
        advantages = self.gdpo.of_group(group) if self.gdpo is not None else self.advantage(group.values())
        return all(abs(advantage) <= EQUAL_WITHIN for advantage in advantages)

    @property
    def needs_proximal(self) -> bool:
        """Whether log-probabilities from before the first update of a batch enter the weights."""
        return self.anchor is Anchor.PROXIMAL or self.correction is not None


ADVANTAGES: dict[str, Advantage] = {"group_mean": group_mean, "group_std": group_std, "rloo": rloo}


def preset(name: str, max_staleness: int, longest_answer: int) -> Algorithm:
    """A published algorithm, by the name it has in a config."""

    def algorithm(
        advantage: Advantage,
        kernel: Kernel,
        aggregation: Aggregation,
        anchor: Anchor = Anchor.PROXIMAL,
        level: Level = Level.TOKEN,
        drop_truncated: bool = False,
    ) -> Algorithm:
        return Algorithm(
            advantage=advantage,
            kernel=kernel,
            aggregation=aggregation,
            max_staleness=max_staleness,
            longest_answer=longest_answer,
            anchor=anchor,
            level=level,
            drop_truncated=drop_truncated,
        )

    match name:
        case "grpo":  # arXiv 2402.03300, beta = 0
            return algorithm(group_std, PPOClip(0.2, 0.2), Aggregation.SEQUENCE_MEAN_TOKEN_MEAN)
        case "dr_grpo":  # arXiv 2503.20783
            return algorithm(group_mean, PPOClip(0.2, 0.2), Aggregation.CONSTANT)
        case "dapo":  # arXiv 2503.14476; groups of equal scores are filtered by rollout.drop_zero_variance
            return algorithm(group_std, PPOClip(0.2, 0.28), Aggregation.TOKEN_MEAN, drop_truncated=True)
        case "gspo":  # arXiv 2507.18071
            return algorithm(
                group_std,
                PPOClip(3e-4, 4e-4),
                Aggregation.SEQUENCE_MEAN_TOKEN_MEAN,
                level=Level.SEQUENCE_MEAN,
            )
        case "cispo":  # arXiv 2506.13585; no lower bound
            return algorithm(group_std, CISPO(1.0, 4.0), Aggregation.TOKEN_MEAN)
        case "rloo":  # arXiv 2402.14740; its kernel has no ratio, so no anchor is computed
            return algorithm(rloo, Reinforce(), Aggregation.SEQUENCE_MEAN_TOKEN_SUM, anchor=Anchor.ROLLOUT)
        case "dis":  # double-sided importance sampling, GLM-5 (arXiv 2602.15763)
            return algorithm(group_mean, Band(0.7, 6.0), Aggregation.TOKEN_MEAN, anchor=Anchor.ROLLOUT)
    raise ValueError(f"algorithm.preset={name!r} is not known; choose dis, grpo, dr_grpo, dapo, gspo, cispo or rloo")


def algorithm_from(config: AlgorithmConfig, max_staleness: int, max_new_tokens: int) -> Algorithm:
    """The preset, with the config's own values put over it.

    Raises ValueError where a value does not fit the preset's kernel.
    """
    algorithm = preset(config.preset, max_staleness, longest_answer=max_new_tokens)
    algorithm = replace(algorithm, kernel=_bounded(algorithm.kernel, config))
    if config.advantage is not None:
        algorithm = replace(algorithm, advantage=ADVANTAGES[config.advantage])
    if config.aggregation is not None:
        algorithm = replace(algorithm, aggregation=Aggregation(config.aggregation))
    if config.drop_truncated is not None:
        algorithm = replace(algorithm, drop_truncated=config.drop_truncated)
    return algorithm


def _bounded(kernel: Kernel, config: AlgorithmConfig) -> Kernel:
    """The kernel with the bounds that the config sets."""
    if config.clip_low is None and config.clip_high is None:
        return kernel
    if not isinstance(kernel, (PPOClip, CISPO, Band)):
        raise ValueError(
            f"algorithm.clip_low and algorithm.clip_high do not fit algorithm.preset={config.preset}: its kernel "
            f"({type(kernel).__name__}) has no bounds; leave both unset, or choose another preset"
        )
    low = kernel.low if config.clip_low is None else config.clip_low
    high = kernel.high if config.clip_high is None else config.clip_high
    try:
        return replace(kernel, low=low, high=high)
    except ValueError as error:
        raise ValueError(
            f"algorithm.clip_low and algorithm.clip_high do not fit algorithm.preset={config.preset}: {error}"
        ) from error


def rows_from(groups: Iterable[Group], algorithm: Algorithm, version: int) -> list[Row]:
    """Rows of the trajectories that have a verdict and sampled tokens. The ids are those that were sampled.

    `version` is the learner's, and staleness counts from it. A trajectory without a verdict is no part of the
    baseline. Raises ValueError for a token that is newer than `version`.
    """
    groups = list(groups)
    rows = []
    for group, advantages in zip(groups, algorithm.advantages(groups), strict=True):
        judged = [t for t in group.trajectories if t.score is not None and t.score.value is not None]
        rows += [
            _row(group.id, trajectory, advantage, version)
            for trajectory, advantage in zip(judged, advantages, strict=True)
            if any(trajectory.sampled)
        ]
    return rows


def _row(group_id: int, trajectory: Trajectory, advantage: float, version: int) -> Row:
    newest = max(v for v, s in zip(trajectory.versions, trajectory.sampled, strict=True) if s)
    if newest > version:
        raise ValueError(
            f"group {group_id}: a token was sampled by policy version {newest}, but the learner is at {version}; "
            "was the run resumed with rollouts that are newer than its checkpoint?"
        )
    sampled = trajectory.sampled
    prompt = len(trajectory.prompt_ids)
    return Row(
        group_id=group_id,
        token_ids=[*trajectory.prompt_ids, *trajectory.token_ids],
        trained=[False] * prompt + sampled,
        advantages=[0.0] * prompt + [advantage if s else 0.0 for s in sampled],
        sampler_logprobs=[0.0] * prompt
        + [lp if s else 0.0 for lp, s in zip(trajectory.logprobs, sampled, strict=True)],
        staleness=[0] * prompt + [version - v if s else 0 for v, s in zip(trajectory.versions, sampled, strict=True)],
        truncated=trajectory.finish is FinishReason.LENGTH,
    )
