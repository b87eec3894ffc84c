"""The subjects of the demo's problems, each behind the same few functions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
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
CODE = Subject("code", code_problems, code_row, code_oracle_trace, code_weak_trace, "code", 40)


class DemoTask(StrEnum):
    """What a demo's model is to learn."""

    MATH = "math"
    CODE = "code"
    MIXED = "mixed"

    @property
    def subjects(self) -> tuple[Subject[Any], ...]:
        of_task: dict[DemoTask, tuple[Subject[Any], ...]] = {
            DemoTask.MATH: (MATH,),
            DemoTask.CODE: (CODE,),
            DemoTask.MIXED: (MATH, CODE),
        }
        return of_task[self]

    @property
    def story(self) -> str:
        """What happens, as the end of a sentence."""
        return {
            DemoTask.MATH: "learns word problems",
            DemoTask.CODE: "learns to write small functions, which unit tests judge in the sandbox,",
            DemoTask.MIXED: "learns word problems and to write small functions, both in one run,",
        }[self]
