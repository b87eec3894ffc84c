r"""What one member of an answer says of what: `x = 5`, `f(x) = x^2`, `x \in [1, 2]`, `x > 2`, or a value alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.rewards.math.compounds import split
from rlvr.rewards.math.intervals import as_interval
from rlvr.rewards.math.latex import compact

_MAX_NAME = 40
_MEMBER = re.compile(r"^([a-zA-Z](?:_\w|_\{\w+\})?(?:\([a-z]\))?)\s*\\in(?![a-z])\s*(.+)$")
_POINT = re.compile(r"^([ABD-Z]'?)\s*(\((?=[^()]*\d)[^()]*,[^()]*\))$")
_INVERSE = re.compile(r"(?<=^[a-zA-Z])\^\{-1\}")
_NO_NAME = re.compile(
    r"[\d+\-*/^<>]|^(?:[Ll]et|[Ss]uppose|[Aa]ssume)\b|^\|[xyt]\||\\(?:cdot|times|frac|forall|exists|sin|cos|tan|ln|log|sqrt|text|lfloor|lceil)"
)
_NAME_BY_FORM = re.compile(
    r"^\\frac\s*\{[A-Za-z]+\}\s*\{[A-Za-z]+\}$|^\\text\s*\{(?!\s*(?:if|when|not|for)\b)[A-Za-z. ]+\}$|"
    r"^\\(?:sin|cos|tan)\s*(?:\\angle\s*)?(?:[A-Z]+|\\[a-z]+)$"
)
_POINTS = re.compile(r"^(?:\\[a-z]+\s*(?:\{\})?)?\{?([A-Z]{1,4})\}?$")
_QUOTIENT = re.compile(r"^\\frac\{([^{}]*)\}\{([^{}]*)\}$|^([^:]*):([^:]*)$")
_ONE_LETTER = re.compile(r"^\\?[a-zA-Z]'*$|^\\(?!angle|triangle)[a-z]{2,8}$")  # Greek ones too
_FUNCTION_NAME = re.compile(r"^\\(?:sin|cos|tan)")
_SUBSCRIPT = re.compile(r"_\w|_\{[^{}]*\}")
_ARGUMENT = re.compile(r"(?<=[a-zA-Z'}])\(([^()]*)\)")
_COMMAND = re.compile(r"\\text\s*\{[^{}]*\}|\\[a-zA-Z]+")
_LETTERS = re.compile("[a-df-hj-zA-Z]")
_BASE_LETTER = re.compile(r"\\?[a-zA-Z]+")


@dataclass(frozen=True, slots=True)
class Claim:
    """A value, and the name of what has it, None where it stands alone. `argument` is the x of `f(x) = ...`."""

    name: str | None
    value: str
    argument: str = ""

    @property
    def defines_itself(self) -> bool:
        """Whether the name stands in the value too, as in `y = 2x - y`."""
        base = _BASE_LETTER.match(self.name or "")
        return (
            base is not None and re.search(rf"(?<![a-zA-Z]){re.escape(base[0])}(?![a-zA-Z_])", self.value) is not None
        )

    def renamed_to(self, other: Claim) -> str:
        """The value with its argument under the other's name, so that `f(t) = t^2` is `f(x) = x^2`."""
        ours, theirs = self.argument, other.argument
        if len(ours) != 1 or len(theirs) != 1 or ours == theirs or not self.name:
            return self.value
        # Where the other's name stands in the value too, it means something else.
        names = {ours: theirs, theirs: ours}
        return re.sub(rf"(?<![a-zA-Z\\])[{ours}{theirs}](?![a-zA-Z])", lambda match: names[match.group()], self.value)


def read_claim(item: str) -> Claim:
    """What a member says. An inequality in one unknown is a claim of its interval."""
    if (interval := as_interval(item)) is not None:
        return Claim(*interval)
    if match := _MEMBER.match(item) or _POINT.match(item):
        return Claim(compact(match[1]), match[2].strip())
    sides = sides_of(item)
    if len(sides) < 2 or not _is_name(sides[0]):
        return Claim(None, item.partition(r"\approx")[0].strip() or item)
    argument = _ARGUMENT.search(sides[0])
    return Claim(_ARGUMENT.sub("", compact(sides[0])), sides[-1], argument[1].strip() if argument else "")


def sides_of(text: str) -> list[str]:
    r"""The sides of an equation, without what it is about; one where there is no sign, as in `\sum_{k=0}^n k`."""
    exact, about, rounded = text.partition(r"\approx")
    sides = split(exact, "=")
    return [*sides, rounded.strip()] if about and len(sides) == 1 else sides


def is_equation(claim: Claim) -> bool:
    """Whether a named value holds variables, as in `y = 2x + 1`: then other forms may say the same."""
    return bool(claim.name and _LETTERS.search(_COMMAND.sub("", claim.value)))


def names_clash(left: Claim, right: Claim) -> bool:
    """Whether two names are of different things. Longer ones, as `AB` or `Area`, may be of the same."""
    if left.name == right.name or left.name is None or right.name is None:
        return False
    if bool(left.argument) != bool(right.argument):  # y = x^2 and f(x) = x^2
        return False
    if left.name.startswith("(") and right.name.startswith("("):
        return sorted(left.name) == sorted(right.name)  # (a, b) and (b, a)
    quotients = [_QUOTIENT.match(name) for name in (left.name, right.name)]
    if quotients[0] and quotients[1] and quotients[0].groups() == quotients[1].group(2, 1, 4, 3):
        return True  # a/b and b/a
    points = [_POINTS.match(name) for name in (left.name, right.name)]
    if points[0] and points[1] and len(points[0][1]) == len(points[1][1]) and set(points[0][1]) != set(points[1][1]):
        return True  # AB and AC; AB is BA
    bases = [_SUBSCRIPT.sub("", name) for name in (left.name, right.name)]
    return bases[0] != bases[1] and all(_ONE_LETTER.match(base) or _FUNCTION_NAME.match(base) for base in bases)


def follows_order(names: Sequence[str | None]) -> bool:
    """Whether values have names of their own, so that their order matters; `x_1` and `x_2` are roots in any order."""
    bases = [match.group() if name and (match := _BASE_LETTER.match(name)) else None for name in names]
    return None not in bases and len(set(bases)) == len(bases)


def _is_name(left: str) -> bool:
    if len(left) > _MAX_NAME or left.count("(") != left.count(")"):
        return False
    if _NAME_BY_FORM.match(left):
        return True
    plain = _ARGUMENT.sub("", _SUBSCRIPT.sub("", _INVERSE.sub("", left)))
    return not _NO_NAME.search(plain) and re.search("[a-zA-Z]", plain) is not None
