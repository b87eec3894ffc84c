r"""Finds the final answer in what a model wrote, and in a reference.

The order is a convention, the most explicit first: the phrase "The final answer is 18. I hope it is correct.", where
no box follows it; the last `\boxed{}`, `####`, `<answer>`, a line such as `A: 18` or "the answer is 18", else what the
last sentence says that something is, else the last value in the text. Only text after the last `</think>` counts, and
reasoning that was never closed holds no answer. Every search is linear in the text, or looks at its tail only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from rlvr.rewards.math.units import read_unit


class Source(StrEnum):
    """Where in the text the final answer stood."""

    BOXED = "boxed"
    HASHES = "after ####"
    ANSWER_TAG = "in <answer>"
    ANSWER_LINE = "stated"
    LAST_VALUE = "last value"


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """A final answer as it was written, still with its LaTeX, and where it stood."""

    text: str
    source: Source


_TAIL_CHARACTERS = 2000
_SHORT_CHARACTERS = 200
_BOX = re.compile(r"\\f?boxed(?![a-zA-Z])|\\fbox(?![a-zA-Z])")
_BARE_BOX = re.compile(r"[^\s$\\{}]{0,40}\d[^\s$\\{}]{0,40}|[A-Za-z](?![A-Za-z])")
_STATED = re.compile(
    r"(?i)\b(?:answer|(?:correct|right|best)\s+(?:option|choice))(?:\*\*)?\s*(?:is\b|:|=|(?<=\*\*)\n)\s*:?(?:\*\*)?"
)
_STATED_ELSEWHERE = re.compile(
    r"(?i)(?:\b(?:respuesta|réponse|antwort|resposta|risposta)|ответ|答案?|答え|정답|답|故选|应选)\s*(?:[:：]|"
    r"(?:(?<=答案)[是为]|(?<=答え)は|(?<=답)은|(?<=选)|(?i:es|est|ist|é|è)\b)\s*[:：]?)"
)
_A_LINE = re.compile(r"(?m)^[ \t]*A:")
_PLEASANTRIES = re.compile(r"(?i)\.?\s*(?:I hope it is correct|<\|im_(?:start|end)\|>).*", re.DOTALL)
_CLOSING = re.compile(r"final answer is:?\s*([^\n]+?)\.?\s*I hope it is correct", re.IGNORECASE)
_CONJUNCTIONS = {"and", "or", "和", "或", "与", "及", "y", "o", "et", "ou", "und", "oder", "и", "или"}
_BOX_GAP_NOISE = re.compile(r"\\(?:text|quad|qquad|[()\[\],;! ])|[\s$,;.:&{}*+]")
_MATH_SPAN = re.compile(
    r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|"
    r"(\\begin\{(?P<name>(?:align|equation|gather)\w*\*?)\}.+?\\end\{(?P=name)\})",
    re.DOTALL,
)
_VALUE = re.compile(
    r"\(\s*-?[\d./]+(?:\s*,\s*-?[\d./]+)+\s*\)|(?<![A-Za-z\d_.:])\d+(?::\d+)+(?:\s*[ap]\.?m\b)?|"
    r"(?<![A-Za-z\d_.])[-+−]?\$?(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)?(?:(?<=\d)[.,]?|\.)(?:(?<=[.,])\d+|(?<=\d))"
    r"(?:\s+\d+/\d+|/\d+)?(?:[eE][-+]?\d+)?(?:\s*(?:\\?%|percent|pct|thousand|million|billion|trillion))?"
)
_NEXT_CLAUSE = re.compile(
    r"(?i)[,;.]?\s(?:(?:and|but)\s)?(?:not|rather than|instead of|because|since)\b|"
    r",?\sfor\s(?:every|all|any|some|each)\b|,\s(?:which|where|who)\b|\s\((?!or\b)(?=[a-z]{2})|[，,；;。]\s*而?(?:不|因为|由于)"
)
_BY_CASES = re.compile(r"(?i)\d[$)]*\s*\((?:if|when|for)\b[^()]*\)[,;]?\s*(?:(?:or|and|else|otherwise)\s+)?[$\\(-]*\d")
_CHOSEN = re.compile(
    r"(?<!or )(?<!and )(?<![Ii]f )(?<!or option )(?<!or choice )(?<![Ii]f option )(?<![\w'(])\(?([A-J])\)?\s+is\s+"
    r"(?:the\s+)?(?:correct|right|best)\b|\bI(?:['’]ll|\s+will|\s+would)?\s+(?:choose|pick|select|go with)\s+"
    r"(?:(?:option|choice|answer)\s+)?\(?([A-J])\b(?!['’]|\s+or\b)"
)
_DENIED = re.compile(
    r"(?i)(?:\b(?:not|cannot|neither|nor|never)|n['’]t)\s+(?:[a-z]+\s+)?[$(]*$|"
    r"\b(?:cannot|can['’]t|could(?:n['’]t| not)|unable to)\s+(?:answer|solve|find|determine)\b[^.!?,;\n]*$|"
    r"\b(?:suppose|assume|let|try)\s+(?:that\s+)?(?:[a-z]\s*(?:=|is|be)\s*)?[$(]*$|"
    r"(?:\b(?:no es|não é|non è|n['’]est pas|nicht|не)|不[是为])\s*[$(]*$"
)
_DENIED_BEHIND = re.compile(
    r"(?i)[)$]*\s*(?:(?:is|was|are)(?:n['’]t|\s+(?:not|wrong|incorrect|false))\b|(?:does|do|did)(?:n['’]t|\s+not)\b|"
    r"(?:cannot|can['’]t|fails)\b|[^.!?\n]*\?|(?:では|じゃ|で)な|[이가은는]?\s*아니)"
)
_BOUND = re.compile(
    r"(?i)\b(?:at (?:least|most)|(?:more|less|greater|larger|smaller|fewer) than|between|from \S+ to)\s+[$(]*$"
)
_NUMBERED = re.compile(
    r"(?i)\b(?:step|problem|equation|figure|exercise|theorem|lemma|example|case|method|attempt)\s+[#(]?$"
)
_NUMBERED_LENGTH = 20  # enough for the longest of these words
_LISTED = re.compile(r"\s*(?:,\s*)?(?:(and|or)\s+)?", re.IGNORECASE)
# Words, and letters of scripts in which no formula is written: all but Latin and Greek.
_WORD = re.compile("[A-Za-zÀ-ſ]{2,}|[\u0400-\u1cff\u3040-\ud7ff]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])")
_SAYS = re.compile(r"(?i)\b(?:is|are|equals?|be|(?:lies|is|are) in)\s+(?:equal to\s+)?(?=\S)")
_UNIT_BEHIND = re.compile(r"[)$]*\s+((?:(?:square|cubic)\s+)?[A-Za-z]{3,}(?:\s+per\s+[a-z]+)?|[cdkm][mg]|ft|lb|oz)\b")
_LARGER_AMOUNT = re.compile(r"\d+\s+([A-Za-z]{2,}),?\s+(?:and\s+)?$")
_LEAD_IN = re.compile(r"(?i)^(?:so|thus|hence|therefore|then),?\s+(?:that\s+|we\s+(?:get|have)\s+)?")
_RELATION = re.compile(r"[<>≤≥∈]")
_ARITHMETIC = re.compile(r"\d%?\s*[-–+x×*/]\s*[\d(.].*=")
_REMARK = re.compile(r",\s(?:which|where|who)\b|\s\((?=[a-z]{2})")
_DIGIT = re.compile(r"\d")
_A_FEW_WORDS = re.compile(
    r"(?i)(?!(?:not|no|never|correct|incorrect|right|wrong)\b)(?:an?\s+)?[a-z]+(?:[ -][a-z]+){0,2}"
)
_COMMAND = re.compile(
    r"\\(?:begin|end)\{\w+\*?\}(?:\{[clr|]*\})?|\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+"
)
_MATH_WORDS = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "exp", "ln"),
    *("log", "sqrt", "pi", "max", "min", "gcd", "lcm", "mod", "or", "and", "infty", "inf"),
    *("to", "percent", "pct", "percentage", "cm", "mm", "km", "kg", "或", "和"),
}


def final_answer(completion: str) -> FinalAnswer | None:
    """The final answer of a completion, or None where there is none."""
    text = _after_thinking(completion)
    if text is None:
        return None
    closing = _CLOSING.search(text[-_TAIL_CHARACTERS:])
    if closing and not _BOX.search(closing.string, closing.start()):
        return _found(closing[1].replace(r"\"", '"').strip('"'), Source.ANSWER_LINE)
    if _BOX.search(text):
        return _found(last_boxes(text), Source.BOXED)
    if "####" in text:
        return _found(_first_line(text.rpartition("####")[2]), Source.HASHES)
    _, tag, inside = text.rpartition("<answer>")
    if tag and "</answer>" in inside:
        return _found(_reading(inside.partition("</answer>")[0]), Source.ANSWER_TAG)
    statements = [*_A_LINE.finditer(text), *_STATED.finditer(text)] or [*_STATED_ELSEWHERE.finditer(text)]
    if statements:
        last = max(statements, key=lambda match: match.start())
        return _found(_statement(_first_line(text[last.end() :])), Source.ANSWER_LINE)
    if chosen := list(_CHOSEN.finditer(text.replace("**", ""))):
        return _found(chosen[-1][1] or chosen[-1][2], Source.ANSWER_LINE)
    return _found(_reading(text), Source.LAST_VALUE)


def reference_answer(answer: str | int | float) -> str:
    """The final answer of a reference: a worked solution that ends in `####`, `A:` or a box, or the answer alone."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise TypeError(
            f"answer: expected a string or a number as reference, got {type(answer).__name__}; "
            "name the column that holds the final answer"
        )
    if not isinstance(answer, str):
        return repr(answer)
    if "####" in answer:
        return _first_line(answer.rpartition("####")[2])
    if _BOX.search(answer):
        return last_boxes(answer) or _BOX.split(answer)[-1].lstrip(" {").strip()
    if lines := list(_A_LINE.finditer(answer)):
        return _first_line(answer[lines[-1].end() :])
    return answer.strip()


