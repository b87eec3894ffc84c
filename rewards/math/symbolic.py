"""Compares two answers with computer algebra. Runs in a worker process only: it evaluates what a model wrote.

Numbers are compared to more digits than a float has; Math-Verify parses, and judges what holds variables.
"""

from __future__ import annotations

import logging
from functools import lru_cache, partial

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from rlvr.rewards.math.exact import same_value
from rlvr.rewards.math.structure import same

# It warns that timeouts are off. They are: the process is killed at its deadline instead.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_DIGITS = 40
_LATEX = [LatexExtractionConfig()]
_POINTS = (sympy.Rational(17, 11), sympy.Rational(29, 13), sympy.Rational(53, 19))
_UNEVALUATED = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
# What sympy raises on input that makes no sense as mathematics.
_ALGEBRA_ERRORS = (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError)


def same_symbolically(reference: str, answer: str, tolerance: float) -> bool:
    """Whether two normalised answers are equal. What cannot be parsed is not."""
    verdict = same(reference, answer, partial(_same_leaf, tolerance=tolerance))
    return bool(verdict) if verdict is not None else _same_by_math_verify(reference, answer)


def _same_leaf(reference: str, answer: str, *, tolerance: float) -> bool | None:
    verdict = same_value(reference, answer, tolerance)
    if verdict is not None:
        return verdict
    left, right = _parsed(reference), _parsed(answer)
    if left is None or right is None:
        return False
    return _same_expression(left, right, tolerance)


@lru_cache(maxsize=1024)
def _parsed(latex: str) -> sympy.Basic | None:
    found = parse(f"${latex}$", extraction_config=_LATEX, parsing_timeout=None)
    return found[0] if found and isinstance(found[0], sympy.Basic | sympy.MatrixBase) else None


def _same_expression(left: sympy.Basic, right: sympy.Basic, tolerance: float) -> bool:
    if left == right:
        return True
    try:
        if _in_order(left) == _in_order(right):
            return True
        if isinstance(left, sympy.Eq) and isinstance(right, sympy.Eq):
            return _same_equation(left, right)
        if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
            return _verified(left, right)
        left, right = _with_imaginary_unit(left), _with_imaginary_unit(right)
        if left.is_Matrix or right.is_Matrix:
            return _verified(left, right)
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
    difference = abs(sympy.N(left - right, _DIGITS))
    size = max(abs(sympy.N(left, _DIGITS)), abs(sympy.N(right, _DIGITS)))
    if not (difference.is_comparable and difference.is_finite):
        return False
    # A decimal is as exact as it was written: twelve digits and more stand for the exact value.
    digits = 12 if left.has(sympy.Float) or right.has(sympy.Float) else _DIGITS - 10
    return bool(difference <= size * max(sympy.Float(10) ** -digits, tolerance))


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
    return bool(abs(left - right) <= abs(right) * sympy.Float(10) ** -10)


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
