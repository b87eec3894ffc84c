"""The trained tokens of an optimizer step, side by side, with all that the losses need but what the policy says.

An optimizer step's tokens are flattened once, row after row, and each loss's normaliser is fixed here, from counts of
the whole step. Micro-batches then pick tokens by index, so how a step is cut into micro-batches cannot change its
loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlvr.learn.algorithms import Aggregation, Algorithm
from rlvr.types import Row

Value = TypeVar("Value")

# A teacher's log-probability below this is taken as this. -inf, of an id that the teacher excludes, would be trained
# as an infinite loss.
LEAST_LOGPROB = -50.0


class Tokens(Protocol):
    """Tensors with one entry per token."""

    def __len__(self) -> int: ...

    def select(self, index: Tensor) -> Self:
        """The tokens at `index`, shape [M]."""
        ...


@dataclass(frozen=True, slots=True)
class RLTokens:
    """Of rows with an `rl` stream, all trained tokens: tensors of shape [N].

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

    def select(self, index: Tensor) -> RLTokens:
        proximal, reference = self.proximal_logprobs, self.reference_logprobs
        return RLTokens(
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


@dataclass(frozen=True, slots=True)
class CETokens:
    """The trained tokens whose cross-entropy has a weight, `weights` [N]. The step has `count` of them."""

    weights: Tensor
    count: int

    def __len__(self) -> int:
        return len(self.weights)

    def select(self, index: Tensor) -> CETokens:
        return CETokens(self.weights[index], self.count)


@dataclass(frozen=True, slots=True)
class KLTokens:
    """The trained tokens in whose place a teacher was asked. The step has `count` of them.

    `ids` and `logprobs` are [N, K]; where `known` is false there is no id, which id 0 and LEAST_LOGPROB stand for.
    `weights` are [N], `divergence` [N, 4] the factors of each token's `Divergence`.
    """

    ids: Tensor
    logprobs: Tensor
    known: Tensor
    weights: Tensor
    divergence: Tensor
    count: int

    def __len__(self) -> int:
        return len(self.weights)

    def select(self, index: Tensor) -> KLTokens:
        return KLTokens(
            ids=self.ids[index],
            logprobs=self.logprobs[index],
            known=self.known[index],
            weights=self.weights[index],
            divergence=self.divergence[index],
            count=self.count,
        )


AnyTokens = TypeVar("AnyTokens", bound=Tokens)


@dataclass(frozen=True, slots=True)
class Placed(Generic[AnyTokens]):
    """Some trained tokens of a step, and where each of all its N trained tokens stands among them, or -1."""

    tokens: AnyTokens
    place: Tensor

    def among(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the step's trained tokens at `index` [M] are of these, and where they stand among them; both [L]."""
        place = self.place[index]
        here = (place >= 0).nonzero().squeeze(1)
        return here, place[here]


def placed(tokens: AnyTokens, has: Sequence[bool], device: torch.device) -> Placed[AnyTokens]:
    """`has` tells of each trained token of the step whether it is one of `tokens`, which are in the same order."""
    mask = torch.tensor(has, dtype=torch.bool)
    return Placed(tokens, torch.where(mask, mask.cumsum(0) - 1, -1).to(device))


def rl_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows with an `rl` stream."""
    return [row for row in rows if row.rl is not None]


def rl_tokens(
    rows: Sequence[Row],
    algorithm: Algorithm,
    device: torch.device,
    proximal_logprobs: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> RLTokens:
    """Flatten the `rl` streams of one optimizer step. Log-probabilities are of the same tokens, [N].

    The loss is computed in `dtype`.
    """
    rows = rl_rows(rows)
    streams = [row.rl for row in rows if row.rl is not None]
    counts = torch.tensor([sum(row.trained) for row in rows], dtype=torch.long)
    row = torch.repeat_interleave(torch.arange(len(rows)), counts)
    advantages = torch.tensor(_trained(rows, [s.advantages for s in streams]), dtype=dtype)
    sampler_logprobs = torch.tensor(_trained(rows, [s.sampler_logprobs for s in streams]), dtype=dtype)
    staleness = torch.tensor(_trained(rows, [s.staleness for s in streams]), dtype=torch.long)
    fresh = staleness <= algorithm.max_staleness
    usable = sampler_logprobs.isfinite()
    return RLTokens(
        advantages=advantages.to(device),
        sampler_logprobs=sampler_logprobs.to(device),
        row=row.to(device),
        fresh=fresh.to(device),
        usable=usable.to(device),
        kept=torch.ones_like(usable).to(device),
        scale=scales(algorithm, row, groups_of(rows)).to(device, dtype),
        rows=len(rows),
        proximal_logprobs=proximal_logprobs,
        reference_logprobs=reference_logprobs,
    )


def ce_tokens(rows: Sequence[Row], device: torch.device, dtype: torch.dtype = torch.float32) -> Placed[CETokens]:
    """Flatten the `ce` streams of one optimizer step."""
    weights = _trained(rows, [row.ce or [0.0] * len(row) for row in rows])
    own = torch.tensor([weight for weight in weights if weight], dtype=dtype, device=device)
    return placed(CETokens(own, len(own)), [weight != 0 for weight in weights], device)


def kl_tokens(rows: Sequence[Row], device: torch.device, dtype: torch.dtype = torch.float32) -> Placed[KLTokens]:
    """Flatten the `kl` streams of one optimizer step, whose rows may differ in K and in their divergence."""
    weights = _trained(rows, [row.kl.weights if row.kl else [0.0] * len(row) for row in rows])
    width = max((row.kl.ids.shape[1] for row in rows if row.kl), default=0)
    ids, logprobs, factors = [np.empty((0, width), np.int64)], [np.empty((0, width))], [np.empty((0, 4))]
    for row in rows:
        if row.kl is not None:
            asked = np.asarray(row.trained) & (np.asarray(row.kl.weights) != 0)
            missing = ((0, 0), (0, width - row.kl.ids.shape[1]))
            ids.append(np.pad(row.kl.ids[asked].astype(np.int64), missing, constant_values=-1))
            logprobs.append(np.pad(row.kl.logprobs[asked].astype(np.float64), missing))
            factors.append(np.tile(astuple(row.kl.divergence), (int(asked.sum()), 1)))
    all_ids = torch.from_numpy(np.concatenate(ids))
    known = all_ids >= 0
    own = [weight for weight in weights if weight]
    tokens = KLTokens(
        ids=all_ids.clamp(min=0).to(device),
        logprobs=torch.from_numpy(np.concatenate(logprobs))
        .clamp(min=LEAST_LOGPROB)
        .masked_fill(~known, LEAST_LOGPROB)
        .to(device, dtype),
        known=known.to(device),
        weights=torch.tensor(own, dtype=dtype, device=device),
        divergence=torch.from_numpy(np.concatenate(factors)).to(device, dtype),
        count=len(own),
    )
    return placed(tokens, [weight != 0 for weight in weights], device)


def groups_of(rows: Sequence[Row]) -> Tensor:
    """The number of each row's group, counted from 0, [rows]."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(row.group_id for row in rows))}
    return torch.tensor([numbers[row.group_id] for row in rows], dtype=torch.long)


def scales(algorithm: Algorithm, row: Tensor, group: Tensor) -> Tensor:
    """n_t of each token, float64 [N]: its share of the loss by the algorithm's aggregation.

    `row` [N] is each token's row, `group` [rows] each row's group.
    """
    counted = torch.ones(len(row), dtype=torch.double)
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
