"""Compares two answers with computer algebra. Runs in a worker process only: it evaluates what a model wrote.

Numbers are compared to more digits than a float has; Math-Verify parses, and judges what holds variables.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache, partial

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from rlvr.rewards.math.quantity import read_quantity
from rlvr.rewards.math.structure import same
from rlvr.rewards.math.units import conversion
from rlvr.rewards.math.values import same_value

# It warns that timeouts are off. They are: the process is killed at its deadline instead.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_DIGITS = 100
_SPARE_DIGITS = 10
_LATEX = [LatexExtractionConfig()]
_POINTS = (sympy.Rational(17, 11), sympy.Rational(29, 13), sympy.Rational(53, 19))
_UNEVALUATED = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
# What Math-Verify's parser passes over, or reads as something else: `7 8` as 15, `7_3` and `7\ldots` as 7, and
# `or` between inequalities as `and`.
_MISREAD = re.compile(
    r"(?<![_^\d])\d+ \d|\d[_']|\\ldots|\\approx|\\pmod|:[^:]*:|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|"
    r"\\text\s*\{[^{}]*\}\s*$|^\\text\s*\{"
)
_PRIMED = re.compile(r"([a-zA-Z])('+|\^\\prime|\^\{\\prime\})")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)°")
# What sympy raises on input that makes no sense as mathematics, or that it cannot do: it says NotImplementedError
# for sets and relations that it cannot simplify. The answer was then not shown to be the reference.
_ALGEBRA_ERRORS = (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError)


def same_as_any(references: Sequence[str], answer: str, tolerance: float) -> bool:
    """Whether a normalised answer equals one of the normalised references. What cannot be parsed does not."""
    return any(_same_symbolically(reference, answer, tolerance) for reference in references)


def _same_symbolically(reference: str, answer: str, tolerance: float) -> bool:
    verdict = same(reference, answer, partial(_same_leaf, tolerance=tolerance))
    return _same_by_math_verify(reference, answer) if verdict is None else verdict


def _same_leaf(reference: str, answer: str, *, tolerance: float) -> bool | None:
    verdict = same_value(reference, answer, tolerance)
    if verdict is not None:
        return verdict
    left, right = read_quantity(reference), read_quantity(answer)
    factor = conversion(left.unit, right.unit)
    expressions = _parsed(left.body), _parsed(right.body)
    if factor is None or expressions[0] is None or expressions[1] is None:
        return False
    scale = sympy.Rational(factor.numerator, factor.denominator) * right.scale / left.scale
    return _same_expression(expressions[0], expressions[1] if scale == 1 else scale * expressions[1], tolerance)


@lru_cache(maxsize=1024)
def _parsed(latex: str) -> sympy.Basic | None:
    if _MISREAD.search(latex):
        return None
    spelt = _PRIMED.sub(r"\1_{1}", _DEGREES.sub(r"\\frac{\1\\pi}{180}", latex))
    found = parse(f"${spelt}$", extraction_config=_LATEX, parsing_timeout=None)
    if not found or not isinstance(found[0], sympy.Basic | sympy.MatrixBase):
        return None
    # A decimal is exactly what was written, and no binary float near it.
    return found[0].replace(lambda part: part.is_Float, lambda part: sympy.Rational(str(part)))


def _same_expression(left: sympy.Basic, right: sympy.Basic, tolerance: float) -> bool:
    if left == right:
        return True
    try:
        if _in_order(left) == _in_order(right):
            return True
        if isinstance(left, sympy.Eq) and isinstance(right, sympy.Eq):
            return _same_equation(left, right)
        if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)) or left.is_Matrix or right.is_Matrix:
            return _verified(left, right)
        left, right = _with_imaginary_unit(left), _with_imaginary_unit(right)
        if not left.free_symbols and not right.free_symbols:
            return _same_number(left, right, tolerance)
        if _differ_somewhere(left, right):
            return False
        return _verified(left, right) or _zero_for_positive(left, right)
    except _ALGEBRA_ERRORS:
        return False


def _with_imaginary_unit(expression: sympy.Expr) -> sympy.Expr:
    """The letter i as the imaginary unit, where it is the only letter."""
    letters = expression.free_symbols
    if {letter.name for letter in letters} != {"i"}:
        return expression
    return expression.xreplace(dict.fromkeys(letters, sympy.I)).doit()


def _same_number(reference: sympy.Expr, answer: sympy.Expr, tolerance: float) -> bool:
    left, right = _real_roots(reference.doit()), _real_roots(answer.doit())
    if left == right:
        return True
    if left.is_Rational and right.is_Rational and not tolerance:
        return False
    numbers = sympy.N(left, _DIGITS), sympy.N(right, _DIGITS)
    if not all(number.is_number and number.is_finite for number in numbers):
        return False
    size = max(abs(number) for number in numbers)
    return bool(abs(numbers[0] - numbers[1]) <= size * max(sympy.Float(10) ** (_SPARE_DIGITS - _DIGITS), tolerance))


def _real_roots(expression: sympy.Expr) -> sympy.Expr:
    """The cube root of -8 as -2, as school has it, and not as the principal complex root."""

    def is_odd_root_of_negative(part: sympy.Basic) -> bool:
        odd_root = part.is_Pow and part.exp.is_Rational and part.exp.q % 2 and part.exp.q > 1
        return bool(odd_root and part.base.is_negative)

    def real_root(part: sympy.Expr) -> sympy.Expr:
        return (-1 if part.exp.p % 2 else 1) * (-part.base) ** part.exp

    return expression.replace(is_odd_root_of_negative, real_root)


def _in_order(expression: sympy.Basic) -> sympy.Basic:
    """The same expression with its sums and products in sympy's own order."""
    return expression.replace(lambda part: part.is_Add or part.is_Mul, lambda *terms: terms[0].func(*terms[0].args))


