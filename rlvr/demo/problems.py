"""Word problems that a tiny model can learn, and a weak author who shows it the form but not the substance.

    Tom has 6 books, buys 3, gives 2. How many books?

The oracle answers every problem right. The weak author writes what the base model is warm-started on: his
answers have the right form, and are wrong more often than right. A model that imitates him is poor at one
try and good at sixteen, and that is where reinforcement learning has something to find.

Nothing here needs torch, so a process that only scores answers or writes a dataset stays light.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path


class Split(StrEnum):
    """Which half of the problems. No prompt is in both."""

    TRAIN = "train"
    HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that happens to a count: `sign` is +1 when it grows and -1 when it shrinks.

    `familiar` tells whether the weak author knows what the verb means.
    """

    word: str
    sign: int
    familiar: bool


GAINS = (
    Verb("buys", +1, familiar=True),
    Verb("gets", +1, familiar=True),
    Verb("finds", +1, familiar=True),
    Verb("wins", +1, familiar=False),
    Verb("picks", +1, familiar=False),
    Verb("earns", +1, familiar=False),
)
LOSSES = (
    Verb("gives", -1, familiar=True),
    Verb("loses", -1, familiar=True),
    Verb("eats", -1, familiar=True),
    Verb("sells", -1, familiar=False),
    Verb("drops", -1, familiar=False),
    Verb("breaks", -1, familiar=False),
)
NAMES = ("Tom", "Ann", "Sam", "Mia", "Leo", "Eva", "Max", "Zoe", "Ben", "Ivy", "Kai", "Lily")
THINGS = ("apples", "coins", "books", "cards", "pens", "eggs", "stars", "keys", "cups", "hats")

FEWEST_CHANGES, MOST_CHANGES = 2, 4
# Single-digit amounts and counts up to 30 keep the tables of sums small enough for 0.4 million parameters.
LARGEST_AMOUNT = 9
LARGEST_COUNT = 30

# One prompt in eight is held out: enough for any evaluation, and the other seven are more than a run sees.
HELD_OUT_SHARE = 1 / 8


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a problem: the verb, and how many things it concerns."""

    verb: Verb
    amount: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem. `answer` is the final count in decimal digits; it is never negative."""

    prompt: str
    answer: str
    start: int
    changes: tuple[Change, ...]


def split_of(prompt: str) -> Split:
    """The split of a prompt, by a hash of its text: the same on every machine and for every seed."""
    digest = hashlib.sha256(prompt.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return Split.HELD_OUT if place < HELD_OUT_SHARE else Split.TRAIN


def problems(split: Split, seed: int) -> Iterator[Problem]:
    """Problems of one split, without end. Equal seeds give equal problems, and no prompt comes twice."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        problem = _sample(rng)
        if split_of(problem.prompt) is split and problem.prompt not in seen:
            seen.add(problem.prompt)
            yield problem


def rows(split: Split, count: int, seed: int) -> list[dict[str, str]]:
    """The first `count` problems as dataset rows: `{"question": ..., "answer": "7"}`."""
    return [row(p) for p in islice(problems(split, seed), count)]


def row(problem: Problem) -> dict[str, str]:
    return {"question": problem.prompt, "answer": problem.answer}


def write_jsonl(path: Path | str, split: Split, count: int, seed: int) -> None:
    """Write `count` rows to a file for a config's `data.path`; its `data.prompt` is then `question`.

    Folders on the way to the file are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row) + "\n" for row in rows(split, count, seed))
    path.write_text("".join(lines), encoding="utf-8")


def oracle_trace(problem: Problem) -> str:
    """The perfect answer: one equation for each change, then the boxed result."""
    count = problem.start
    steps = []
    for change in problem.changes:
        result = count + change.verb.sign * change.amount
        steps.append(_equation(count, change.verb.sign, change.amount, result))
        count = result
    return _trace(steps, count)


# The weak author. A greedy base does what he does more often than not: it thinks about the shorter stories,
# guesses at the long ones, and has to find out that thinking pays there too. The distance of both shares from
# one half keeps chance in the warm start from turning the greedy base to all thinking, or to none.
LONG_STORY = 4  # changes
THINKS_ABOUT_SHORT_STORY = 0.6
THINKS_ABOUT_LONG_STORY = 0.4
GUESSES_RIGHT = 0.1
GUESS_IS_OFF_BY = 9
# Below one half, so that a greedy base reads an unfamiliar verb the wrong way round; and not far below, because
# RL has to turn each of these readings, and takes longer from further away.
READS_UNFAMILIAR_VERB_RIGHT = 0.45
SLIPS_IN_ARITHMETIC = 0.03


def weak_trace(problem: Problem, rng: random.Random) -> str:
    """An answer of the weak author: right in form, often wrong in substance."""
    is_long = len(problem.changes) >= LONG_STORY
    if rng.random() < (THINKS_ABOUT_LONG_STORY if is_long else THINKS_ABOUT_SHORT_STORY):
        return _weak_thought(problem, rng)
    return _trace([], _guess(int(problem.answer), rng))


def _sample(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    start = count = rng.randint(2, LARGEST_AMOUNT)
    changes = []
    for _ in range(rng.randint(FEWEST_CHANGES, MOST_CHANGES)):
        change = _sample_change(count, rng)
        changes.append(change)
        count += change.verb.sign * change.amount
    story = "".join(f", {c.verb.word} {c.amount}" for c in changes)
    prompt = f"{name} has {start} {thing}{story}. How many {thing}?"
    return Problem(prompt, answer=str(count), start=start, changes=tuple(changes))


def _sample_change(count: int, rng: random.Random) -> Change:
    """A change that keeps the count between 0 and the largest; at least one direction always does."""
    amount = rng.randint(1, LARGEST_AMOUNT)
    can_lose = count >= amount
    can_gain = count + amount <= LARGEST_COUNT
    loses = can_lose and (not can_gain or rng.random() < 0.5)
    return Change(rng.choice(LOSSES if loses else GAINS), amount)


def _guess(right: int, rng: random.Random) -> int:
    if rng.random() < GUESSES_RIGHT:
        return right
    return max(0, right + rng.randint(-GUESS_IS_OFF_BY, GUESS_IS_OFF_BY))


def _weak_thought(problem: Problem, rng: random.Random) -> str:
    count = problem.start
    steps = []
    for change in problem.changes:
        sign = _weak_reading(change.verb, rng)
        if count + sign * change.amount < 0:
            sign = +1  # even he knows that nobody has fewer than no apples
        result = count + sign * change.amount
        if rng.random() < SLIPS_IN_ARITHMETIC:
            result = max(0, result + rng.choice((-1, +1)))
        steps.append(_equation(count, sign, change.amount, result))
        count = result
    return _trace(steps, count)


def _weak_reading(verb: Verb, rng: random.Random) -> int:
    understood = verb.familiar or rng.random() < READS_UNFAMILIAR_VERB_RIGHT
    return verb.sign if understood else -verb.sign


def _equation(count: int, sign: int, amount: int, result: int) -> str:
    return f"{count}{'+' if sign > 0 else '-'}{amount}={result}"


def _trace(steps: Sequence[str], answer: int) -> str:
    return "<think>" + "\n".join(steps) + "</think>\n\\boxed{" + str(answer) + "}"
