r"""The value of a formula to 60 digits, with a bound on its error, at a bounded cost.

Decimal floats have exponents of 18 digits, so `9^{9^9}` takes no longer than `9^2`: towers, factorials and
binomials need no computer algebra to be told from the number 7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Underflow,
    getcontext,
    localcontext,
)

from rlvr.rewards.math.formula import Formula, Node, Operation

_PRECISION = 60
# The error of one operation, relative to its result: ten times what the decimal library promises.
_ROUNDING = Decimal(10) ** (1 - _PRECISION)
_CONTEXT = Context(prec=_PRECISION, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, DivisionByZero, Underflow])
_MODERATE_EXPONENT = 40
_EXACT_DIGITS = 18
_LARGEST_ANGLE = 10**6
_EXACT_FACTORIAL = 1000
_PRODUCT_BINOMIAL = 20
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
_E = Decimal("2.71828182845904523536028747135266249775724709369995957496696762772407663035354759457138")
# B(2k) / (2k (2k-1)), the coefficients of Stirling's series: for n > 1000 they give 60 digits.
_STIRLING = [
    *((1, 12), (-1, 360), (1, 1260), (-1, 1680), (1, 1188), (-691, 360360), (1, 156), (-3617, 122400)),
    *((43867, 244188), (-174611, 125400), (77683, 5796)),
]
_ZERO, _ONE = Decimal(0), Decimal(1)


class Undefined(ArithmeticError):
    """There is no real value, or none that could be computed to many digits."""


@dataclass(frozen=True, slots=True)
class Value:
    """A real number that is within `error` of `number`; infinite where no decimal float can hold it.

    `moderate` tells that no number on the way to it was above 10^40, or below 10^-40 without being 0: then
    nothing that matters can have been lost in the error.
    """

    number: Decimal
    error: Decimal = _ZERO
    moderate: bool = True

    @property
    def integer(self) -> int | None:
        """The exact integer that this is, if it is one of at most 18 digits."""
        exact = not self.error and self.number.is_finite() and self.number.adjusted() < _EXACT_DIGITS
        return int(self.number) if exact and self.number == self.number.to_integral_value() else None


def many_digits() -> AbstractContextManager[Context]:
    """The decimal context that all functions here, and all work on their results, need."""
    return localcontext(_CONTEXT)


def value_of(formula: Formula, at: Mapping[str, Decimal]) -> Value | None:
    """The formula's real value where its letters have the values of `at`; None where it has none."""
    try:
        return _evaluate(formula.root, at)
    except ArithmeticError:  # Undefined, or what the decimal library traps
        return None


def difference(left: Value, right: Value) -> Value | None:
    """left - right; None where both are infinite."""
    try:
        return _add(left, right, sign=-1)
    except ArithmeticError:
        return None


def ratio(over: Value, under: Value) -> Value | None:
    """over / under; None where `under` may be 0."""
    try:
        return _divide(over, under)
    except ArithmeticError:
        return None


def _evaluate(node: Node, at: Mapping[str, Decimal]) -> Value:
    operands = [_evaluate(operand, at) for operand in node.operands]
    getcontext().clear_flags()
    match node.operation:
        case Operation.NUMBER:
            return _result(+node.value, _ZERO)
        case Operation.LETTER:
            return Value(at[node.name])
        case Operation.PI:
            return Value(+_PI, 10 * _ROUNDING)
        case Operation.E:
            return Value(+_E, 10 * _ROUNDING)
    return _apply(node, *operands)


def _apply(node: Node, first: Value, second: Value = Value(_ZERO)) -> Value:
    match node.operation:
        case Operation.ADD:
            return _add(first, second)
        case Operation.NEGATE:
            return _negative(first)
        case Operation.MULTIPLY:
            return _multiply(first, second)
        case Operation.DIVIDE:
            return _divide(first, second)
        case Operation.POWER:
            return _power(first, second, odd_root=_is_odd_root(node.operands[1]))
        case Operation.ROOT:
            return _root(first, second)
        case Operation.FACTORIAL:
            return _factorial(first)
        case Operation.BINOMIAL:
            return _binomial(first, second)
        case Operation.ABSOLUTE:
            return Value(abs(first.number), first.error, first.moderate)
        case Operation.FLOOR:
            return _floor(first)
        case Operation.CEILING:
            return _negative(_floor(_negative(first)))
        case Operation.LN:
            return _logarithm(first)
        case Operation.EXP:
            return _exponential(first)
        case Operation.SINH | Operation.COSH | Operation.TANH:
            return _hyperbolic(node.operation, first)
        case Operation.SIN | Operation.COS | Operation.TAN:
            return _trigonometric(node.operation, first)
    raise Undefined(node.operation)


