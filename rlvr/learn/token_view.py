"""What the pieces of an algorithm see of the trained tokens: whole rows, side by side, without gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a process that makes rows needs an algorithm, and should not have to load torch
    from torch import Tensor

# exp(20) is finite in every number format, and no algorithm's bounds are near it.
LARGEST_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class TokenView:
    """Tensors of shape [N], one entry per trained token; a row's tokens are all here.

    `logprobs` are of the policy as it is, `proximal` of the policy before the first update of the batch, `sampler`
    of the generator. `log_ratio` is log(pi / pi_anchor) at the algorithm's level. `row` numbers the rows,
    of which there are `rows`. `entropy` is the policy's, in nats.
    """

    logprobs: Tensor
    proximal: Tensor
    sampler: Tensor
    log_ratio: Tensor
    advantages: Tensor
    entropy: Tensor
    row: Tensor
    rows: int

    @property
    def ratio(self) -> Tensor:
        """pi / pi_anchor at the algorithm's level."""
        return finite_exp(self.log_ratio)

    @property
    def log_mismatch(self) -> Tensor:
        """log(pi_proximal / pi_sampler): how far the learner was from the sampler before this batch changed it."""
        return self.proximal - self.sampler

    def sum_of_row(self, values: Tensor) -> Tensor:
        """Each token's value replaced by the sum over its row."""
        return sum_of_row(values, self.row, self.rows)

    def mean_of_row(self, values: Tensor) -> Tensor:
        """Each token's value replaced by the mean over its row."""
        return mean_of_row(values, self.row, self.rows)


def finite_exp(log_ratio: Tensor) -> Tensor:
    """A log-ratio's exponential, bounded so that it and its square are finite."""
    return log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def sum_of_row(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Each token's value replaced by the sum over its row, [N]."""
    return values.new_zeros(rows).index_add(0, row, values)[row]


def mean_of_row(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Each token's value replaced by the mean over its row, [N]."""
    return sum_of_row(values, row, rows) / sum_of_row(values.new_ones(len(values)), row, rows)
