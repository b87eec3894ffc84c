"""Whether what a program gave is what it should have given. Runs outside the sandbox, on text and plain values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction
from typing import Any

from rlvr.workers.pool import WorkerPool

CUSTOM_DEADLINE_S = 2.0  # for a comparison of the user's
_LONGEST_NUMBER = 400  # characters of a word that is read as a number
_LARGE = 10**4000  # an integer that Python may refuse to write in decimal digits


class Rule(StrEnum):
    """How outputs are compared."""

    EXACT = "exact"  # the same text to the last character; values of the same types
    EQUAL = "equal"  # text but for blanks; values as Python has it, a tuple being as good as a list
    NUMERIC = "numeric"  # as `equal`, but numbers may differ by `tolerance`
    UNORDERED = "unordered"  # as `equal`, but lines, or the items of a list, may come in any order


Custom = Callable[[Any, Any, Any], bool]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A rule, and how far numbers may be apart under `numeric`: absolutely, and of the expected number.

    `custom` is asked in place of the rule: `custom(got, expected, given)`, in a process that is killed when it hangs.
    """

    rule: Rule = Rule.EQUAL
    tolerance: float = 1e-6
    custom: Custom | None = None

    async def holds(self, got: str, expected: str, given: str, pool: WorkerPool) -> bool:
        """Whether a program that read `given` wrote what was expected. Raises what the pool raises."""
        if self.custom is not None:
            return bool(await pool.run(self.custom, got, expected, given, deadline_s=CUSTOM_DEADLINE_S))
        return same_text(got, expected, self)


def same_text(got: str, expected: str, how: Comparison) -> bool:
    """Two outputs. Unless the rule is `exact`, blanks in a line count as one, and empty lines at both ends as none."""
    if how.rule is Rule.EXACT:
        return got == expected
    mine, theirs = _lines(got), _lines(expected)
    match how.rule:
        case Rule.UNORDERED:
            return len(mine) == len(theirs) and sorted(mine) == sorted(theirs)
        case Rule.NUMERIC:
            return len(mine) == len(theirs) and all(
                len(a) == len(b) and all(_same_word(x, y, how.tolerance) for x, y in zip(a, b, strict=True))
                for a, b in zip(mine, theirs, strict=True)
            )
        case _:
            return mine == theirs


def same_value(got: Any, expected: Any, how: Comparison) -> bool:
    """Two results of a function. Expected ones often come from JSON, where a tuple is a list and every key a string."""
    match how.rule:
        case Rule.EXACT:
            return _same_types(got, expected)
        case Rule.UNORDERED:
            items = _sorted_items(got)
            return items is not None and items == _sorted_items(expected)
        case _:
            return _close(_plain(got), _plain(expected), how.tolerance if how.rule is Rule.NUMERIC else 0.0)


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def _same_word(got: str, expected: str, tolerance: float) -> bool:
    if got == expected:
        return True
    mine, theirs = _number(got), _number(expected)
    return mine is not None and theirs is not None and _near(mine, theirs, tolerance)


def _number(word: str) -> float | None:
    if len(word) > _LONGEST_NUMBER or "_" in word:
        return None
    try:
        return float(Decimal(word))
    except (InvalidOperation, OverflowError, ValueError):
        return None


def _near(got: float, expected: float, tolerance: float) -> bool:
    if math.isnan(expected) or math.isnan(got):
        return math.isnan(expected) and math.isnan(got)
    if math.isinf(expected):  # from which every number is infinitely far, also relatively
        return got == expected
    return got == expected or abs(got - expected) <= tolerance * max(1.0, abs(expected))


def _same_types(got: Any, expected: Any) -> bool:
    if type(got) is not type(expected):
        return False
    if isinstance(got, (list, tuple)):
        return len(got) == len(expected) and all(map(_same_types, got, expected))
    if isinstance(got, dict):
        return got.keys() == expected.keys() and all(_same_types(got[key], expected[key]) for key in got)
    return bool(got == expected)


def _close(got: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(_close(a, b, tolerance) for a, b in zip(got, expected, strict=True))
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(_close(got[key], expected[key], tolerance) for key in got)
    if tolerance and _is_number(got) and _is_number(expected):
        try:
            return _near(float(got), float(expected), tolerance)
        except OverflowError:
            return bool(got == expected)
    return bool(got == expected)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal, Fraction)) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """As JSON has it: lists for tuples, strings for the keys of a dictionary. An array becomes lists."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _key(key: Any) -> Any:
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    if isinstance(key, int) and abs(key) >= _LARGE:
        return hex(key)
    return str(key) if isinstance(key, (int, float)) else key


def _sorted_items(value: Any) -> list[str] | None:
    """The items of a collection in an order that does not depend on theirs; None for what has no items."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        return None
    return sorted(repr(_canonical(_plain(item))) for item in value)


def _canonical(value: Any) -> Any:
    """Values that are equal look the same."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return sorted((repr(_canonical(key)), repr(_canonical(item))) for key, item in value.items())
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return ("int", hex(int(value)))
    return value
