"""Answers that take over what speaks for them in the sandbox, and send what they like: none passes, none is spared a 0,
and none holds up the process that judges.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from rlvr.rewards.code import CodeNotRun, code, reward
from rlvr.sandbox import Sandbox
from rlvr.sandbox.languages import LANGUAGES
from rlvr.types import Outcome, Score

# Replies to each request of the tests with what `reply(kind, request)` gives, as plain JSON.
REPLIES = """
import json, os, struct
def take(count):
    data = b''
    while len(data) < count:
        piece = os.read(3, count - len(data))
        if not piece: os._exit(0)
        data += piece
    return data
def values(*items): return ['list', list(items)]
def said(value): return values('value', value)
THING = ['object', 0]
F = values('f', 'value', THING)
def answer(reply):
    while True:
        request = json.loads(take(struct.unpack('!I', take(4))[0]))
        data = json.dumps(reply(request[1][0], request)).encode()
        os.write(3, struct.pack('!I', len(data)) + data)
"""
# Writes a line where the results of calls go.
WRITES = """
import os
def write(line):
    for descriptor in range(3, 20):
        try: os.write(descriptor, line + b'\\n')
        except OSError: pass
    os._exit(0)
"""
NEAR = "assert abs(f(3) - 1.5) < 1e-6"

FORGED_REPLIES = {
    "builtins of its own": (
        """
abs_of = values('__builtins__', 'value', ['dict', [['abs', ['object', 1]]]])
def reply(kind, request):
    if kind == 'find': return said(values(F, abs_of))
    return said(0)