def last_boxes(text: str) -> str | None:
    r"""The content of the last box. Boxes that make one list, as in `\boxed{1} and \boxed{2}`, are joined by commas.

    None where the last box is never closed: what stands in an earlier one was not the final answer.
    """
    starts = [match.span() for match in _BOX.finditer(text)]
    contents: list[str] = []
    following = len(text)
    for start, after in reversed(starts):
        box = _box_content(text, after)
        if box is None:
            break
        content, end = box
        if contents and (end > following or not _joins(text[end:following])):
            break
        if content.strip() not in contents:
            contents.insert(0, content.strip())
        following = start
    return ", ".join(contents) if contents else None


def _box_content(text: str, position: int) -> tuple[str, int] | None:
    """What stands in braces at `position`, or the number or letter there, and where it ends."""
    while position < len(text) and text[position] == " ":
        position += 1
    if position >= len(text) or text[position] != "{":
        word = _BARE_BOX.match(text, position)
        return (word.group(), word.end()) if word else None
    depth = 0
    index = position
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[position + 1 : index], index + 1
        index += 1
    return None


def _joins(gap: str) -> bool:
    """Whether what stands between two boxes makes them one list."""
    if len(gap) > 80:
        return False
    words = _BOX_GAP_NOISE.sub(" ", gap).split()
    return not words or (len(words) <= 5 and not _CONJUNCTIONS.isdisjoint(word.lower() for word in words))


