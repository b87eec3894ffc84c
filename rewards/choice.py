"""Whether an answer names the right one of several choices, by its letter or by its text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlvr.reward_function import inline_reward
from rlvr.rewards.answer_text import answer_text
from rlvr.rewards.math.extract import last_boxes
from rlvr.rewards.text import same_text
from rlvr.types import Outcome, Score

_LETTERS = "ABCDEFGHIJ"
_STATED = re.compile(r"\b(?:answer|choice|option)(?:\s+is|\s*:|\s*=)\s*:?", re.IGNORECASE)
_MARKS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boxed)\b|[*_`$#{}\\]|</?answer>")
_NAMED = re.compile(
    r"(?:(?:option|choice)\s+)?(?:[(\[]\s*(?P<bracketed>[A-Ja-j])\s*[)\]]|(?P<plain>[A-J])(?![\w'’-]))", re.IGNORECASE
)
_WHY = re.compile(r"\b(?:because|since|as|not|rather|but|while|whereas|is|are)\b|[.;\n]\s", re.IGNORECASE)
_ANOTHER = re.compile(
    r"(?:\b(?:or|and)\b|[,/&+|])\s*(?:\b(?:or|and)\b)?\s*(?:option\s+|choice\s+)?[(\[]?([A-J])(?![\w'’])"
)
_ARTICLE = re.compile(r"A\s+(?!because\b|since\b|as\b|is\b|and\b|or\b)[a-z]")


@inline_reward("multiple_choice")
def multiple_choice(completion: str, target: object, choices: object = None) -> Score:
    r"""1.0 where the answer names the target's letter and no other, else 0.0.

    The last statement counts: `<answer>B</answer>`, `\boxed{B}`, "The answer is (B)", "Answer: B", or an answer that
    is but a letter with or without its text, as "B) Paris". "A or B" is no answer. `target` is a letter or an index
    from 0. With `choices`, a list of texts, naming the text of one of them is as good as its letter. NO_VERDICT
    where the target is no choice.
    """
    listed = isinstance(choices, Sequence) and not isinstance(choices, str)
    texts = [str(choice) for choice in choices] if listed else []  # type: ignore[attr-defined]
    letters = _LETTERS[: len(texts)] if texts else _LETTERS
    expected = _expected(target, letters)
    if expected is None:
        return Score(None, Outcome.NO_VERDICT, detail=f"multiple_choice: the target {target!r:.80} is no choice")
    statement = final_statement(completion)
    chosen = None if statement is None else letter_of(statement) or _by_text(statement, texts)
    if chosen is None or chosen not in letters:
        return Score(0.0, detail="no single choice named")
    return Score(float(chosen == expected), detail=f"chose {chosen}, expected {expected}")


def final_statement(completion: str) -> str | None:
    """The text that should name a choice: a box, what follows the last "answer is", else the last line or all."""
    text = answer_text(completion)
    if not text:
        return None
    if (boxed := last_boxes(text)) is not None:
        return boxed
    stated = [*_STATED.finditer(text)]
    if stated:
        return text[stated[-1].end() :].strip()
    lines = text.splitlines()
    return text if len(lines) == 1 or (letter_of(lines[0]) and len(lines) <= 2) else lines[-1]


def letter_of(statement: str) -> str | None:
    """The letter that a statement begins with, or None where it names none, or more than one."""
    plain = _MARKS.sub("", statement).strip(" \t\n\"'“”:")
    match = _NAMED.match(plain)
    if match is None or _ARTICLE.match(plain):
        return None
    letter = match["bracketed"] or match["plain"]
    if match["plain"] and letter.islower() and len(plain.strip(".)")) > 1:  # an "a" that begins a sentence
        return None
    rest = plain[match.end() :]
    reason = _WHY.search(rest)
    others = {other.upper() for other in _ANOTHER.findall(rest[: reason.start()] if reason else rest[:200])}
    return None if others - {letter.upper()} else letter.upper()


def _by_text(statement: str, texts: Sequence[str]) -> str | None:
    same = [letter for letter, text in zip(_LETTERS, texts, strict=False) if same_text(_MARKS.sub("", statement), text)]
    return same[0] if len(same) == 1 else None


def _expected(target: object, letters: str) -> str | None:
    if isinstance(target, int) and not isinstance(target, bool):
        return letters[target] if 0 <= target < len(letters) else None
    letter = str(target).strip().strip("().[]").upper()
    return letter if len(letter) == 1 and letter in letters else None
