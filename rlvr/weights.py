"""A version's way from learner to generators, with its checksum.

The checksum is the sum, modulo 2^64, of all weights' bit patterns read as integers. It does not depend on order,
so an engine that fuses q, k and v into one tensor or pads the vocabulary with zeros still holds the same sum:
a generator computes it over what it has *loaded*, not over what it was sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SharedFile:
    """Weights as a safetensors file in shared memory, written whole and renamed into place."""

    path: Path


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """One version on its way."""

    version: int
    checksum: int
    source: SharedFile  # the generator helper adds the others: object store bytes, NCCL/IPC, adapter folder


@dataclass(frozen=True, slots=True)
class WeightReceipt:
    """A generator's answer to an update."""

    generator: str
    version: int
    checksum: int
    stall_s: float  # how long generation stood still
