"""Small functions that a tiny model can learn to write, and a weak author who mixes up half of the words for them.

    Write f(xs): the largest of twice the numbers below zero in xs.

What is done with the numbers, which are taken, and what becomes of each: every such part has a familiar phrase and an
unfamiliar one. The weak author, whom the base model imitates, often takes the unfamiliar one for another part.

Nothing here runs code, and nothing needs torch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.demo.problems import Split, split_of

Numbers = Sequence[int]


@dataclass(frozen=True, slots=True)
class Part:
    """One of the three parts of a function.

    `source` is its Python text, `meaning` what that computes. `unfamiliar` says the same as `familiar` in words that
    the weak author often takes for the part named `mistaken_for`; a part without such words is always understood.
    """

    source: str
    meaning: Callable[..., Any]
    familiar: str
    unfamiliar: str = ""
    mistaken_for: str = ""

    @property
    def phrases(self) -> tuple[str, ...]:
        return (self.familiar, self.unfamiliar) if self.unfamiliar else (self.familiar,)


# No two parts are mistaken for each other. A base model would read both their unfamiliar phrases alike, as the same two
# parts, and an update that teaches it one phrase would unteach it the other.
# Of an empty list the largest and the smallest are 0: the base model always writes so.
RESULTS = {
    "sum": Part("sum([{}])", sum, "the sum of", "the total of", "len"),
    "len": Part("len([{}])", len, "the number of", "the count of", "max"),
    "max": Part("max([{}], default=0)", lambda v: max(v, default=0), "the largest of", "the peak of", "min"),
    "min": Part("min([{}], default=0)", lambda v: min(v, default=0), "the smallest of", "the least of", "sorted"),
    "list": Part("[{}]", list, "the list of", "each of", "sum"),
    "sorted": Part("sorted([{}])", sorted, "the sorted list of", "from low to high", "list"),
}
VALUES = {
    "same": Part("x", lambda x: x, "the"),
    "square": Part("x*x", lambda x: x * x, "the squares of the", "the second powers of the", "double"),
    "double": Part("2*x", lambda x: 2 * x, "the doubles of the", "twice the", "negative"),
    "negative": Part("-x", lambda x: -x, "the negatives of the", "minus the", "size"),
    "size": Part("abs(x)", abs, "the sizes of the", "the absolute", "square"),
}
# In these, k is the problem's number.
CHOICES = {
    "all": Part("", lambda x, k: True, "numbers"),
    "even": Part(" if x%2==0", lambda x, k: x % 2 == 0, "even numbers", "numbers divisible by 2", "odd"),
    "odd": Part(" if x%2==1", lambda x, k: x % 2 == 1, "odd numbers", "numbers not divisible by 2", "positive"),
    "positive": Part(" if x>0", lambda x, k: x > 0, "positive numbers", "numbers above zero", "below"),
    "below": Part(" if x<0", lambda x, k: x < 0, "negative numbers", "numbers below zero", "even"),
    "over": Part(" if x>{k}", lambda x, k: x > k, "numbers over {k}", "numbers past {k}", "under"),
    "under": Part(" if x<{k}", lambda x, k: x < k, "numbers under {k}", "numbers short of {k}", "below"),
}
LARGEST_NUMBER = 9

# What every function is called with. Each pair of parts that the weak author mixes up differs on one of them.
INPUTS: tuple[Numbers, ...] = (
    (),
    (1,),
    (-3, 4, 7, 0, 12, -8),
    (5, 2, 9, 6, 3, 8, 1, 4, 7),
    (-1, -2, -7, -6),
    (10, 3, -5, 3, 2, 11, -4),
)


@dataclass(frozen=True, slots=True)
class Function:
    """What a function does: `result` of the `value` of each x that `choice` takes."""

    result: str
    value: str
    choice: str
    number: int

    def source(self) -> str:
        condition = CHOICES[self.choice].source.format(k=self.number)
        return RESULTS[self.result].source.format(f"{VALUES[self.value].source} for x in xs{condition}")

    def __call__(self, xs: Numbers) -> Any:
        chosen = [x for x in xs if CHOICES[self.choice].meaning(x, self.number)]
        return RESULTS[self.result].meaning([VALUES[self.value].meaning(x) for x in chosen])


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """A function to write. `unfamiliar` names the parts that the prompt gives in unfamiliar words."""

    prompt: str
    function: Function
    unfamiliar: frozenset[str]

    def tests(self) -> dict[str, Any]:
        """Calls and their results, in the form that the reward `code` reads as a target."""
        return {
            "fn_name": "f",
            "inputs": [[list(xs)] for xs in INPUTS],
            "outputs": [self.function(xs) for xs in INPUTS],
        }


def code_problems(split: Split, seed: int) -> Iterator[CodeProblem]:
    """Problems of one split, without end: each once in an order that the seed decides, then all again in another."""
    rng = random.Random(seed)
    ours = [problem for problem in _all() if split_of(problem.prompt) is split]
    while True:
        rng.shuffle(ours)
        yield from ours


def code_row(problem: CodeProblem) -> dict[str, Any]:
    return {"question": problem.prompt, "answer": problem.tests()}


def code_oracle_trace(problem: CodeProblem) -> str:
    """The perfect answer."""
    return _trace(problem.function)


# The weak author. Below one half, so that a greedy imitator takes an unfamiliar phrase for the wrong part.
READS_UNFAMILIAR_PHRASE_RIGHT = 0.45
SLIPS = 0.04


def code_weak_trace(problem: CodeProblem, rng: random.Random) -> str:
    """An answer of the weak author: a function that runs, and often is not the one that was asked for."""
    wanted = problem.function
    result = _weak_reading(wanted.result, RESULTS, problem, rng)
    value = _weak_reading(wanted.value, VALUES, problem, rng)
    choice = _weak_reading(wanted.choice, CHOICES, problem, rng)
    return _trace(Function(result, value, choice, wanted.number))


def _weak_reading(name: str, table: dict[str, Part], problem: CodeProblem, rng: random.Random) -> str:
    if name in problem.unfamiliar and rng.random() >= READS_UNFAMILIAR_PHRASE_RIGHT:
        name = table[name].mistaken_for
    return rng.choice(list(table)) if rng.random() < SLIPS else name


def _all() -> Iterator[CodeProblem]:
    """Every problem once, in an order that never changes."""
    for result, value, choice in itertools.product(RESULTS, VALUES, CHOICES):
        parts = {result: RESULTS[result], value: VALUES[value], choice: CHOICES[choice]}
        takes_number = "{k}" in CHOICES[choice].source
        for number in range(1, LARGEST_NUMBER + 1) if takes_number else (0,):
            function = Function(result, value, choice, number)
            for phrases in itertools.product(*(part.phrases for part in parts.values())):
                prompt = f"Write f(xs): {' '.join(phrases)} in xs.".format(k=number)
                named = zip(parts.items(), phrases, strict=True)
                unfamiliar = frozenset(name for (name, part), phrase in named if phrase == part.unfamiliar)
                yield CodeProblem(prompt, function, unfamiliar)


def _trace(function: Function) -> str:
    return f"```python\ndef f(xs):\n    return {function.source()}\n```"
