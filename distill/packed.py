"""A teacher's likeliest ids and their probabilities, packed: one record of fixed size for each token.

The ids of a place are a set, so they are kept in rising order, by Elias and Fano's code: the low bits of each as they
are, the high bits as the gaps between them, in unary. A set of 32 out of 151,936 takes 57 bytes so, where the plain
ids take 72 and int32 128. Log-probabilities are rounded to multiples of `STEP`, in 10 bits, and so is the tail, the
log-probability of all other ids together. Unpacked, ids and tail are scaled to add up to 1 again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Nats. What is less likely than LEAST, 1.3e-9, is rounded up to it.
STEP = 0.02
_BITS = 10
LEAST = -STEP * (2**_BITS - 1)
# Nats: half a step by rounding, and no more than that again by scaling to a sum of 1.
LARGEST_ERROR = STEP


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """How `k` ids of a vocabulary are packed. Raises ValueError where there are no such ids."""

    vocabulary: int
    k: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.vocabulary:
            raise ValueError(f"{self.k} ids of a vocabulary of {self.vocabulary}: expected 1 to {self.vocabulary}")

    @property
    def low_bits(self) -> int:
        """Of each id, kept as they are."""
        return int(math.log2(self.vocabulary / self.k))

    @property
    def high_bits(self) -> int:
        """Of all ids together: a 1 for each id, and a 0 for each step of the high part."""
        return self.k + (self.vocabulary - 1 >> self.low_bits)

    @property
    def bytes(self) -> int:
        """Of one record: ids, their log-probabilities, and the tail."""
        return -(-(self.high_bits + self.k * self.low_bits + (self.k + 1) * _BITS) // 8)

    def pack(self, ids: NDArray[np.integer], logprobs: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Records [N, bytes] of `ids` [N, k], different within a row, and `logprobs` [N, k]. Raises ValueError."""
        if ids.shape != logprobs.shape or ids.ndim != 2 or ids.shape[1] != self.k:
            raise ValueError(f"ids {ids.shape} and logprobs {logprobs.shape}: expected both to be (tokens, {self.k})")
        order = ids.argsort(1)
        ids = np.take_along_axis(ids, order, 1).astype(np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary or (np.diff(ids) == 0).any()):
            raise ValueError(f"ids must differ within a token and lie below {self.vocabulary}")
        known = np.take_along_axis(logprobs, order, 1).astype(np.float64)
        total = np.exp(known).sum(1, keepdims=True)
        if not np.isfinite(known).all() or (total > 1 + 1e-3).any():
            raise ValueError("log-probabilities must be finite, and their probabilities add up to 1 at most")
        tail = np.log(np.maximum(1 - total, math.exp(LEAST)))
        codes = np.clip(np.rint(np.concatenate([known, tail], 1) / -STEP), 0, 2**_BITS - 1).astype(np.int64)

        high = np.zeros((len(ids), self.high_bits), np.uint8)
        np.put_along_axis(high, (ids >> self.low_bits) + np.arange(self.k), 1, 1)
        low = ids & ((1 << self.low_bits) - 1)
        return np.packbits(np.concatenate([high, _to_bits(low, self.low_bits), _to_bits(codes, _BITS)], 1), axis=1)

    def unpack(self, records: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """`ids` [N, k], the likeliest first, and their log-probabilities; the tail is what they lack of 1."""
        bits = np.unpackbits(records, axis=1)
        cuts = np.cumsum([self.high_bits, self.k * self.low_bits, (self.k + 1) * _BITS])
        high_bits, low_bits, code_bits, _ = np.split(bits, cuts, axis=1)
        high = np.nonzero(high_bits)[1].reshape(len(records), self.k) - np.arange(self.k)
        ids = (high << self.low_bits) | _from_bits(low_bits, self.k, self.low_bits)
        known = -STEP * _from_bits(code_bits, self.k + 1, _BITS)
        known -= np.log(np.exp(known).sum(1, keepdims=True))
        order = (-known[:, :-1]).argsort(1, kind="stable")
        return (
            np.take_along_axis(ids, order, 1).astype(np.int32),
            np.take_along_axis(known[:, :-1], order, 1).astype(np.float32),
        )


def _to_bits(values: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """[N, K] integers as bits [N, K * width], the high ones first."""
    shifts = np.arange(width - 1, -1, -1)
    return ((values[..., None] >> shifts) & 1).astype(np.uint8).reshape(len(values), values.shape[1] * width)


def _from_bits(bits: NDArray[np.uint8], count: int, width: int) -> NDArray[np.int64]:
    """The inverse: [N, count * width] bits as [N, count] integers."""
    shifts = np.arange(width - 1, -1, -1)
    return (bits.reshape(len(bits), count, width).astype(np.int64) << shifts).sum(2)
