"""Whether an answer is the target's number, within a tolerance."""

from __future__ import annotations

import math
import re

from rlvr.reward_function import inline_reward
from rlvr.rewards.math.extract import final_answer
from rlvr.types import Outcome, Score

_DIGITS = r"(?:\d{1,3}(?:[,\u202f\u00a0]\d{3})+(?!\d)|\d+)"
_TIMES = r"\s*(?:\*|×|x|·|\\times|\\cdot)\s*"
_NUMBER = rf"[-+]?(?:{_DIGITS}(?:\.\d*)?|\.\d+)(?:e[-+]?\d{{1,3}}|{_TIMES}10\^\{{?[-+]?\d{{1,3}}\}}?)?"
_WRITTEN = re.compile(
    rf"(?P<sign>[-+]?)\s*[$€£¥]?\s*(?P<top>{_NUMBER})(?:\s*/\s*(?P<bottom>{_NUMBER}))?\s*"
    r"(?:%|percent|[^\W\d][^\d]{0,40})?\.?",
    re.IGNORECASE,
)
_POWER = re.compile(_TIMES + r"10\^\{?([-+]?\d+)\}?", re.IGNORECASE)
_NOISE = re.compile(r"\\(?:text|mathrm|mbox)|\\[,;!$%]|[{}]")
_LONGEST = 200  # characters


@inline_reward("numeric")
def numeric(completion: str, target: object, relative: float = 1e-6, absolute: float = 0.0) -> Score:
    """1.0 where the final answer is a number within tolerance of the target's, else 0.0.

    Near enough is `|answer - target| <= max(relative * |target|, absolute)`. Thousands separators, `1e3`,
    `1.2 x 10^3` and `3/4` are read; a currency, a per cent sign or a unit behind the number is not compared. Two
    numbers are no answer. Where the final answer is looked for, `rlvr.rewards.math.extract` says; expressions are
    for `math_answer`. NO_VERDICT where the target is no number.
    """
    expected = read_number(str(target))
    if expected is None:
        return Score(None, Outcome.NO_VERDICT, detail=f"numeric: the target {str(target)[:80]!r} is no number")
    found = final_answer(completion)
    got = read_number(found.text) if found is not None else None
    if found is None or got is None:
        return Score(0.0, detail="no number as final answer")
    near = abs(got - expected) <= max(relative * abs(expected), absolute)
    return Score(float(near), detail=f"{got:g}, expected {expected:g}")


def read_number(text: str) -> float | None:
    """The one number in a text that is nothing but a number and its unit; None for anything else."""
    plain = _NOISE.sub(lambda match: "" if match[0] not in ("\\$", "\\%") else match[0][1], text.replace("−", "-"))
    plain = plain.strip().strip("$*`").strip()
    match = _WRITTEN.fullmatch(plain) if len(plain) <= _LONGEST else None
    if match is None:
        return None
    top, bottom = _value(match["top"]), _value(match["bottom"]) if match["bottom"] else 1.0
    number = (-top if match["sign"] == "-" else top) / bottom if bottom else math.nan
    return number if math.isfinite(number) else None


def _value(text: str) -> float:
    text = re.sub(r"(?<=\d)[,\u202f\u00a0](?=\d{3})", "", text)
    return float(_POWER.sub(r"e\1", text))
