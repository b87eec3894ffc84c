r"""Takes a value apart into number or expression, unit, percent sign and scale word, and compares two of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from rlvr.rewards.math.numbers import parse_number, written_decimals
from rlvr.rewards.math.units import Unit, are_angles, conversion, read_unit

# A decimal written out this far is an exact value that was rounded; a shorter one is a rounded answer.
EXACT_DECIMAL_DIGITS = 12

_MAX_CHARACTERS = 400
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "hundred": 100}
_PERCENT = {"percent", "pct", "percentage"}
_NO_UNIT = {
    *("or", "and", "not", "to", "than", "more", "less", "if", "mod", "maybe", "perhaps", "possibly", "least", "most"),
    *("wrong", "incorrect", "false", "no", "when", "where", "for", "with", "is", "plus", "minus", "times", "am", "pm"),
    *("other", "factorial", "base", "bits", "choose"),
}
_WORD = re.compile("[a-z]+")
_POWERS = (["squared"], ["cubed"])  # of the number itself, where no unit stands between
_SYMBOLS = "mghsLNJWV"  # units of one letter, where they stand apart from the number; `5 n` is a product
_JOINED_TEXTS = re.compile(r"\}\s*(/|\\cdot)\s*\\text\s*\{")
_TEXT = re.compile(r"\s*\\text\s*\{([^{}]*)\}\s*(\^\s*\{?\s*-?[123]\s*\}?)?$")
_BARE = re.compile(
    r"(?<=[\d})°!])(?P<gap> ?)(?P<unit>[A-Za-zμ°¢][A-Za-z./ °]*(?:\^\s*\{?-?[123]\}?|(?<=[cdkm]m)[23])?)$"
)
_AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(?:\\text\s*\{\s*)?([A-Za-z]+)\.?(?:\s+and)?\s*\}?,?\s*(?:and\s+)?")
_AMOUNTS = re.compile(rf"^(?:{_AMOUNT.pattern}){{2,4}}$")
_ARC = re.compile(r"^(\d{1,4})°\s*(\d{1,2})'(?:\s*(\d{1,2})'')?$")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_SCALE_AT_END = re.compile(r"\s*(?:\\text\s*\{\s*)?\b(hundred|thousand|million|billion|trillion)\s*\}?$")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value as it was written.

    `body` is the number or expression without its unit, `value` what it is where it is a plain number: exact, with
    the scale word applied, and in per cent where `percent`. `decimals` counts the digits after the point, None
    where the number was not written as a decimal; `significant` all its digits but leading zeros.
    """

    body: str
    unit: Unit
    percent: bool
    scale: int
    value: Fraction | None
    decimals: int | None
    significant: int


@lru_cache(maxsize=8192)
def read_quantity(text: str) -> Quantity:
    """A normalised value taken apart. What has no unit that could be told from it is its own body."""
    if (value := parse_number(text)) is not None:
        return Quantity(text, Unit(), False, 1, value, *written_decimals(text))
    if (quantity := _added_up(text)) is not None:
        return quantity
    body, words = _split(text) if len(text) <= _MAX_CHARACTERS else (text, "")
    parts = words.split()
    percent = bool(parts) and parts[0].lower().strip(".") in _PERCENT
    if percent:
        del parts[0]
    elif body.endswith("%"):  # 20% increase
        body, percent = body[:-1].rstrip(), True
    scale = 1
    if parts and parts[0].lower() in _SCALES:
        scale = _SCALES[parts.pop(0).lower()]
    elif match := _SCALE_AT_END.search(body) if len(body) <= _MAX_CHARACTERS else None:
        body, scale = body[: match.start()], _SCALES[match[1]]
    unit = read_unit(" ".join(parts))
    if percent and unit.measures:
        unit = Unit()
    value = parse_number(body)
    decimals, significant = written_decimals(body) if scale == 1 else (None, 0)
    return Quantity(body, unit, percent, scale, None if value is None else value * scale, decimals, significant)


def is_number(text: str) -> bool:
    """Whether a normalised value is a plain number, with or without a unit."""
    return read_quantity(text).value is not None


