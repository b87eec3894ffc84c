"""Runs an answer against tests in the sandbox, and judges what comes out of it outside."""

from __future__ import annotations

import json
import marshal
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rlvr.rewards.code.answer_program import ANSWER, PRELUDE
from rlvr.rewards.code.call_results import judge_by_custom, judge_by_rule, judge_in_worker, lines_of
from rlvr.rewards.code.calls_program import CALLS
from rlvr.rewards.code.compare import CUSTOM_DEADLINE_S, Comparison, Custom
from rlvr.rewards.code.suite import Calls, InputOutput, Suite, TestCode
from rlvr.rewards.code.tests_program import TESTS
from rlvr.rewards.code.values import NotPlain, encode
from rlvr.rewards.code.verdict import Test, Verdict, in_words, shown
from rlvr.sandbox import Limits, Program, Result, Sandbox, Status
from rlvr.workers.pool import WorkerPool

_MIB = 1 << 20
_OUTPUT_BYTES = 8 * _MIB  # of what may be compared by a function of the user's, or holds results of calls
_OUTPUT_BESIDE_BYTES = 1 * _MIB  # more than four times the longest expected output: no such text is right
_HELD_BYTES = 16 * _MIB  # of outputs, before they are judged and let go
_READ_AT_ONCE_BYTES = 1 << 16  # of results of calls; more are read in a worker: see call_results.py
_READING_CPU_S, _READING_DEADLINE_S = 2.0, 60.0  # processor time for a MiB, twice what it takes; wall time
_STDERR_SHOWN = 600


class CodeNotRun(RuntimeError):
    """The sandbox failed: that says nothing of the answer. The outcome is CRASHED, never a 0."""


class SuiteUnfit(ValueError):
    """The tests themselves cannot be run as they are. The outcome is NO_VERDICT."""


@dataclass(frozen=True, slots=True)
class Budget:
    """`cpu_s` and `memory_bytes` are of one run: one input, or all calls or all test code; `wall_s` is of a verdict."""

    cpu_s: float = 3.0
    wall_s: float = 8.0
    memory_bytes: int = 512 * _MIB

    def limits(self, output_bytes: int = _OUTPUT_BYTES) -> Limits:
        return Limits(wall_s=self.wall_s, cpu_s=self.cpu_s, memory_bytes=self.memory_bytes, output_bytes=output_bytes)


@dataclass(frozen=True, slots=True)
class Answer:
    """A program that a model wrote. `prelude` stands before it, and before test code."""

    source: str
    language: str = "python"
    prelude: str = ""


