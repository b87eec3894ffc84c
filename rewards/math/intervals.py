r"""Inequalities and sets of one real unknown, written as intervals: `x > 2` is `x` in `(2,\infty)`."""

from __future__ import annotations

import re
from itertools import pairwise

from rlvr.rewards.math.latex import compact
from rlvr.rewards.math.numbers import parse_number

_REALS = r"(-\infty,\infty)"
_NUMBER_SETS = {
    **dict.fromkeys((r"\mathbb{R}", r"\mathbbR"), _REALS),
    **dict.fromkeys((r"\mathbb{R}^{+}", r"\mathbb{R}_{>0}", r"\mathbb{R}_{+}"), r"(0,\infty)"),
    **dict.fromkeys((r"\mathbb{R}^{-}", r"\mathbb{R}_{<0}", r"\mathbb{R}_{-}"), r"(-\infty,0)"),
    **dict.fromkeys((r"\mathbb{R}_{\ge0}", r"\mathbb{R}_{\ge 0}"), r"[0,\infty)"),
}
_ORDER = re.compile(r"(<|>|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z]))")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
_UNKNOWN = re.compile(r"[a-zA-Z](?:_\w|_\{\w+\})?(?:\([a-z]\))?|\\(?!infty|pi)[a-z]+")
_LETTER = re.compile(r"(?<![a-zA-Z\\])[a-df-hj-z](?![a-zA-Z])")
_WORDS = re.compile(r"(?<=[\s\d)\]}])(and|or)(?![a-z])|\\(land|lor|wedge|vee)(?![a-z])")
_UNIONS = {"or", "lor", "vee"}
_SET_BUILDER = re.compile(r"^\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?[|:]\s*([^|:{}]+)\\\}$")
_WITHOUT_POINTS = re.compile(r"^\\mathbb\s*\{?R\}?\s*\\setminus\s*\\\{([^{}]+)\\\}$")
_OUTWARD = re.compile(r"^(?P<from>[\[\]])(?P<bounds>[^\[\]]+)(?P<to>[\[\]])$")
_INTERVAL = re.compile(r"^([(\[])([^()\[\],]*),([^()\[\],]*)([)\]])$")
_MEMBER = re.compile(r"^([a-zA-Z](?:_\w|_\{\w+\})?(?:\([a-z]\))?)\s*\\in\s*(.+)$")


def as_interval(text: str) -> tuple[str | None, str] | None:
    """The unknown (None where there is none) and its values as an interval or union; None for anything else."""
    text = text.strip()
    if (numbers := _NUMBER_SETS.get(compact(text).replace("^+", "^{+}").replace("^-", "^{-}"))) is not None:
        return None, numbers
    if (match := _OUTWARD.match(text)) and (match["from"], match["to"]) != ("[", "]"):
        return None, ("[" if match["from"] == "[" else "(") + match["bounds"] + ("]" if match["to"] == "]" else ")")
    if match := _WITHOUT_POINTS.match(text):
        return None, _without(match[1].split(","))
    if match := _MEMBER.match(text):
        return _member(match)
    if match := _SET_BUILDER.match(text):
        inside = as_interval(match[2])
        return None if inside is None or inside[0] not in (None, match[1]) else (None, inside[1])
    if not _ORDER.search(text):
        return None
    words = list(_WORDS.finditer(text))
    if words:
        return _joined(text, words)
    parts = text.split(",")
    return _inequality(text) if len(parts) == 1 else _exceptions(parts) or _two_rays(parts) or _punctured(parts)


def _member(match: re.Match[str]) -> tuple[str | None, str] | None:
    inside = as_interval(match[2])
    return None if inside is None or inside[0] is not None else (match[1], inside[1])


def _joined(text: str, words: list[re.Match[str]]) -> tuple[str | None, str] | None:
    """Inequalities joined by `or` make a union, two joined by `and` an intersection."""
    kinds = {(match[1] or match[2]) in _UNIONS for match in words}
    starts, ends = [0, *(match.end() for match in words)], [*(match.start() for match in words), len(text)]
    parts = [text[start:end].strip(" ,") for start, end in zip(starts, ends, strict=True)]
    if kinds == {False} and (punctured := _punctured(parts)) is not None:
        return punctured
    pieces = [_inequality(part) for part in parts]
    if len(kinds) > 1 or None in pieces:
        return None
    found = [piece for piece in pieces if piece is not None]
    if len({unknown for unknown, _ in found}) > 1:
        return None
    unknown, intervals = found[0][0], [interval for _, interval in found]
    if kinds == {True}:
        return unknown, r"\cup".join(intervals)
    both = _intersection(intervals)
    match = _INTERVAL.match(both) if both is not None else None
    if both is None or match is None:
        return None
    low, high = parse_number(match[2]), parse_number(match[3])
    return unknown, r"\emptyset" if low is not None and high is not None and low > high else both


