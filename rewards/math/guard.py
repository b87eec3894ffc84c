r"""Tells, without computing anything, which answers are too costly to compute.

A computer algebra system evaluates `9^{9^9}` as eagerly as `9^2`, and one such operation on huge integers
cannot be interrupted. Workers are killed when that happens, but a killed worker costs its whole deadline.
"""

from __future__ import annotations

import re

_MAX_CHARACTERS = 1000
_MAX_DEPTH = 12
_MAX_DIGITS = 400
_MAX_EXPONENT = 10_000
_MAX_FACTORIAL = 2500
_MAX_INDEX = 1000
_MAX_INDEX_OF_POWERS = 50
_MAX_PARSED_CHARACTERS = 600  # parsing alone takes most of a second
_MAX_BINOMIAL = 10_000
_MAX_EXPONENT_OF_SUM = 60
_MAX_BARS = 12
_MAX_EQUALS = 8

_LONG_NUMBER = re.compile(rf"\d{{{_MAX_DIGITS + 1},}}")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*")
_FACTORIAL = re.compile(r"(\d*)\s*(\)|\}|[a-zA-Z])?\s*!")
_FACTORIAL_NAME = re.compile(r"factorial|\\Gamma|\bgamma\b")
_BINOMIAL = re.compile(r"\\[dt]?binom|\\choose|\\operatorname\s*\{C\}|binomial")
_SUM = re.compile(r"\\(?:sum|prod|int)(?![a-zA-Z])")
_SUM_OR_PRODUCT = re.compile(r"\\(?:sum|prod)(?![a-zA-Z])")
_NESTED_POWER = re.compile(r"\^\s*\{[^{}]*[\^!]|!\s*\^|[)}]\s*!")
_NUMBER = re.compile(r"\d+")
_CHAIN_OF_SIGNS = re.compile(
    r"(?:[-+√!]\s*){9}|(?:/\s*\d+\s*){9}|(?:\^\s*\d+\s*){4}|(?:\\(?:a(?:rc)?)?(?:sin|cos|tan|cot|ln|log|exp)h?\s*){6}"
)


def ill_formed(text: str) -> str | None:
    """Why a text is not even read as an answer, in a few words, or None where it is."""
    if len(text) > _MAX_CHARACTERS:
        return f"longer than {_MAX_CHARACTERS:,} characters"
    return f"nested more than {_MAX_DEPTH} deep" if _too_deep(text) else None


def too_costly(text: str) -> str | None:
    """What makes a normalised answer too costly for computer algebra, in a few words, or None where it is not."""
    if len(text) > _MAX_PARSED_CHARACTERS:
        return f"more than {_MAX_PARSED_CHARACTERS} characters"
    if _LONG_NUMBER.search(text):
        return f"a number of more than {_MAX_DIGITS} digits"
    if text.count("|") > _MAX_BARS or text.count("=") > _MAX_EQUALS:
        return "a chain of equations or absolute values"
    if _CHAIN_OF_SIGNS.search(text):
        return "a chain of signs or functions"
    return _costly_powers(text) or _costly_factorials(text) or _costly_indices(text)


def _too_deep(text: str) -> bool:
    depth = 0
    for character in text:
        if character in "({[":
            depth += 1
            if depth > _MAX_DEPTH:
                return True
        elif character in ")}]":
            depth -= 1
    return False


def _costly_powers(text: str) -> str | None:
    powers = 1
    for match in _EXPONENT.finditer(text):
        exponent = _argument(text, match.end())
        if _EXPONENT.search(exponent) or "!" in exponent:
            # e^{x^2} is harmless: only towers of numbers grow, and those of three floors and more.
            if exponent.count("^") > 1 or re.search(r"\d\s*(?:\^|\*\*)|!|[)}]\s*(?:\^|\*\*)", exponent):
                return "a tower of powers"
        elif number := _largest(exponent):
            if number > _MAX_EXPONENT:
                return f"an exponent above {_MAX_EXPONENT}"
            group = _group_before(text, match.start() - 1) if text[: match.start()].endswith((")", "}")) else ""
            if text[: match.start()].removesuffix(group).endswith("_"):
                group = ""  # the upper bound of a sum
            if number > _MAX_EXPONENT_OF_SUM and (re.search("[a-zA-Z!]", group)):
                return "a high power of a sum or a factorial"
            powers *= number if group else 1
        if powers > _MAX_EXPONENT:
            return "powers of powers"
    return None


def _costly_factorials(text: str) -> str | None:
    if _FACTORIAL_NAME.search(text):
        return "a factorial by name"
    if re.search(r"!\s*\)*\s*!", text):
        return "a factorial of a factorial"
    for match in _FACTORIAL.finditer(text):
        number, closing = match.groups()
        if closing in (")", "}"):
            inside = _group_before(text, match.start(2))
            if _EXPONENT.search(inside) or (_largest(inside) or 0) > _MAX_FACTORIAL:
                return "the factorial of a large number"
        elif number and (len(number) > 6 or int(number) > _MAX_FACTORIAL):
            return f"the factorial of a number above {_MAX_FACTORIAL}"
    return None


def _costly_indices(text: str) -> str | None:
    largest = _largest(text) or 0
    if _SUM.search(text) and largest > _MAX_INDEX:
        return "a sum, product or integral over large numbers"
    if _SUM_OR_PRODUCT.search(text) and largest > _MAX_INDEX_OF_POWERS and _NESTED_POWER.search(text):
        return "a sum or product of towers or factorials"
    if _BINOMIAL.search(text) and (largest > _MAX_BINOMIAL or re.search(r"\d\s*\^\s*\{?\s*\d", text)):
        return "a binomial of large numbers"
    return None


def _argument(text: str, start: int) -> str:
    """What a power is raised to: a group, or the run of characters up to the next sign that ends it."""
    if start < len(text) and text[start] in "{(":
        depth = 0
        for end in range(start, len(text)):
            depth += (text[end] in "{(") - (text[end] in "})")
            if depth == 0:
                # A second power right behind the group makes it a tower too.
                return text[start + 1 : end] + ("^" if text[end + 1 :].lstrip().startswith(("^", "**")) else "")
        return text[start:]
    run = re.compile(r"-?(?:\d+|\\?[a-zA-Z]+|\S)(?:\s*(?:\^|\*\*)\s*\S+|\s*!)*").match(text, start)
    return run.group() if run else ""


def _group_before(text: str, closing: int) -> str:
    depth = 0
    for start in range(closing, -1, -1):
        depth += (text[start] in ")}") - (text[start] in "({")
        if depth == 0:
            return text[start : closing + 1]
    return text[: closing + 1]


def _largest(text: str) -> int | None:
    numbers = [match.group().lstrip("0") or "0" for match in _NUMBER.finditer(text)]
    # Beyond 12 digits every limit here is passed, and there is no need to read the number.
    return max((int(n) if len(n) <= 12 else 10**12 for n in numbers), default=None)
