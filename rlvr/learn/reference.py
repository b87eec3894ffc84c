"""The model as the run began with it, which a KL penalty holds the policy near."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rlvr.config import Config
from rlvr.learn.model import PolicyModel
from rlvr.learn.ranks import ALONE, Ranks
from rlvr.learn.score import score
from rlvr.types import Row


class Reference:
    """Scores rows under the weights of `model.name`.

    With adapters it is the policy without them, and costs no memory; else it is a second copy of the model. A
    resumed run has the same one, because it is never part of a checkpoint.
    """

    def __init__(self, config: Config, policy: PolicyModel, ranks: Ranks = ALONE) -> None:
        self.model = policy
        self._ranks = ranks
        if policy.adapter is None:
            self.model = ranks.load(config)
            self.model.network.requires_grad_(False)

    def logprobs(self, rows: list[Row]) -> Tensor:
        """Of the rows' trained tokens, row after row, [N]. The reference chooses experts by itself: those that another
        policy chose would make it a different one."""
        rows = [replace(row, experts=None) for row in rows]
        with self.model.without_adapter():
            return score(self.model, rows, self.model.plan, self.model.dtype, self._ranks).logprobs
