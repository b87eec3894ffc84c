"""Whether an answer is the target as text: letter for letter, or after both were brought to one form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from rlvr.reward_function import inline_reward
from rlvr.rewards.answer_text import answer_text

_ARTICLES = {"a", "an", "the"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_KEPT = frozenset("%#@&/")  # they tell 5% from 5, and C# from C


@inline_reward("exact_text")
def exact_text(completion: str, target: object) -> float:
    """1.0 where the answer is the target, or one of several, letter for letter but for outer blanks; else 0.0."""
    answer = answer_text(completion)
    return float(answer is not None and answer in [text.strip() for text in targets(target)])


@inline_reward("normalised_text")
def normalised_text(completion: str, target: object) -> float:
    """1.0 where the answer and the target, or one of several, are the same in `normal_form`; else 0.0."""
    answer = answer_text(completion)
    return float(answer is not None and any(same_text(answer, text) for text in targets(target)))


def same_text(answer: str, target: str) -> bool:
    """Whether two texts have one normal form. A target of articles and punctuation alone is compared as it is."""
    expected = normal_form(target)
    return normal_form(answer) == expected if expected else answer.strip() == target.strip()


def normal_form(text: str) -> str:
    """As SQuAD compares answers (arXiv 1606.05250): lower case, no punctuation, no articles, single blanks.

    Besides, letters are brought to Unicode's compatible form (NFKC), and what makes another number or name of an
    answer stays: its sign, its decimal point, and `% # @ & /`. Symbols such as `+` and `$` are no punctuation.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    plain = "".join(_letters(_THOUSANDS.sub("", folded)))
    return " ".join(word for word in plain.split() if word not in _ARTICLES)


def targets(target: object) -> list[str]:
    """One target, or a list of them that are all right, as text."""
    several = isinstance(target, Sequence) and not isinstance(target, str)
    return [str(each) for each in target] if several else [str(target)]  # type: ignore[attr-defined]


def _letters(text: str) -> Iterator[str]:
    for i, letter in enumerate(text):
        category = unicodedata.category(letter)
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        if letter in "-−" and after.isdigit() and not before.isalnum():
            yield "-"
        elif category == "Pd":  # a hyphen or dash keeps words apart
            yield " "
        elif (
            (letter == "." and before.isdigit() and after.isdigit())  # a decimal point
            or letter in _KEPT
            or letter.isspace()
            or not category.startswith(("P", "C"))
        ):
            yield letter
