r"""Answers in words: names, number words, phrases that stand for a symbol, dates, times of day."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"^\\text\s*\{([^{}]*)\}$")
_BARE = re.compile(r"^\(?[A-Za-z](?:[A-Za-z' -]*[A-Za-z])?\)?$")
_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=\w)")
_CHOICES = set("abcde")
_LETTERS = {"e", "i", "pi"}
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: value for value, word in enumerate(_ONES)}
_SMALL |= {word: 20 + 10 * index for index, word in enumerate(_TENS)}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = ("third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_HALF = {"half", "one half", "one-half", "a half"}
_NO_THING = re.compile(
    r"(?:\w+ths?|thirds?|half|halves|quarters?|point|and|or|over|by|of|in|to|out|more|less|fewer|than|plus|minus|times)$"
)
_SYMBOLS = {
    **dict.fromkeys(("no solution", "no solutions", "no real solution", "no real solutions"), r"\emptyset"),
    **dict.fromkeys(("there is no solution", "there are no solutions", "empty set"), r"\emptyset"),
    **dict.fromkeys(("all real numbers", "all reals", "all real x", "any real number", "real numbers"), r"\mathbb{R}"),
    **dict.fromkeys(("integers", "all integers", "any integer"), r"\mathbb{Z}"),
    **dict.fromkeys(("infinitely many", "infinitely many solutions", "infinite"), r"\infty"),
    **dict.fromkeys(("infinity", "positive infinity"), r"\infty"),
    "negative infinity": r"-\infty",
    **dict.fromkeys(("dne", "limit does not exist"), r"\text{does not exist}"),
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<month>(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*)\.?"
_DAY, _YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?:,?\s+(?P<year>\d{4}))?"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?"
_DATES = [
    re.compile(rf"^{_WEEKDAY}{_MONTH}\s+{_DAY}{_YEAR}$"),
    re.compile(rf"^{_WEEKDAY}{_DAY}\s+(?:of\s+)?{_MONTH}{_YEAR}$"),
    re.compile(r"^(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)$"),
]
_NOON = re.compile(r"^(?:12(?::00)?\s*)?(noon|midnight)$")
_TIME = re.compile(r"^(\d{1,2})(?::(\d\d))?\s*(?:([ap])\.?\s?m\.?)?$")
_MARKUP = re.compile(r"\\text\s*\{([^{}]*)\}")
_LONGEST = 200


def same_words(reference: str, answer: str, *, number: bool) -> bool | None:
    """Whether two answers are the same words; None where one is no words. `number`: whether one is a number."""
    left, right = words_of(reference), words_of(answer)
    if left is None or right is None:
        words = left if left is not None else right
        return False if number and words is not None and words not in _LETTERS else None
    if left == right:
        return len(left) > 1 or left in _CHOICES or reference.islower() == answer.islower()  # M is not m
    # `ab` and `ba` may be products; in capitals, longer, or spelt out, they are names.
    letters = max(len(left), len(right)) <= 3 and reference.islower() and answer.islower()
    return None if letters and not _TEXT.match(reference) and not _TEXT.match(answer) else False


def words_of(text: str) -> str | None:
    """Words in lower case, without article and parentheses; None where the text is an expression."""
    match = _TEXT.match(text) if len(text) <= _LONGEST else None
    inside = match[1] if match else text if len(text) <= _LONGEST and _BARE.match(text) else None
    if inside is None:
        return None
    plain = " ".join(inside.strip().strip("().").lower().split())
    return _ARTICLE.sub("", plain).removesuffix(" only")


def symbol_for(text: str) -> str:
    r"""The symbol or digits that a phrase such as "no solution" or "twenty-one" stands for; else the text itself."""
    words = words_of(text)
    if words is None:
        return text
    if words in _HALF:
        return "1/2"
    negative = words.startswith(("minus ", "negative "))
    number = _number_in_words(words.partition(" ")[2] if negative else words)
    if number is not None:
        return f"-{number}" if negative else str(number)
    return _SYMBOLS.get(words) or _fraction_in_words(words) or _counted(words) or text


def _counted(words: str) -> str | None:
    """`5\\text{ books}` for "five books"; None for any words behind the number but one or two of things."""
    pieces = words.split()
    if pieces and pieces[0].partition("-")[0] not in _SMALL:
        return None
    for number in range(len(pieces) - 1, 0, -1):
        if (value := _number_in_words(" ".join(pieces[:number]))) is not None:
            things = pieces[number:]
            no_things = any(_NO_THING.match(thing) for thing in things)
            return None if len(things) > 2 or no_things else rf"{value}\text{{ {' '.join(things)}}}"
    return None


def _fraction_in_words(words: str) -> str | None:
    """`2/3` for "two thirds"; "twenty-fifth" is no fraction."""
    *before, part = re.split("[ -]", words.replace("fourth", "quarter"))
    over = _number_in_words(" ".join(before)) if before else None
    if over is None or not 1 <= over <= 12 or (over > 1) != part.endswith("s") or part.rstrip("s") not in _PARTS:
        return None
    return f"{over}/{3 + _PARTS.index(part.rstrip('s'))}"


def _number_in_words(words: str) -> int | None:
    """The number that "two hundred and twelve thousand" says; None where the words are no number."""
    total, group, room, scale = 0, 0, 100, 10**15  # `room`: what may still be added must be smaller
    pieces = re.split("[ -]", words)
    if pieces[0] == "a" or pieces[0] in ("hundred", *_LARGE):
        pieces[:1] = ["one"] if pieces[0] == "a" else ["one", pieces[0]]
    for piece in pieces:
        if piece in _LARGE and group and _LARGE[piece] < scale:
            scale = _LARGE[piece]
            total, group, room = total + group * scale, 0, 100
        elif piece == "hundred" and 0 < group < 100:
            group, room = group * 100, 100
        elif piece in _SMALL and _SMALL[piece] < room and (_SMALL[piece] or len(pieces) == 1):
            group += _SMALL[piece]
            room = 10 if _SMALL[piece] >= 20 else 0
        elif piece != "and" or room < 100 or not (group or total):
            return None
    return total + group


@dataclass(frozen=True, slots=True)
class Moment:
    """A date, or a time of day in minutes. `year` and `half` ("a" or "p") are None where they were left out."""

    month: int = 0
    day: int = 0
    year: int | None = None
    minutes: int = 0
    half: str | None = None


def same_moment(reference: str, answer: str) -> bool | None:
    """Whether two dates or two times of day are the same; None where one is neither."""
    left, right = _moment(reference), _moment(answer)
    if left is None or right is None or bool(left.month) != bool(right.month):
        return None
    if left.month:
        return left == right
    if left.half is not None and right.half is not None:
        return left == right
    if left.half is None and right.half is None:
        return left.minutes == right.minutes
    # The half of the day may be left out; 15:30 has it in itself.
    bare, full = (left, right) if left.half is None else (right, left)
    return bare.minutes == full.minutes if bare.minutes >= 13 * 60 else (bare.minutes - full.minutes) % 720 == 0


def _moment(text: str) -> Moment | None:
    if len(text) > 60 or not (any(character.isdigit() for character in text) or "n" in text):
        return None
    plain = " ".join(_MARKUP.sub(r" \1 ", text).lower().split())
    if match := _NOON.match(plain):
        return Moment(minutes=720, half="p") if match[1] == "noon" else Moment(minutes=0, half="a")
    for pattern in _DATES:
        if match := pattern.match(plain):
            month = match["month"]
            number = int(month) if month.isdigit() else _MONTHS.index(month[:3]) + 1
            return Moment(month=number, day=int(match["day"]), year=int(match["year"]) if match["year"] else None)
    return _time_of_day(plain)


def _time_of_day(plain: str) -> Moment | None:
    match = _TIME.match(plain)
    if match is None or (match[2] is None and match[3] is None):
        return None
    hours, minutes = int(match[1]), int(match[2] or 0)
    if hours > 23 or minutes > 59:
        return None
    if match[3]:
        hours = hours % 12 + (12 if match[3] == "p" else 0)
    return Moment(minutes=60 * hours + minutes, half=match[3])
