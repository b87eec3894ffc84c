"""Reads a number exactly, with its percent sign and its unit, and compares two of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

# Longer digit strings and larger exponents are not read: work on them must not grow without bound.
_MAX_DIGITS = 200
_MAX_EXPONENT = 400
# A decimal written out this far is an exact value that was rounded; a shorter one is a rounded answer.
_EXACT_DECIMAL_DIGITS = 12

_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
_GROUPED_BY_SPACES = re.compile(r"^(-?\d{1,3}(?: \d{3})+)(?=$|\.)")
_PLAIN = re.compile(rf"^({_DIGITS})?(?:\.(\d*))?(?:[eE]([-+]?\d+))?$")
_REPEATING = re.compile(r"^(\d+)\.(\d*)\\(?:overline|dot|bar)\s*\{?(\d+)\}?$")
_FRACTION = re.compile(r"^\\frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*(-?[\d.,]+)\s*\}$")
_SLASH = re.compile(r"^(-?[\d.,]+)\s*/\s*(-?[\d.,]+)$")
_MIXED = re.compile(r"^(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}$|^(\d+)\s+(\d+)\s*/\s*(\d+)$")
_POWER = re.compile(
    r"^(?:(-?[\d.,]+)\s*(?:\\times|\\cdot|\*|x)\s*)?(-?\d+)\s*(?:\^|\*\*)\s*(?:\{\s*(-?\d+)\s*\}|(-?\d))$"
)

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PERCENT = {"%", "percent", "pct", "percentage"}
_NO_UNIT = {"or", "and", "not", "to", "than", "more", "less", "if", "mod"}
# What a unit measures, how many of the base unit it is, and its names.
_UNIT_TABLE: list[tuple[str, Fraction, str]] = [
    ("length", Fraction(1, 1000), "mm millimeter millimeters"),
    ("length", Fraction(1, 100), "cm centimeter centimeters"),
    ("length", Fraction(1), "m meter meters metre metres"),
    ("length", Fraction(1000), "km kilometer kilometers"),
    ("length", Fraction(254, 10_000), "inch inches"),
    ("length", Fraction(3048, 10_000), "ft foot feet"),
    ("length", Fraction(9144, 10_000), "yd yard yards"),
    ("length", Fraction(1_609_344, 1000), "mi mile miles"),
    ("mass", Fraction(1, 1000), "mg milligram milligrams"),
    ("mass", Fraction(1), "g gram grams"),
    ("mass", Fraction(1000), "kg kilogram kilograms"),
    ("time", Fraction(1), "s sec second seconds"),
    ("time", Fraction(60), "min minute minutes"),
    ("time", Fraction(3600), "h hr hour hours"),
    ("time", Fraction(86_400), "day days"),
    ("volume", Fraction(1, 1000), "ml milliliter milliliters"),
    ("volume", Fraction(1), "l liter liters litre litres"),
    ("money", Fraction(1, 100), "cent cents"),
    ("money", Fraction(1), "dollar dollars usd"),
]
_UNITS = {name: (measure, size) for measure, size, names in _UNIT_TABLE for name in names.split()}
_UNIT_SUFFIX = re.compile(
    r"^(?P<number>.*?[\d}.])\s*(?:\\text\s*\{(?P<text>[^{}]*)\}|(?P<word>(?<= )[A-Za-z][A-Za-z ./]*|%|"
    r"(?:cm|mm|km|kg|ml|mL|percent|pct)))\s*(?P<power>\^[23]|(?<=m)[23])?$"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was written.

    `unit` is lower case with its power, "" for none. `decimals` counts the digits after the point, None where
    the number was not written as a decimal; `significant` all its digits but leading zeros.
    """

    value: Fraction
    unit: str = ""
    percent: bool = False
    decimals: int | None = None
    significant: int = 0


@lru_cache(maxsize=8192)
def parse_quantity(text: str) -> Quantity | None:
    """A number with an optional unit, in normalised LaTeX. None where it is anything else, or too long to read."""
    number, unit, scale, percent = _split_unit(text)
    value = parse_number(number)
    if value is None:
        return None
    decimals, significant = _written_digits(number) if scale == 1 else (None, 0)
    return Quantity(value * scale, unit, percent, decimals, significant)


def parse_number(text: str) -> Fraction | None:
    """The exact value of a plain number: an integer, decimal, fraction, mixed number, `10^{-3}`, `0.\\overline{3}`."""
    text = text.strip()
    negative = False
    while text[:1] in ("-", "+"):
        negative ^= text[0] == "-"
        text = text[1:].lstrip()
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        return _signed(parse_number(text[1:-1]), negative)
    if len(text) > 2 * _MAX_DIGITS or sum(c.isdigit() for c in text) > _MAX_DIGITS:
        return None
    return _signed(_parse_unsigned(text), negative)


