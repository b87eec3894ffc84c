"""The subjects of the demo's problems, each behind the same few functions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rlvr.demo.code_problems import CodeProblem, code_oracle_trace, code_problems, code_row, code_weak_trace
from rlvr.demo.problems import Problem, Split, oracle_trace, problems, row, weak_trace

P = TypeVar("P", Problem, CodeProblem)


@dataclass(frozen=True, slots=True)
class Subject(Generic[P]):
    """Problems, who answers them, and which reward judges the answers.

    `problems` gives those of a split and a seed without end; `row` makes one a row of a dataset. `reward` is a short
    name. `max_new_tokens` leaves room for the longest right answer.
    """

    name: str
    problems: Callable[[Split, int], Iterator[P]]
    row: Callable[[P], dict[str, Any]]
    oracle_trace: Callable[[P], str]
    weak_trace: Callable[[P, random.Random], str]
    reward: str
    max_new_tokens: int


MATH = Subject("math", problems, row, oracle_trace, weak_trace, "math_answer", 44)
CODE = Subject("code", code_problems, code_row, code_oracle_trace, code_weak_trace, "code", 48)
