"""HumanEval in all three forms of tests: the canonical solutions pass, and those that give None instead fail."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rlvr.rewards.code import code
from rlvr.types import Outcome, Score

FILE = Path(os.environ.get("RLVR_DATA", "")) / "humaneval.jsonl"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="RLVR_DATA names no folder with humaneval.jsonl")

Row = dict[str, str]
MOST_CALLS = 3  # of a task, in the forms that are made from its asserts

# Reads arguments as JSON from stdin, and prints what the function gives as JSON.
DRIVER = """

if __name__ == "__main__":
    import json as _json, sys as _sys
    print(_json.dumps({entry_point}(*_json.loads(_sys.stdin.read()))))
"""
GIVES_NONE = """

_right = {entry_point}
def {entry_point}(*args, **kwargs):
    _right(*args, **kwargs)
"""


@cache
def rows() -> list[Row]:
    found = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    assert len(found) == 164
    return found


def fenced(row: Row, more: str = "") -> str:
    return f"Here it is.\n```python\n{row['prompt']}{row['canonical_solution']}{more}\n```\n"


def gives_none(row: Row) -> str:
    return GIVES_NONE.format(entry_point=row["entry_point"])


async def scores_of(ask: Callable[[Row], Any], asked: list[Row]) -> list[Score]:
    return list(await asyncio.gather(*(ask(row) for row in asked)))


def in_its_own_form(completion: Callable[[Row], str]) -> Callable[[Row], Any]:
    return lambda row: code.function(completion(row), row["test"], prompt=row["prompt"], entry_point=row["entry_point"])


@pytest.mark.parametrize(
    "completion", [fenced, lambda row: row["canonical_solution"]], ids=["whole programs", "continuations"]
)
async def test_all_canonical_solutions_pass(completion: Callable[[Row], str]) -> None:
    scores = await scores_of(in_its_own_form(completion), rows())
    failed = [(row["task_id"], s.detail) for row, s in zip(rows(), scores, strict=True) if s.value != 1.0]
    assert failed == []


async def test_all_fail_that_give_none() -> None:
    scores = await scores_of(in_its_own_form(lambda row: fenced(row, gives_none(row))), rows())
    passed = [row["task_id"] for row, s in zip(rows(), scores, strict=True) if s.value != 0.0]
    assert passed == []
    assert {s.outcome for s in scores} == {Outcome.SCORED}


@cache
def calls_of(number: int) -> tuple[tuple[list[Any], Any], ...]:
    """The first calls that a task's own tests make and what its solution gives, where both are as JSON has them."""
    row = rows()[number]
    names: dict[str, Any] = {}
    exec(row["prompt"] + row["canonical_solution"] + "\n" + row["test"], names)
    found: list[tuple[list[Any], Any]] = []

    def recording(*args: Any) -> Any:
        given = json.dumps(args)
        result = names[row["entry_point"]](*args)
        if json.loads(given) == list(args) and json.loads(json.dumps(result)) == result and result is not None:
            found.append((json.loads(given), result))
        return result

    names["check"](recording)
    return tuple(found[:MOST_CALLS])


def with_calls() -> list[Row]:
    return [row for number, row in enumerate(rows()) if calls_of(number)]


def test_nearly_every_task_has_such_calls() -> None:
    assert len(with_calls()) >= 155


def as_stdin(more: Callable[[Row], str]) -> Callable[[Row], Any]:
    def ask(row: Row) -> Any:
        calls = calls_of(rows().index(row))
        target = {"inputs": [json.dumps(a) for a, _ in calls], "outputs": [json.dumps(result) for _, result in calls]}
        driver = DRIVER.format(entry_point=row["entry_point"])
        return code.function(fenced(row, more(row) + driver), json.dumps(target), compare="numeric")

    return ask


def as_calls(more: Callable[[Row], str]) -> Callable[[Row], Any]:
    def ask(row: Row) -> Any:
        calls = calls_of(rows().index(row))
        tests = [
            {"input": "\n".join(map(json.dumps, a)), "output": json.dumps(result), "testtype": "functional"}
            for a, result in calls
        ]
        return code.function(fenced(row, more(row)), tests, entry_point=row["entry_point"])

    return ask


@pytest.mark.parametrize("form", [as_stdin, as_calls])
async def test_the_same_tasks_in_other_forms(form: Callable[[Callable[[Row], str]], Callable[[Row], Any]]) -> None:
    right = await scores_of(form(lambda row: ""), with_calls())
    assert [(r["task_id"], s.detail) for r, s in zip(with_calls(), right, strict=True) if s.value != 1.0] == []
    wrong = await scores_of(form(gives_none), with_calls())
    assert [(r["task_id"], s.detail) for r, s in zip(with_calls(), wrong, strict=True) if s.value != 0.0] == []
    assert math.isclose(sum(s.value or 0.0 for s in right), len(with_calls()))