@dataclass(frozen=True)
class Runner:
    """Runs answers. `stops` says that no test need run after the first that fails."""

    sandbox: Sandbox
    pool: WorkerPool  # for comparisons that a user wrote
    comparison: Comparison = field(default_factory=Comparison)
    budget: Budget = field(default_factory=Budget)
    stops: bool = True

    async def run(self, answer: Answer, suite: Suite) -> Verdict:
        """Raises CodeNotRun, SuiteUnfit, what the sandbox raises, and what a comparison of the user's raises."""
        match suite:
            case InputOutput():
                return await self._inputs(answer, suite)
            case Calls():
                return await self._calls(answer, suite)
            case TestCode():
                return await self._test_code(answer, suite)

    # ------------------------------------------------------------ outputs for inputs

    async def _inputs(self, answer: Answer, suite: InputOutput) -> Verdict:
        limits = self.budget.limits(self._most_output(suite))
        left_s = self.budget.wall_s
        held = 0

        def is_enough(result: Result) -> bool:
            nonlocal held
            held += len(result.stdout) + len(result.stderr)
            return result.status is Status.SANDBOX_ERROR or held > _HELD_BYTES

        # In pieces that grow, so that one wrong answer among many tests costs few runs, and a right one few calls.
        source = f"{answer.prelude}\n{answer.source}" if answer.prelude else answer.source
        program = Program(source, answer.language)
        tests: list[Test] = []
        start, size = 0, 1 if self.stops else len(suite.inputs)
        while start < len(suite.inputs):
            stdins = [text.encode("utf-8", "replace") for text in suite.inputs[start : start + size]]
            held = 0
            results = await self.sandbox.run_tests_async(
                program, stdins, limits=limits, until=is_enough, together_s=left_s
            )
            for index, result in enumerate(results, start=start):
                tests.append(await self._judged(result, suite.inputs[index], suite.outputs[index]))
                if self.stops and not tests[-1].passed:
                    return Verdict(tests, len(suite.inputs))
            left_s -= sum(result.wall_s for result in results) + (results[0].compile_s if results else 0.0)
            start, size = start + len(results), size * 4
            if start < len(suite.inputs) and (left_s <= 0 or not results):
                return Verdict(tests, len(suite.inputs), self._too_slow())
        return Verdict(tests, len(suite.inputs))

    def _most_output(self, suite: InputOutput) -> int:
        """More than this is no right output, however many blanks are in it; a function of the user's may see more."""
        if self.comparison.custom is not None:
            return _OUTPUT_BYTES
        longest = max(len(text.encode("utf-8", "replace")) for text in suite.outputs)
        return _OUTPUT_BESIDE_BYTES + 4 * longest

    async def _judged(self, result: Result, given: str, expected: str) -> Test:
        name = f"input {shown(given)!r}"
        problem = _problem(result)
        if problem is not None:
            return Test(name, False, problem, repr(shown(expected)))
        got = result.stdout.decode("utf-8", "replace")
        passed = await self.comparison.holds(got, expected, given, self.pool)
        return Test(name, passed, "" if passed else f"output {shown(got)!r}", repr(shown(expected)))

    # ------------------------------------------------------------ results of calls

    async def _calls(self, answer: Answer, suite: Calls) -> Verdict:
        _only_python(answer)
        try:
            calls = encode((suite.name, suite.inputs))
        except NotPlain as error:
            raise SuiteUnfit(f"an argument of {suite.name} is {error}") from None
        program = _program("calls_program", answer, {CALLS: calls})
        most = _OUTPUT_BESIDE_BYTES + 4 * len(in_words(suite.outputs))  # 4: what our form of a value adds at most
        result = await self.sandbox.run_async(program, limits=self.budget.limits(min(_OUTPUT_BYTES, most)))
        problem = _problem(result) or ""
        tests = await self._judged_calls(result.stdout, suite, problem)
        late = problem if len(tests) < len(suite.inputs) and not self.stops else ""
        return Verdict(tests, len(suite.inputs), late)

    async def _judged_calls(self, stdout: bytes, suite: Calls, problem: str) -> list[Test]:
        how = self.comparison
        if how.custom is not None:
            return await self._judged_by_custom(stdout, suite, problem, how.custom)
        work = (stdout, suite, how.rule, how.tolerance, problem, self.stops)
        if len(stdout) <= _READ_AT_ONCE_BYTES:
            return judge_by_rule(*work)
        cpu_s = _READING_CPU_S * (1 + len(stdout) / _MIB)
        return await self.pool.run(judge_in_worker, cpu_s, *work, deadline_s=_READING_DEADLINE_S)

    async def _judged_by_custom(self, stdout: bytes, suite: Calls, problem: str, custom: Custom) -> list[Test]:
        lines = lines_of(stdout, len(suite.inputs))
        tests: list[Test] = []
        for index in range(len(suite.inputs)):
            line = lines[index] if index < len(lines) else b""
            test = await self.pool.run(
                judge_by_custom, line, suite, index, problem, custom, deadline_s=CUSTOM_DEADLINE_S
            )
            tests.append(test)
            if not test.passed and (self.stops or index >= len(lines)):
                break
        return tests

    # ------------------------------------------------------------ test code

    async def _test_code(self, answer: Answer, suite: TestCode) -> Verdict:
        _only_python(answer)
        order = json.dumps({"tests": suite.chunks, "entry_point": suite.entry_point, "stops": self.stops}).encode()
        judge = _program("tests_program", answer, {TESTS: order}, with_answer=False)
        candidate = _program("answer_program", answer, {}, function="serve")
        of_judge, of_answer = await self.sandbox.run_together_async(judge, candidate, limits=self.budget.limits())
        of_tests, of_code = _problem(of_judge), _problem(of_answer)
        report = _Report.read(of_judge)
        if report.unfit:
            raise SuiteUnfit(report.unfit)
        if of_judge.status is Status.WRONG_EXIT:
            raise CodeNotRun(f"the tests' program failed: {_tail(of_judge)}")
        if of_tests is None and not report.broken:
            if not report.planned:
                raise SuiteUnfit("the tests assert nothing")
            return Verdict(report.tests, max(report.planned, len(report.tests)))
        # A program whose tests have ended is killed: that is no end of its own.
        own_end = of_code is not None and (of_answer.status, of_answer.signal) != (Status.KILLED, signal.SIGKILL)
        why = [report.broken, f"the answer's program: {of_code}" if own_end else "", of_tests or ""]
        unseen = all(test.passed for test in report.tests)  # what stood behind them did not pass
        return Verdict(report.tests, max(report.planned, len(report.tests) + unseen), "; ".join(filter(None, why)))

    def _too_slow(self) -> str:
        return f"stopped after {self.budget.wall_s:g} s for all tests"


