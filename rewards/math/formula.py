r"""Reads an expression such as `\frac{\sqrt{3}}{2} x^2` into a tree, without computing anything.

The grammar is small on purpose. What could mean two things (`1/2x`, `\log x`, `f(x)`, `2 3`) and what it does not
know (sums, integrals, the imaginary unit) is refused, and left to computer algebra.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache


class Operation(StrEnum):
    """What a node of the tree does with its operands."""

    NUMBER = "number"
    LETTER = "letter"
    PI = "pi"
    E = "e"
    ADD = "+"
    NEGATE = "negate"
    MULTIPLY = "*"
    DIVIDE = "/"
    POWER = "^"
    ROOT = "root"  # operands: radicand, degree
    FACTORIAL = "!"
    BINOMIAL = "binomial"
    ABSOLUTE = "absolute"
    FLOOR = "floor"
    CEILING = "ceiling"
    SIN = "sin"
    COS = "cos"
    TAN = "tan"
    SINH = "sinh"
    COSH = "cosh"
    TANH = "tanh"
    LN = "ln"
    EXP = "exp"


@dataclass(frozen=True, slots=True)
class Node:
    """An operation on `operands`; `value` is that of a NUMBER, `name` that of a LETTER."""

    operation: Operation
    operands: tuple[Node, ...] = ()
    value: Decimal = Decimal(0)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression, and the names of the letters in it."""

    root: Node
    letters: frozenset[str]


class NotAFormula(ValueError):
    """The text is no expression of this grammar, or could mean more than one thing."""


_MAX_TOKENS = 200
_MAX_DEPTH = 60
_TOKEN = re.compile(
    r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d*)?|\.\d+)|\\(?P<command>[a-zA-Z]+)|"
    r"(?P<letter>[a-zA-Z](?:_(?:\w|\{\w{1,8}\}))?)|(?P<sign>[-+*/^!()\[\]{}|°_])|\s+"
)
_DERIVATIVE = re.compile(r"\\frac\s*\{\s*d[^a-zA-Z{}]*\}\s*\{\s*d\s*[a-zA-Z]")
_FUNCTIONS = {name: Operation(name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "ln", "exp")}
_RECIPROCALS = {"csc": Operation.SIN, "sec": Operation.COS, "cot": Operation.TAN}
_GREEK = {
    *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "theta", "lambda", "mu", "nu", "rho", "sigma"),
    *("tau", "phi", "varphi", "omega", "Delta", "Omega"),
}
_TIMES = {"cdot", "times", "*"}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_NAMES_OF_FUNCTIONS = set("fghFGHPQW")
_ONE = Node(Operation.NUMBER, value=Decimal(1))
_TWO = Node(Operation.NUMBER, value=Decimal(2))
_DEGREE = Node(Operation.DIVIDE, (Node(Operation.PI), Node(Operation.NUMBER, value=Decimal(180))))


@lru_cache(maxsize=4096)
def read_formula(text: str) -> Formula | None:
    """The formula that a normalised text is; None where it is none."""
    try:
        if _DERIVATIVE.search(text):
            raise NotAFormula("d/dx is no fraction")
        tokens = _tokens(text)
        root = _Parser(tokens).whole()
    except NotAFormula:
        return None
    return Formula(root, frozenset(_letters(root)))


def _letters(node: Node) -> set[str]:
    if node.operation is Operation.LETTER:
        return {node.name}
    return {name for operand in node.operands for name in _letters(operand)}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


