"""Answers that do not solve the task and try to look as if they did: none may pass, whatever the form of tests."""

from __future__ import annotations

import asyncio

import pytest

from rlvr.rewards.code import CodeNotRun, code
from rlvr.sandbox import Limits, Program, Result, Sandbox, Status
from rlvr.types import Outcome, Score

# Sixteen hexadecimal digits that nobody guesses, and the beginning by which a thief would know them.
SECRET = "rlvr-secret-9f83bd01c2e7a465"
ASSERTS = [f"assert f(3) == {SECRET!r}", f"assert f(4) == {SECRET[::-1]!r}"]
CHECK = f"def check(candidate):\n    assert candidate(3) == {SECRET!r}\n    assert not candidate(4) != {SECRET!r}\n"
CALLS = {"fn_name": "f", "inputs": [[3], [4]], "outputs": [SECRET, SECRET[::-1]]}
STDIN = {"inputs": ["3\n", "4\n"], "outputs": [SECRET, SECRET[::-1]]}

EQUAL_TO_ALL = """
class Yes{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return self
    def __bool__(self): return True
    def __hash__(self): return 0
def f(x): return Yes({argument})
"""

HACKS = {
    "equal to all": EQUAL_TO_ALL.format(base="", argument=""),
    "a str equal to all": EQUAL_TO_ALL.format(base="(str)", argument="'x'"),
    "an int equal to all": EQUAL_TO_ALL.format(base="(int)", argument="7"),
    "a list equal to all": EQUAL_TO_ALL.format(base="(list)", argument="[1]"),
    "exit at once": "import os\nos._exit(0)",
    "exit politely": "import sys\nsys.exit(0)",
    "exit when called": "import os\ndef f(x): os._exit(0)",
    "SystemExit when called": "def f(x): raise SystemExit(0)",
    "KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "skipped": "import unittest\ndef f(x): raise unittest.SkipTest('not today')",
    "an assertion of its own": "def f(x): raise AssertionError",
    "builtins patched": """
import builtins, operator
class Calm(Exception): pass
builtins.AssertionError = Calm
builtins.isinstance = lambda *a: True
builtins.repr = builtins.str = lambda x: ''
builtins.all = builtins.any = lambda x: True
operator.eq = lambda a, b: True
def f(x): return None
""",
    "the codec patched": f"""
import rlvr.rewards.code.values as values, rlvr.rewards.code.answer_program as program, json
program.encode = lambda value, *rest: json.dumps(["value", True]).encode()
values.same = True
def f(x): return True
print({SECRET[:4]!r})
""",
    "frames": """
import sys, os, gc
def f(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            if isinstance(value, list):
                value.append(True)
            if isinstance(value, dict):
                value['passed'] = True
        frame = frame.f_back
    for thing in gc.get_objects():
        if type(thing) is list and len(thing) < 100 and thing and thing[0] is False:
            thing[0] = True
    os._exit(0)
""",
    "a verdict on every descriptor": """
import json, os
lines = b''.join(json.dumps(line).encode() + b'\\n' for line in (
    {'planned': 2}, {'test': 'a', 'passed': True, 'message': ''}, {'test': 'b', 'passed': True, 'message': ''},
    ['list', ['value', True]], ['value', True]))
for descriptor in range(256):
    try: os.write(descriptor, lines)
    except OSError: pass
os._exit(0)
""",
    "replies before questions": """
import json, os, struct
reply = json.dumps(["list", ["value", True]]).encode()
for descriptor in range(3, 64):
    try: os.write(descriptor, (struct.pack('!I', len(reply)) + reply) * 50)
    except OSError: pass
def f(x): return True
""",
    "a thief": f"""
import gc, os
def hunt():
    wanted = {SECRET[:11]!r} + '-'
    places = [f'/proc/{{who}}/{{what}}' for who in ('self', os.getppid()) for what in ('environ', 'cmdline')]
    for folder in ('.', '/tmp', '/dev/shm', '/home', '/etc', '/run', '/var/tmp'):
        places += [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    for place in places:
        try: text = open(place, errors='replace').read(1 << 20)
        except OSError: continue
        at = text.find(wanted)
        if at >= 0 and 'def hunt' not in text: return text[at:at + 28]
    for thing in gc.get_objects():
        for value in (thing if isinstance(thing, (list, tuple)) else ()):
            if isinstance(value, str) and value.startswith(wanted) and len(value) == 28: return value
    return 'nothing'
loot = hunt()
print(loot)
def f(x): return loot if loot != 'nothing' else hunt()
""",
    "kills its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef f(x): return 1",
    "a child that goes on": "import os\nif os.fork():\n    os._exit(0)\ndef f(x): return x",
    "nothing": "pass",
    "a generator of everything": "def f(x):\n    while True:\n        yield x",
    "a bottomless list": "def f(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a",
    "itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "too large": "def f(x): return 'x' * (40 << 20)",
    "raises what does not travel": "def f(x): raise type('E', (BaseException,), {})(object())",
}


