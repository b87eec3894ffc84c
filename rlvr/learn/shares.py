"""Which rank computes which rows of a step."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.learn.packing import PackingPlan, blocks_of
from rlvr.types import Row


def deal(rows: Sequence[Row], plan: PackingPlan, ranks: int) -> list[list[int]]:
    """Indices of the rows that each rank computes, in order: as even in operations as whole blocks allow.

    The costliest block goes first, and each to the rank with the least work so far, which leaves the most loaded
    rank at most 4/3 of the best (Graham, "Bounds on multiprocessing timing anomalies"). Rows that share their prompt
    stay together where a line holds them together, so that no rank computes a prompt for fewer rows than it must.
    """
    load = [0.0] * ranks
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for block in sorted(blocks_of(rows, plan), key=lambda b: b.cost(plan.hidden_size), reverse=True):
        rank = load.index(min(load))
        load[rank] += block.cost(plan.hidden_size)
        dealt[rank] += block.rows
    return [sorted(indices) for indices in dealt]
