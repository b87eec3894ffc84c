r"""Compares answers part by part: lists, tuples, intervals, sets, matrices, inequalities, named values.

Works on normalised text alone, and leaves each part to a `Leaf`, which may not know. So the same rules serve
our own process, where a leaf compares numbers and words, and a worker, where it asks computer algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from rlvr.rewards.math.latex import compact
from rlvr.rewards.math.numbers import parse_quantity

Leaf = Callable[[str, str], bool | None]


class Kind(StrEnum):
    """What brackets or signs make of the parts they hold."""

    UNION = "union"
    SET = "set"
    TUPLE = "tuple"  # or open interval: (1, 2) may be either
    CLOSED = "closed"
    HALF_OPEN_LEFT = "half open left"
    HALF_OPEN_RIGHT = "half open right"
    MATRIX = "matrix"


@dataclass(frozen=True, slots=True)
class _Compound:
    kind: Kind
    parts: tuple[str, ...]
    columns: int = 0


_MAX_PARTS = 30
_UNORDERED = {Kind.UNION, Kind.SET}
_BRACKETS = {
    ("(", ")"): Kind.TUPLE,
    ("[", "]"): Kind.CLOSED,
    ("(", "]"): Kind.HALF_OPEN_LEFT,
    ("[", ")"): Kind.HALF_OPEN_RIGHT,
}
_WORD_SEPARATOR = re.compile(r"(?:(?<=[\s\d)\]}])|(?<=\\}))(?:and|or)(?![a-z])")
_COMMA_DECIMAL = re.compile(r"^-?\d+,\d+$")
_MATRIX = re.compile(r"^[\[(]?\s*\\begin\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}\s*[\])]?$", re.DOTALL)
_INTEGER_PARAMETER = re.compile(r"[,;]?\s*\(?\s*([a-z])\s*\\in\s*\\mathbb\s*\{?\s*Z\s*\}?\s*\)?$")
_MEMBER = re.compile(r"^[a-zA-Z](?:_\w|_\{\w+\})?\s*\\in\s*(.+)$")
_CONGRUENCE = re.compile(r"^(.*)\\equiv\s*(-?\d{1,30})\s*\(?\s*\\p?mod\s*\{?\s*(\d{1,30})\s*\}?\s*\)?$")
_RATIO = re.compile(r"^\d{1,30}(?:\s*:\s*\d{1,30})+$")
_IN_BASE = re.compile(r"^\d[\dA-F]*_\{?\d+\}?$")
_ORDER = re.compile(r"(<|>|\\le(?![a-z])|\\ge(?![a-z]))")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_NO_NAME = re.compile(r"[\d+\-*^<>]|\\(?:cdot|times|forall|exists|sin|cos|tan|ln|log|sqrt)")
_SUBSCRIPT = re.compile(r"_\w|_\{[^{}]*\}")
_ARGUMENT = re.compile(r"(?<=[a-zA-Z])\([^()]*\)")


def same(reference: str, answer: str, leaf: Leaf) -> bool | None:
    """Whether two normalised answers say the same; None where the leaves could not tell."""
    if compact(reference) == compact(answer):
        return True
    for rule in (_same_decimal_comma, _same_congruence, _same_ratio, _same_in_base):
        if (verdict := rule(reference, answer)) is not None:
            return verdict
    reference, answer = _without_parameter(reference), _without_parameter(answer)
    left, right = _items(reference), _items(answer)
    if len(left) == 1 and len(right) > 1:
        left = _split(reference)  # 100,200 is a number only where nothing says that it is a list
    if len(left) == 1 and len(right) == 1:
        return _same_item(left[0], right[0], leaf)
    return _same_lists(left, right, leaf)


def _same_lists(left: list[str], right: list[str], leaf: Leaf) -> bool | None:
    """Two lists in any order; a list and one set, tuple or matrix; the same names must hold the same values."""
    if max(len(left), len(right)) > _MAX_PARTS:
        return None
    if len(left) == 1 or len(right) == 1:
        return _same_list_and_compound(left, right, leaf)
    if all(_compound(item) for item in [*left, *right]):
        left, right = _distinct(left), _distinct(right)  # solutions, where a number may be a double root
    left_names, right_names = [_name_and_value(item)[0] for item in left], [_name_and_value(i)[0] for i in right]
    if all(left_names) and len(set(left_names)) == len(left) and set(left_names) == set(right_names):
        values = {_name_and_value(item)[0]: item for item in right}
        return _every(_same_item(item, values[name], leaf) for name, item in zip(left_names, left, strict=True))
    return _same_in_any_order(left, right, leaf)


def _same_list_and_compound(left: list[str], right: list[str], leaf: Leaf) -> bool | None:
    items, single = (left, right[0]) if len(right) == 1 else (right, left[0])
    single = _as_interval(_name_and_value(single)[1])
    compound = _compound(single)
    if compound is None or compound.kind in (Kind.CLOSED, Kind.HALF_OPEN_LEFT, Kind.HALF_OPEN_RIGHT):
        return False if parse_quantity(single) is not None or r"\cup" not in single else None
    parts = list(compound.parts)
    pair = (items, parts) if items is left else (parts, items)
    if compound.kind in (Kind.TUPLE, Kind.MATRIX):
        if len(parts) != len(items):
            return False
        return _every(_same_item(a, b, leaf) for a, b in zip(*pair, strict=True))
    return _same_in_any_order(*pair, leaf)


def _same_item(reference: str, answer: str, leaf: Leaf) -> bool | None:
    reference_name, reference_value = _name_and_value(reference)
    answer_name, answer_value = _name_and_value(answer)
    if reference_name or answer_name:
        if _is_equation(reference_value) or _is_equation(answer_value):
            return leaf(reference, answer)
        return same(reference_value, answer_value, leaf)
    reference, answer = _as_interval(reference), _as_interval(answer)
    left, right = _compound(reference), _compound(answer)
    if left is None and right is None:
        if ("=" in reference) != ("=" in answer):
            return False  # an equation between two expressions is not one of its sides
        return leaf(_without_parentheses(reference), _without_parentheses(answer))
    if left is None or right is None:
        verdict = leaf(reference, answer)
        plain = parse_quantity(answer if right is None else reference) is not None
        return False if verdict is None and plain else verdict
    return _same_compounds(left, right, leaf)


def _same_compounds(left: _Compound, right: _Compound, leaf: Leaf) -> bool | None:
    kinds = {left.kind, right.kind}
    if len(kinds) > 1 and kinds != {Kind.TUPLE, Kind.MATRIX}:
        return None if Kind.UNION in kinds else False
    if max(len(left.parts), len(right.parts)) > _MAX_PARTS:
        return None
    if left.kind in _UNORDERED:
        verdict = _same_in_any_order(_distinct(left.parts), _distinct(right.parts), leaf)
        return None if verdict is False and left.kind is Kind.UNION else verdict
    if len(left.parts) != len(right.parts) or (kinds == {Kind.MATRIX} and left.columns != right.columns):
        return False
    if Kind.TUPLE in kinds and max(left.columns, right.columns) > 1:
        return False
    return _every(same(a, b, leaf) for a, b in zip(left.parts, right.parts, strict=True))


def _same_in_any_order(left: list[str], right: list[str], leaf: Leaf) -> bool | None:
    if len(left) != len(right):
        return False
    unmatched = list(right)
    unsure = False
    missing: list[str] = []
    for item in left:
        verdicts = [_same_item(item, other, leaf) for other in unmatched]
        if True in verdicts:
            del unmatched[verdicts.index(True)]
        else:
            unsure = unsure or None in verdicts
            missing.append(item)
    if not missing:
        return True
    return None if unsure else False


def _every(verdicts: Iterable[bool | None]) -> bool | None:
    """True if all are; False as soon as one is; None if one is unknown."""
    unsure = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unsure = unsure or verdict is None
    return None if unsure else True


def _distinct(parts: Iterable[str]) -> list[str]:
    return list({compact(part): part for part in parts}.values())


def _same_decimal_comma(reference: str, answer: str) -> bool | None:
    """`1,22` and 1.22: a comma is read as a decimal point only against a number that has a point there."""
    for text, other in ((reference, answer), (answer, reference)):
        if _COMMA_DECIMAL.match(text):
            quantity, against = parse_quantity(text.replace(",", ".")), parse_quantity(other)
            if quantity and against and against.decimals is not None and quantity.value == against.value:
                return True
    return None


def _same_congruence(reference: str, answer: str) -> bool | None:
    left, right = _CONGRUENCE.match(reference), _CONGRUENCE.match(answer)
    if left is None or right is None:
        return None
    modulus = int(left[3])
    return modulus > 0 and int(right[3]) == modulus and (int(left[2]) - int(right[2])) % modulus == 0


def _same_ratio(reference: str, answer: str) -> bool | None:
    if not (_RATIO.match(reference) and _RATIO.match(answer)):
        return None
    left, right = [[int(term) for term in text.split(":")] for text in (reference, answer)]
    if len(left) != len(right) or 0 in left or 0 in right:
        return False  # times of day, and ratios with a zero, are equal as written or not at all
    return all(a * right[0] == b * left[0] for a, b in zip(left, right, strict=True))


def _same_in_base(reference: str, answer: str) -> bool | None:
    """`52_8` is asked for in that base: no other way to write the number will do."""
    if not (_IN_BASE.match(reference) or _IN_BASE.match(answer)):
        return None
    left, right = [re.sub(r"[{}\s]", "", text) for text in (reference, answer)]
    return left == right


def _without_parameter(text: str) -> str:
    r"""`k\pi, k\in\mathbb{Z}` with the parameter under one name."""
    match = _INTEGER_PARAMETER.search(text)
    if match is None or not text[: match.start()].strip():
        return text
    return re.sub(rf"(?<![a-zA-Z\\]){match[1]}(?![a-zA-Z])", "n", text[: match.start()]).strip()


def _items(text: str) -> list[str]:
    r"""The members of a list such as `1, 2 \text{ or } 3`, with each `\pm` as two; one member where it is no list."""
    if parse_quantity(text) is not None:
        return [text]
    items = []
    rows = _split(text, ";")
    if len(rows) > 1 and all(len(_split(row)) > 1 for row in rows):
        return [f"({row})" for row in rows]  # p=5, q=2; p=7, q=2
    for item in _split(text):
        if item.count(r"\pm") == 1:
            items += [item.replace(r"\pm", "+"), item.replace(r"\pm", "-")]
        else:
            items.append(item)
    if len(items) > 1 and all(_as_interval(item) != item for item in items) and "," not in text:
        return [r"\cup".join(_as_interval(item) for item in items)]
    return items


def _split(text: str, separators: str = ",;") -> list[str]:
    """Split at separators outside all brackets; the words `and` and `or` separate too."""
    text = _WORD_SEPARATOR.sub(",", text) if "," in separators else text
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in separators and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part] or [text]


def _name_and_value(item: str) -> tuple[str | None, str]:
    r"""`x = 5` and `x \in [1, 2]` as a name and a value; no name where the left side is more than one."""
    if match := _MEMBER.match(item):
        return compact(item[: item.index(r"\in")]), match[1].strip()
    left, sign, right = item.partition("=")
    if not sign:
        left, sign, right = item.partition(r"\approx")
    plain = _ARGUMENT.sub("", _SUBSCRIPT.sub("", left))
    if (
        not sign
        or left.count("(") != left.count(")")
        or len(left) > 40
        or _NO_NAME.search(plain)
        or not re.search("[a-zA-Z]", plain)
    ):
        return None, item
    return compact(left), right.partition(r"\approx")[0].rpartition("=")[2].strip()


def _is_equation(value: str) -> bool:
    """Whether a named value holds variables, as in `y = 2x + 1`: then it is an equation, not a value."""
    return bool(re.search(r"(?<![a-zA-Z\\])[a-df-hj-z](?![a-zA-Z])", value)) and not value.startswith(r"\text")


def _as_interval(item: str) -> str:
    r"""An inequality in one unknown as the interval that it says; anything else as it is."""
    if compact(item) in (r"\mathbb{R}", r"\mathbbR"):
        return r"(-\infty,\infty)"
    pieces = [piece.strip() for piece in _ORDER.split(item)]
    if len(pieces) == 3 and not _is_unknown(pieces[0]):
        pieces = [pieces[2], _FLIPPED[pieces[1]], pieces[0]]
    if len(pieces) == 3 and _is_unknown(pieces[0]) and _is_bound(pieces[2]):
        sign, bound = pieces[1], pieces[2]
        if sign in (">", r"\ge"):
            return ("[" if sign == r"\ge" else "(") + bound + r",\infty)"
        return r"(-\infty," + bound + ("]" if sign == r"\le" else ")")
    if len(pieces) == 5 and _is_unknown(pieces[2]) and _is_bound(pieces[0]) and _is_bound(pieces[4]):
        low, first, _, second, high = pieces
        if first in (">", r"\ge"):
            low, first, second, high = high, _FLIPPED[second], _FLIPPED[first], low
        if first in ("<", r"\le") and second in ("<", r"\le"):
            return ("[" if first == r"\le" else "(") + f"{low},{high}" + ("]" if second == r"\le" else ")")
    return item


def _is_unknown(text: str) -> bool:
    return re.fullmatch(r"[a-zA-Z](?:_\w|_\{\w+\})?(?:\([a-z]\))?|\\[a-z]+", text) is not None and text != r"\infty"


def _is_bound(text: str) -> bool:
    return bool(text) and re.search(r"(?<![a-zA-Z\\])[a-df-hj-z](?![a-zA-Z])", text) is None


def _compound(text: str) -> _Compound | None:
    text = text.strip()
    if (match := _MATRIX.match(text)) and r"\begin" not in match[2]:
        rows = [row for row in re.split(r"\\\\|\\cr", match[2]) if row.strip()]
        cells = [[cell.strip() for cell in row.split("&")] for row in rows]
        return _Compound(Kind.MATRIX, tuple(cell for row in cells for cell in row), max(map(len, cells), default=0))
    union = text.split(r"\cup")
    if len(union) > 1:
        return _Compound(Kind.UNION, tuple(part.strip() for part in union))
    if text == r"\emptyset":
        return _Compound(Kind.SET, ())
    if text.startswith(r"\{") and text.endswith(r"\}"):
        parts = [signed for item in _split(text[2:-2]) for signed in _items(item)]
        return _Compound(Kind.SET, tuple(parts))
    kind = _BRACKETS.get((text[:1], text[-1:])) if len(text) > 2 else None
    if kind is None or not _one_bracket(text):
        return None
    parts = _split(text[1:-1])
    return _Compound(kind, tuple(parts)) if len(parts) > 1 else None


def _one_bracket(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return index == len(text) - 1
    return False


def _without_parentheses(text: str) -> str:
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and _one_bracket(text):
        text = text[1:-1].strip()
    return text
