"""Which cores and GPUs each role gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.config import Config


class ClusterError(RuntimeError):
    """The machine or cluster cannot run this config, or a role stopped answering."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What one role gets of a machine."""

    name: str
    gpus: float
    threads: int
    cores: tuple[int, ...]  # empty: not pinned


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of the machine or cluster a run gets: the `number`th, from 0, of `count` equal ones."""

    number: int = 0
    count: int = 1

    def of_cores(self, cores: Sequence[int]) -> Sequence[int]:
        """Cores beside each other; none where there are fewer than parts."""
        size = len(cores) // self.count
        return cores[self.number * size : (self.number + 1) * size]

    def of_gpus(self, gpus: int) -> int:
        """Raises ClusterError where there are some, and fewer than parts."""
        if 0 < gpus < self.count:
            raise ClusterError(f"{self.count} peers need a GPU each at the least, and there are {gpus}")
        return gpus // self.count


WHOLE = Share()


def place(config: Config, cores: Sequence[int], gpus: int) -> tuple[list[Placement], list[Placement]]:
    """Share cores and GPUs between generators and the learner's ranks, and return both.

    On GPUs a generator takes `tensor_parallel` of them and a rank one; a single GPU is shared half and half. On CPU
    each process gets cores of its own: two threads that spin on one core are ten times slower than one. With fewer
    cores than processes none is pinned. Raises ClusterError for fewer GPUs than the config needs.
    """
    count, width, ranks = config.generator.count, config.generator.tensor_parallel, config.learner.ranks
    needed = count * width + ranks
    if 1 < gpus < needed or (gpus == 1 and (width > 1 or ranks > 1)):
        raise ClusterError(
            f"{count} generators of {width} GPUs and a learner of {ranks} need {needed} GPUs, and there "
            f"{'is' if gpus == 1 else 'are'} {gpus}: lower generator.count, generator.tensor_parallel or learner.ranks"
        )
    if gpus == 0:
        of_generator, of_rank = 0.0, 0.0
    elif gpus == 1:
        of_generator, of_rank = 0.5 / count, 0.5
    else:
        of_generator, of_rank = float(width), 1.0
    generators = [(f"generator-{i}", of_generator) for i in range(count)]
    placements = _side_by_side([*generators, *_ranks(ranks, of_rank)], cores)
    return placements[:count], placements[count:]


def place_teacher(config: Config, cores: Sequence[int], gpus: int) -> list[Placement]:
    """The same between generators that have no learner beside them."""
    count, width = config.generator.count, config.generator.tensor_parallel
    if 1 < gpus < count * width or (gpus == 1 and width > 1):
        raise ClusterError(
            f"{count} generators of {width} GPUs need {count * width} GPUs, and there {'is' if gpus == 1 else 'are'} "
            f"{gpus}: lower generator.count or generator.tensor_parallel"
        )
    of_generator = float(width) if gpus > 1 else gpus / count
    return _side_by_side([(f"generator-{i}", of_generator) for i in range(count)], cores)


def place_learner(config: Config, cores: Sequence[int], gpus: int) -> list[Placement]:
    """The same between a learner's ranks that have no generators beside them, a GPU each."""
    ranks = config.learner.ranks
    if 0 < gpus < ranks:
        raise ClusterError(f"a learner of {ranks} ranks needs {ranks} GPUs, and there are {gpus}: lower learner.ranks")
    return _side_by_side(_ranks(ranks, 1.0 if gpus else 0.0), cores)


def _ranks(count: int, gpus: float) -> list[tuple[str, float]]:
    return [("learner" if count == 1 else f"learner-{i}", gpus) for i in range(count)]


def _side_by_side(processes: Sequence[tuple[str, float]], cores: Sequence[int]) -> list[Placement]:
    """Named processes with their GPUs, each on as many cores of its own as there are for all."""
    share = len(cores) // len(processes)
    return [
        Placement(name, gpus, max(1, share), tuple(cores[i * share : (i + 1) * share]))
        for i, (name, gpus) in enumerate(processes)
    ]


def pin(cores: tuple[int, ...]) -> None:
    """Keep this process on the cores; on none named, it stays where it is."""
    if cores:
        os.sched_setaffinity(0, cores)
