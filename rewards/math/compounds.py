r"""Takes answers apart: the members of a list, the parts of a tuple, set, interval, union, vector or matrix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from rlvr.rewards.math.intervals import as_interval
from rlvr.rewards.math.quantity import is_number


class Kind(StrEnum):
    """What brackets or signs make of the parts they hold."""

    UNION = "union"
    SET = "set"
    TUPLE = "tuple"  # or open interval: (1, 2) may be either
    CLOSED = "closed"
    HALF_OPEN_LEFT = "half open left"
    HALF_OPEN_RIGHT = "half open right"
    MATRIX = "matrix"
    CASES = "cases"  # of a function; each part is a value and its condition, as a tuple


@dataclass(frozen=True, slots=True)
class Compound:
    """Parts in the order in which they were written; `columns` is that of a matrix."""

    kind: Kind
    parts: tuple[str, ...]
    columns: int = 0

    @property
    def is_vector(self) -> bool:
        """Whether it may be a vector: a tuple, or a matrix of one column or row."""
        return self.kind is Kind.TUPLE or (self.kind is Kind.MATRIX and self.columns in (1, len(self.parts)))


_BRACKETS = {
    ("(", ")"): Kind.TUPLE,
    ("[", "]"): Kind.CLOSED,
    ("(", "]"): Kind.HALF_OPEN_LEFT,
    ("[", ")"): Kind.HALF_OPEN_RIGHT,
}
_OPENING, _CLOSING = set("([{"), set(")]}")
_MARKS = {
    ",;": re.compile(r"[(\[{)\]},;]|(?<=[\s\d)\]}])(?:and|or)(?![a-z])"),
    ";": re.compile(r"[(\[{)\]};]"),
    "=": re.compile(r"[(\[{)\]}=]"),
}
_MATRIX = re.compile(r"^[\[(]?\s*\\begin\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}\s*[\])]?$", re.DOTALL)
_ROW_END = re.compile(r"\\\\|\\cr(?![a-z])")
_CASES = re.compile(r"^\\begin\{(cases|aligned|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}$", re.DOTALL)
_BEFORE_CONDITION = re.compile(r",?\s*&\s*(?:\\text\s*\{\s*,?\s*(?:if|for|when)?\s*\}|if|for|when)?")
_PART_LABEL = re.compile(r"(?:\\text\s*\{\s*)?\(([a-e]|[1-5]|i{1,3}|iv|v)\)[:.]?\s*\}?")
_PART_LABELS = [["a", "b", "c", "d", "e"], ["1", "2", "3", "4", "5"], ["i", "ii", "iii", "iv", "v"]]
_TRANSPOSED = re.compile(r"^(\([^()]*\))\s*\^\s*\{?(?:T|\\top|\\text\{T\})\s*\}?$")
_VECTOR_TERM = re.compile(r"([+-]?)([^+-]*?)\\unit\{([ijk])\}\s*")
_INTEGER_PARAMETER = re.compile(r"[,;]?\s*\(?\s*([a-z])\s*\\in\s*\\mathbb\s*\{?\s*Z\s*\}?\s*\)?$")
_TURNS = re.compile(r"(?<![a-zA-Z\\])[kmn](?![a-zA-Z])")
_LIST_IN_WORDS = re.compile(r"^\\text\s*\{\s*(\w+(?:\s*(?:,|,?\s+and)\s+\w+)+)\s*\}$")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-z])")


def items_of(text: str) -> list[str]:
    r"""The members of a list such as `1, 2 \text{ or } 3`, with each `\pm` as two; one member where it is no list."""
    text = _LIST_IN_WORDS.sub(r"\1", _without_parameter(text))
    if (system := _CASES.match(text)) is not None and "&" not in text:
        text = ", ".join(row for row in _ROW_END.split(system[2]) if row.strip())
    if is_number(text) or as_interval(text) is not None:
        return [text]
    rows = split(text, ";")
    if len(rows) > 1 and all(len(split(row)) > 1 for row in rows):
        return [f"({row})" for row in rows]  # p=5, q=2; p=7, q=2
    return [signed for item in split(text) for signed in _both_signs(item)]


def split(text: str, separators: str = ",;") -> list[str]:
    """Split at separators outside all brackets; the words `and` and `or` separate too."""
    parts, depth, start = [], 0, 0
    for mark in _MARKS[separators].finditer(text):
        if mark.group() in _OPENING:
            depth += 1
        elif mark.group() in _CLOSING:
            depth -= 1
        elif depth == 0:
            parts.append(text[start : mark.start()].strip())
            start = mark.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part] or [text]


def labelled_parts(text: str) -> list[str]:
    """The answers to the parts of a question, as in `(a) 3, (b) 4`; none where it is no such list."""
    labels = list(_PART_LABEL.finditer(text))
    names = [label[1] for label in labels]
    if len(labels) < 2 or labels[0].start() > 0 or names not in [known[: len(names)] for known in _PART_LABELS]:
        return []
    ends = [*(label.start() for label in labels[1:]), len(text)]
    parts = [text[label.end() : end].strip(" ,;") for label, end in zip(labels, ends, strict=True)]
    return parts if all(parts) else []


def read_compound(text: str) -> Compound | None:
    """The parts of what is one tuple, set, interval, union, vector or matrix; None for anything else."""
    text = text.strip()
    if (transposed := _TRANSPOSED.match(text)) is not None:
        column = read_compound(transposed[1])
        return column if column is not None and column.is_vector and column.kind is Kind.TUPLE else None
    if r"\begin" in text:
        return _matrix(text) or _cases(text)
    if r"\unit" in text:
        return _vector(text)
    union = text.split(r"\cup")
    if len(union) > 1:
        return Compound(Kind.UNION, tuple(part.strip() for part in union))
    if text == r"\emptyset":
        return Compound(Kind.SET, ())
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return Compound(Kind.SET, tuple(signed for item in split(text[2:-2]) for signed in _both_signs(item)))
    kind = _BRACKETS.get((text[:1], text[-1:])) if len(text) > 2 else None
    if kind is None or not _one_bracket(text):
        return None
    parts = split(text[1:-1])
    if kind is Kind.CLOSED and (rows := _rows(parts)):
        return rows
    if kind is Kind.CLOSED and len(parts) > 2:
        kind = Kind.TUPLE  # as programs write a list
    return Compound(kind, tuple(parts)) if len(parts) > 1 else None


def without_parentheses(text: str) -> str:
    """A value without parentheses around all of it."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and _one_bracket(text):
        text = text[1:-1].strip()
    return text