_END = _Token("end", "")


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) > _MAX_TOKENS:
            raise NotAFormula(text)
        if match.lastgroup is not None:
            tokens.append(_Token(match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent: a sum of products of powers of atoms."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0
        self._bars = 0

    def whole(self) -> Node:
        root = self._sum()
        if self._next is not _END:
            raise NotAFormula("something follows the expression")
        return root

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position] if self._position < len(self._tokens) else _END

    def _take(self) -> _Token:
        token = self._next
        self._position += 1
        return token

    def _takes(self, text: str, kind: str = "sign") -> bool:
        if self._next.text == text and self._next.kind == kind:
            self._position += 1
            return True
        return False

    def _sum(self) -> Node:
        self._go_deeper()
        total = self._product()
        while self._next.kind == "sign" and self._next.text in ("+", "-"):
            negative = self._take().text == "-"
            term = self._product()
            total = Node(Operation.ADD, (total, Node(Operation.NEGATE, (term,)) if negative else term))
        self._depth -= 1
        return total

    def _go_deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotAFormula("nested too deeply")

    def _product(self) -> Node:
        product = self._signed()
        divided = False
        while True:
            before = self._tokens[self._position - 1]
            if self._next.text in _TIMES:
                self._take()
                product = Node(Operation.MULTIPLY, (product, self._signed()))
                divided = False
            elif self._next.text in ("/", "div"):
                self._take()
                product = Node(Operation.DIVIDE, (product, self._signed()))
                divided = True
            elif self._starts_factor():
                if divided or self._next.kind == "number" or (before.kind == "number" and self._next.text == "frac"):
                    raise NotAFormula("1/2x, x2 and 2\\frac{1}{2} could each be read in two ways")
                product = Node(Operation.MULTIPLY, (product, self._power()))
            else:
                return product

    def _signed(self) -> Node:
        negative = False
        while self._next.kind == "sign" and self._next.text in ("+", "-"):
            negative ^= self._take().text == "-"
        factor = self._power()
        return Node(Operation.NEGATE, (factor,)) if negative else factor

    def _starts_factor(self) -> bool:
        token = self._next
        if token.kind == "sign":
            return token.text in _CLOSING or (token.text == "|" and not self._bars)
        return token.kind in ("number", "letter", "command") and token.text not in ("rfloor", "rceil")

    def _power(self) -> Node:
        self._go_deeper()
        base = self._atom()
        self._depth -= 1
        while True:
            if self._takes("!"):
                base = Node(Operation.FACTORIAL, (base,))
            elif self._takes("°"):
                base = Node(Operation.MULTIPLY, (base, _DEGREE))
            elif self._takes("^"):
                base = Node(Operation.POWER, (base, self._exponent()))
                if self._next.text in ("^", "!"):
                    raise NotAFormula("a^b^c and a^b! need braces")
            else:
                return base

    def _exponent(self) -> Node:
        negative = self._takes("-")
        exponent = self._atom()
        return Node(Operation.NEGATE, (exponent,)) if negative else exponent

    def _atom(self) -> Node:
        token = self._take()
        if token.kind == "number":
            return Node(Operation.NUMBER, value=Decimal(token.text.replace(",", "")))
        if token.kind == "letter":
            return self._letter(token.text)
        if token.kind == "command":
            return self._command(token.text)
        if token.text in _CLOSING and token.kind == "sign":
            return self._until(_CLOSING[token.text])
        if token.text == "|" and token.kind == "sign":
            self._bars += 1
            inside = self._until("|")
            self._bars -= 1
            return Node(Operation.ABSOLUTE, (inside,))
        raise NotAFormula(f"{token.text!r} is out of place")

    def _until(self, closing: str) -> Node:
        inside = self._sum()
        if not self._takes(closing):
            raise NotAFormula(f"{closing} is missing")
        return inside

    def _letter(self, name: str) -> Node:
        if name == "e":
            return Node(Operation.E)
        if name == "i" or (name in _NAMES_OF_FUNCTIONS and self._next.text == "("):
            raise NotAFormula("the imaginary unit and unknown functions are for computer algebra")
        return Node(Operation.LETTER, name=name.replace("{", "").replace("}", ""))

    def _command(self, name: str) -> Node:
        if name == "pi":
            return Node(Operation.PI)
        if name in _GREEK:
            return Node(Operation.LETTER, name=name)
        if name == "frac":
            return Node(Operation.DIVIDE, (self._group(), self._group()))
        if name in ("binom", "dbinom", "tbinom"):
            return Node(Operation.BINOMIAL, (self._group(), self._group()))
        if name == "sqrt":
            degree = self._until("]") if self._takes("[") else _TWO
            return Node(Operation.ROOT, (self._atom(), degree))
        if name == "lfloor":
            return Node(Operation.FLOOR, (self._until_command("rfloor"),))
        if name == "lceil":
            return Node(Operation.CEILING, (self._until_command("rceil"),))
        return self._function(name)

    def _function(self, name: str) -> Node:
        if name == "log" and self._takes("_"):
            base = self._atom()
            logarithms = [Node(Operation.LN, (operand,)) for operand in (self._argument(), base)]
            return Node(Operation.DIVIDE, tuple(logarithms))
        if name not in _FUNCTIONS and name not in _RECIPROCALS:
            raise NotAFormula(f"\\{name} is not known here")
        exponent = self._exponent() if self._takes("^") else None
        if exponent is not None and (exponent.operation is not Operation.NUMBER or name == "exp"):
            raise NotAFormula("sin^{-1} may be an inverse or a reciprocal")
        if name in _FUNCTIONS:
            applied = Node(_FUNCTIONS[name], (self._argument(),))
        else:
            applied = Node(Operation.DIVIDE, (_ONE, Node(_RECIPROCALS[name], (self._argument(),))))
        return applied if exponent is None else Node(Operation.POWER, (applied, exponent))

    def _argument(self) -> Node:
        r"""What a function is applied to: a group, or factors up to the next sign or function, as in `\sin 2x`."""
        if self._next.kind == "sign" and self._next.text in ("(", "{"):
            if self._next.text == "(" and self._power_follows_group():
                raise NotAFormula("sin(x)^2 may square the sine or the argument")
            return self._atom()
        argument = self._power()
        while self._starts_factor() and self._next.text not in (*_FUNCTIONS, *_RECIPROCALS, "log", "(", "["):
            if self._next.kind == "number":
                raise NotAFormula("a number cannot follow a factor")
            argument = Node(Operation.MULTIPLY, (argument, self._power()))
        return argument

    def _power_follows_group(self) -> bool:
        depth = 0
        for index in range(self._position, len(self._tokens)):
            depth += self._tokens[index].text in ("(", "[", "{")
            depth -= self._tokens[index].text in (")", "]", "}")
            if depth == 0:
                return index + 1 < len(self._tokens) and self._tokens[index + 1].text == "^"
        return False

    def _group(self) -> Node:
        if not self._takes("{"):
            raise NotAFormula("a group in braces is missing")
        return self._until("}")

    def _until_command(self, closing: str) -> Node:
        inside = self._sum()
        if not self._takes(closing, "command"):
            raise NotAFormula(f"\\{closing} is missing")
        return inside
