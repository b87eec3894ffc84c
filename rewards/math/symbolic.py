"""Compares two answers with computer algebra. Runs in a worker process only: it evaluates what a model wrote.

Numbers are compared to more digits than a float has; Math-Verify parses, and judges what holds variables.
"""

from __future__ import annotations

import logging
from functools import partial

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from rlvr.rewards.math.exact import same_value
from rlvr.rewards.math.structure import same

# It warns that timeouts are off. They are: the process is killed at its deadline instead.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_DIGITS = 40
_LATEX = [LatexExtractionConfig()]


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
    if _is_number(left) and _is_number(right):
        return _same_number(left, right, tolerance)
    return _verified(left, right)


def _parsed(latex: str) -> sympy.Basic | None:
    found = parse(f"${latex}$", extraction_config=_LATEX, parsing_timeout=None)
    return found[0] if found and isinstance(found[0], sympy.Basic) else None


def _is_number(expression: sympy.Basic) -> bool:
    return isinstance(expression, sympy.Expr) and not expression.free_symbols and not expression.is_Matrix


def _same_number(reference: sympy.Expr, answer: sympy.Expr, tolerance: float) -> bool:
    left, right = _real_roots(reference), _real_roots(answer)
    if left == right:
        return True
    difference, size = sympy.N(left - right, _DIGITS), abs(sympy.N(left, _DIGITS))
    if not difference.is_number or difference.has(sympy.nan, sympy.zoo, sympy.oo):
        return False
    # A decimal is as exact as it was written: twelve digits and more stand for the exact value.
    digits = 12 if left.has(sympy.Float) or right.has(sympy.Float) else _DIGITS // 2
    return bool(abs(difference) <= max(sympy.Float(10) ** -digits, tolerance) * max(size, sympy.Float(10) ** -digits))


def _real_roots(expression: sympy.Expr) -> sympy.Expr:
    """The cube root of -8 as -2, as school has it, and not as the principal complex root."""

    def is_odd_root_of_negative(part: sympy.Basic) -> bool:
        return bool(
            part.is_Pow and part.exp.is_Rational and part.exp.q % 2 and part.exp.q > 1 and part.base.is_negative
        )

    def real_root(part: sympy.Expr) -> sympy.Expr:
        sign = -1 if part.exp.p % 2 else 1
        return sign * (-part.base) ** part.exp

    return expression.replace(is_odd_root_of_negative, real_root)


def _same_by_math_verify(reference: str, answer: str) -> bool:
    left, right = _parsed(reference), _parsed(answer)
    return left is not None and right is not None and _verified(left, right)


def _verified(reference: sympy.Basic, answer: sympy.Basic) -> bool:
    return bool(verify(reference, answer, timeout_seconds=None, allow_set_relation_comp=True))