def _result(number: Decimal, inherited: Decimal, *operands: Value) -> Value:
    """A result with the error that came with its operands and that of rounding it."""
    if not number.is_finite():
        return Value(number, _ZERO, moderate=False)
    if any(not operand.number.is_finite() for operand in operands):
        raise Undefined("what is left of an infinite number")
    moderate = not number or abs(number.adjusted()) <= _MODERATE_EXPONENT
    moderate = moderate and all(operand.moderate for operand in operands)
    rounding = abs(number) * _ROUNDING if inherited or getcontext().flags[Inexact] else _ZERO
    return Value(number, inherited + rounding, moderate)


def _add(left: Value, right: Value, sign: int = 1) -> Value:
    return _result(left.number + sign * right.number, left.error + right.error, left, right)


def _multiply(left: Value, right: Value) -> Value:
    number = left.number * right.number
    if not number.is_finite():
        if min(abs(left.number) - left.error, abs(right.number) - right.error) <= 0:
            raise Undefined("0 times infinity")
        return _result(number, _ZERO, left, right)
    inherited = abs(left.number) * right.error + abs(right.number) * left.error + left.error * right.error
    return _result(number, inherited, left, right)


def _divide(over: Value, under: Value) -> Value:
    smallest = abs(under.number) - under.error
    if smallest <= 0 or not over.number.is_finite():
        raise Undefined("division by zero")
    number = over.number / under.number
    return _result(number, (over.error + abs(number) * under.error) / smallest, over, under)


def _power(base: Value, exponent: Value, *, odd_root: bool) -> Value:
    if base.number == 0:
        if base.error or exponent.error or exponent.number <= 0:
            raise Undefined("a power of zero")
        return Value(_ZERO, _ZERO, base.moderate and exponent.moderate)
    if base.number < 0 and exponent.integer is None:
        if not odd_root:
            raise Undefined("a power of a negative number")
        # The real root, as school has it: (-8)^{1/3} is -2.
        return _negative(_power(_negative(base), exponent, odd_root=False))
    number = base.number**exponent.number
    if not number.is_finite():
        return _result(number, _ZERO, base, exponent)
    relative = abs(exponent.number) * base.error / abs(base.number)
    if exponent.error:
        relative += abs(abs(base.number).ln()) * exponent.error
    return _result(number, _spread(number, relative), base, exponent)


def _negative(value: Value) -> Value:
    return Value(value.number.copy_negate(), value.error, value.moderate)


def _spread(number: Decimal, relative: Decimal) -> Decimal:
    """The error of exp(x) where x is within `relative`: twice the linear term, which holds while that is small."""
    if relative > Decimal("0.01"):
        raise Undefined("an exponent that is not known well enough")
    return 2 * abs(number) * relative


def _is_odd_root(exponent: Node) -> bool:
    """Whether an exponent is written as 1/n with an odd n."""
    if exponent.operation is not Operation.DIVIDE:
        return False
    over, under = exponent.operands
    plain = over.operation is Operation.NUMBER and under.operation is Operation.NUMBER
    return plain and over.value == 1 and under.value % 2 == 1


def _root(radicand: Value, degree: Value) -> Value:
    n = degree.integer
    if n is None or not 1 <= n <= 1000 or not radicand.number.is_finite():
        raise Undefined("a root of this degree")
    if radicand.number == 0 and not radicand.error:
        return radicand
    if radicand.number < 0 and n % 2:
        return _negative(_root(_negative(radicand), degree))
    if radicand.number <= radicand.error:
        raise Undefined("a root of a negative number")
    number = radicand.number.sqrt() if n == 2 else radicand.number ** (_ONE / n)
    inherited = number * radicand.error / radicand.number
    return _result(number, inherited if n == 2 else inherited + number * _ROUNDING, radicand)


