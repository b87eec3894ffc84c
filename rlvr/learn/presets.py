"""Published algorithms by name, each as its paper or its authors' code has it.

Two things differ from print. A KL that a paper takes from the reward is put into the loss as `KLGradient.UNBIASED`,
which has the same expected gradient. And PPO's critic is not here: `ppo_dual` is its loss on a group's advantages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rlvr.config import AlgorithmConfig, Preset
from rlvr.learn.advantage import ADVANTAGES, group_mean, group_std, rloo
from rlvr.learn.algorithms import Aggregation, Algorithm, Anchor, Level
from rlvr.learn.corrections import TIS, IcePop, SequenceMIS
from rlvr.learn.kernels import (
    CISPO,
    VESPO,
    Band,
    GeometricClip,
    ImportanceSampling,
    Kernel,
    MirrorDescent,
    PPOClip,
    Reinforce,
    SoftGate,
    TotalVariation,
)
from rlvr.learn.kl import KLGradient, KLPenalty, KLTarget
from rlvr.learn.masks import CovarianceClip, GeometricBand, HighestEntropy, K3Limit, OffPolicyWrong, SecondMoment

_TOKENS = Aggregation.TOKEN_MEAN
_ROWS = Aggregation.SEQUENCE_MEAN_TOKEN_MEAN
_ROW_SUMS = Aggregation.SEQUENCE_MEAN_TOKEN_SUM
_CLIP = PPOClip(0.2, 0.2)
_CLIP_HIGHER = PPOClip(0.2, 0.28)

PRESETS: Mapping[Preset, Algorithm] = {
    # GLM-5, double-sided importance sampling (arXiv 2602.15763): for stale tokens, no extra forward pass.
    Preset.DIS: Algorithm(group_mean, Band(0.7, 6.0), _TOKENS, Anchor.ROLLOUT),
    # ---- clipped, one ratio a token
    # arXiv 2402.03300; beta as in DeepSeek-R1 (arXiv 2501.12948), whose runs are the longer ones
    Preset.GRPO: Algorithm(group_std, _CLIP, _ROWS, kl=KLPenalty(0.001, KLTarget.REFERENCE, KLGradient.K3)),
    Preset.DR_GRPO: Algorithm(group_mean, _CLIP, Aggregation.CONSTANT),  # arXiv 2503.20783
    # arXiv 2503.14476; groups of equal scores are filtered by rollout.drop_zero_variance
    Preset.DAPO: Algorithm(group_std, _CLIP_HIGHER, _TOKENS, drop_truncated=True),
    Preset.PPO_DUAL: Algorithm(group_std, PPOClip(0.2, 0.2, dual=3.0), _TOKENS),  # arXiv 1912.09729
    Preset.REINFORCE_PP: Algorithm(  # arXiv 2501.03262, with the group's baseline
        ADVANTAGES["whiten"], _CLIP, _TOKENS, kl=KLPenalty(0.001, KLTarget.REFERENCE, KLGradient.K2)
    ),
    Preset.OPO: Algorithm(ADVANTAGES["opo"], Reinforce(), _TOKENS, Anchor.ROLLOUT),  # arXiv 2505.23585
    Preset.MAXRL: Algorithm(ADVANTAGES["maxrl"], _CLIP, _TOKENS),
    # ---- one ratio a row
    Preset.GSPO: Algorithm(group_std, PPOClip(3e-4, 4e-4), _ROWS, level=Level.SEQUENCE_MEAN),  # arXiv 2507.18071
    Preset.LUSPO: Algorithm(group_std, PPOClip(2e-3, 2.5e-3), _ROW_SUMS, level=Level.SEQUENCE_MEAN),
    Preset.GMPO: Algorithm(group_std, GeometricClip(0.4, 0.4), _ROWS),  # arXiv 2507.20673
    Preset.VESPO: Algorithm(group_std, VESPO(2.0, 3.0, 3.0, 2.0), _TOKENS, Anchor.ROLLOUT, Level.SEQUENCE_SUM),
    Preset.KIMI_K2: Algorithm(group_mean, MirrorDescent(0.01), _ROW_SUMS, level=Level.SEQUENCE_SUM),  # arXiv 2501.12599
    # ---- weights that are capped or gated rather than clipped
    Preset.CISPO: Algorithm(group_std, CISPO(1.0, 4.0), _TOKENS),  # arXiv 2506.13585; no lower bound
    Preset.SCALERL: Algorithm(  # arXiv 2510.13786
        ADVANTAGES["batch_std"], CISPO(1.0, 4.0), Aggregation.PROMPT_MEAN, Anchor.ROLLOUT
    ),
    Preset.SAPO: Algorithm(group_std, SoftGate(1.0, 1.05), _ROWS),  # arXiv 2511.20347
    Preset.KIMI_K2_5: Algorithm(  # arXiv 2602.02276, whose bounds are not disclosed: these are dis's
        group_mean, Band(0.7, 6.0), _TOKENS, Anchor.ROLLOUT, kl=KLPenalty(0.02, KLTarget.SAMPLER, KLGradient.K2)
    ),
    Preset.PRIME_RL: Algorithm(  # prime-rl's default; its kappa (log r)^2 has twice k2's gradient
        group_mean,
        TotalVariation(0.2, 0.2),
        _TOKENS,
        Anchor.ROLLOUT,
        kl=KLPenalty(2e-3, KLTarget.SAMPLER, KLGradient.K2),
    ),
    Preset.RLOO: Algorithm(rloo, Reinforce(), _ROW_SUMS, Anchor.ROLLOUT),  # arXiv 2402.14740
    # ---- corrections of the difference between sampler and learner
    Preset.TIS: Algorithm(group_std, _CLIP_HIGHER, _TOKENS, correction=TIS(2.0)),
    Preset.ICEPOP: Algorithm(group_std, _CLIP_HIGHER, _ROWS, correction=IcePop(0.5, 2.0)),
    Preset.SEQUENCE_MIS: Algorithm(group_std, _CLIP, _TOKENS, correction=SequenceMIS(2.0)),
    Preset.DECOUPLED_PPO: Algorithm(group_std, _CLIP, _TOKENS, correction=TIS(5.0)),  # AReaL, arXiv 2505.24298
    Preset.GEO_RS_TIS: Algorithm(group_std, _CLIP, _TOKENS, correction=TIS(2.0), masks=(GeometricBand(0.999, 1.001),)),
    Preset.K3_RS: Algorithm(group_std, _CLIP, _TOKENS, masks=(K3Limit(0.01),)),
    Preset.M2PO: Algorithm(group_std, ImportanceSampling(), _TOKENS, Anchor.ROLLOUT, masks=(SecondMoment(0.04),)),
    Preset.DEEPSEEK_V3_2: Algorithm(  # arXiv 2512.02556; its threshold is not disclosed
        group_mean, _CLIP, _ROWS, masks=(OffPolicyWrong(0.5),), kl=KLPenalty(0.001, KLTarget.REFERENCE)
    ),
    # ---- which tokens are trained
    Preset.HIGH_ENTROPY: Algorithm(group_std, _CLIP_HIGHER, _TOKENS, masks=(HighestEntropy(0.2),)),  # arXiv 2506.01939
    Preset.CLIP_COV: Algorithm(group_std, _CLIP, _TOKENS, masks=(CovarianceClip(2e-4, 1.0, 5.0),)),  # arXiv 2505.22617
}


def preset(name: Preset, max_staleness: int, longest_answer: int) -> Algorithm:
    """A published algorithm in a run that allows tokens of `max_staleness` versions and `longest_answer` tokens."""
    return replace(PRESETS[name], max_staleness=max_staleness, longest_answer=longest_answer)


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
    if config.beta is not None:
        algorithm = replace(algorithm, kl=_held(algorithm.kl, config.beta))
    return algorithm


def _held(kl: KLPenalty | None, beta: float) -> KLPenalty | None:
    """The preset's KL with another strength; one to the reference where the preset has none."""
    if beta == 0:
        return None
    return replace(kl, beta=beta) if kl is not None else KLPenalty(beta, KLTarget.REFERENCE)


def _bounded(kernel: Kernel, config: AlgorithmConfig) -> Kernel:
    """The kernel with the bounds that the config sets."""
    if config.clip_low is None and config.clip_high is None:
        return kernel
    if not isinstance(kernel, (PPOClip, CISPO, Band, TotalVariation, GeometricClip)):
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
