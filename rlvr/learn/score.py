"""Log-probabilities without gradients: of the policy before an update, of a reference, of any given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.config import DType
from rlvr.learn.model import PolicyModel
from rlvr.learn.packing import PackingPlan
from rlvr.learn.ranks import ALONE, Ranks
from rlvr.types import Row


@dataclass(frozen=True, slots=True)
class Scored:
    """Of the rows' trained tokens, row after row: log-probabilities, and entropies of the policy there, in nats. [N]"""

    logprobs: Tensor
    entropy: Tensor


@torch.no_grad()
def score(model: PolicyModel, rows: Sequence[Row], plan: PackingPlan, dtype: DType, ranks: Ranks = ALONE) -> Scored:
    """Score the rows' trained tokens; the layers compute in `dtype`. `ranks` share the work."""
    logprobs = torch.zeros(sum(sum(row.trained) for row in rows), device=model.device)
    entropy = torch.zeros_like(logprobs)
    for batch in ranks.micro_batches(rows, plan):
        batch = batch.to(model.device)
        output = model.logprobs(batch, dtype=dtype)
        logprobs[batch.tokens], entropy[batch.tokens] = output.logprobs, output.entropy
    return Scored(ranks.sum(logprobs), ranks.sum(entropy))


def scored_row(token_ids: list[int], group_id: int) -> Row:
    """A row of which every token but the first counts."""
    return Row(group_id, token_ids, [False] + [True] * (len(token_ids) - 1))
