r"""Whole answers in a notation of their own: choices, congruences, ratios, numbers in a base, decimal commas."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from rlvr.rewards.math.numbers import parse_number
from rlvr.rewards.math.quantity import is_number, read_quantity, same_quantity
from rlvr.rewards.math.words import same_moment

Same = Callable[[str, str], bool | None]

_LABEL = re.compile(
    r"^(?:\\text\s*\{)?\s*(?P<named>(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?"
    r"(?:\((?P<bracketed>[A-H])\)|(?P<plain>[A-H])(?P<mark>[).:])?)(?=[\s}]|$)\s*[).:]?\s*\}?\s*(?P<text>.*)$",
    re.DOTALL,
)
_VERDICT = re.compile(r"(?:is|was)\b\s*(?P<right>(?:the\s+)?(?:correct|right|best)\b)?|(?:isn|wasn|can|cannot)\b")
_ANOTHER_LABEL = re.compile(r"(?:^|[\s,(])\(?[A-H]\s*[).:]|\b(?:or|and)\b")
_COMMA_DECIMAL = re.compile(
    r"^(?P<whole>-?(?:\d{1,3}(?:[. ]\d{3})+|\d+)),(?P<decimals>\d+)(?P<unit>\s*(?:%|°|\\text\s*\{[^{}]*\}|[a-zA-Z]+)?)$"
)
_CONGRUENCE = re.compile(
    r"^(?P<left>[^=]*\\equiv)?\s*(?P<residues>(?:-|\\pm\s*)?\d{1,30}(?:\s*,\s*(?:-|\\pm\s*)?\d{1,30})*)\s*"
    r"\(?\s*(?:\\pmod|\\text\s*\{\s*mod\s*\}|mod)\s*\{?\s*(?P<modulus>\d{1,30})\s*\}?\s*\)?$"
)
_PROGRESSION = re.compile(
    r"^(?:[a-z]\s*=\s*)?(\d{1,30})\s*[kmnt]\s*([+-]\s*\d{1,30})(?:\s*,.*\\in\s*\\mathbb\s*\{?Z\}?)?$"
)
_RATIO = re.compile(r"^\d{1,30}(?:\.\d{1,30})?(?:\s*(?::|\\colon|to)\s*\d{1,30}(?:\.\d{1,30})?)+$")
_TO = re.compile(r"\s*(?::|\\colon|to)\s*")
_IN_BASE = re.compile(
    r"^\(?(\d[\dA-F]*|[A-F][\dA-F]+(?=\)?_\{?16))\)?(?:_|,?\(?(?:in)?base)\{?(\w+)[})]*$", re.IGNORECASE
)
_BASE_WORDS = {
    **{"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"},
    **{"ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16"},
}
_SPACE = re.compile(r"\s+")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_LETTERS = re.compile(r"^\(?[A-H]\)?(?:\s*(?:,\s*)?(?:and\s+)?\(?[A-H]\)?)+$")
_LETTER = re.compile("[A-H]")
_ORDER = re.compile(r"(<|>|\\le(?![a-z])|\\ge(?![a-z]))")
_JOINS = re.compile(r",|\b(?:and|or)\b")
_REVERSED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_MAX_CHAIN = 10


@dataclass(frozen=True, slots=True)
class _Choice:
    """A letter, and the text behind it, "" where there is none. A letter alone may be a choice, or a variable."""

    letter: str
    text: str
    alone: bool


def same_notation(reference: str, answer: str, same: Same) -> bool | None:
    """Whether two answers in such a notation are the same; None where they are in none. `same` compares parts."""
    for rule_of_parts in (_same_choice, _same_chain):
        if (verdict := rule_of_parts(reference, answer, same)) is not None:
            return verdict
    for rule in (same_moment, _same_letters, _same_decimal_comma, _same_congruence, _same_ratio, _same_in_base):
        if (verdict := rule(reference, answer)) is not None:
            return verdict
    return None


def _same_choice(reference: str, answer: str, same: Same) -> bool | None:
    """By letter, and by text where both give one. A letter alone is a choice only where the other is labelled."""
    left, right = _read_choice(reference), _read_choice(answer)
    if left is not None and right is not None:
        if left.letter != right.letter:
            return False
        return True if not left.text or not right.text else same(left.text, right.text)
    choice, other = (left, answer) if left is not None else (right, reference)
    if choice is None or choice.alone or not choice.text:
        return None
    return same(choice.text, other) if left is not None else same(other, choice.text)


def _read_choice(text: str) -> _Choice | None:
    """The choice that a normalised answer names; None where it names none, or more than one."""
    match = _LABEL.match(text)
    if match is None:
        return None
    labelled = bool(match["named"] or match["bracketed"] or match["mark"])
    behind = match["text"].strip()
    if behind.count("}") > behind.count("{"):  # all of it stood in \text{...}
        behind = behind.removesuffix("}").strip()
    if verdict := _VERDICT.match(behind):  # "Option C is correct", but not "Option C is wrong"
        behind = ""
        if not verdict["right"]:
            return None
    if _ANOTHER_LABEL.search(behind) or (behind and not labelled):
        return None
    return _Choice(match["bracketed"] or match["plain"], behind, alone=not labelled)


def _same_letters(reference: str, answer: str) -> bool | None:
    """`ACD` and `A, C, D`, of a question with several right choices: joined, they stand in the alphabet's order."""
    reference, answer = _TEXT.sub(r"\1", reference), _TEXT.sub(r"\1", answer)
    if not (_LETTERS.match(reference) and _LETTERS.match(answer)):
        return None
    left, right = [_LETTER.findall(text) for text in (reference, answer)]
    joined = [text for text in (reference, answer) if len(text) == len(_LETTER.findall(text))]
    return True if len(joined) == 1 and list(joined[0]) == sorted(set(left)) == sorted(set(right)) else None


