"""The processes that share a learner's work, as the learner sees them: it is one of them, often the only one.

Each has all rows of a step, and so knows each token's share of the loss; each computes its own part of the rows, and
sums over ranks make the rest. `Alone` is the learner of one process; `rlvr.learn.sharded` has the other kind.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import Parameter

from rlvr.config import Config
from rlvr.learn.model import PolicyModel
from rlvr.learn.packing import MicroBatch, PackingPlan, pack
from rlvr.types import Row

# Said at each save and load of a learner that has no group, though that is asked for by `no_dist`.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


class Ranks(Protocol):
    """What a learner asks of its group. Methods are called by all ranks, in the same order."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes what is published."""
        ...

    def load(self, config: Config) -> PolicyModel:
        """The policy's model, of which this rank holds a part."""
        ...

    def micro_batches(self, rows: Sequence[Row], plan: PackingPlan) -> Iterable[MicroBatch]:
        """This rank's part of the rows, in as many micro-batches as every other's. `tokens` counts in all rows."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Over ranks."""
        ...

    def max(self, tensor: Tensor) -> Tensor:
        """Over ranks, of each element."""
        ...

    def clip(self, parameters: Iterable[Parameter], largest: float) -> float:
        """Scale the whole gradient down to a norm of `largest`; returns the norm it had."""
        ...

    def save_state(self, tensors: Mapping[str, Tensor], folder: Path) -> Future[object]:
        """Copy the tensors and write them to the folder in the background; the result comes when they are on disk."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Fill the tensors with what was saved under their names."""
        ...


class Alone:
    """One process that holds and computes everything."""

    first = True

    def load(self, config: Config) -> PolicyModel:
        return PolicyModel(config)

    def micro_batches(self, rows: Sequence[Row], plan: PackingPlan) -> Iterable[MicroBatch]:
        return pack(rows, plan)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        return tensor

    def clip(self, parameters: Iterable[Parameter], largest: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_(parameters, largest))

    def save_state(self, tensors: Mapping[str, Tensor], folder: Path) -> Future[object]:
        return write(tensors, folder, None)

    def load_state(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        dcp.load(dict(tensors), checkpoint_id=folder, no_dist=True)


def write(tensors: Mapping[str, Tensor], folder: Path, group: ProcessGroup | None) -> Future[object]:
    """Copy the tensors, and have a thread write and sync them; the ranks of `group` write their shards side by side."""
    writing = dcp.async_save(dict(tensors), checkpoint_id=folder, process_group=group, no_dist=group is None)
    assert isinstance(writing, Future)
    return writing


ALONE = Alone()