def _same_equation(left: sympy.Eq, right: sympy.Eq) -> bool:
    """Whether one equation is a constant multiple of the other."""
    if left.has(*_UNEVALUATED) or right.has(*_UNEVALUATED):
        return False
    over, under = (left.lhs - left.rhs).doit(), (right.lhs - right.rhs).doit()
    if over == 0 or under == 0:
        return bool(over == under)
    factors = _values(over / under)
    return len(factors) == len(_POINTS) and all(_close(factor, factors[0]) for factor in factors)


def _differ_somewhere(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether two expressions have different values at a point: cheap, and most wrong answers do."""
    if left.has(*_UNEVALUATED) or right.has(*_UNEVALUATED):
        return False
    return any(not _close(value, sympy.Float(1)) for value in _values((left / right).doit()))


def _values(expression: sympy.Expr) -> list[sympy.Expr]:
    """The value at each of some points where it is finite; the unknowns differ from each other at each point."""
    names = sorted({letter.name for letter in expression.free_symbols})
    values = []
    for point in _POINTS:
        at = {x: point + sympy.Rational(names.index(x.name), 7) for x in expression.free_symbols}
        value = sympy.N(expression.xreplace(at), _DIGITS)
        if value.is_number and value.is_finite:
            values.append(value)
    return values


def _close(left: sympy.Expr, right: sympy.Expr) -> bool:
    return bool(abs(left - right) <= abs(right) * sympy.Float(10) ** -40)


def _zero_for_positive(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether two expressions agree for all positive unknowns.

    So the logarithm of a product is the sum of logarithms. Not asked where it would hide a difference of sign: an
    absolute value, and the root of a square, is not what stands inside.
    """
    if left.has(sympy.Abs) or right.has(sympy.Abs) or _roots_a_square(left) or _roots_a_square(right):
        return False
    names = {letter.name for letter in left.free_symbols | right.free_symbols}
    positive = {name: sympy.Symbol(name, positive=True) for name in names}
    left, right = [side.xreplace({x: positive[x.name] for x in side.free_symbols}).doit() for side in (left, right)]
    return bool(sympy.simplify(sympy.expand_log(left - right)) == 0)


def _roots_a_square(expression: sympy.Expr) -> bool:
    return any(
        power.exp.is_Rational and not power.exp.is_Integer and power.base.is_Pow and power.base.exp.is_even
        for power in expression.atoms(sympy.Pow)
    )


def _same_by_math_verify(reference: str, answer: str) -> bool:
    left, right = _parsed(reference), _parsed(answer)
    return left is not None and right is not None and (left == right or _verified(left, right))


def _verified(reference: sympy.Basic, answer: sympy.Basic) -> bool:
    return bool(verify(reference, answer, timeout_seconds=None, allow_set_relation_comp=True))