def _both_signs(item: str) -> list[str]:
    signs = list(_PLUS_MINUS.finditer(item))
    compound = read_compound(item) if len(signs) == 1 else None
    if len(signs) != 1 or (compound is not None and compound.kind is not Kind.TUPLE):
        return [item]
    before, after = item[: signs[0].start()], item[signs[0].end() :]
    leading = not before.strip() or before.rstrip()[-1] in "=(,"
    return [f"{before}{after}" if leading else f"{before}+{after}", f"{before}-{after}"]


def _matrix(text: str) -> Compound | None:
    match = _MATRIX.match(text)
    if match is None or r"\begin" in match[2]:
        return None
    rows = [row for row in _ROW_END.split(match[2]) if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    return Compound(Kind.MATRIX, tuple(cell for row in cells for cell in row), max(map(len, cells), default=0))


def _cases(text: str) -> Compound | None:
    match = _CASES.match(text)
    if match is None or r"\begin" in match[2]:
        return None
    rows = [_BEFORE_CONDITION.split(row.strip(), maxsplit=1) for row in _ROW_END.split(match[2]) if row.strip()]
    if any(len(row) != 2 for row in rows):
        return None
    return Compound(Kind.CASES, tuple(f"({value}, {condition.strip(' .,;')})" for value, condition in rows))


def _rows(parts: list[str]) -> Compound | None:
    """`[[1,2],[3,4]]`, as programs write a matrix."""
    rows = [read_compound(part) for part in parts]
    cells = [row.parts for row in rows if row is not None and row.kind is Kind.CLOSED]
    if not cells or len(cells) != len(parts) or len({len(row) for row in cells}) > 1:
        return None
    return Compound(Kind.MATRIX, tuple(cell for row in cells for cell in row), len(cells[0]))


def _vector(text: str) -> Compound | None:
    """`2i - 3j + k` in unit vectors as the tuple of its components."""
    components: dict[str, str] = {}
    position = 0
    while match := _VECTOR_TERM.match(text, position):
        sign, size, axis = match.groups()
        if axis in components:
            return None
        components[axis] = f"{sign.replace('+', '')}{size.strip() or '1'}"
        position = match.end()
    if position < len(text) or not components:
        return None
    axes = "ijk" if "k" in components else "ij"
    return Compound(Kind.TUPLE, tuple(components.get(axis, "0") for axis in axes))


def _without_parameter(text: str) -> str:
    r"""`k\pi, k\in\mathbb{Z}` with the parameter under one name, also where it is not said to be an integer."""
    match = _INTEGER_PARAMETER.search(text)
    before = text[: match.start()].strip() if match is not None else text
    names = {match[1]} if match is not None else set(_TURNS.findall(text)) if r"\pi" in text else set()
    if len(names) != 1 or not before or (match is not None and as_interval(before) is not None):
        return text
    return re.sub(rf"(?<![a-zA-Z\\]){names.pop()}(?![a-zA-Z])", "n", before)


def _one_bracket(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return index == len(text) - 1
    return False