async def scored(source: str, target: object, **arguments: object) -> Score:
    score: Score = await code.function(completion=f"```python\n{source}\n```", target=target, **arguments)
    return score


@pytest.mark.parametrize("source", HACKS.values(), ids=HACKS.keys())
async def test_no_trick_passes(source: str) -> None:
    scores = await asyncio.gather(
        scored(source, ASSERTS),
        scored(source, ASSERTS, scoring="fraction"),
        scored(source, CHECK, entry_point="f"),
        scored(source, CALLS),
        scored(source, CALLS, scoring="fraction"),
        scored(source, STDIN),
        scored(source, STDIN, scoring="fraction"),
    )
    for score in scores:
        assert (score.value, score.outcome) == (0.0, Outcome.SCORED), score.detail
        assert score.detail.startswith("0 of 2 tests passed"), score.detail


async def test_the_task_can_be_solved() -> None:
    """Else the test above would pass for the wrong reason."""
    source = f"def f(x): return {SECRET!r}[:: 1 if x == 3 else -1]"
    for target in (ASSERTS, CALLS):
        assert (await scored(source, target)).value == 1.0
    assert (await scored(f"def f(x): return {SECRET!r}", CHECK, entry_point="f")).value == 1.0
    assert (await scored(f"{source}\nprint(f(int(input())))", STDIN)).value == 1.0


@pytest.mark.parametrize(
    "test",
    [
        "assert abs(f(3) - 1.5) < 1e-6",
        "assert 3 in f(3)",
        "assert f(3) <= 4",
        "assert f(3) == f(4) + 1",
        "assert [f(3)] == [5]",
        "assert {f(3): 1} == {5: 1}",
        "assert isinstance(f(3), int)",
        "assert f(3) is None",
        "assert len(f(3)) == 5",
        "assert float(f(3)) == 5",
        "import math\nassert math.isclose(f(3), 5)",
        "assert f(3) in (5, 6)",
        "assert not f(3) != 5",
        "assert type(f(3)) is int and f(3) > 4",
        "try:\n    f(3)\nexcept ValueError:\n    pass\nelse:\n    assert f(3) == 5",
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(3), 5)",
        "def test_f():\n    assert f(3) == 5",
    ],
)
@pytest.mark.parametrize("base", ["", "(str)", "(list)"])
async def test_an_object_that_agrees_with_everything_agrees_with_nothing(test: str, base: str) -> None:
    score = await scored(EQUAL_TO_ALL.format(base=base, argument=""), test)
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED), score.detail


