r"""One spelling for each of LaTeX's many: `\dfrac12`, `\frac{1}{2}` and `\left.\tfrac 12` read the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ",
        "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "±": r"\pm ",
        "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "∖": r"\setminus ", "√": r"\sqrt ",
        "⟨": r"\langle ", "⟩": r"\rangle ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "℃": "°C", "℉": "°F",
        "。": ".", "，": ",", "、": ",", "；": ";", "或": " or ", "和": " and ", "…": r"\ldots ",
        "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    }
)  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SCRIPTS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+"), lambda match: f"^{{{match.group().translate(_RAISED)}}}"),
    (re.compile("[₀₁₂₃₄₅₆₇₈₉]+"), lambda match: f"_{{{match.group().translate(_LOWERED)}}}"),
    (re.compile(r"√(\d+(?:\.\d+)?)"), r"\\sqrt{\1}"),
    (re.compile(r"∛(\d+|(?=\())"), lambda match: rf"\sqrt[3]{{{match[1]}}}" if match[1] else r"\sqrt[3]"),
    (
        re.compile("(\\d+)\\.(\\d*?)((?:\\d\u0305)+)"),
        lambda m: rf"{m[1]}.{m[2]}\overline{{{m[3]}}}".replace("\u0305", ""),
    ),
]
_AMOUNT = (
    r"-?\s*(?:\d[\d,]*(?:\.\d+|\s*\\[dt]?frac(?:\d\d|\{\d+\}\{\d+\}))?|\.\d+)"
    r"(?:\s*(?:thousand|million|billion|trillion))?"
)
_UNIT_IN_CHINESE = re.compile(r"(?<=\d)\s*([一-鿿가-힣]{1,4})$")
_BRACED_MARK = re.compile(r"(?<=\d)\s*\{([,.:])\}\s*(?=\d)")
_BRACED_COMMAS_OF_THOUSANDS = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:\s*\{,\}\s*\d{3})+(?!\d)")
_INDEX = r"(?:\{(\d+)\}|(\d))"
_TOP_OR_BOTTOM = r"(?:\{(\d*[a-z]?(?:[+-]\d)?)\}|([\da-z]))"
_SPACES = re.compile(r"(?<!\\)\\(?:(?:quad|qquad|enspace)(?![a-zA-Z])|[,;: ])|~|\s+")
_REMOVED = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|large|Large|LARGE|huge|Huge|limits|!)(?![a-zA-Z])|\\\$|\$|(?<!\\)\\[\[\]()]|"
    r"\\(?:checkmark|blacksquare|square|Box|qed)(?![a-zA-Z])\s*$"
)
_COMMANDS_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\[hv]?phantom\s*\{[^{}]*\}", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\{?\s*(?<![\w}])(\w+)\s*\\choose\s*(\w+)\s*\}?", r"\\binom{\1}{\2}"),
        (r"\\lg(?![a-zA-Z])", r"\\log_{10} "),
        (r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le "),
        (r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge "),
        (r"\\neq(?![a-zA-Z])", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:varnothing(?![a-zA-Z])|\{\s*\\\})", r"\\emptyset "),
        (r"\\(?:langle|lang)(?![a-zA-Z])", "("),
        (r"\\(?:rangle|rang)(?![a-zA-Z])", ")"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:[lr]?vert|mid)(?![a-zA-Z])", "|"),
        (r"\\backslash(?![a-zA-Z])|(?<=\})\\ ?(?=\\\{)", r"\\setminus "),
        (r"\\(?:R|reals|Reals)(?![a-zA-Z])|\\mathbb\s*R(?![a-zA-Z])", r"\\mathbb{R}"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])", "°"),
        (r"\\bmod(?![a-zA-Z])|\\mod(?![a-zA-Z])|\\pmod(?![a-zA-Z])", r"\\pmod "),
        (r"\\(?:[cl]?dots|dotsc|dotsb)(?![a-zA-Z])", r"\\ldots "),
        (
            r"\\(?:mathbf|hat|vec|boldsymbol)\s*\{\s*"
            r"(?:\\(?:hat|mathbf)\s*\{\s*\\?([ijk])(?:math)?\s*\}|\\?([ijk])(?:math)?)\s*\}",
            r"\\unit{\1\2}",
        ),
        (r"\\(?:textbf|textit|textrm|textnormal|mbox|hbox|textsf|operatorname\*?)(?=\s*\{)", r"\\text"),
        (r"\\(?:mathrm|rm)\s*\{\s*([a-zA-Z][a-zA-Z ./]+|\(\w\))\s*\}", r"\\text{\1}"),
        (r"(?<=\d)\s*\\(?:mathrm|rm)\s*\{\s*([a-df-hj-zA-Z])\s*\}", r"\\text{\1}"),
        (r"(?<=\})\s*/\s*\\(?:mathrm|rm)\s*\{\s*([a-zA-Z]+)\s*\}", r"/\\text{\1}"),
        (r"\\(?:(?:text|mathrm)\s*\{\s*(arc|)tg\s*\}|(arc|)tg(?![a-z]))", r"\\\1\2tan "),
        (r"\\(?:(?:text|mathrm)\s*\{\s*(arc|)ctg\s*\}|(arc|)ctg(?![a-z]))", r"\\\1\2cot "),
        (r"\\(max|min|gcd|lcm)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)"),
        (r"(\\mathbb\s*\{[A-Z]\})\s*-\s*(?=\\\{)", r"\1\\setminus "),
        (r"\\(?:mathrm|mathbf|mathit|mathsf|boldsymbol|bm|rm)\s*\{([^{}]*)\}", r"\1"),
        (r"\\text\s*\{\s*(sin|cos|tan|cot|sec|csc|ln|log|exp|arcsin|arccos|arctan|lcm|gcd)\s*\}", r"\\\1 "),
        (r"\\text\s*\{\s*,?\s*(and|or|to)\s*\}", r" \1 "),
        (r"(?<=[\d)}])\s*\\text\s*\{\s*(?:et|ou|und|oder|y|o|e|и|или)\s*\}(?=\s*[\d(\\-])", " and "),
        (r"^\\text\s*\{\s*(?:[Tt]he\s+)?(?:[Ff]inal\s+)?[Aa]nswer\s*(?:is|:|=)\s*(?!not\b)([^{}]+)\}$", r"\\text{\1}"),
        (r"\\text\s*\{\s*(-?[\d.,/]+|\\infty)\s*\}", r"\1"),
        (r"^\\text\s*\{\s*(-?[\d.,/]+\s+(?:and|or|to)\s+-?[\d.,/]+|[a-zA-Z]\s*=\s*-?[\d.,/]+)\s*\}$", r"\1"),
        (r"^\\text\s*\{\s*(-?[\d.,/]+)\s+([^{}]*\})$", r"\1\\text{ \2"),
        (r"^\\text\s*\{(?![^{}]*\bnot\b|\s*[A-H]\s*:)[^{}]*(?:\bis|:|=)\s*\}\s*(?=\S)", ""),
        (
            r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*(\^\s*\{?[23]\}?)?\s*\}",
            r"\\text{\1/\2\3}",
        ),
        (r"\\text\s*\{([^{}]*[^{},\s])\s*,\s*\}", r"\\text{\1}, "),
        (r"^\\text\s*\{\s*(?:minus|negative)\s*\}\s*(?=[\d\\])", "-"),
        (r"^\\text\s*\{\s*(?:minus|negative)\s+([\d.,/]+)\s*\}$", r"-\1"),
        (r"^\\text\s*\{\s*all real (?:numbers|x) except(?: for)?\s*\}\s*([^{}]+)$", r"\\mathbb{R}\\setminus \\{\1\\}"),
        (r"\\text\s*\{\s*cis\s*\}\s*\(?([^()]+?)\)?$", r"e^{i(\1)}"),
        (r"\\(?:underline|uline)\s*\{([^{}]*)\}|\\(?:text)?color\s*\{[a-z]+\}\s*\{?([^{}]*)\}?$", r"\1\2"),
        (r"(?<=\d)\s*\\Omega\s*$", r"\\text{ ohms}"),
        (r"\^\s*\{?\s*\\text\s*\{\s*(st|nd|rd|th)\s*\}\s*\}?", r"\\text{\1}"),
        (r"\\(?:overline|triangle)\s*(?:\{\s*([A-Z]{2,4})\s*\}|(?=[A-Z]{3}))", r"\1"),
        (r"\\%", "%"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([a-zA-Z\d])\s*([a-zA-Z\d])(?![a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*([a-zA-Z\d])", r"\\sqrt{\1}"),
    ]
]
_SIGNS_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"^(?:\\text\s*\{)?\s*([Yy]es|[Nn]o)[,;]\s+(?:because|since|as|it|there|the|this|they)\b.*$", r"\1"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=", r"\\ne "),
        (r"(?<=[\w)\]}])\s*\*\*\s*(?=[\w({\\-])", "^"),
        (r"\*\*|`", ""),
        (r"(?<=\d)\s+(?:et|ou|und|oder|y|или|и)\s+(?=-?\d)", " and "),
        (r"\bper cent\b", "percent"),
        (r"\.{3,}", r"\\ldots "),
        (r"\*", r"\\cdot "),
        (r"\+\s*-", "-"),
        (r"\+\s*(?=\\infty)", ""),
        (rf"(?<![a-zA-Z\d\\])C_{_TOP_OR_BOTTOM}\^{_TOP_OR_BOTTOM}", r"\\binom{\1\2}{\3\4}"),
        (rf"(?:\{{\s*\}})?[_^]{_INDEX}C_{_INDEX}", r"\\binom{\1\2}{\3\4}"),
        (r"[\^_]\s*\{\s*\}", ""),
        (r"([\^_])\s*\{\s*([a-zA-Z\d])\s*\}(?!\d)", r"\1\2"),
        (r"(?<![\\a-zA-Z])(pi|exp|sin|cos|tan|ln|log)(?![a-zA-Z])", r"\\\1 "),
        (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\text\s*\{\s*(-?)\s*infinity\s*\}|(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\1\\infty "),
    ]
]
_CURRENCIES = [
    (re.compile(rf"(\\text\s*\{{\s*)?{sign}\s*({_AMOUNT})(?(1)\s*\}})"), rf"\2\\text{{ {name}}}")
    for sign, name in [
        *((r"(?:US)?\\\$", "dollars"), ("€", "euros"), ("£", "pounds sterling"), ("[¥￥]", "yen"), ("₹", "rupees")),
    ]
]
_CURRENCY_SIGN = re.compile("[€£¥￥₹]")
_THIN_SPACE_IN_NUMBER = re.compile(r"(?<=\d),?\\[!,]\s*,?(?:\\[!,])?\s*(?=\d{3}(?!\d))")
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
_DOUBLE_BACKSLASH = re.compile(r"\\\\(?=[a-zA-Z])")
_DERIVATION = re.compile(
    r"\\begin\{(?P<name>(?:align|equation|gather|split)\w*\*?)\}(?P<rows>(?:(?!\\begin).)*)\\end\{(?P=name)\}",
    re.DOTALL,
)
_ROW_END = re.compile(r"\\\\")
_ALIGNED_SIGN = re.compile(r"&\s*(?:=|<|>|\\le|\\ge)")
_LEADING_SIGN = re.compile(r"^(?:(?i:answer)\s*[:=]|=|\\approx|\\sim(?![a-z]))\s*")
_SINGLE_GROUP = re.compile(r"^\{([^{}]*)\}$")
_END_OF_COMMAND = re.compile(r"(\\[a-zA-Z]+) +(?=[a-zA-Z])")
_MEANINGLESS_SPACE = re.compile(r"(?<!\d) | (?!\d)")


@lru_cache(maxsize=8192)
def normalise(text: str) -> str:
    """The same answer in one spelling; structure, numbers and words are left as they are."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text
    if "{" in text:
        text = _BRACED_COMMAS_OF_THOUSANDS.sub(lambda number: _BRACED_MARK.sub("", number.group()), text)
        text = _BRACED_MARK.sub(r"\1", text)
    if not text.isascii():
        text = _UNIT_IN_CHINESE.sub(r"\\text{ \1}", text)
        for pattern, replacement in _SCRIPTS:
            text = pattern.sub(replacement, text)
        text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS))
        text = _with_currency_names(text)
    if "\\" in text:
        text = _plain_commands(text)
    text = _SPACES.sub(" ", text.replace("$", ""))
    for pattern, replacement in _SIGNS_RENAMED:
        text = pattern.sub(replacement, text)
    text = _LEADING_SIGN.sub("", _SPACES.sub(" ", text).strip().rstrip(".,;:").removesuffix("\\").strip())
    return _SINGLE_GROUP.sub(r"\1", text)


