r"""One spelling for each of LaTeX's many: `\dfrac12`, `\frac{1}{2}` and `\left.\tfrac 12` read the same."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
        "∈": r"\in ", "√": r"\sqrt ", "°": "", "。": ".", "，": ",", "€": "", "£": "", "或": " or ", "和": " and ",
        "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    }
)  # fmt: skip
_REMOVED = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|!)(?![a-zA-Z])|\\\$|\$|"
    r"\^\s*\{?\s*\\circ\s*\}?|\\degree|(?<!\\)\\[\[\]()]"
)
_SPACES = re.compile(r"(?<!\\)\\(?:(?:quad|qquad|enspace)(?![a-zA-Z])|[,;: ])|~|\s+")
_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:leqslant|leq)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\(?:geqslant|geq)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\neq(?![a-zA-Z])|!=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:mathrm|mathbf|mathit|rm)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(?:textbf|textit|textrm|textnormal|mbox|hbox|textsf)(?=\s*\{)", r"\\text"),
        (r"\\text\s*\{\s*(and|or)\s*\}", r" \1 "),
        (r"\\%", "%"),
        (r"\+\s*(?=\\infty)", ""),
        (r"\\text\s*\{\s*(-?[\d.,]+)\s*\}", r"\1"),
        (r"(?<=\d)\{,\}(?=\d)", ","),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([a-zA-Z\d])\s*([a-zA-Z\d])(?![a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*([a-zA-Z\d])", r"\\sqrt{\1}"),
        (r"([\^_])\s*\{\s*([a-zA-Z\d])\s*\}", r"\1\2"),
        (r"(?<![\\a-zA-Z])(pi|exp|sin|cos|tan|ln|log)(?![a-zA-Z])", r"\\\1 "),
        (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\+\s*-", "-"),
    ]
]
_THIN_SPACE_IN_NUMBER = re.compile(r"(?<=\d),?\\[!,]\s*,?(?:\\[!,])?\s*(?=\d{3}(?!\d))")
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
_DOUBLE_BACKSLASH = re.compile(r"\\\\(?=[a-zA-Z])")
_LEADING_SIGN = re.compile(r"^(?:=|\\approx|\\sim(?![a-z]))\s*")
_SINGLE_GROUP = re.compile(r"^\{([^{}]*)\}$")


@lru_cache(maxsize=8192)
def normalise(text: str) -> str:
    """The same answer in one spelling; structure, numbers and words are left as they are."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS))
    if r"\begin" not in text:  # there, two backslashes end a row
        text = _DOUBLE_BACKSLASH.sub(r"\\", text)
    text = text.replace("**", "").replace("`", "")
    text = _THIN_SPACE_IN_NUMBER.sub("", text)
    text = _REMOVED.sub("", text)
    text = _SPACES.sub(" ", text)
    for pattern, replacement in _RENAMED:
        text = pattern.sub(replacement, text)
    text = _LEADING_SIGN.sub("", _SPACES.sub(" ", text).strip().rstrip(".,;:").strip())
    return _SINGLE_GROUP.sub(r"\1", text)


def compact(text: str) -> str:
    r"""Without the spaces that mean nothing: all but those that end a command, as in `\pi r`, or part two digits."""
    return re.sub(r"(?<!\d) | (?!\d)", "", re.sub(r"(\\[a-zA-Z]+) +(?=[a-zA-Z])", r"\1{}", text))
