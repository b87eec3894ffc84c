r"""Compares two single values where that needs no computer algebra: words, quantities, formulas, equations.

Formulas are compared by their values. Values that differ by more than their error prove that two formulas differ.
Values that agree to 50 digits are taken for equal, unless a number on the way was so large or so small that it could
hide in the error, as in `1 + 10^{-70}`. Formulas with letters are compared at several points, positive and negative.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b

from rlvr.rewards.math.claims import sides_of
from rlvr.rewards.math.evaluate import Value, difference, many_digits, ratio, value_of
from rlvr.rewards.math.formula import Formula, read_formula
from rlvr.rewards.math.latex import compact
from rlvr.rewards.math.quantity import EXACT_DECIMAL_DIGITS, Quantity, read_quantity, same_quantity
from rlvr.rewards.math.units import conversion, read_unit
from rlvr.rewards.math.words import same_words, symbol_for

_QUALIFIED = re.compile(r"\\text\s*\{[^{}]*\b(?:not|or|more|less|least|most)\b")
_DOUBLE = Decimal("1e-15")  # what a double float may be off after a few operations
_DEGREE = read_unit("°")
_INFINITE = re.compile(r"^-?\s*\\infty$")
_AGREEMENT = Decimal(10) ** -50
_POINTS = 4


def same_value(reference: str, answer: str, tolerance: float = 0.0) -> bool | None:
    """Whether two normalised values are the same; None where only computer algebra can tell.

    `tolerance` is relative to the reference, and for numbers.
    """
    if compact(reference) == compact(answer):
        return True
    reference, answer = symbol_for(reference), symbol_for(answer)
    left, right = read_quantity(reference), read_quantity(answer)
    if (verdict := same_quantity(left, right, tolerance)) is not None:
        return verdict
    numbers = [left.value is not None, right.value is not None]
    if (numbers[0] or _INFINITE.match(reference)) and (numbers[1] or _INFINITE.match(answer)):
        return compact(reference) == compact(answer)
    if (r"\ldots" in reference) != (r"\ldots" in answer):
        return False
    if bool(_QUALIFIED.search(reference)) != bool(_QUALIFIED.search(answer)):
        return False
    if (verdict := same_words(reference, answer, number=any(numbers))) is not None:
        return verdict
    sides = sides_of(reference), sides_of(answer)
    if len(sides[0]) > 1 and len(sides[1]) > 1:
        return _same_equations(*sides)
    return _same_formulas(left, right, tolerance)


def _same_formulas(reference: Quantity, answer: Quantity, tolerance: float) -> bool | None:
    factor = conversion(reference.unit, answer.unit)
    if factor is None:
        return _same_angle(reference, answer)
    left, right = _formula(reference, Fraction(1)), _formula(answer, factor)
    if left is None or right is None:
        return None
    verdict = same_formula(left, right, tolerance)
    if verdict is not False:
        return verdict
    if not left.letters and not right.letters and (digits := _rounded_to(reference, answer)) is not None:
        return within(left, right, absolute=Decimal(1).scaleb(-digits), relative=_DOUBLE)
    return _same_angle(reference, answer)


def _formula(quantity: Quantity, factor: Fraction) -> Formula | None:
    size = factor * quantity.scale
    if size == 1:
        return read_formula(quantity.body)
    return read_formula(rf"({quantity.body})\cdot \frac{{{size.numerator}}}{{{size.denominator}}}")


def _rounded_to(reference: Quantity, answer: Quantity) -> int | None:
    """The digits after the point of the one side that is a decimal written out far enough to stand for the other."""
    left, right = (q.decimals if q.significant >= EXACT_DECIMAL_DIGITS else None for q in (reference, answer))
    return None if (left is None) == (right is None) else left or right


def _same_angle(reference: Quantity, answer: Quantity) -> bool:
    r"""Whether one is an angle in degrees, and the other the same in radians: 90° and `\frac{\pi}{2}`."""
    degrees, other = (reference, answer) if reference.unit == _DEGREE else (answer, reference)
    if degrees.unit != _DEGREE or other.unit == _DEGREE or r"\pi" not in other.body:
        return False
    left, right = read_formula(f"({degrees.body})°"), read_formula(other.body)
    return left is not None and right is not None and same_formula(left, right) is True


def _same_equations(reference: list[str], answer: list[str]) -> bool | None:
    left, right = _equation(reference), _equation(answer)
    return None if left is None or right is None else same_equation(left, right)


def _equation(sides: list[str]) -> tuple[Formula, Formula] | None:
    if len(sides) != 2:
        return None
    left, right = map(read_formula, sides)
    return None if left is None or right is None else (left, right)


def same_formula(reference: Formula, answer: Formula, tolerance: float = 0.0) -> bool | None:
    """Whether two formulas are equal; None where values do not tell. `tolerance` is relative, and for numbers."""
    with many_digits():
        if reference.letters or answer.letters:
            return _same_at_points(reference, answer)
        left, right = value_of(reference, {}), value_of(answer, {})
        return None if left is None or right is None else _same_number(left, right, tolerance)


def within(reference: Formula, answer: Formula, *, absolute: Decimal, relative: Decimal) -> bool:
    """Whether two formulas without letters differ by no more than a distance, or a share of the reference."""
    with many_digits():
        left, right = value_of(reference, {}), value_of(answer, {})
        gap = None if left is None or right is None else difference(left, right)
        if left is None or gap is None or not gap.number.is_finite():
            return False
        return abs(gap.number) <= max(absolute, abs(left.number) * relative)


def same_equation(reference: tuple[Formula, Formula], answer: tuple[Formula, Formula]) -> bool | None:
    """Whether one equation, as its sides, is a constant multiple of the other; None where values do not tell."""
    letters = frozenset[str]().union(*(side.letters for side in (*reference, *answer)))
    factors: list[Value] = []
    with many_digits():
        for at in _points(letters):
            over, under = _side_difference(reference, at), _side_difference(answer, at)
            factor = None if over is None or under is None else ratio(over, under)
            if factor is None or abs(factor.number) <= factor.error:
                return None
            factors.append(factor)
        verdicts = [_same_number(factors[0], factor) for factor in factors[1:]] if letters else [None]
    return False if False in verdicts else None if None in verdicts else True


def _same_at_points(reference: Formula, answer: Formula) -> bool | None:
    agreeing, unsure = 0, False
    for at in _points(reference.letters | answer.letters):
        left, right = value_of(reference, at), value_of(answer, at)
        if left is None or right is None:
            # Where both are undefined they agree; where one is, they may differ there alone.
            unsure = unsure or left is not right
            continue
        verdict = _same_number(left, right)
        if verdict is False:
            return False
        agreeing += verdict is True
        unsure = unsure or verdict is None
    return True if agreeing >= 2 and not unsure else None


def _same_number(reference: Value, answer: Value, tolerance: float = 0.0) -> bool | None:
    """Whether two values are equal, or as close as `tolerance` (relative) asks; None within their error."""
    gap = difference(reference, answer)
    if gap is None:
        return None
    if not gap.number.is_finite():
        return False
    size = abs(reference.number)
    if tolerance and size.is_finite():
        return abs(gap.number) <= Decimal(tolerance) * size
    if abs(gap.number) > gap.error:
        return False
    exact = gap.error <= size * _AGREEMENT and reference.moderate and answer.moderate
    return True if exact or not gap.error else None


def _side_difference(equation: tuple[Formula, Formula], at: dict[str, Decimal]) -> Value | None:
    left, right = value_of(equation[0], at), value_of(equation[1], at)
    return None if left is None or right is None else difference(left, right)


def _points(letters: frozenset[str]) -> list[dict[str, Decimal]]:
    return [{name: _coordinate(point, name) for name in letters} for point in range(_POINTS)]


@lru_cache(maxsize=1024)
def _coordinate(point: int, name: str) -> Decimal:
    """A value of a letter between 0.5 and 2.5; all positive at two points, all negative at one, mixed at one."""
    seed = int.from_bytes(blake2b(f"{point} {name}".encode(), digest_size=5).digest())
    size = Decimal("0.5") + Decimal(seed % 10**9) / Decimal(5 * 10**8)
    negative = point == 2 or (point == 3 and seed >> 39)
    return -size if negative else size
