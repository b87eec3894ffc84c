r"""Compares answers part by part: lists, tuples, intervals, sets, matrices, inequalities, named values.

Works on normalised text alone, and leaves each part to a `Leaf`, which may not know. So the same rules serve
our own process, where a leaf compares words, numbers and formulas, and a worker, where it asks computer algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import permutations

from rlvr.rewards.math.claims import follows_order, is_equation, names_clash, read_claim, sides_of
from rlvr.rewards.math.compounds import (
    Compound,
    Kind,
    items_of,
    labelled_parts,
    read_compound,
    split,
    without_parentheses,
)
from rlvr.rewards.math.latex import compact
from rlvr.rewards.math.notations import same_notation
from rlvr.rewards.math.quantity import is_number
from rlvr.rewards.math.words import symbol_for

Leaf = Callable[[str, str], bool | None]

_MAX_PARTS = 30
_RESTATED = re.compile(r"^([^()]+?)\s*\(\s*or(?:\s+equivalently,?)?\s+([^()]+)\)$")
_ZEROS_AHEAD = re.compile(r",0\d")
_CONSTANT = re.compile(r"(?<=\S)\s*\+\s*(?:[CcK]|C_[01]|\\text\s*\{\s*(?:C|const(?:ant)?\.?)\s*\})$")
_VARIABLE = re.compile(r"(?<![a-zA-Z\\])[a-df-hj-zA-Z](?![a-zA-Z])")
_SOLUTION = re.compile(r"^[yxu](?:\([a-z]\))?\s*=")
_FREE_CONSTANT = re.compile(r"(?<![a-zA-Z\\])(?:C(?:_\d)?|c_\d)")
_ANY_CONSTANT = re.compile(r"(?<![a-zA-Z\\])(?:[Cc]_\d|[ABCKck](?!_))")
_UNORDERED = {Kind.UNION, Kind.SET, Kind.CASES}


def same(reference: str, answer: str, leaf: Leaf) -> bool | None:
    """Whether two normalised answers say the same; None where the leaves could not tell."""
    if compact(reference) == compact(answer):
        return True
    if "or" in answer and (restated := _RESTATED.match(answer)):  # 0.5 (or 1/2)
        return _every(same(reference, said, leaf) for said in restated.groups())
    verdict = same_notation(reference, answer, lambda left, right: same(left, right, leaf))
    if verdict is not None:
        return verdict
    labelled = labelled_parts(reference), labelled_parts(answer)
    if labelled[0] or labelled[1]:
        return _same_in_order(labelled[0] or split(reference), labelled[1] or split(answer), leaf)
    left, right = items_of(reference), items_of(answer)
    if len(left) == 1 and len(right) > 1 and not _ZEROS_AHEAD.search(reference):
        left = split(reference)  # 100,200 is a number only where nothing says that it is a list
    if len(left) == 1 and len(right) == 1:
        return _same_item(left[0], right[0], leaf)
    return _same_lists(left, right, leaf)


def _same_lists(left: list[str], right: list[str], leaf: Leaf) -> bool | None:
    """Two lists in any order; a list and one set, tuple or matrix; the same names must hold the same values."""
    if max(len(left), len(right)) > _MAX_PARTS:
        return False if is_number(left[0]) and len(left) == 1 else None
    if len(left) == 1 or len(right) == 1:
        return _same_list_and_compound(left, right, leaf)
    if all(read_compound(item) for item in [*left, *right]):
        left, right = _distinct(left), _distinct(right)  # solutions, where a number may be a double root
    claims = [read_claim(item) for item in left], [read_claim(item) for item in right]
    names = [[claim.name for claim in side] for side in claims]
    if None not in names[0] and len(set(names[0])) == len(left) and set(names[0]) == set(names[1]):
        values = dict(zip(names[1], right, strict=True))
        return _every(_same_item(item, values[name], leaf) for name, item in zip(names[0], left, strict=True))
    if follows_order(names[0]) or follows_order(names[1]):  # a = 1, b = 2 is 1, 2 but not 2, 1
        return _same_in_order(left, right, leaf)
    return _same_in_any_order(left, right, leaf)


def _same_list_and_compound(left: list[str], right: list[str], leaf: Leaf) -> bool | None:
    items, single = (left, right[0]) if len(right) == 1 else (right, left[0])
    value = symbol_for(read_claim(single).value)
    compound = read_compound(value)
    if compound is None or compound.kind not in (Kind.SET, Kind.TUPLE, Kind.MATRIX):
        if items is right and len(_distinct(items)) == len(items) and is_number(value):  # 3/4, or 75%
            return _every(_same_item(single, item, leaf) for item in items)
        return False if is_number(value) or r"\cup" not in value else None
    names = [read_claim(item).name for item in items]
    if compound.kind is not Kind.SET and None not in names and len(set(names)) < len(names):
        return False  # x = 1, x = 2 is not the point (1, 2)
    pair = (items, list(compound.parts)) if items is left else (list(compound.parts), items)
    return _same_in_any_order(*pair, leaf) if compound.kind is Kind.SET else _same_in_order(*pair, leaf)


def _same_item(reference: str, answer: str, leaf: Leaf) -> bool | None:
    constants_differ: bool | None = False
    if _CONSTANT.search(reference):  # of integration, which has no fixed name
        constants_differ = _same_antiderivative(reference, answer, leaf)
        answer = _CONSTANT.sub("+C", answer)
    verdict = _same_claim(reference, answer, leaf)
    if verdict is True or constants_differ:
        return True
    renamed = _with_constants_renamed(reference, answer)
    verdicts = [verdict, constants_differ, *(_same_claim(reference, text, leaf) for text in renamed)]
    return True if True in verdicts else None if None in verdicts else False


def _same_claim(reference: str, answer: str, leaf: Leaf) -> bool | None:
    left, right = read_claim(reference), read_claim(answer)
    equations = is_equation(left), is_equation(right)
    if left.name and right.name and names_clash(left, right):
        return leaf(reference, answer) if all(equations) else False
    if not left.name and not right.name:
        return _same_unnamed(left.value, right.value, leaf)
    if len(sides_of(left.value)) > 1 or len(sides_of(right.value)) > 1:
        return leaf(reference, answer)
    verdict = same(left.value, right.renamed_to(left), leaf)
    if verdict is False and left.name == right.name and not (left.defines_itself or right.defines_itself):
        return False
    if verdict is not True and all(equations):  # y = 2x + 1 in another form, perhaps
        return leaf(reference, answer)
    return verdict


def _with_constants_renamed(reference: str, answer: str) -> list[str]:
    """The answer with its free constants under the reference's names: `y = Ae^x` solves what `y = Ce^x` does."""
    if not _SOLUTION.match(reference):
        return []
    ours = sorted(set(_FREE_CONSTANT.findall(reference)))
    theirs = sorted(set(_ANY_CONSTANT.findall(answer)) if ours else [])
    if not 1 <= len(ours) == len(theirs) <= 2 or not _SOLUTION.match(answer):
        return []
    return [_renamed(answer, dict(zip(theirs, order, strict=True))) for order in permutations(ours)]