def _after_thinking(completion: str) -> str | None:
    _, closed, text = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return None
    return None if "<think>" in text else text


def _first_line(text: str) -> str:
    stripped = text.strip()
    return stripped.splitlines()[0].strip() if stripped else ""


def _found(text: str | None, source: Source) -> FinalAnswer | None:
    return FinalAnswer(text.strip(), source) if text is not None and text.strip() else None


def _statement(text: str) -> str | None:
    """What follows "the answer is". "8, not 7" is 8; "not 7" and "at most 7" stay as they are: equal to no number."""
    if _BY_CASES.search(text[:_TAIL_CHARACTERS]):
        return text[:_TAIL_CHARACTERS]
    text = _NEXT_CLAUSE.split(text[:_TAIL_CHARACTERS].strip(), maxsplit=1)[0]
    values = _listed_values(text) if _is_wordy(text) else []
    before = text[: values[0].start] if values else ""
    return text if _DENIED.search(before) or _BOUND.search(before) else _reading(text)


def _reading(text: str) -> str | None:
    """The answer in a text: all of it where it is an expression or a few words, else its last value."""
    text = _PLEASANTRIES.sub("", text[-_TAIL_CHARACTERS:]).strip().strip("*`").strip()
    short = len(text) <= _SHORT_CHARACTERS and "\n" not in text
    if short and (expression := _expression(text)):
        return expression
    return _said(text) or _last_value(text) or (text if short else None)


