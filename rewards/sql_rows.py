"""The rows that queries gave, in the words of `sql_in_sandbox.py`, and whether they are the same: also in a worker.

Reading many takes a second, in which an event loop would stand still.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlvr.types import Score

Rows = Sequence[tuple[Any, ...]]

_DIGITS = 9  # of a float that count: sums of the same numbers in another order differ in the last ones


class QueryFailed(ValueError):
    """The query gave no rows, by its own fault, which the message says."""


def rows_of(answer: bytes) -> list[tuple[Any, ...]]:
    """Raises QueryFailed."""
    read = json.loads(answer)
    if "error" in read:
        raise QueryFailed(f"fails: {read['error']}")
    return [tuple(map(_hashable, row)) for row in read["rows"]]


def why_no_reference(answer: bytes) -> str:
    """What keeps a reference's answer from being compared with; empty where nothing does."""
    try:
        return "" if rows_of(answer) else "gives no row, as many queries would"
    except QueryFailed as error:
        return str(error)


def score_of(answer: bytes, reference: bytes, ordered: bool) -> Score:
    """1.0 where both gave the same rows. The reference gave some."""
    try:
        rows = rows_of(answer)
    except QueryFailed as error:
        return Score(0.0, detail=f"the query {error}")
    expected = rows_of(reference)
    return Score(float(same_rows(rows, expected, ordered)), detail=_difference(rows, expected))


def same_rows(rows: Rows, expected: Rows, ordered: bool) -> bool:
    """Whether two results are the same, value by value."""
    mine, theirs = ([tuple(map(_comparable, row)) for row in result] for result in (rows, expected))
    return mine == theirs if ordered else Counter(mine) == Counter(theirs)


def _comparable(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _hashable(value: Any) -> Any:
    return bytes.fromhex(value["blob"]) if isinstance(value, dict) else value


def _difference(rows: Rows, expected: Rows) -> str:
    return f"{len(rows)} rows, first {rows[:1]!r:.100}; expected {len(expected)}, first {expected[:1]!r:.100}"