def _renamed(answer: str, names: dict[str, str]) -> str:
    return _ANY_CONSTANT.sub(lambda match: f"{names[match.group()]} ", answer)


def _same_antiderivative(reference: str, answer: str, leaf: Leaf) -> bool | None:
    """Whether F(x) + C and G(x) + C differ by a constant: F(x) - F(z) is G(x) - G(z). None where it cannot be told."""
    if not _CONSTANT.search(answer):
        return False
    bodies = [read_claim(_CONSTANT.sub("", side)).value for side in (reference, answer)]
    names = [set(_VARIABLE.findall(body)) for body in bodies]
    if any("=" in body for body in bodies) or names[0] != names[1] or len(names[0]) != 1 or "z" in names[0]:
        return False
    steps = [f"({body})-({_VARIABLE.sub('z', body)})" for body in bodies]
    return leaf(*steps)


def _same_unnamed(reference: str, answer: str, leaf: Leaf) -> bool | None:
    reference, answer = symbol_for(reference), symbol_for(answer)
    left, right = read_compound(reference), read_compound(answer)
    if _is_lone(left) != _is_lone(right):  # {5} and 5
        lone = [side.parts[0] if side is not None and _is_lone(side) else None for side in (left, right)]
        if left is not None and right is not None and any(_is_set(part) for part in lone):
            return False  # {{1, 2}} and {1, 2}
        return same(lone[0] or reference, lone[1] or answer, leaf)
    if left is not None and right is not None:
        return _same_compounds(left, right, leaf)
    if left is None and right is None:
        sides = sides_of(reference), sides_of(answer)
        if (len(sides[0]) > 1) != (len(sides[1]) > 1):
            return _same_as_chain(*sides, leaf)
        return leaf(without_parentheses(reference), without_parentheses(answer))
    if is_number(answer if right is None else reference):
        return False
    return leaf(reference, answer)