def same_quantity(reference: Quantity, answer: Quantity, tolerance: float = 0.0) -> bool | None:
    """Whether two quantities are the same; None where their units agree, and one is no plain number.

    A percent sign may be left out, as a value or as a fraction: `50%` is 50 and 0.5. A unit may be left out,
    and is converted where it is a common one. `tolerance` is relative to the reference.
    """
    factor = conversion(reference.unit, answer.unit)
    if factor is None:
        numbers = reference.value is not None and answer.value is not None
        return None if are_angles(reference.unit, answer.unit) and not numbers else False
    if reference.value is None or answer.value is None:
        return None
    if answer.percent != reference.percent and (answer.unit.measures or reference.unit.measures):
        return False
    candidates = [answer.value * factor]
    if answer.percent != reference.percent:
        candidates.append(candidates[0] / 100 if answer.percent else candidates[0] * 100)
    return any(_same_number(reference, answer, value, tolerance) for value in candidates)


def _same_number(reference: Quantity, answer: Quantity, value: Fraction, tolerance: float) -> bool:
    assert reference.value is not None
    difference = abs(reference.value - value)
    if not difference or (tolerance and difference <= Fraction(tolerance) * abs(reference.value)):
        return True
    exact, rounded = (reference, answer) if answer.decimals is not None else (answer, reference)
    if rounded.decimals is None or exact.decimals is not None or rounded.significant < EXACT_DECIMAL_DIGITS:
        return False
    assert exact.value is not None
    return exact.value.denominator != 1 and difference <= Fraction(1, 10**rounded.decimals)


def _added_up(text: str) -> Quantity | None:
    """`2 hours 30 minutes` as hours, `22° 30'` as degrees; None where it is no list of amounts, the largest first."""
    if match := _ARC.match(text):
        degrees, minutes, seconds = (int(digits or 0) for digits in match.groups())
        return Quantity(text, read_unit("°"), False, 1, degrees + Fraction(60 * minutes + seconds, 3600), None, 0)
    if len(text) > _MAX_CHARACTERS or not _AMOUNTS.match(text):
        return None
    amounts = [(parse_number(match[1]), read_unit(match[2])) for match in _AMOUNT.finditer(text)]
    units = [unit for _, unit in amounts]
    descending = all(above.size > below.size for above, below in pairwise(units))
    if not units[0].measures or not descending or len({unit.measures for unit in units}) > 1:
        return None
    value = sum((number * unit.size / units[0].size for number, unit in amounts if number is not None), Fraction(0))
    return Quantity(text, units[0], False, 1, value, None, 0)


def _split(text: str) -> tuple[str, str]:
    """What stands before a unit, and the unit's words; no words where nothing at the end is one."""
    if text.endswith("%"):
        return text[:-1].rstrip(), "percent"
    if (start := text.rfind(r"\text")) > 0:
        joined = _JOINED_TEXTS.sub(r"\1", text)
        match = _TEXT.match(joined, joined.rfind(r"\text"))
        if match is not None and joined[: match.start()].endswith("°"):
            return _unless_qualified(text, joined[: match.start() - 1], "°" + match[1])
        if match is not None:
            return _unless_qualified(text, joined[: match.start()], match[1] + (match[2] or ""))
    match = _BARE.search(text) if start < 0 else None
    if match is not None and match["unit"] == "°" and _FUNCTION.search(text):
        return text, ""  # the angle of sin 30°
    if match is None or not _is_unit(match["unit"], spaced=bool(match["gap"])):
        return text, ""
    return _unless_qualified(text, text[: match.start()], match["unit"])


def _unless_qualified(text: str, body: str, words: str) -> tuple[str, str]:
    plain = _WORD.findall(words.lower())
    if not _NO_UNIT.isdisjoint(plain) or plain[:1] in _POWERS:
        return text, ""
    return body.strip(), words.strip()


def _is_unit(words: str, *, spaced: bool) -> bool:
    """Whether words behind a number are a unit: a known one, or spelt out. `2 x` and `2ab` are products."""
    known = bool(read_unit(words).measures)
    if len(words) == 1:
        return words in "°¢" or (spaced and words in _SYMBOLS)
    if not spaced:
        return known
    first = words.split()[0].lower()
    return known or first in _PERCENT or first in _SCALES or (len(first) >= 3 and not set("aeiouy").isdisjoint(first))