def compact(text: str) -> str:
    r"""Without the spaces that mean nothing: all but those that end a command, as in `\pi r`, or part two digits."""
    if " " not in text:
        return text
    return _MEANINGLESS_SPACE.sub("", _END_OF_COMMAND.sub(r"\1{}", text))


def _plain_commands(text: str) -> str:
    if r"\begin" in text:  # there, two backslashes end a row
        text = _DERIVATION.sub(_as_one_line, text)
    if r"\begin" not in text:
        text = _DOUBLE_BACKSLASH.sub(r"\\", text)
    text = _THIN_SPACE_IN_NUMBER.sub("", text)
    if r"\$" in text:
        text = _with_currency_names(text)
    text = _SPACES.sub(" ", _REMOVED.sub("", text))
    for pattern, replacement in _COMMANDS_RENAMED:
        text = pattern.sub(replacement, text)
    return text


def _as_one_line(derivation: re.Match[str]) -> str:
    r"""`x &= 2 + 3 \\ &= 5` as `x = 2 + 3 = 5`; what has rows of other forms stays as it is."""
    rows = [row.replace("&", "").strip() for row in _ROW_END.split(derivation["rows"])]
    if derivation["rows"].count("&") != len(_ALIGNED_SIGN.findall(derivation["rows"])):
        return derivation.group()
    return "".join(row if row.startswith("=") else f", {row}" for row in rows if row).removeprefix(", ")


def _with_currency_names(text: str) -> str:
    for pattern, replacement in _CURRENCIES:
        text = pattern.sub(replacement, text)
    return _CURRENCY_SIGN.sub("", text)
