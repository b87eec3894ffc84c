"""What the calls of a function came to, judged from the lines that the program wrote: also in a worker, see running.py.

The answer can write these lines as it likes. Reading one may take the square of its length (a set of numbers that all
have one hash), which is why long ones are read where that can be ended.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from rlvr.rewards.code.compare import Comparison, Custom, Rule, same_value
from rlvr.rewards.code.suite import Calls
from rlvr.rewards.code.values import Malformed, decode
from rlvr.rewards.code.verdict import Test, in_words, shown


def lines_of(stdout: bytes, count: int) -> list[bytes]:
    """The first `count` lines."""
    return stdout.split(b"\n", count)[:count] if stdout else []


def judge_by_rule(stdout: bytes, suite: Calls, rule: Rule, tolerance: float, problem: str, stops: bool) -> list[Test]:
    """A test for each call, up to the first without a result, or with `stops` the first that did not pass."""
    how = Comparison(rule, tolerance)
    lines = lines_of(stdout, len(suite.inputs))
    tests: list[Test] = []
    for index in range(len(suite.inputs)):
        line = lines[index] if index < len(lines) else b""
        tests.append(judged(line, suite, index, problem, lambda got, wanted: same_value(got, wanted, how)))
        if not tests[-1].passed and (stops or index >= len(lines)):
            break
    return tests


def judge_in_worker(cpu_s: float, *work: Any) -> list[Test]:
    """The same in the main thread of a process of its own. Linear work ends well before `cpu_s`."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        return judge_by_rule(*work)
    except TimeoutError:
        return [Test("all calls", False, f"the results cannot be read in {cpu_s:g} s")]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def judge_by_custom(line: bytes, suite: Calls, index: int, problem: str, custom: Custom) -> Test:
    """One call's test by a function of the user's."""
    given = list(suite.inputs[index])
    return judged(line, suite, index, problem, lambda got, wanted: bool(custom(got, wanted, given)))


def judged(line: bytes, suite: Calls, index: int, problem: str, same: Callable[[Any, Any], bool]) -> Test:
    """`problem` is what ended the program early; `same(got, expected)` compares."""
    args, accepted = suite.inputs[index], suite.outputs[index]
    name, expected = f"{suite.name}({', '.join(map(in_words, args))})", in_words(accepted[-1])
    match _read(line):
        case ["value", got]:
            if any(same(got, wanted) for wanted in accepted):
                return Test(name, True, "", expected)
            return Test(name, False, f"gave {shown(in_words(got))}", expected)
        case ["raised", str(message)]:
            return Test(name, False, shown(message), expected)
        case _:
            return Test(name, False, problem or "the program ended before it gave a result", expected)


def _read(line: bytes) -> Any:
    try:
        return decode(line) if line else None
    except Malformed as error:
        return ["raised", f"something that is no value: {error}"]
