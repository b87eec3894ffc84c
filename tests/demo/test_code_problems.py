"""Checked against a reader of the prompts that is written here, and knows nothing of the generator."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rlvr.data import read_rows
from rlvr.demo import code_problems as code_tables
from rlvr.demo.code_problems import CodeProblem, code_oracle_trace, code_problems, code_weak_trace
from rlvr.demo.problems import Split, split_of
from rlvr.demo.run import demo_config
from rlvr.demo.subjects import DemoTask
from rlvr.rewards.code import judge_code, read_suite

RESULTS: dict[str, Callable[[list[int]], Any]] = {
    "the sum of|the total of": sum,
    "the number of|the count of": len,
    "the largest of|the peak of": lambda v: max(v) if v else 0,
    "the smallest of|the least of": lambda v: min(v) if v else 0,
    "the list of|each of": lambda v: v,
    "the sorted list of|from low to high": sorted,
}
VALUES: dict[str, Callable[[int], int]] = {
    "the squares of the|the second powers of the": lambda x: x**2,
    "the doubles of the|twice the": lambda x: x + x,
    "the negatives of the|minus the": lambda x: 0 - x,
    "the sizes of the|the absolute": lambda x: x if x > 0 else -x,
    "the": lambda x: x,
}
CHOICES: dict[str, Callable[[int, int], bool]] = {
    "numbers": lambda x, k: True,
    "even numbers|numbers divisible by 2": lambda x, k: x // 2 * 2 == x,
    "odd numbers|numbers not divisible by 2": lambda x, k: x // 2 * 2 != x,
    "positive numbers|numbers above zero": lambda x, k: x > 0,
    "negative numbers|numbers below zero": lambda x, k: x < 0,
    r"numbers over \d|numbers past \d": lambda x, k: x > k,
    r"numbers under \d|numbers short of \d": lambda x, k: x < k,
}
UNFAMILIAR = re.compile(
    r"total of|count of|peak of|least of|each of|low to high|second powers|twice|minus|absolute"
    r"|divisible|above zero|below zero|past|short of"
)


def one_of(tables: dict[str, Any]) -> str:
    return "|".join(f"(?:{phrases})" for phrases in tables)


def meaning(prompt: str) -> Callable[[list[int]], Any]:
    """What the prompt asks for, read from its text alone."""
    found = re.fullmatch(rf"Write f\(xs\): ({one_of(RESULTS)}) ({one_of(VALUES)}) ({one_of(CHOICES)}) in xs\.", prompt)
    assert found is not None, prompt
    result, value, choice = (
        next(function for phrases, function in table.items() if re.fullmatch(phrases, words))
        for table, words in zip((RESULTS, VALUES, CHOICES), found.groups(), strict=True)
    )
    number = re.search(r"(\d) in xs", prompt)
    k = int(number[1]) if number else 0
    return lambda xs: result([value(x) for x in xs if choice(x, k)])


def first(split: Split, count: int, seed: int) -> list[CodeProblem]:
    return list(islice(code_problems(split, seed), count))


def written(trace: str) -> Callable[[list[int]], Any]:
    source = re.fullmatch(r"```python\n(def f\(xs\):\n    return .*)\n```", trace)
    assert source is not None, trace
    names: dict[str, Any] = {}
    exec(source[1], names)
    function: Callable[[list[int]], Any] = names["f"]
    return function


def passes(trace: str, problem: CodeProblem) -> bool:
    tests, function = problem.tests(), written(trace)
    return [function(*args) for args in tests["inputs"]] == tests["outputs"]


@pytest.mark.parametrize("split", list(Split))
def test_every_output_is_what_the_prompt_says(split: Split) -> None:
    for problem in first(split, 600, seed=3):
        tests = problem.tests()
        assert tests["fn_name"] == "f"
        assert tests["outputs"] == [meaning(problem.prompt)(*args) for args in tests["inputs"]], problem.prompt
        assert [] in [args[0] for args in tests["inputs"]]


def test_the_oracle_is_right_and_writes_what_any_list_shows() -> None:
    rng = random.Random(0)
    for problem in first(Split.TRAIN, 600, seed=4):
        assert passes(code_oracle_trace(problem), problem)
        xs = [rng.randint(-20, 20) for _ in range(12)]
        assert written(code_oracle_trace(problem))(xs) == meaning(problem.prompt)(xs), problem.prompt


def test_splits_share_no_prompt_and_give_each_problem_once_before_any_twice() -> None:
    train, held_out = first(Split.TRAIN, 4096, seed=0), first(Split.HELD_OUT, 512, seed=1)
    assert len({p.prompt for p in train}) == 4096
    assert len({p.prompt for p in held_out}) == 512
    assert {split_of(p.prompt) for p in train} == {Split.TRAIN}
    assert {split_of(p.prompt) for p in held_out} == {Split.HELD_OUT}
    assert first(Split.TRAIN, 50, seed=0) == train[:50] != first(Split.TRAIN, 50, seed=1)


def test_problems_are_the_same_on_every_machine() -> None:
    """The figures in docs/demo.md name seeds: they mean nothing if a seed means other problems elsewhere."""
    assert [p.prompt for p in first(Split.HELD_OUT, 2, seed=1)] == [
        "Write f(xs): the peak of twice the numbers short of 1 in xs.",
        "Write f(xs): the peak of the doubles of the numbers over 2 in xs.",
    ]


def test_the_weak_author_has_the_form_and_not_the_substance() -> None:
    rng = random.Random(0)
    right: dict[int, list[bool]] = {}
    for problem in first(Split.TRAIN, 3000, seed=8):
        unfamiliar = len(UNFAMILIAR.findall(problem.prompt))
        right.setdefault(unfamiliar, []).append(passes(code_weak_trace(problem, rng), problem))
    share = {count: sum(values) / len(values) for count, values in right.items()}
    # Three readings, each with a slip of 4 %, and 0.45 for each unfamiliar phrase; other functions pass now and then.
    assert share[0] == pytest.approx(0.91, abs=0.04)
    assert 0.45 < share[1] < 0.55
    assert 0.2 < share[2] < 0.35
    assert share[3] < share[2]


@pytest.mark.parametrize("parts", [code_tables.RESULTS, code_tables.VALUES, code_tables.CHOICES])
def test_no_two_parts_are_mistaken_for_each_other(parts: dict[str, code_tables.Part]) -> None:
    for name, part in parts.items():
        if part.unfamiliar:
            mistaken = parts[part.mistaken_for]
            assert mistaken.mistaken_for != name
            assert mistaken.source != part.source


async def test_the_reward_says_the_same() -> None:
    rng = random.Random(1)
    for problem in first(Split.TRAIN, 25, seed=9):
        for trace in (code_oracle_trace(problem), code_weak_trace(problem, rng)):
            verdict = await judge_code(trace, read_suite(problem.tests()))
            assert verdict is not None and verdict.passed is passes(trace, problem), trace


@pytest.mark.parametrize(
    ("task", "rewards", "held_out"),
    [
        (DemoTask.MATH, {"math_answer": {}}, 256),
        (DemoTask.CODE, {"code": {}}, 256),
        (DemoTask.MIXED, {"math_answer": {"subject": "math"}, "code": {"subject": "code"}}, 512),
    ],
)
def test_the_demo_s_config(task: DemoTask, rewards: dict[str, Any], held_out: int, tmp_path: Path) -> None:
    config = demo_config([f"run_dir={tmp_path}/run"], task)
    assert {spec.use: spec.where for spec in config.reward.functions} == rewards
    assert config.evaluation.data is not None
    rows, tests = read_rows(config.data), read_rows(config.evaluation.data)
    assert (len(rows), len(tests)) == (4096, held_out)
    assert {row["question"] for row in rows}.isdisjoint(row["question"] for row in tests)
    if task is DemoTask.MIXED:
        assert [row["subject"] for row in tests] == ["math", "code"] * 256


def test_a_process_that_only_makes_problems_does_not_load_torch() -> None:
    program = "import sys, rlvr.demo.subjects; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