answer(reply)
""",
        NEAR,
    ),
    "names that the tests define": (
        "answer(lambda kind, request: said(values(F, values('right', 'value', THING)) if kind == 'find' else True))",
        "def right(x): return x == 5\nassert right(f(3))",
    ),
    "a module that is not here": (
        "answer(lambda kind, request: said(values(values('msvcrt', 'module', 'msvcrt'))))",
        NEAR,
    ),
    "errors that ask what they are": (
        "answer(lambda kind, request: said(values(F)) if kind == 'find'"
        " else values('raised', values('ValueError'), values(THING)))",
        NEAR,
    ),
    "errors that cannot be made": (
        "answer(lambda kind, request: said(values(F)) if kind == 'find'"
        " else values('raised', values('SyntaxError'), values('x', values())))",
        NEAR,
    ),
    "an array where numpy is not": (
        "answer(lambda kind, request: said(values(F) if kind == 'find' else ['array', 'i8', [1], [1]]))",
        NEAR,
    ),
    "an array of arrays": (
        "answer(lambda kind, request: said(values(F) if kind == 'find'"
        " else ['array', 'i4,(1000000,1000000)i4', [1], [1]]))",
        NEAR,
    ),
}
HONEST_ROADS = {
    "a math of its own": (
        "class math: isclose = staticmethod(lambda *a: True)\ndef f(x): return 0",
        "assert math.isclose(f(2), 4)",
    ),
    "a numpy of its own": (
        "class np: allclose = staticmethod(lambda *a: True)\ndef f(x): return 0",
        "assert np.allclose(f(2), 4)",
    ),
    "a value too deep to be given back": (
        "def g(x): return 0\ndef f(x):\n    a = 1\n    for _ in range(98): a = [a]\n    return a",
        "assert g(f(3)) == 5",
    ),
    "an integer too long to be written": ("def f(x): return 1 << 100000", "assert f(3) == 5"),
}


async def scored(source: str, target: object, **arguments: object) -> Score:
    score: Score = await code.function(completion=f"```python\n{source}\n```", target=target, **arguments)
    return score


@pytest.mark.parametrize("name", FORGED_REPLIES)
async def test_forged_replies_to_tests(name: str) -> None:
    source, tests = FORGED_REPLIES[name]
    score = await scored(REPLIES + source, tests)
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED), score.detail


@pytest.mark.parametrize("name", HONEST_ROADS)
async def test_values_that_mislead(name: str) -> None:
    source, tests = HONEST_ROADS[name]
    score = await scored(source, tests)
    if name == "a numpy of its own" and score.value is None:
        assert "numpy" in score.detail  # not among the packages of this reward: the tests cannot be run
        return
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED), score.detail


async def test_what_tests_need_of_the_answer_is_still_found() -> None:
    source = "class queue:\n    def push(x): return x + 1\nclass Bad(ValueError): pass\ndef f(x): raise Bad(x)"
    tests = "assert queue.push(1) == 2\ntry: f(1)\nexcept Bad: x = 1\nassert x"
    assert (await scored(source, tests)).value == 1.0
    assert (await scored("import math\ndef f(x): return x / 2", "assert math.isclose(f(3), 1.5)")).value == 1.0


@pytest.mark.parametrize("compare", ["equal", "numeric", "unordered", "exact"])
@pytest.mark.parametrize(
    "result",
    ["1 << 100000", "{1 << 100000: 1}", "[1 << 100000]", "float('inf')", "{(): [{}]}", "Fraction(1, 1 << 99999)"],
)
async def test_odd_results_of_calls_are_wrong_and_no_failure(result: str, compare: str) -> None:
    calls = {"fn_name": "f", "inputs": [[3]], "outputs": [[5]]}
    score = await scored(f"from fractions import Fraction\ndef f(x): return {result}", calls, compare=compare)
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED), score.detail


async def test_an_integer_too_long_to_be_written_may_be_right() -> None:
    calls = {"fn_name": "f", "inputs": [[1 << 99999]], "outputs": [1 << 100000]}
    assert (await scored("def f(x): return 2 * x", calls)).value == 1.0
    assert (await scored("def f(x): return 2 * x + 1", calls)).value == 0.0


@pytest.mark.parametrize("expected", ["inf", "-inf", "nan"])
async def test_no_number_is_near_infinity(expected: str) -> None:
    for got, value in (("5", 0.0), (expected, 1.0)):
        target = {"inputs": [""], "outputs": [expected]}
        assert (await scored(f"print({got!r})", target, compare="numeric")).value == value
        calls = {"fn_name": "f", "inputs": [[1]], "outputs": [float(expected)]}
        assert (await scored(f"def f(x): return float({got!r})", calls, compare="numeric")).value == value


@pytest.mark.parametrize(
    "line",
    [
        # A set of numbers with one hash; a fraction whose parts must be divided; lines without end; a deep list.
        'b\'["list",["value",["set",[%s]]]]\''
        """ % b','.join(b'["int","%x"]' % (k * ((1 << 61) - 1)) for k in range(1, 30000))""",
        """b'["list",["value",["Fraction","%s","%s"]]]' % (b'7' * 2_000_000, b'5' * 1_999_999)""",
        """b'\\n' * 8_000_000""",
        """b'["list",["value",' + b'["list",[' * 480 + b']]' * 480 + b']]'""",
    ],
    ids=["one hash", "fraction", "lines", "deep"],
)
async def test_forged_results_hold_nobody_up(line: str) -> None:
    calls = {"fn_name": "f", "inputs": [[3], [4]], "outputs": [5, 6]}
    score, gap = await with_longest_gap(scored(f"{WRITES}\nwrite({line})", calls))
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED), score.detail
    assert gap < 1.0, "each took the event loop from two seconds to minutes"


async def test_outputs_of_many_tests_are_not_held_together() -> None:
    """Forty outputs of 8 MiB once stood in memory at one time, and were split into words, for 13 s."""
    source = "import sys\nsys.stdout.write('a ' * 3_900_000)"
    target = {"inputs": [""] * 20, "outputs": ["1"] * 20}
    score, gap = await with_longest_gap(scored(source, target, scoring="fraction"))
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED)
    assert "output" in score.detail
    assert gap < 1.0


async def test_an_answer_cannot_outlast_its_deadline_test_by_test() -> None:
    """Each run within its limit, all together beyond it: the engine would call that a failure, not a wrong answer."""
    source = "import time\ntime.sleep(0.8)\nprint(1)"
    started = time.monotonic()
    score = await scored(source, {"inputs": [""] * 30, "outputs": ["1"] * 30}, wall_s=2.0)
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED)
    assert "in time" in score.detail or "stopped after" in score.detail
    assert time.monotonic() - started < 8.0


async def test_a_broken_compiler_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    if LANGUAGES["c"].missing() is not None:
        pytest.skip("no C compiler")
    broken = replace(LANGUAGES["c"], compiler=("gcc", "-fno-such-thing", *LANGUAGES["c"].compiler[1:]))
    monkeypatch.setitem(LANGUAGES, "c", broken)
    monkeypatch.setattr(reward, "_sandbox", lambda *_: fresh)
    with Sandbox() as fresh, pytest.raises(CodeNotRun, match="does not compile 'int main"):
        await code.function("```c\nint main() { return 0; }\n```", {"inputs": [""], "outputs": [""]}, language="c")


async def with_longest_gap(work: object) -> tuple[Score, float]:
    """What the work gives, and the longest that the event loop did not come round meanwhile."""
    longest, done = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    score: Score = await work  # type: ignore[misc]
    done.set()
    await watching
    return score, longest
