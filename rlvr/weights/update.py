"""A version of the policy on its way from learner to generators: what is sent, and what is answered.

Only the types; `transport` writes, reads and sums them. Cheap to import: no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.config import DType


@dataclass(frozen=True, slots=True)
class SharedFile:
    """Weights as a safetensors file in shared memory, written whole and renamed into place. One node."""

    path: Path


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """Where one tensor lies in a packed buffer. `offset` is in bytes."""

    name: str
    dtype: str  # as torch names it: "bfloat16"
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Weights as one packed buffer in Ray's object store, which brings it to any node. Gone with its reference."""

    reference: Any  # ray.ObjectRef; Ray is known to those alone who use it
    layout: tuple[PackedTensor, ...]


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """A LoRA adapter as peft saves it: adapter_config.json and adapter_model.safetensors."""

    path: Path


@dataclass(frozen=True, slots=True)
class InMemory:
    """Weights by checkpoint name, in the process of the generator that they are for."""

    weights: Mapping[str, Any]  # torch.Tensor


WeightSource = SharedFile | StoredObject | AdapterFolder | InMemory


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """One version on its way. `checksum` is that of `weight_transport.checksum` in number format `dtype`."""

    version: int
    checksum: int
    source: WeightSource
    dtype: DType


@dataclass(frozen=True, slots=True)
class WeightReceipt:
    """A generator's answer to an update: what it holds now."""

    generator: str
    version: int
    checksum: int
    stall_s: float  # how long generation stood still