def _intersection(intervals: list[str]) -> str | None:
    r"""Of `(a,\infty)` and `(-\infty,b)`, whatever a and b are."""
    matches = [_INTERVAL.match(interval) for interval in intervals]
    if len(matches) != 2:
        return None
    for low, high in (matches, matches[::-1]):
        if low and high and low[3] == r"\infty" and high[2] == r"-\infty":
            return f"{low[1]}{low[2]},{high[3]}{high[4]}"
    return None


def _two_rays(parts: list[str]) -> tuple[str | None, str] | None:
    """`x < 1, x > 2` is a union, since no number is in both; `x > 1, x < 2` is what lies between."""
    rays = [_inequality(part.strip()) for part in parts]
    if len(rays) != 2 or rays[0] is None or rays[1] is None or rays[0][0] != rays[1][0]:
        return None
    between = _intersection([rays[0][1], rays[1][1]])
    match = _INTERVAL.match(between) if between is not None else None
    low, high = (parse_number(match[2]), parse_number(match[3])) if match else (None, None)
    if between is None or low is None or high is None:
        return None
    return rays[0][0], between if low < high else rf"{rays[0][1]}\cup{rays[1][1]}"


def _punctured(parts: list[str]) -> tuple[str | None, str] | None:
    r"""`x > 0, x \ne 1`: what the first part says, without points that lie within."""
    within, exceptions = _inequality(parts[0].strip()), _exceptions(parts[1:])
    match = _INTERVAL.match(within[1]) if within is not None else None
    if within is None or match is None or exceptions is None or exceptions[0] != within[0]:
        return None
    points = [piece.partition(",")[0].strip("(") for piece in exceptions[1].split(r"\cup")[1:]]
    if any(_is_outside(point, match) for point in points):
        return None
    bounds = [match[1] + match[2], *points, match[3] + match[4]]
    return within[0], r"\cup".join(
        f"{'' if low is bounds[0] else '('}{low},{high}{'' if high is bounds[-1] else ')'}"
        for low, high in pairwise(bounds)
    )


def _is_outside(point: str, interval: re.Match[str]) -> bool:
    """Whether a point is not known to lie strictly between the ends of an interval."""
    value, low, high = (parse_number(text) for text in (point, interval[2], interval[3]))
    if value is None or (low is None and interval[2] != r"-\infty") or (high is None and interval[3] != r"\infty"):
        return True
    return (low is not None and value <= low) or (high is not None and value >= high)


def _exceptions(parts: list[str]) -> tuple[str | None, str] | None:
    r"""`x \ne 1, 2` and `x \ne 1, x \ne 2`: all numbers but these."""
    unknown, points = None, []
    for part in parts:
        left, sign, right = part.rpartition(r"\ne ")
        if sign:
            if unknown is not None and left.strip() != unknown:
                return None
            unknown = left.strip()
        if unknown is None or not is_unknown(unknown) or not _is_bound(right.strip()):
            return None
        points.append(right)
    return unknown, _without(points)


def _without(points: list[str]) -> str:
    """All numbers but these, in the order in which they were written; that is for the comparison to sort."""
    bounds = [r"-\infty", *(point.strip() for point in sorted(points, key=_sort_key)), r"\infty"]
    return r"\cup".join(f"({low},{high})" for low, high in pairwise(bounds))


def _sort_key(point: str) -> float:
    try:
        return float(point)
    except ValueError:
        return 0.0


def _inequality(text: str) -> tuple[str | None, str] | None:
    pieces = [piece.strip() for piece in _ORDER.split(text)]
    if len(pieces) == 3 and not is_unknown(pieces[0]):
        pieces = [pieces[2], _FLIPPED[pieces[1]], pieces[0]]
    if len(pieces) == 3 and is_unknown(pieces[0]) and _is_bound(pieces[2]):
        return pieces[0], _half_line(pieces[1], pieces[2])
    if len(pieces) == 5 and is_unknown(pieces[2]) and _is_bound(pieces[0]) and _is_bound(pieces[4]):
        low, first, unknown, second, high = pieces
        if first in (">", r"\ge"):
            low, first, second, high = high, _FLIPPED[second], _FLIPPED[first], low
        if first in ("<", r"\le") and second in ("<", r"\le"):
            return unknown, ("[" if first == r"\le" else "(") + f"{low},{high}" + ("]" if second == r"\le" else ")")
    return None


def _half_line(sign: str, bound: str) -> str:
    if sign == r"\ne":
        return _without([bound])
    if sign in (">", r"\ge"):
        return ("[" if sign == r"\ge" else "(") + bound + r",\infty)"
    return r"(-\infty," + bound + ("]" if sign == r"\le" else ")")


def is_unknown(text: str) -> bool:
    r"""Whether a text is one letter that stands for a number: `x`, `x_1`, `f(x)`, `\theta`."""
    return _UNKNOWN.fullmatch(text) is not None


def _is_bound(text: str) -> bool:
    return bool(text) and _LETTER.search(text) is None
