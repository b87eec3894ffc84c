"""How a step's tokens are spread over the experts of a mixture, and the loss that spreads them more evenly.

What counts is where a trained token is predicted: each such place once, however rows share a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlvr.learn.ranks import Ranks
from rlvr.routing import ExpertChoice
from rlvr.types import Row


class ExpertLoad:
    """Counts over the trained tokens of a batch; they add up over micro-batches.

    `chosen` [layers, experts] is how often each expert was sent a token. Of the `recorded` choices that were made
    for the routers, `agreed` are those that they would have made themselves.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self.chosen = torch.zeros(layers, experts, dtype=torch.long)
        self.recorded = 0
        self.agreed = 0

    def add(self, latest: ExpertChoice, read: Tensor) -> None:
        """Of the latest forward pass, in the places `read` [N]."""
        layers, experts = self.chosen.shape
        if not layers:
            return
        chosen = latest.chosen[read] + experts * torch.arange(layers, device=read.device)[:, None]
        self.chosen += chosen.flatten().bincount(minlength=layers * experts).view(layers, experts).cpu()
        agreed, recorded = latest.agreement()
        self.agreed += agreed
        self.recorded += recorded

    def over(self, ranks: Ranks) -> ExpertLoad:
        """Those of all ranks, in one exchange."""
        layers, experts = self.chosen.shape
        numbers = ranks.sum(torch.cat([self.chosen.flatten(), torch.tensor([self.recorded, self.agreed])]))
        total = ExpertLoad(layers, experts)
        total.chosen = numbers[:-2].view(layers, experts)
        total.recorded, total.agreed = int(numbers[-2]), int(numbers[-1])
        return total

    def metrics(self) -> dict[str, float]:
        """By the names they have in logs; nothing of a dense model.

        The largest and the smallest share of a layer's tokens that one expert has, over all layers, where 1 is an even
        share; the entropy of these shares, 1 for even ones, as a mean over layers.
        """
        layers, experts = self.chosen.shape
        if not layers or not int(self.chosen.sum()):
            return {}
        shares = self.chosen.double() / self.chosen.sum(dim=1, keepdim=True)
        metrics = {
            "experts/largest_share": float(shares.max()) * experts,
            "experts/smallest_share": float(shares.min()) * experts,
            "experts/entropy": float(torch.special.entr(shares).sum(dim=1).mean()) / math.log(experts),
        }
        return metrics | ({"experts/replay_agreement": self.agreed / self.recorded} if self.recorded else {})


@dataclass(frozen=True, slots=True)
class BalanceLoss:
    """`E * sum_e f_e * p_e`, a mean over layers: 1 when the E experts of a layer have even shares, E when one has all.

    f_e is the share of choices that fell on expert e, p_e the mean of softmax(router's scores) (Switch Transformer,
    arXiv 2101.03961; softmax also where the family weighs experts by sigmoids). The shares are those of the whole
    optimizer step, known beforehand from the choices that are replayed. So the loss is a sum over tokens, and does
    not depend on how the step is cut.
    """

    strength: float
    shares: Tensor  # [layers, experts]
    tokens: int  # of the step

    @classmethod
    def of(cls, rows: Sequence[Row], model: ExpertChoice, strength: float) -> BalanceLoss:
        """Of the rows of a step. Raises ValueError for a row whose experts were not recorded."""
        shares = np.zeros((model.shape[0], model.experts))
        for row in rows:
            places = np.flatnonzero(row.trained) - 1
            if row.experts is None:
                raise ValueError(
                    f"a row of group {row.group_id} does not say which experts it was sampled with, which "
                    "learner.router.balance_loss has to know before the forward pass; set it to 0 to train such rows"
                )
            for layer, chosen in enumerate(row.experts[places].swapaxes(0, 1)):
                shares[layer] += np.bincount(chosen.ravel(), minlength=model.experts)
        tokens = sum(sum(row.trained) for row in rows)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
        return cls(strength, torch.from_numpy(shares), tokens)

    def part(self, latest: ExpertChoice, read: Tensor) -> Tensor:
        """That of a micro-batch's trained tokens, predicted in the places `read` [N], times the strength."""
        shares = self.shares.to(read.device, torch.float32)
        spread = [
            (scores[read].float().softmax(dim=-1) @ share).sum()
            for scores, share in zip(latest.logits, shares, strict=True)
        ]
        return self.strength * shares.shape[1] * torch.stack(spread).mean() / self.tokens