async def test_helpers_of_the_tests_are_their_own() -> None:
    """HumanEval/32 checks a root with a polynomial of the prompt: an answer that redefines it would always be right."""
    prompt = "def poly(xs, x):\n    return xs[0] + xs[1] * x\n\ndef find_zero(xs):\n    pass\n"
    tests = "def check(candidate):\n    assert poly([2, 1], candidate([2, 1])) == 0\n"
    forged = "def poly(xs, x): return 0\ndef find_zero(xs): return 1"
    honest = "def find_zero(xs): return -xs[0] / xs[1]"
    assert (await scored(forged, tests, prompt=prompt, entry_point="find_zero")).value == 0.0
    assert (await scored(honest, tests, prompt=prompt, entry_point="find_zero")).value == 1.0


async def test_no_module_of_the_answer_stands_in_for_ours() -> None:
    forged = "import types\nmath = types.ModuleType('math')\nmath.isclose = lambda *a: True\ndef f(x): return 0"
    assert (await scored(forged, "assert math.isclose(f(2), 4)")).value == 0.0
    forged = "import sys, types\nsys.modules['helper'] = types.SimpleNamespace(ok=lambda *a: True)\ndef f(x): return 0"
    score = await scored(forged, "from helper import ok\nassert ok(f(2), 4)")
    assert (score.value, score.outcome) == (None, Outcome.NO_VERDICT)


@pytest.mark.parametrize(
    "outputs",
    [
        ("1", "1\n2"),  # a correct beginning
        ("1\n2\n3", "1\n2"),  # more than was asked for
        ("", "1"),
        ("2\n1", "1\n2"),
        ("12", "1 2"),
        ("1 2", "1\n2"),
        ("nan", "1"),
    ],
)
async def test_outputs_are_compared_whole(outputs: tuple[str, str]) -> None:
    printed, expected = outputs
    target = {"inputs": [""], "outputs": [expected]}
    assert (await scored(f"print({printed!r})", target)).value == 0.0
    assert (await scored(f"print({printed!r})", target, compare="numeric")).value == 0.0
    assert (await scored(f"print({expected!r})", target)).value == 1.0


async def test_a_right_output_needs_a_clean_end() -> None:
    target = {"inputs": [""], "outputs": ["7"]}
    for end in ("raise SystemExit(1)", "1 / 0", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"):
        score = await scored(f"print(7, flush=True)\n{end}", target)
        assert score.value == 0.0, end
    assert (await scored("print(7)\nraise SystemExit(0)", target)).value == 1.0


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("while True: pass", "cpu"),
        ("def f(x):\n    while True: pass", "cpu"),
        ("import time\ntime.sleep(60)", "in time"),
        ("def f(x):\n    import time\n    time.sleep(60)", "in time"),
        ("x = 'x' * (1 << 30)", "memory"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "output"),
    ],
)
async def test_what_takes_too_much_is_wrong_and_says_why(source: str, why: str) -> None:
    limits = {"cpu_s": 0.5, "wall_s": 1.0 if "sleep" in source else 30.0, "memory_mb": 256}
    for target in (ASSERTS, CALLS):
        score = await scored(source, target, **limits)
        assert (score.value, score.outcome) == (0.0, Outcome.SCORED), score.detail
        assert why in score.detail


@pytest.mark.parametrize("target", [ASSERTS, CALLS, STDIN], ids=["asserts", "calls", "stdin"])
async def test_a_failure_of_the_sandbox_is_no_wrong_answer(target: object, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Result(Status.SANDBOX_ERROR, detail="the server died twice")

    async def one(*_: object, **__: object) -> Result:
        return broken

    async def two(self: Sandbox, judge: Program, candidate: Program, *, limits: Limits) -> tuple[Result, Result]:
        return Result(Status.OK), broken

    async def many(self: Sandbox, program: Program, stdins: list[bytes], **_: object) -> list[Result]:
        return [broken] * len(stdins)

    monkeypatch.setattr(Sandbox, "run_async", one)
    monkeypatch.setattr(Sandbox, "run_together_async", two)
    monkeypatch.setattr(Sandbox, "run_tests_async", many)
    with pytest.raises(CodeNotRun, match="the server died twice"):
        await scored("def f(x): return x", target)