def _expression(text: str) -> str | None:
    """A text without words, or with none but a unit; None for any other."""
    if not _is_wordy(text):
        return text
    before, _, unit = text.rstrip(".").rpartition(" ")
    return _with_unit(before, unit) if before and read_unit(unit).measures and not _is_wordy(before) else None


def _said(text: str) -> str | None:
    """What the last sentence says that something is, where that is more than a number: "it is x + 2", "it is Ann"."""
    last_line = text.rstrip().rpartition("\n")[2]
    sentence = _REMARK.split(_SENTENCE.split(last_line)[-1])[0]
    verbs = list(_SAYS.finditer(sentence))
    if len(sentence) > _SHORT_CHARACTERS or "$" in sentence:
        return None
    if not verbs:
        relation = _LEAD_IN.sub("", sentence, count=1).rstrip(" .")
        return _expression(relation) if _RELATION.search(relation) else None
    before, said = sentence[: verbs[-1].end()], sentence[verbs[-1].end() :].rstrip(" .")
    if _DENIED.search(before) or _BOUND.search(before):
        return None
    if _A_FEW_WORDS.fullmatch(said):
        return None if _DIGIT.search(sentence) else said
    return None if _ARITHMETIC.search(said) else _expression(said)


def _is_wordy(text: str) -> bool:
    words = _WORD.findall(_COMMAND.sub(" ", text))
    return any(word.lower() not in _MATH_WORDS and not (word.isupper() and len(word) <= 4) for word in words)


def _last_value(text: str) -> str | None:
    values = _listed_values(text)
    if not values or _DENIED.search(text[: values[0].start]) or _DENIED_BEHIND.match(text, values[-1].end):
        return None
    if len(values) == 1 and (unit := _UNIT_BEHIND.match(text, values[0].end)) and read_unit(unit[1]).measures:
        larger = _LARGER_AMOUNT.search(text, max(0, values[0].start - _SHORT_CHARACTERS), values[0].start)
        if larger and read_unit(larger[1]).measures == read_unit(unit[1]).measures:
            return text[larger.start() : unit.end()]  # 2 hours and 30 minutes
        return _with_unit(values[0].text, unit[1])
    return ", ".join(value.text for value in values)


def _with_unit(value: str, unit: str) -> str:
    return rf"{value}\text{{ {unit}}}"


def _listed_values(text: str) -> list[_Value]:
    """The math span or number that ends last, behind those it is listed with, as in "1, 2 and 3"."""
    values = _values(text)
    first = len(values) - 1
    joined = False
    while first > 0 and (gap := _LISTED.fullmatch(text, values[first - 1].end, values[first].start)):
        joined = joined or gap[1] is not None
        if not joined:
            break
        first -= 1
    return values[max(first, 0) :]


@dataclass(frozen=True, slots=True)
class _Value:
    text: str
    start: int
    end: int


def _values(text: str) -> list[_Value]:
    """The math spans, and the numbers behind them; prices make no span of what lies between them."""
    found: list[_Value] = []
    for span in _MATH_SPAN.finditer(text):
        content = next(group for group in span.groups() if group is not None)
        if not _is_wordy(content):
            found.append(_Value(content, span.start(), span.end()))
    start = found[-1].end if found else 0
    numbers = [_Value(value.group(), value.start(), value.end()) for value in _VALUE.finditer(text, start)]
    return found + [number for number in numbers if not _NUMBERED.search(text[: number.start][-_NUMBERED_LENGTH:])]
