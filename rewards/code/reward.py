"""The reward `code`: whether the program in an answer passes tests, run in the sandbox."""

from __future__ import annotations

import ast
import os
import pkgutil
from functools import cache, lru_cache
from typing import Any, TypeVar

from rlvr.reward_function import reward
from rlvr.rewards.code.answer import code_of, is_indented, language_name
from rlvr.rewards.code.compare import Comparison, Custom, Rule
from rlvr.rewards.code.running import Answer, Budget, CodeNotRun, Runner, SuiteUnfit
from rlvr.rewards.code.suite import Suite, SuiteError, TestCode, read_suite
from rlvr.rewards.code.verdict import Scoring, Verdict
from rlvr.sandbox import Sandbox
from rlvr.types import Outcome, Score
from rlvr.workers.pool import WorkerPool

__all__ = ["CodeNotRun", "SuiteError", "SuiteUnfit", "code", "judge_code"]

_MIB = 1 << 20
_Word = TypeVar("_Word", Rule, Scoring)


@reward(name="code")
async def code(
    completion: str,
    target: Any,
    prompt: str = "",
    entry_point: str = "",
    prelude: str = "",
    language: str = "python",
    compare: str | Custom = "equal",
    tolerance: float = 1e-6,
    scoring: str = "all",
    cpu_s: float = 3.0,
    wall_s: float = 8.0,
    memory_mb: int = 512,
    packages: tuple[str, ...] | list[str] = (),
) -> Score:
    """1.0 where the answer's program passes the tests in `target`, else 0.0, with the first failure as detail.

    `target` is one of: inputs and outputs, for a program that reads stdin (APPS, LiveCodeBench); arguments and results
    of a function (the same, with its name); Python test code, as text (HumanEval, with `entry_point`) or as a list of
    asserts (MBPP). docs/rewards.md shows each. `prelude` is code that stands before the answer's and before test code;
    in HumanEval's form the prompt is, unless one is given.

    `compare` is exact, equal, numeric (with `tolerance`), unordered, or a function `f(got, expected, given)`, also as
    `package.module:name`; test code compares by itself. `scoring` is all, fraction, or first_failure. `cpu_s` and
    `memory_mb` are for one run of the program, `wall_s` for all of them: keep it below `reward.deadline_s`. `packages`
    are Python packages that answers and tests may import.

    NO_VERDICT where the tests cannot be run as they are. Raises CodeNotRun where the sandbox failed, SuiteError where
    `target` is in none of the forms, ValueError for other arguments, and SandboxUnavailable.
    """
    suite = _read_text(target, entry_point) if isinstance(target, str) else read_suite(target, entry_point)
    worth = _one_of(Scoring, "scoring", scoring)
    try:
        verdict = await judge_code(
            completion,
            suite,
            prelude=prelude or (_code_in_prompt(prompt, suite.entry_point) if isinstance(suite, TestCode) else ""),
            language=language,
            comparison=_comparison(compare, tolerance),
            budget=Budget(cpu_s, wall_s, memory_mb * _MIB),
            stops=worth is not Scoring.FRACTION,
            packages=tuple(packages),
        )
    except SuiteUnfit as error:
        return Score(None, Outcome.NO_VERDICT, detail=f"code: {error}")
    if verdict is None:
        return Score(0.0, detail=f"no {language} code in the answer")
    return Score(verdict.value(worth), detail=verdict.detail())


async def judge_code(
    completion: str,
    suite: Suite,
    *,
    prelude: str = "",
    language: str = "python",
    comparison: Comparison = Comparison(),  # noqa: B008 - immutable
    budget: Budget = Budget(),  # noqa: B008
    stops: bool = True,
    packages: tuple[str, ...] = (),
) -> Verdict | None:
    """What the tests say of the program in an answer; None where there is no program.

    `stops` says that no test need run after the first that fails. Raises as `code` does, and SuiteUnfit.
    """
    language = language_name(language)
    source = code_of(completion, language, can_continue=bool(prelude))
    if source is None:
        return None
    if prelude and is_indented(source):
        source = prelude + source
    runner = Runner(_sandbox(os.getpid(), packages), _comparing(os.getpid()), comparison, budget, stops)
    return await runner.run(Answer(source, language, prelude), suite)


@lru_cache(maxsize=256)
def _read_text(tests: str, entry_point: str) -> Suite:
    """Read once for all answers to it: packed tests may be megabytes."""
    return read_suite(tests, entry_point)


@lru_cache(maxsize=1024)
def _code_in_prompt(prompt: str, entry_point: str) -> str:
    """HumanEval's prompt is the beginning of a program: imports, helpers, and the function without its body."""
    try:
        statements = ast.parse(prompt).body if entry_point else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return prompt if any(getattr(statement, "name", None) == entry_point for statement in statements) else ""


@cache
def _sandbox(process_id: int, packages: tuple[str, ...]) -> Sandbox:
    # By process: after a fork, the parent's servers are not the child's to speak with.
    return Sandbox(preload=packages)


@cache
def _comparing(process_id: int) -> WorkerPool:
    return WorkerPool(size=2, preload=("rlvr.rewards.code.call_results",))


def _comparison(compare: str | Custom, tolerance: float) -> Comparison:
    if isinstance(compare, str) and ":" in compare:
        compare = _imported(compare)
    if callable(compare):
        return Comparison(custom=compare)
    return Comparison(_one_of(Rule, "compare", compare), tolerance)


def _imported(name: str) -> Custom:
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"code: compare={name} cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"code: compare={name} is no function")
    return found


def _one_of(kind: type[_Word], argument: str, word: str) -> _Word:
    try:
        return kind(word)
    except ValueError:
        raise ValueError(f"code: {argument}={word!r}; expected one of {', '.join(kind)}") from None
