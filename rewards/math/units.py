r"""Units of measure: reads `km/h`, `square meters` or `dollars per hour`, and converts one into another."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

# What a unit measures, how many of the base unit it is, and its names.
_TABLE: list[tuple[str, Fraction, str]] = [
    ("length", Fraction(1, 10**9), "nm nanometer nanometers"),
    ("length", Fraction(1, 10**6), "μm micrometer micrometers micron microns"),
    ("length", Fraction(1, 1000), "mm millimeter millimeters millimetre millimetres"),
    ("length", Fraction(1, 100), "cm centimeter centimeters centimetre centimetres"),
    ("length", Fraction(1, 10), "dm decimeter decimeters decimetre decimetres"),
    ("length", Fraction(1), "m meter meters metre metres"),
    ("length", Fraction(1000), "km kilometer kilometers kilometre kilometres"),
    ("length", Fraction(254, 10_000), "inch inches"),
    ("length", Fraction(3048, 10_000), "ft foot feet"),
    ("length", Fraction(9144, 10_000), "yd yard yards"),
    ("length", Fraction(1_609_344, 1000), "mi mile miles"),
    ("mass", Fraction(1, 1000), "mg milligram milligrams"),
    ("mass", Fraction(1), "g gram grams"),
    ("mass", Fraction(1000), "kg kilogram kilograms kilo kilos"),
    ("mass", Fraction(10**6), "tonne tonnes"),
    ("mass", Fraction(45_359_237, 100_000), "lb lbs pound pounds"),
    ("mass", Fraction(45_359_237, 1_600_000), "oz ounce ounces"),
    ("time", Fraction(1, 1000), "ms millisecond milliseconds"),
    ("time", Fraction(1), "s sec secs second seconds"),
    ("time", Fraction(60), "min mins minute minutes"),
    ("time", Fraction(3600), "h hr hrs hour hours"),
    ("time", Fraction(86_400), "day days"),
    ("time", Fraction(604_800), "week weeks"),
    ("months", Fraction(1), "month months"),
    ("months", Fraction(12), "year years yr yrs"),
    ("length^3", Fraction(1, 10**6), "ml milliliter milliliters millilitre millilitres cc"),
    ("length^3", Fraction(1, 1000), "l liter liters litre litres"),
    ("cups", Fraction(1), "cup cups"),
    ("cups", Fraction(2), "pint pints"),
    ("cups", Fraction(4), "quart quarts"),
    ("cups", Fraction(16), "gallon gallons gal"),
    ("dollars", Fraction(1, 100), "cent cents penny pennies ¢"),
    ("dollars", Fraction(1), "dollar dollars usd buck bucks"),
    ("euros", Fraction(1), "euro euros eur"),
    ("sterling", Fraction(1), "sterling gbp"),
    ("yen", Fraction(1), "yen jpy"),
    ("yuan", Fraction(1), "yuan rmb cny"),
    ("rupees", Fraction(1), "rupee rupees inr"),
    ("angle", Fraction(1), "° degree degrees deg"),
    ("radians", Fraction(1), "radian radians rad"),
    ("celsius", Fraction(1), "celsius"),
    ("fahrenheit", Fraction(1), "fahrenheit"),
    ("kelvin", Fraction(1), "kelvin kelvins"),
    ("energy", Fraction(1), "j joule joules"),
    ("energy", Fraction(1000), "kj kilojoule kilojoules"),
    ("power", Fraction(1), "w watt watts"),
    ("power", Fraction(1000), "kw kilowatt kilowatts"),
    ("power", Fraction(10**6), "megawatt megawatts"),
    ("energy", Fraction(3_600_000), "kwh"),
    ("pressure", Fraction(1), "pa pascal pascals"),
    ("pressure", Fraction(1000), "kpa kilopascal kilopascals"),
    ("current", Fraction(1), "ampere amperes amp amps"),
    ("resistance", Fraction(1), "ohm ohms"),
    ("amount", Fraction(1), "mol mole moles"),
    ("force", Fraction(1000), "kn kilonewton kilonewtons"),
    ("frequency", Fraction(1000), "khz kilohertz"),
    ("frequency", Fraction(10**6), "mhz megahertz"),
    ("length^2", Fraction(40_468_564_224, 10**7), "acre acres"),
    ("length^2", Fraction(10**4), "hectare hectares ha"),
    ("force", Fraction(1), "n newton newtons"),
    ("frequency", Fraction(1), "hz hertz"),
    ("charge", Fraction(1), "coulomb coulombs"),
    ("voltage", Fraction(1), "v volt volts"),
]
_UNITS = {name: (measure, size) for measure, size, names in _TABLE for name in names.split()}
_STERLING, _MASS, _POUND = (("sterling", 1),), (("mass", 1),), _UNITS["pound"][1]
_PHRASES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\bpounds sterling\b", "sterling"),
        (r"(?:°|\bdegrees?) ?c(?:elsius)?\b", "celsius"),
        (r"(?:°|\bdegrees?) ?f(?:ahrenheit)?\b", "fahrenheit"),
        (r"\bmph\b", "mi/h"),
        (r"\b(?:kmh|kph)\b", "km/h"),
        (r"\bsq\.? ", "square "),
        (r"\bin(?=[.^²³23]|$)\.?|(?<=square )in\b|(?<=cubic )in\b", "inch"),
        (r"\bcents?\b|¢", "cent"),
        (r"\bper\b", "/"),
        (r"\bsquare (\w+)", r"\1^2"),
        (r"\bcubic (\w+)", r"\1^3"),
        (r" squared\b", "^2"),
        (r" cubed\b", "^3"),
        (r"\b(mm|cm|dm|m|km|ft|inch)([23])\b", r"\1^\2"),
    ]
]
_PART = re.compile(r"\s*([/*·]?)\s*([^\W\d_]+|[°¢])(?:\s*\^\s*\{?\s*(-?[123])\s*\}?)?\.?")
# Words beside a number that say opposite things of it, so that no two of a line can mean the same.
_CONTRASTS = [
    "north|south|east|west",
    "up upward upwards above|down downward downwards below",
    "left|right",
    "clockwise|counterclockwise anticlockwise counter-clockwise",
    "increase|decrease",
    "gain profit|loss",
    "win wins|losses|draw draws",
    "before ago earlier|after later",
    "bc bce|ad ce",
    "boy boys|girl girls",
    "man men|woman women",
    "male males|female females",
    "adult adults|child children",
    "heads|tails",
    "red|orange|yellow|green|blue|purple|white|black",
]
_SIDES = {
    word: (line, side)
    for line, sides in enumerate(_CONTRASTS)
    for side, words in enumerate(sides.split("|"))
    for word in words.split()
}
_NO_UNIT_WORDS = {"units", "unit", "sq units", "square units", "cubic units"}


@dataclass(frozen=True, slots=True)
class Unit:
    """`size` base units of what `measures` says; `words` where no unit of measure is known by that name.

    `sides` are those that its words take in contrasts such as north and south, by the number of the contrast.
    """

    size: Fraction = Fraction(1)
    measures: tuple[tuple[str, int], ...] = ()
    words: str = ""
    sides: tuple[tuple[int, int], ...] = ()


@lru_cache(maxsize=1024)
def read_unit(text: str) -> Unit:
    """The unit that words such as `km/h` or `cm long` name; one with `words` alone where none is known."""
    words = " ".join(text.lower().split())
    if words in _NO_UNIT_WORDS:
        return Unit()
    spelt = words
    for pattern, replacement in _PHRASES:
        spelt = pattern.sub(replacement, spelt)
    size, powers, position = Fraction(1), Counter[str](), 0
    while match := _PART.match(spelt, position):
        sign, name, power = match.groups()
        if name not in _UNITS:
            if sign == "/":
                powers[name.removesuffix("s")] -= 1  # dollars per apple
                position = match.end()
                continue
            break
        measure, unit_size = _UNITS[name]
        exponent = int(power or 1) * (-1 if sign == "/" else 1)
        size *= unit_size**exponent
        base, _, degree = measure.partition("^")
        powers[base] += exponent * int(degree or 1)
        position = match.end()
    measures = tuple(sorted((name, power) for name, power in powers.items() if power))
    sides = tuple(_SIDES[word] for word in words.split() if word in _SIDES)
    return Unit(size, measures, sides=sides) if measures else Unit(words=words, sides=sides)


def are_angles(left: Unit, right: Unit) -> bool:
    """Whether one is in degrees and the other in radians: their factor is no fraction."""
    return {left.measures, right.measures} == {(("angle", 1),), (("radians", 1),)}


def conversion(reference: Unit, answer: Unit) -> Fraction | None:
    """What to multiply an answer by to have it in the reference's unit; None where the two cannot agree.

    A unit may be left out on either side. Words that are no unit of measure may well mean the same, as "ways" and
    "arrangements" do; but not "girls" and "boys", nor a way north and one south.
    """
    taken = dict(reference.sides)
    if any(taken.get(contrast, side) != side for contrast, side in answer.sides):
        return None
    if not reference.measures and not answer.measures:
        return Fraction(1)
    if reference == Unit() or answer == Unit():
        return Fraction(1)
    if {reference.measures, answer.measures} == {_STERLING, _MASS} and _POUND in (reference.size, answer.size):
        return Fraction(1)  # pounds, of whichever kind the other says
    return answer.size / reference.size if reference.measures == answer.measures else None
