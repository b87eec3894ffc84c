"""The objective of an optimizer step: up to three losses, each normalised by itself over the whole step.

    L = rl * L_rl + ce * L_ce + kl * L_kl

L_rl is the weighted policy loss of `rlvr.learn.loss`, L_ce that of `rlvr.learn.cross_entropy`, L_kl that of
`rlvr.learn.divergence`. A loss no row has a stream for is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace

import torch
from torch import Tensor

from rlvr.learn.algorithms import Algorithm
from rlvr.learn.cross_entropy import cross_entropy
from rlvr.learn.divergence import divergence_loss
from rlvr.learn.head import HeadOutput
from rlvr.learn.loss import LossSums, policy_loss
from rlvr.learn.ranks import Ranks
from rlvr.learn.streams import CETokens, KLTokens, Placed, RLTokens, ce_tokens, kl_tokens, placed
from rlvr.types import LossWeights, Row


@dataclass(slots=True)
class ObjectiveSums:
    """Sums over trained tokens, of which there are `tokens`; they add up over micro-batches.

    `loss` is L. `cross_entropy` and `divergence` are sums over the tokens that have the stream, `ce_tokens` and
    `kl_tokens` in number, times their weights.
    """

    rl: LossSums = field(default_factory=LossSums)
    loss: float = 0.0
    entropy: float = 0.0
    tokens: int = 0
    cross_entropy: float = 0.0
    ce_tokens: int = 0
    divergence: float = 0.0
    kl_tokens: int = 0

    def add(self, other: ObjectiveSums) -> None:
        self.rl.add(other.rl)
        self.loss += other.loss
        self.entropy += other.entropy
        self.tokens += other.tokens
        self.cross_entropy += other.cross_entropy
        self.ce_tokens += other.ce_tokens
        self.divergence += other.divergence
        self.kl_tokens += other.kl_tokens

    def over(self, ranks: Ranks) -> ObjectiveSums:
        """Those of all ranks, in one exchange."""
        (*of_rl, fates), *own = astuple(self)
        numbers = ranks.sum(torch.tensor([*own, *of_rl, *fates], dtype=torch.double)).tolist()
        loss, entropy, tokens, cross_entropy, ce_tokens, divergence, kl_tokens = numbers[: len(own)]
        rl = numbers[len(own) : -len(fates)]
        return ObjectiveSums(
            rl=replace(LossSums(*rl), fates=tuple(numbers[-len(fates) :])),
            loss=loss,
            entropy=entropy,
            tokens=int(tokens),
            cross_entropy=cross_entropy,
            ce_tokens=int(ce_tokens),
            divergence=divergence,
            kl_tokens=int(kl_tokens),
        )


@dataclass(frozen=True, slots=True)
class ObjectivePart:
    """A micro-batch's part of L, a scalar to call `backward` on; its sums; and the TokenFate of some `rl` tokens.

    `fate` [L] is of the tokens that stand at `fate_of` [L] among the step's `rl` tokens.
    """

    loss: Tensor
    sums: ObjectiveSums
    fate: Tensor
    fate_of: Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """All that the losses of an optimizer step need of its trained tokens but what the policy says of them now."""

    algorithm: Algorithm
    weights: LossWeights
    rl: Placed[RLTokens]
    ce: Placed[CETokens]
    kl: Placed[KLTokens]

    def ids(self, tokens: Tensor) -> Tensor | None:
        """The ids [M, K] whose log-probabilities are needed in the places of the step's `tokens` [M]; None for none."""
        if not len(self.kl.tokens):
            return None
        here, place = self.kl.among(tokens)
        ids = tokens.new_zeros(len(tokens), self.kl.tokens.ids.shape[1])
        ids[here] = self.kl.tokens.ids[place]
        return ids

    def part(self, output: HeadOutput, tokens: Tensor) -> ObjectivePart:
        """The loss of the step's `tokens` [M], in whose places the policy says `output`."""
        here, rl = self.rl.among(tokens)
        policy = policy_loss(self.algorithm, output.logprobs[here], output.entropy[here], self.rl.tokens.select(rl))
        here, place = self.ce.among(tokens)
        ce = self.ce.tokens.select(place)
        ce_loss = cross_entropy(output.logprobs[here], ce)
        here, place = self.kl.among(tokens)
        kl = self.kl.tokens.select(place)
        kl_loss = divergence_loss(output.at[here], kl)

        loss = self.weights.rl * policy.loss + self.weights.ce * ce_loss + self.weights.kl * kl_loss
        total, entropy, ce_mean, kl_mean = (
            torch.stack([loss, output.entropy.sum(), ce_loss, kl_loss]).detach().double().tolist()
        )
        sums = ObjectiveSums(
            rl=policy.sums,
            loss=total,
            entropy=entropy,
            tokens=len(tokens),
            cross_entropy=ce_mean * ce.count,
            ce_tokens=len(ce),
            divergence=kl_mean * kl.count,
            kl_tokens=len(kl),
        )
        return ObjectivePart(loss, sums, policy.fate, rl)


def objective_of(
    rows: Sequence[Row], rl: RLTokens, algorithm: Algorithm, weights: LossWeights, device: torch.device
) -> Objective:
    """Of the rows of one optimizer step, whose `rl` streams are flattened already."""
    has_rl = [row.rl is not None for row in rows for trained in row.trained if trained]
    return Objective(algorithm, weights, placed(rl, has_rl, device), ce_tokens(rows, device), kl_tokens(rows, device))
