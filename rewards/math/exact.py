"""Compares two single values where that needs no algebra: numbers and words. The fast path, with both verdicts."""

from __future__ import annotations

import re

from rlvr.rewards.math.latex import compact
from rlvr.rewards.math.numbers import equal, parse_quantity

_TEXT = re.compile(r"^\\text\s*\{([^{}]*)\}$")
_BARE_WORDS = re.compile(r"^\(?[A-Za-z](?:[A-Za-z' -]*[A-Za-z])?\)?$")
_QUALIFIED = re.compile(r"\\text\s*\{[^{}]*\b(?:not|or|more|less|least|most)\b")
_INFINITE = re.compile(r"^-?\s*\\infty$")
_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=\w)")
_CONSTANTS = {"e", "i", "pi"}


def same_value(reference: str, answer: str, tolerance: float = 0.0) -> bool | None:
    """Whether two normalised values are the same; None where one is neither a number nor words.

    `tolerance` is relative to the reference number.
    """
    if compact(reference) == compact(answer):
        return True
    left, right = parse_quantity(reference), parse_quantity(answer)
    if left is not None and right is not None:
        return equal(left, right, tolerance)
    if (left is not None or _INFINITE.match(reference)) and (right is not None or _INFINITE.match(answer)):
        return False
    if bool(_QUALIFIED.search(reference)) != bool(_QUALIFIED.search(answer)):
        return False
    return _same_words(reference, answer, number=left is not None or right is not None)


def _same_words(reference: str, answer: str, *, number: bool) -> bool | None:
    left, right = _words(reference), _words(answer)
    if left is None or right is None:
        words = left if left is not None else right
        return False if number and words is not None and words not in _CONSTANTS else None
    if left == right:
        return True
    both_bare = not _TEXT.match(reference) and not _TEXT.match(answer)
    # `ab` and `ba` may be products; in capitals, or spelt out, they are names.
    if both_bare and reference.islower() and answer.islower() and sorted(left) == sorted(right):
        return None
    return False


def _words(text: str) -> str | None:
    """Words without case, article and parentheses; None where it is an expression."""
    match = _TEXT.match(text)
    inside = match[1] if match else text if _BARE_WORDS.match(text) else None
    if inside is None:
        return None
    plain = " ".join(inside.strip().strip("().").lower().split())
    return _ARTICLE.sub("", plain)
