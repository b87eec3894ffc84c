"""The trained tokens of an optimizer step, side by side, with all that the loss needs of each but its log-probability.

An optimizer step's tokens are flattened once, row after row, and each token's share `scale` of the loss is fixed
here, from counts of the whole step. Micro-batches then pick tokens by index, so how a step is cut into
micro-batches cannot change its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from rlvr.learn.algorithms import Aggregation, Algorithm, Denominator
from rlvr.types import Row

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class TokenStreams:
    """Tensors of shape [N], one entry per trained token.

    `row` is the token's row in the step, of which there are `rows`. `fresh` and `usable` tell whether the token is
    young enough, and whether its sampler log-probability is finite; `kept` is what the step's masks leave.
    `proximal_logprobs` are None while the learner's own log-probabilities are the proximal ones, that is until its
    first update of a batch. `reference_logprobs` are there where the algorithm has a KL to the reference.
    """

    advantages: Tensor
    sampler_logprobs: Tensor
    row: Tensor
    fresh: Tensor
    usable: Tensor
    kept: Tensor
    scale: Tensor
    rows: int
    proximal_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row)

    def select(self, index: Tensor) -> TokenStreams:
        """The tokens at `index`, shape [M]."""
        proximal, reference = self.proximal_logprobs, self.reference_logprobs
        return TokenStreams(
            advantages=self.advantages[index],
            sampler_logprobs=self.sampler_logprobs[index],
            row=self.row[index],
            fresh=self.fresh[index],
            usable=self.usable[index],
            kept=self.kept[index],
            scale=self.scale[index],
            rows=self.rows,
            proximal_logprobs=None if proximal is None else proximal[index],
            reference_logprobs=None if reference is None else reference[index],
        )


def streams_of(
    rows: Sequence[Row],
    algorithm: Algorithm,
    device: torch.device,
    proximal_logprobs: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> TokenStreams:
    """Flatten the trained tokens of one optimizer step. The loss is computed in `dtype`."""
    counts = torch.tensor([sum(row.trained) for row in rows])
    row = torch.repeat_interleave(torch.arange(len(rows)), counts)
    advantages = torch.tensor(_trained(rows, [r.advantages for r in rows]), dtype=dtype)
    sampler_logprobs = torch.tensor(_trained(rows, [r.sampler_logprobs for r in rows]), dtype=dtype)
    staleness = torch.tensor(_trained(rows, [r.staleness for r in rows]), dtype=torch.long)
    fresh = staleness <= algorithm.max_staleness
    usable = sampler_logprobs.isfinite()
    counted = fresh & usable if algorithm.denominator is Denominator.KEPT else torch.ones_like(fresh)
    return TokenStreams(
        advantages=advantages.to(device),
        sampler_logprobs=sampler_logprobs.to(device),
        row=row.to(device),
        fresh=fresh.to(device),
        usable=usable.to(device),
        kept=torch.ones_like(usable).to(device),
        scale=scales(algorithm, row, groups_of(rows), counted).to(device, dtype),
        rows=len(rows),
        proximal_logprobs=proximal_logprobs,
        reference_logprobs=reference_logprobs,
    )


def groups_of(rows: Sequence[Row]) -> Tensor:
    """The number of each row's group, counted from 0, [rows]."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(row.group_id for row in rows))}
    return torch.tensor([numbers[row.group_id] for row in rows], dtype=torch.long)


def scales(algorithm: Algorithm, row: Tensor, group: Tensor, counted: Tensor) -> Tensor:
    """n_t of each token, float64 [N]: its share of the loss by the algorithm's aggregation.

    `row` [N] is each token's row, `group` [rows] each row's group, `counted` [N] the tokens that count.
    """
    counted = counted.double()
    tokens_of_row = torch.zeros(len(group), dtype=torch.double).index_add(0, row, counted)
    rows = _at_least_one((tokens_of_row > 0).sum())
    match algorithm.aggregation:
        case Aggregation.TOKEN_MEAN:
            denominator = _at_least_one(counted.sum()).expand_as(counted)
        case Aggregation.SEQUENCE_MEAN_TOKEN_MEAN:
            denominator = rows * _at_least_one(tokens_of_row)[row]
        case Aggregation.SEQUENCE_MEAN_TOKEN_SUM:
            denominator = rows.expand_as(counted)
        case Aggregation.PROMPT_MEAN:
            tokens_of_group = torch.zeros(len(group), dtype=torch.double).index_add(0, group, tokens_of_row)
            groups = _at_least_one((tokens_of_group > 0).sum())
            denominator = groups * _at_least_one(tokens_of_group)[group][row]
        case Aggregation.CONSTANT:
            denominator = (rows * algorithm.longest_answer).expand_as(counted)
    return 1 / denominator


def _at_least_one(count: Tensor) -> Tensor:
    return count.double().clamp(min=1)


def _trained(rows: Sequence[Row], streams: Sequence[Sequence[Value]]) -> list[Value]:
    """The values of the trained tokens, row after row."""
    return [
        value
        for row, stream in zip(rows, streams, strict=True)
        for value, trained in zip(stream, row.trained, strict=True)
        if trained
    ]