def _same_chain(reference: str, answer: str, same: Same) -> bool | None:
    """`a > b > c` and `c < b < a`; None for all that is not the same member by member."""
    left, right = _ORDER.split(reference), _ORDER.split(answer)
    if not 3 <= len(left) == len(right) <= 2 * _MAX_CHAIN or _JOINS.search(reference) or _JOINS.search(answer):
        return None
    if left[1::2] != right[1::2]:
        right = [_REVERSED.get(piece, piece) for piece in reversed(right)]
    if left[1::2] != right[1::2]:
        return None
    return True if all(same(a.strip(), b.strip()) for a, b in zip(left[::2], right[::2], strict=True)) else None


def _same_decimal_comma(reference: str, answer: str) -> bool | None:
    """`1,22` and 1.22: a comma is read as a decimal point only against a number that has a point there."""
    for text, other in ((reference, answer), (answer, reference)):
        if match := _COMMA_DECIMAL.match(text):
            whole = match["whole"].replace(".", "").replace(" ", "")
            value, against = read_quantity(f"{whole}.{match['decimals']}{match['unit']}"), read_quantity(other)
            if against.decimals is not None and same_quantity(value, against):
                return True
    return None


def _same_congruence(reference: str, answer: str) -> bool | None:
    left, right = _CONGRUENCE.match(reference), _CONGRUENCE.match(answer)
    if (left is None) != (right is None):  # 5k + 3 is 3 (mod 5)
        left = left or _CONGRUENCE.match(_PROGRESSION.sub(_as_congruence, reference))
        right = right or _CONGRUENCE.match(_PROGRESSION.sub(_as_congruence, answer))
    if left is None or right is None:
        match, other = (left, answer) if left is not None else (right, reference)
        if match is None or match["left"] or not is_number(other):
            return None
        residue = parse_number(match["residues"])  # `9 \pmod{11}` for 9, but not `12 \pmod 5` for 12
        return residue == read_quantity(other).value and residue is not None and 0 <= residue < int(match["modulus"])
    modulus = int(left["modulus"])
    if modulus == 0 or int(right["modulus"]) != modulus:
        return False
    return _residues(left["residues"], modulus) == _residues(right["residues"], modulus)


def _residues(listed: str, modulus: int) -> set[int]:
    found = set()
    for residue in listed.split(","):
        number = int(residue.replace(r"\pm", ""))
        found |= {number % modulus, -number % modulus} if r"\pm" in residue else {number % modulus}
    return found


def _as_congruence(progression: re.Match[str]) -> str:
    return rf"\equiv {progression[2].replace(' ', '').lstrip('+')} \pmod {progression[1]}"


def _same_ratio(reference: str, answer: str) -> bool | None:
    if not (_RATIO.match(reference) and _RATIO.match(answer)):
        return None
    left, right = [[Fraction(term) for term in _TO.split(text)] for text in (reference, answer)]
    if len(left) != len(right) or 0 in left or 0 in right:
        return left == right
    return all(a * right[0] == b * left[0] for a, b in zip(left, right, strict=True))


def _same_in_base(reference: str, answer: str) -> bool | None:
    """`52_8` is asked for in that base, which may be left out: no other way to write the number will do."""
    left, right = [_IN_BASE.match(_SPACE.sub("", _TEXT.sub(r"\1", text))) for text in (reference, answer)]
    if left is None and right is None:
        return None
    if left is None or right is None:
        if right is not None:  # a number is in base ten, where nothing else is said
            return _BASE_WORDS.get(right[2].lower(), right[2]) == "10" and right[1].lstrip("0") == reference
        return left is not None and left[1].lstrip("0") == answer
    digits = [match[1].upper().lstrip("0") for match in (left, right)]
    bases = [_BASE_WORDS.get(match[2].lower(), match[2]) for match in (left, right)]
    return digits[0] == digits[1] and bases[0] == bases[1]
