r"""Reads a plain number exactly: `1,234.5`, `\frac{3}{4}`, `7 3/4`, `1.5\times 10^{-3}`, `0.\overline{3}`."""

from __future__ import annotations

import re
from fractions import Fraction

# Longer digit strings and larger exponents are not read: work on them must not grow without bound.
_MAX_DIGITS = 200
_MAX_EXPONENT = 400

_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
_GROUPED_BY_SPACES = re.compile(r"^(\d{1,3}(?:[ ']\d{3})+)(?=$|\.)")
_GROUPED_BY_POINTS = re.compile(r"^([1-9]\d{0,2}(?:\.\d{3}){2,})(?:,(\d+))?$")
_PLAIN = re.compile(rf"^({_DIGITS})?(?:\.(\d*))?(?:[eE]([-+]?\d+))?$")
_REPEATING = re.compile(r"^(\d*)\.(\d*)(?:\\(?:overline|dot|bar)\s*\{?(\d+)\}?|\((\d+)\))$")
_REPEATING_DOTS = re.compile(r"^(\d+)\.(\d*)\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?$")
_REPEATING_TAIL = re.compile(r"^(\d{1,20})\.(\d{0,20}?)(?=\d{3})(\d{1,6}?)\3+\s*\\ldots$")
_FRACTION = re.compile(r"^\\frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*(-?[\d.,]+)\s*\}$")
_SLASH = re.compile(r"^(-?[\d.,]+)\s*/\s*(-?[\d.,]+)$")
_MIXED = re.compile(r"^(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}$|^(\d+)(?:\s+and)?\s+(\d+)\s*/\s*(\d+)$")
_POWER = re.compile(r"^(?:([\d.,]+)\s*(?:\\times|\\cdot|x)\s*)?(\d+)\s*\^\s*(?:\{\s*(-?\d+)\s*\}|(-?\d+))$")
_DECIMAL = re.compile(r"^[-+]?([\d,]*)\.(\d+)$")


def parse_number(text: str) -> Fraction | None:
    """The exact value of a number in normalised LaTeX; None where it is anything else, or too long to read."""
    if len(text) > 2 * _MAX_DIGITS:
        return None
    text = text.strip()
    negative = False
    while text[:1] in ("-", "+"):
        negative ^= text[0] == "-"
        text = text[1:].lstrip()
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1 and "," not in text:
        value = parse_number(text[1:-1])
    else:
        value = _unsigned(text) if text and sum(map(str.isdigit, text)) <= _MAX_DIGITS else None
    return -value if value is not None and negative else value


def written_decimals(number: str) -> tuple[int | None, int]:
    """How many digits a decimal has after its point, and in all but leading zeros; None where it is no decimal."""
    match = _DECIMAL.match(number.strip()) if len(number) <= 2 * _MAX_DIGITS else None
    if match is None:
        return None, 0
    return len(match[2]), len((match[1].replace(",", "") + match[2]).lstrip("0"))


def _unsigned(text: str) -> Fraction | None:
    if match := _PLAIN.match(text):
        return _plain(*match.groups())
    if grouped := _GROUPED_BY_SPACES.match(text):
        return _unsigned(re.sub("[ ']", "", grouped.group()) + text[grouped.end() :])
    if match := _GROUPED_BY_POINTS.match(text):
        return _plain(match[1].replace(".", ""), match[2], None)
    if match := _REPEATING.match(text) or _REPEATING_TAIL.match(text):
        whole, fixed, *repeated = (group for group in match.groups() if group is not None)
        return _repeating(whole, fixed, repeated[0])
    if match := _REPEATING_DOTS.match(text):
        return _repeating(match[1], match[2], match[3] + match[4] + match[5])
    if match := _FRACTION.match(text) or _SLASH.match(text):
        return _quotient(parse_number(match[1]), parse_number(match[2]))
    if match := _MIXED.match(text):
        whole, over, under = (int(group) for group in match.groups() if group is not None)
        part = _quotient(Fraction(over), Fraction(under))
        return None if part is None else whole + part
    if match := _POWER.match(text):
        return _power(match[1], int(match[2]), match[3] or match[4])
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
    return Fraction(int(whole + fixed or "0"), shift) + Fraction(int(repeated), shift * (10 ** len(repeated) - 1))


def _power(factor: str | None, base: int, exponent: str) -> Fraction | None:
    multiplier = parse_number(factor) if factor else Fraction(1)
    size = abs(int(exponent))
    if multiplier is None or size > _MAX_EXPONENT or len(str(base)) * size > 4 * _MAX_EXPONENT:
        return None
    return None if base == 0 and int(exponent) <= 0 else multiplier * Fraction(base) ** int(exponent)


def _quotient(over: Fraction | None, under: Fraction | None) -> Fraction | None:
    return over / under if over is not None and under else None