def _same_as_chain(reference: list[str], answer: list[str], leaf: Leaf) -> bool | None:
    """`3+4=7` against 7: a true statement stands for its value; any other equation is not one of its sides."""
    sides = reference if len(reference) > 1 else answer
    if len(sides) > _MAX_PARTS:
        return False
    true = _every(leaf(sides[-1], side) for side in sides[:-1])
    return leaf(reference[-1], answer[-1]) if true else true


def _same_compounds(left: Compound, right: Compound, leaf: Leaf) -> bool | None:
    kinds = {left.kind, right.kind}
    if len(kinds) > 1 and kinds != {Kind.TUPLE, Kind.MATRIX}:
        return None if Kind.UNION in kinds and left.parts and right.parts else False
    if max(len(left.parts), len(right.parts)) > _MAX_PARTS:
        return None
    if left.kind is Kind.SET and _lone_members(left) != _lone_members(right):
        return False  # {{1}, {2}} and {1, 2}
    if left.kind in _UNORDERED:
        verdict = _same_in_any_order(_distinct(left.parts), _distinct(right.parts), leaf)
        return None if verdict is False and left.kind is Kind.UNION else verdict
    if kinds == {Kind.MATRIX} and left.columns != right.columns:
        return False
    if len(kinds) > 1 and not (left.is_vector and right.is_vector):
        return False
    if len(left.parts) != len(right.parts):
        return False
    return _every(same(a, b, leaf) for a, b in zip(left.parts, right.parts, strict=True))


def _is_lone(compound: Compound | None) -> bool:
    return compound is not None and compound.kind is Kind.SET and len(compound.parts) == 1


def _is_set(part: str | None) -> bool:
    compound = read_compound(part) if part is not None else None
    return compound is not None and compound.kind is Kind.SET


def _lone_members(compound: Compound) -> int:
    return sum(_is_lone(read_compound(part)) for part in compound.parts)


def _same_in_order(left: list[str], right: list[str], leaf: Leaf) -> bool | None:
    if len(left) != len(right):
        return False
    return _every(_same_item(a, b, leaf) for a, b in zip(left, right, strict=True))


def _same_in_any_order(left: list[str], right: list[str], leaf: Leaf) -> bool | None:
    if len(left) != len(right):
        return False
    unmatched = list(right)
    unsure, missing = False, False
    for item in left:
        verdicts = [_same_item(item, other, leaf) for other in unmatched]
        if True in verdicts:
            del unmatched[verdicts.index(True)]
        else:
            missing, unsure = True, unsure or None in verdicts
            if not unsure:
                return False
    return None if missing else True


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