@dataclass(slots=True)
class _Report:
    """What the tests' program wrote."""

    tests: list[Test] = field(default_factory=list)
    planned: int = 0
    unfit: str = ""
    broken: str = ""

    @classmethod
    def read(cls, result: Result) -> _Report:
        report = cls()
        for line in result.stdout.splitlines():
            match json.loads(line):
                case {"planned": int(planned)}:
                    report.planned = planned
                case {"test": str(name), "passed": bool(passed), "message": str(message)}:
                    report.tests.append(Test(name, passed, message))
                case {"unjudgeable": str(why)}:
                    report.unfit = why
                case {"broken": str(why)}:
                    report.broken = why
        return report


# ---------------------------------------------------------------- programs and results

_PACKAGE = "rlvr.rewards.code"
_LIBRARY = "library"
# Our modules go into the sandbox compiled: it has none of ours, and reading them there would double a run's cost.
_START = f"""
import marshal, sys, types
with open({_LIBRARY!r}, "rb") as file:
    for name, code in marshal.load(file):
        sys.modules[name] = types.ModuleType(name)
        exec(code, sys.modules[name].__dict__)
"""


@cache
def _library(*modules: str) -> bytes:
    """Modules of this package, compiled, each after those that it imports."""
    here = Path(__file__).parent
    sources = {name: (here / f"{name}.py").read_bytes() for name in modules}
    codes = [
        (f"{_PACKAGE}.{name}", compile(source, f"{name}.py", "exec", optimize=2)) for name, source in sources.items()
    ]
    return marshal.dumps(codes)


def _program(
    module: str, answer: Answer, files: Mapping[str, bytes], function: str = "main", with_answer: bool = True
) -> Program:
    """One of our programs, with what it needs beside it, and the answer where it may be."""
    needed = ("tests_source",) if module == "tests_program" else ()
    modules = dict.fromkeys(("values", "answer_program", *needed, module))
    own: dict[str, bytes] = {_LIBRARY: _library(*modules), PRELUDE: _source(answer.prelude), **files}
    if with_answer:
        own[ANSWER] = _source(answer.source)
    return Program(f"{_START}\nfrom {_PACKAGE}.{module} import {function}\n\n{function}()\n", files=own)


def _source(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _only_python(answer: Answer) -> None:
    if answer.language != "python":
        raise SuiteUnfit(f"only tests of inputs and outputs can judge {answer.language}; these call a function")


def _problem(result: Result) -> str | None:
    """What went wrong, if the program did not end well. Raises CodeNotRun."""
    if result.status is Status.SANDBOX_ERROR:
        raise CodeNotRun(f"the sandbox failed: {result.detail}")
    if result.status is Status.OK:
        return None
    words = {
        Status.COMPILE_ERROR: "it does not compile",
        Status.WRONG_EXIT: f"it ended with exit code {result.exit_code}",
        Status.KILLED: f"it was ended by signal {result.signal}",
        Status.TIMEOUT: "it did not end in time",
    }
    said = words.get(result.status, f"it used more than it may: {result.status.value}")
    return f"{said}: {_tail(result)}" if result.stderr.strip() else said


def _tail(result: Result) -> str:
    text = result.stderr.decode("utf-8", "replace").strip()
    return text[:_STDERR_SHOWN] if result.status is Status.COMPILE_ERROR else text[-_STDERR_SHOWN:]
