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
    generators = [f"generator-{i}" for i in range(count)]
    learner = ["learner"] if ranks == 1 else [f"learner-{i}" for i in range(ranks)]
    share = len(cores) // (count + ranks)
    parts = [tuple(cores[i * share : (i + 1) * share]) for i in range(count + ranks)]
    placements = [
        Placement(name, of_generator if i < count else of_rank, max(1, share), parts[i])
        for i, name in enumerate([*generators, *learner])
    ]
    return placements[:count], placements[count:]


def pin(cores: tuple[int, ...]) -> None:
    """Keep this process on the cores; on none named, it stays where it is."""
    if cores:
        os.sched_setaffinity(0, cores)