def equal(reference: Quantity, answer: Quantity, tolerance: float = 0.0) -> bool:
    """Whether two quantities are the same number.

    A percent sign may be left out, as a value or as a fraction: `50%` is 50 and 0.5. A unit may be left out,
    and is converted where it is a common one. `tolerance` is relative to the reference.
    """
    factor = _conversion(reference.unit, answer.unit)
    if factor is None:
        return False
    candidates = [answer.value * factor]
    if answer.percent != reference.percent:
        candidates += [candidates[0] / 100] if answer.percent else [candidates[0] * 100]
    return any(_same_number(reference, answer, value, tolerance) for value in candidates)


def _same_number(reference: Quantity, answer: Quantity, value: Fraction, tolerance: float) -> bool:
    difference = abs(reference.value - value)
    if difference <= Fraction(tolerance) * abs(reference.value):
        return True
    exact, rounded = (reference, answer) if answer.decimals is not None else (answer, reference)
    if rounded.decimals is None or exact.decimals is not None or rounded.significant < _EXACT_DECIMAL_DIGITS:
        return False
    return exact.value.denominator != 1 and difference <= Fraction(1, 10**rounded.decimals)


def _conversion(reference: str, answer: str) -> Fraction | None:
    """What to multiply the answer by to have it in the reference's unit; None where the units cannot agree."""
    if not reference or not answer or reference == answer:
        return Fraction(1)
    reference_name, _, reference_power = reference.partition("^")
    answer_name, _, answer_power = answer.partition("^")
    if reference_name not in _UNITS or answer_name not in _UNITS:
        return Fraction(1)  # words that may well mean the same, as "dollars" and "USD" do
    if reference_power != answer_power or _UNITS[reference_name][0] != _UNITS[answer_name][0]:
        return None
    return (_UNITS[answer_name][1] / _UNITS[reference_name][1]) ** int(reference_power or 1)


def _split_unit(text: str) -> tuple[str, str, int, bool]:
    """The number, its unit, the factor of a word such as million, and whether it is a percentage."""
    match = _UNIT_SUFFIX.match(text) if len(text) <= 2 * _MAX_DIGITS else None
    if match is None:
        return text, "", 1, False
    words = (match["text"] or match["word"] or "").lower().replace(".", "").split()
    if not _NO_UNIT.isdisjoint(words):
        return text, "", 1, False
    scale = 1
    if words and words[0] in _SCALES:
        scale = _SCALES[words.pop(0)]
    percent = bool(words) and words[0] in _PERCENT
    unit = "" if percent else " ".join(words)
    power = (match["power"] or "").lstrip("^")
    return match["number"].strip(), f"{unit}^{power}" if unit and power else unit, scale, percent


def _parse_unsigned(text: str) -> Fraction | None:
    if grouped := _GROUPED_BY_SPACES.match(text):
        text = grouped.group().replace(" ", "") + text[grouped.end() :]
    if match := _PLAIN.match(text):
        return _plain(*match.groups())
    if match := _REPEATING.match(text):
        return _repeating(*match.groups())
    if match := _FRACTION.match(text) or _SLASH.match(text):
        return _quotient(parse_number(match[1]), parse_number(match[2]))
    if match := _MIXED.match(text):
        whole, over, under = (int(group) for group in match.groups() if group is not None)
        part = _quotient(Fraction(over), Fraction(under))
        return None if part is None else whole + part
    if match := _POWER.match(text):
        return _power(match[1], int(match[2]), int(match[3] or match[4]))
    return None


def _plain(whole: str | None, decimals: str | None, exponent: str | None) -> Fraction | None:
    if not whole and not decimals:
        return None
    # An exponent of many digits is too large, and is not even read.
    if exponent and (len(exponent) > 4 or abs(int(exponent)) > _MAX_EXPONENT):
        return None
    digits = int((whole or "").replace(",", "") + (decimals or ""))
    power = int(exponent or 0) - len(decimals or "")
    return Fraction(digits * 10**power) if power >= 0 else Fraction(digits, 10**-power)


def _repeating(whole: str, fixed: str, repeated: str) -> Fraction:
    shift = 10 ** len(fixed)
    return Fraction(int(whole + fixed), shift) + Fraction(int(repeated), shift * (10 ** len(repeated) - 1))


def _power(factor: str | None, base: int, exponent: int) -> Fraction | None:
    multiplier = parse_number(factor) if factor else Fraction(1)
    small = abs(exponent) <= _MAX_EXPONENT and len(str(base)) * abs(exponent) <= 4 * _MAX_EXPONENT
    # The sign of `-2^2` is outside the power; it was taken off before, but a factor leaves it inside.
    if multiplier is None or not small or (base < 0) or (base == 0 and exponent <= 0):
        return None
    return multiplier * Fraction(base) ** exponent


def _quotient(over: Fraction | None, under: Fraction | None) -> Fraction | None:
    return over / under if over is not None and under else None


def _signed(value: Fraction | None, negative: bool) -> Fraction | None:
    return -value if value is not None and negative else value


def _written_digits(number: str) -> tuple[int | None, int]:
    match = re.match(r"^[-+]?([\d,]*)\.(\d+)$", number.strip())
    if match is None:
        return None, 0
    return len(match[2]), len((match[1].replace(",", "") + match[2]).lstrip("0"))
