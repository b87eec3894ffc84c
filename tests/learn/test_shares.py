"""Which rank computes which rows: against cases worked out by hand, and against the best of all ways to share."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.learn.packing import Layout, PackingPlan
from rlvr.learn.shares import deal
from rlvr.types import Row

WIDE = 1_000_000  # so wide a model that a row costs what its tokens cost
NARROW = 1  # one whose attention costs T^2 / 3 beside T


def plan(hidden_size: int, layout: Layout = Layout.ALONE) -> PackingPlan:
    return PackingPlan(layout, token_budget=1000, grid_tokens=1000, long_lines=False, hidden_size=hidden_size)


def rows_of(*lengths: int) -> list[Row]:
    return [Row(n, [2] * length, [False] + [True] * (length - 1)) for n, length in enumerate(lengths)]


@pytest.mark.parametrize(
    ("lengths", "hidden_size", "ranks", "expected"),
    [
        # 8 to the first; 6 and 5 to the second, which has 11 then; 4 to the first: 12; 3 to the second
        ((8, 6, 5, 4, 3), WIDE, 2, [[0, 3], [1, 2, 4]]),
        ((3, 8, 4, 6, 5), WIDE, 2, [[1, 2], [0, 3, 4]]),
        # of 5 tokens the cost is 5 + 25 / 3, of 3 it is 3 + 3: two short rows are less than the long one
        ((5, 3, 3, 3), NARROW, 2, [[0], [1, 2, 3]]),
        ((5, 3, 3, 3), WIDE, 2, [[0, 3], [1, 2]]),
        ((5, 4), WIDE, 4, [[0], [1], [], []]),
        ((5, 4, 3), WIDE, 1, [[0, 1, 2]]),
        ((), WIDE, 2, [[], []]),
    ],
)
def test_the_costliest_goes_first_and_to_the_least_loaded(
    lengths: tuple[int, ...], hidden_size: int, ranks: int, expected: list[list[int]]
) -> None:
    assert deal(rows_of(*lengths), plan(hidden_size), ranks) == expected


def test_rows_that_share_their_prompt_stay_together() -> None:
    prompts = [[number] * 40 for number in (2, 3)]
    rows = [Row(g, prompts[g] + [answer, g], [False] * 40 + [True] * 2) for answer in range(4, 8) for g in (0, 1)]
    assert deal(rows, plan(WIDE, Layout.SHARED), 2) == [[0, 2, 4, 6], [1, 3, 5, 7]]


@given(
    lengths=st.lists(st.integers(2, 60), max_size=6),
    ranks=st.integers(1, 3),
    hidden_size=st.sampled_from([1, 8, 64]),
)
@settings(max_examples=60, deadline=None)
def test_nobody_has_more_than_four_thirds_of_the_best(lengths: list[int], ranks: int, hidden_size: int) -> None:
    dealt = deal(rows_of(*lengths), plan(hidden_size), ranks)
    assert sorted(index for own in dealt for index in own) == list(range(len(lengths)))
    costs = [length * (1 + length / (3 * hidden_size)) for length in lengths]

    def most(rank_of: tuple[int, ...]) -> float:
        loads = [0.0] * ranks
        for cost, rank in zip(costs, rank_of, strict=True):
            loads[rank] += cost
        return max(loads)

    best = min(most(rank_of) for rank_of in product(range(ranks), repeat=len(lengths)))
    assert max(sum(costs[index] for index in own) for own in dealt) <= 4 / 3 * best + 1e-9