def _factorial(argument: Value) -> Value:
    n = argument.integer
    if n is None and not argument.number < 10 ** (_EXACT_DIGITS - 1):
        return Value(Decimal("Infinity"), _ZERO, moderate=False)
    if n is None or n < 0:
        raise Undefined("a factorial of what is no natural number")
    if n <= _EXACT_FACTORIAL:
        return _result(+Decimal(math.factorial(n)), _ZERO, argument)
    x = Decimal(n)
    series = sum((Decimal(over) / under / x ** (2 * k + 1) for k, (over, under) in enumerate(_STIRLING)), _ZERO)
    logarithm = (x + Decimal("0.5")) * x.ln() - x + (2 * _PI).ln() / 2 + series
    return _exponential(_result(logarithm, x * _ROUNDING, argument))


def _binomial(top: Value, bottom: Value) -> Value:
    n, k = top.integer, bottom.integer
    if k is not None and 0 <= k <= _PRODUCT_BINOMIAL:
        product = Value(_ONE)
        for index in range(k):
            term = _divide(_add(top, Value(Decimal(-index))), Value(Decimal(index + 1)))
            product = _multiply(product, term)
        return product
    if n is None or k is None or not 0 <= k <= n:
        raise Undefined("a binomial of what are no natural numbers")
    if n <= _EXACT_FACTORIAL:
        return _result(+Decimal(math.comb(n, k)), _ZERO, top, bottom)
    over, under, rest = (_factorial(Value(Decimal(number))) for number in (n, k, n - k))
    return _divide(_divide(over, under), rest)


def _floor(argument: Value) -> Value:
    low, high = [math.floor(argument.number + side * argument.error) for side in (-1, 1)]
    if low != high:
        raise Undefined("an integer or just below it")
    return Value(Decimal(low), _ZERO, argument.moderate)


def _logarithm(argument: Value) -> Value:
    if argument.number <= argument.error:
        raise Undefined("a logarithm of a negative number")
    return _result(argument.number.ln(), 2 * argument.error / argument.number, argument)


def _exponential(argument: Value) -> Value:
    number = argument.number.exp()
    return _result(number, _spread(number, argument.error) if number.is_finite() else _ZERO, argument)


def _hyperbolic(function: Operation, argument: Value) -> Value:
    grows, falls = _exponential(argument), _exponential(_negative(argument))
    twice_sine, twice_cosine = _add(grows, falls, sign=-1), _add(grows, falls)
    if function is Operation.TANH:
        return _divide(twice_sine, twice_cosine)
    return _divide(twice_sine if function is Operation.SINH else twice_cosine, Value(Decimal(2)))


def _trigonometric(function: Operation, argument: Value) -> Value:
    if not abs(argument.number) < _LARGEST_ANGLE or argument.error > 1:
        raise Undefined("an angle that is too large")
    quarters = (argument.number / (_PI / 2)).to_integral_value()
    rest = argument.number - quarters * _PI / 2
    sine, cosine = _taylor(rest)
    # A turn by a quarter makes the sine of the rest its cosine, and the cosine its negative sine.
    for _ in range(int(quarters) % 4):
        sine, cosine = cosine, -sine
    error = argument.error + (10 + abs(argument.number)) * _ROUNDING
    getcontext().flags[Inexact] = True
    values = {Operation.SIN: _result(sine, error, argument), Operation.COS: _result(cosine, error, argument)}
    if function is Operation.TAN:
        return _divide(values[Operation.SIN], values[Operation.COS])
    return values[function]


def _taylor(x: Decimal) -> tuple[Decimal, Decimal]:
    """sin x and cos x for |x| below 1, by their series."""
    sine = cosine = _ZERO
    term, k = _ONE, 0
    while abs(term) > _ROUNDING / 100:
        sign = -1 if k % 4 >= 2 else 1
        if k % 2:
            sine += sign * term
        else:
            cosine += sign * term
        k += 1
        term = term * x / k
    return sine, cosine
