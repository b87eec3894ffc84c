"""The reward `code`: every form of tests, rule, scoring and message, on small programs."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from typing import Any

import pytest

from rlvr.rewards.code import SuiteError, code, judge_code, read_suite
from rlvr.types import Outcome, Score

DOUBLE = "def f(x):\n    return 2 * x"
READS = "a, b = map(int, input().split())\nprint(a + b)"
SUMS = {"inputs": ["1 2\n", "20 22"], "outputs": ["3", "42\n"]}


async def scored(source: str, target: object, language: str = "python", **arguments: object) -> Score:
    text = f"<think>```python\nwrong\n```</think>Here:\n```{language}\n{source}\n```\n"
    score: Score = await code.function(text, target, language=language, **arguments)
    return score


@pytest.mark.parametrize(
    "target",
    [
        "assert f(2) == 4\nassert f('a') == 'aa'",
        ["assert f(2) == 4", "assert f((1, 2)) == (1, 2, 1, 2)"],
        "def check(candidate):\n    for x in range(5):\n        assert candidate(x) == x + x",
        "def check(candidate):\n    assert candidate(2) == 4\n\ncheck(f)",
        "def test_one():\n    assert f(1) == 2\n\ndef test_two():\n    assert f([]) == []",
        "from solution import f\n\ndef test_one():\n    assert f(1) == 2",
        "import unittest\n\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(2.5), 5.0)",
        {"fn_name": "f", "inputs": [[2], [[3]]], "outputs": [4, [3, 3]]},
        {"fn_name": "f", "inputs": [[2], ["a"]], "outputs": [[4], ["aa"]]},  # as APPS wraps them
        [{"input": "2", "output": "4", "testtype": "functional"}],
        [{"input": '"a"', "output": '"aa"', "type": "function_call", "fn_name": "f"}],
    ],
)
async def test_forms_of_tests_that_call_a_function(target: object) -> None:
    entry_point = "f" if "check" in str(target) or "functional" in str(target) else ""
    right = await scored(DOUBLE, target, entry_point=entry_point)
    assert (right.value, right.outcome) == (1.0, Outcome.SCORED), right.detail
    for source in ("def f(x): return 3 * x + x", "def g(x): return 2 * x", "def f(x) return 2 * x"):
        wrong = await scored(source, target, entry_point=entry_point)
        assert (wrong.value, wrong.outcome) == (0.0, Outcome.SCORED), wrong.detail


async def test_forms_of_tests_of_input_and_output() -> None:
    livecodebench = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
    lines = {"inputs": [["1 2"]], "outputs": [["3"]]}
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(livecodebench)))).decode()
    for target in (SUMS, json.dumps(SUMS), livecodebench, json.dumps(livecodebench), lines, packed):
        assert (await scored(READS, target)).value == 1.0
        assert (await scored(READS.replace("+", "-"), target)).value == 0.0


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("cpp", "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << '\\n'; }"),
        ("c", '#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); return 0; }'),
        ("bash", "read a b\necho $((a + b))"),
    ],
)
async def test_other_languages_read_and_write(language: str, source: str) -> None:
    assert (await scored(source, SUMS, language)).value == 1.0
    assert (await scored(source.replace("a + b", "a - b"), SUMS, language)).value == 0.0


async def test_what_a_compiler_says_is_kept() -> None:
    score = await scored("int main() { return undeclared; }", SUMS, "cpp")
    assert score.value == 0.0
    assert "does not compile" in score.detail and "undeclared" in score.detail


async def test_only_python_can_be_called() -> None:
    score = await scored("int f(int x) { return 2 * x; }", "assert f(2) == 4", "cpp")
    assert (score.value, score.outcome) == (None, Outcome.NO_VERDICT)


THREE = ["assert f(1) == 2", "assert f(2) == 4", "assert f(3) == 6"]


@pytest.mark.parametrize(
    "target",
    [
        THREE,
        "\n".join(THREE),
        {"fn_name": "f", "inputs": [[1], [2], [3]], "outputs": [2, 4, 6]},
        {"inputs": ["1", "2", "3"], "outputs": ["2", "4", "6"]},
    ],
)
@pytest.mark.parametrize(
    ("wrong_for", "worth"),
    [((), (1, 1, 1)), ((2,), (0, 2 / 3, 1 / 3)), ((1, 3), (0, 1 / 3, 0)), ((3,), (0, 2 / 3, 2 / 3))],
)
async def test_what_passed_tests_are_worth(target: Any, wrong_for: tuple[int, ...], worth: tuple[float, ...]) -> None:
    source = f"def f(x): return x + x if x not in {wrong_for} else None"
    if isinstance(target, dict) and "fn_name" not in target:
        source += "\nprint(f(int(input())))"
    for scoring, value in zip(("all", "fraction", "first_failure"), worth, strict=True):
        assert (await scored(source, target, scoring=scoring)).value == pytest.approx(value), scoring


@pytest.mark.parametrize(
    ("given", "expected", "rules"),
    [
        ("(1, 2)", [1, 2], "equal numeric unordered"),
        ("[2, 1]", [1, 2], "unordered"),
        ("[1, 1, 2]", [1, 2, 2], ""),
        ("{1, 2}", [1, 2], "unordered"),
        ("0.1 + 0.2", 0.3, "numeric"),
        ("[0.1 + 0.2, 5]", [0.3, 5], "numeric"),
        ("0.3001", 0.3, ""),
        ("2.0", 2, "equal numeric"),
        ("True", 1, "equal numeric"),
        ("{1: 2}", {"1": 2}, "equal numeric"),
        ("'2'", 2, ""),
        ("[[2], [1]]", [[1], [2]], "unordered"),
        ("2 ** 70", 2**70, "exact equal numeric"),
        ("float('nan')", float("nan"), "numeric"),
    ],
)
async def test_how_results_are_compared(given: str, expected: object, rules: str) -> None:
    target = {"fn_name": "f", "inputs": [[], []], "outputs": [expected, expected]}
    for rule in ("exact", "equal", "numeric", "unordered"):
        score = await scored(f"def f(): return {given}", target, compare=rule)
        if rule == "unordered" and not isinstance(expected, list):
            assert score.value == 0.0  # what has no items has no order either
        else:
            assert score.value == float(rule in rules.split()), (rule, score.detail)


@pytest.mark.parametrize(
    ("printed", "expected", "rules"),
    [
        ("a b\n", "a b", "equal numeric unordered"),
        ("a  b \n\n", "a b\n", "equal numeric unordered"),
        ("a b", "a b", "exact equal numeric unordered"),
        ("a\nb", "b\na", "unordered"),
        ("a\na\nb", "b\na", ""),
        ("0.3333333", "0.33333334", "numeric"),
        ("1e3 x", "1000 x", "numeric"),
        ("1_0", "10", ""),
        ("a\n\nb", "a\nb", ""),
        ("A", "a", ""),
    ],
)
async def test_how_outputs_are_compared(printed: str, expected: str, rules: str) -> None:
    for rule in ("exact", "equal", "numeric", "unordered"):
        source = f"import sys\nsys.stdout.write({printed!r})"
        score = await scored(source, {"inputs": [""], "outputs": [expected]}, compare=rule)
        assert score.value == float(rule in rules.split()), (rule, score.detail)


def is_a_root(got: str, expected: str, given: str) -> bool:
    return float(got) ** 2 == float(given)


async def test_a_comparison_of_the_users_own() -> None:
    target = {"inputs": ["4", "9"], "outputs": ["2", "3"]}
    source = "print(-(float(input()) ** 0.5))"
    assert (await scored(source, target)).value == 0.0
    assert (await scored(source, target, compare=is_a_root)).value == 1.0
    assert (await scored(source, target, compare=f"{__name__}:is_a_root")).value == 1.0
    assert (await scored("print(5)", target, compare=is_a_root)).value == 0.0
    for name, why in (("nowhere:f", "cannot be imported"), ("close", "expected one of exact, equal")):
        with pytest.raises(ValueError, match=why):
            await scored(source, target, compare=name)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (f"```python\n{DOUBLE}\n```", 1.0),
        (f"```\n{DOUBLE}\n```", 1.0),
        (f"~~~py\n{DOUBLE}\n~~~", 1.0),
        (f"```python\nbroken(\n```\nNo:\n```python\n{DOUBLE}\n```", 1.0),
        (f"```python\n{DOUBLE}\n```\nNot\n```python\nbroken(\n```", 0.0),
        (f"```python\n{DOUBLE}\n```\nIt prints\n```text\n4\n```\nor\n```\n6\n```", 1.0),
        (f"```python\n{DOUBLE}", 1.0),  # the stop string took the fence's end away
        (DOUBLE, 1.0),
        (f"<think>hm</think>\n{DOUBLE}", 1.0),
        (f"<answer>\n```python\n{DOUBLE}\n```\n</answer>", 1.0),
        (f"<think>```python\n{DOUBLE}\n```", 0.0),  # never came to an answer
        (f"The function is\n{DOUBLE}", 0.0),
        (f"```java\n{DOUBLE}\n```", 0.0),
        ("", 0.0),
        ("4", 0.0),
    ],
)
async def test_where_code_is_found(answer: str, value: float) -> None:
    score = await code.function(answer, ["assert f(2) == 4"])
    assert (score.value, score.outcome) == (value, Outcome.SCORED), score.detail


async def test_finding_code_takes_linear_time() -> None:
    score = await code.function("```python\n" * 100_000, ["assert f(2) == 4"])
    assert score.value == 0.0


HELPERS = "import math\nLIMIT = 5\n\ndef helper(x):\n    return min(x, LIMIT)\n\n"
BEGINNING = HELPERS + 'def f(x):\n    """At most five."""\n'
BODY = "    return helper(x) + math.floor(0.5)\n"


async def test_a_prelude_stands_before_answer_and_tests() -> None:
    score = await code.function(
        f"```python\ndef f(x):\n{BODY}```", "assert f(9) == LIMIT == helper(7)", prelude=HELPERS
    )
    assert score.value == 1.0, score.detail


@pytest.mark.parametrize("answer", [BODY, f"```python\n{BODY}```", f"```python\ndef f(x):\n{BODY}```"])
@pytest.mark.parametrize("given", ["prompt", "prelude"])
async def test_an_answer_may_continue_a_beginning(answer: str, given: str) -> None:
    tests = "def check(candidate):\n    assert candidate(9) == 5\n"
    score = await code.function(answer, tests, entry_point="f", **{given: BEGINNING})
    assert score.value == 1.0, score.detail


async def test_classes_objects_and_errors_of_the_answer() -> None:
    source = """
class Stack:
    class Empty(Exception): pass
    def __init__(self, *items): self.items = list(items)
    def push(self, x): self.items.append(x); return self
    def pop(self):
        if not self.items: raise EmptyStack('nothing there')
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, i): return self.items[i]
    def __str__(self): return f'Stack{self.items}'
class EmptyStack(LookupError): pass
def count(n):
    for i in range(n): yield i
"""
    tests = """
s = Stack(1, 2)
assert s.push(3) is not None and len(s) == 3
assert [*s] == [1, 2, 3] and 2 in s and s[0] == 1 and str(s) == 'Stack[1, 2, 3]'
assert s.pop() == 3 and s.items == [1, 2]
s.items = [7]
assert s.pop() == 7
assert isinstance(s, Stack) and not isinstance(3, Stack)
try:
    s.pop()
    assert False, 'it was empty'
except EmptyStack as error:
    assert isinstance(error, LookupError) and str(error) == 'nothing there'
assert list(count(3)) == [0, 1, 2]
assert max(count(4)) == 3
"""
    score = await scored(source, tests, scoring="fraction")
    assert score.value == 1.0, score.detail
    assert (await scored(source.replace("i in range(n)", "i in range(n - 1)"), tests)).value == 0.0


async def test_values_arrive_as_they_were() -> None:
    values = [
        "{'a': (1, 2.5, None), 3: {4}}", "b'\\x00'", "frozenset({1})", "1 + 2j", "10 ** 5000", "'\\ud800 ü'",
        "range(3)", "float('-inf')", "True", "__import__('collections').deque([1])",
        "__import__('decimal').Decimal('1.10')", "__import__('fractions').Fraction(1, 3)",
        "__import__('datetime').datetime(2020, 1, 2)", "__import__('collections').Counter('aab')",
    ]  # fmt: skip
    tests = [f"assert f({value}) == {value} and g({number}) == {value}" for number, value in enumerate(values)]
    source = f"def f(x): return x\ndef g(i): return [{', '.join(values)}][i]"
    score = await scored(source, tests, scoring="fraction")
    assert score.value == 1.0, score.detail


async def test_a_function_with_the_name_of_a_builtin() -> None:
    tests = ["assert sum(1, 2) == 3", "assert sum(10, 5) == 15"]
    assert (await scored("def sum(a, b): return a + b", tests)).value == 1.0
    assert (await scored("def sum(a, b): return a", tests)).value == 0.0
    forged = "def abs(x): return 0\ndef f(x): return x"
    assert (await scored(forged, ["assert abs(f(3) - 5) < 1"])).value == 0.0


async def test_leetcode_s_solution_class() -> None:
    source = "class Solution:\n    def twice(self, x):\n        return 2 * x"
    tests = "def check(candidate):\n    assert candidate(x=4) == 8"
    assert (await scored(source, tests, entry_point="Solution().twice")).value == 1.0
    assert (await scored(source, {"fn_name": "twice", "inputs": [[3]], "outputs": [6]})).value == 1.0


@pytest.mark.parametrize(
    "tests",
    [
        "x = 1",  # asserts nothing
        "def check(candidate):\n    assert True",
        "import a_package_that_is_nowhere\nassert f(1) == 2",
        "class Mine: pass\nassert f(Mine()) is None",  # cannot be sent
    ],
)
async def test_tests_that_cannot_judge_give_no_verdict(tests: str) -> None:
    score = await scored(DOUBLE, tests, entry_point="f")
    assert (score.value, score.outcome) == (None, Outcome.NO_VERDICT), score.detail


async def test_an_error_of_the_answer_is_never_taken_for_one_of_the_tests() -> None:
    score = await scored("def f(x): import a_package_that_is_nowhere", "assert f(1) == 2")
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED)


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("assert f(1) ==", "no Python"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"inputs": ["1"], "outputs": ["1"], "fn_name": "f"}, "list of arguments"),
        ([{"input": "1", "output": "2", "testtype": "functional"}], "entry_point"),
        ([{"input": "1", "output": "2", "testtype": "guess"}], "stdin or functional"),
        (7, "expected Python code"),
        (base64.b64encode(zlib.compress(pickle.dumps(print))).decode(), "it names"),
    ],
)
def test_tests_in_no_form_are_refused_with_the_reason(tests: object, why: str) -> None:
    with pytest.raises(SuiteError, match=why):
        read_suite(tests)


async def test_messages_for_the_report_and_for_the_model() -> None:
    verdict = await judge_code(f"```python\n{READS.replace('+', '-')}\n```", read_suite(SUMS))
    assert verdict is not None
    assert verdict.detail() == r"0 of 2 tests passed; test 1: input '1 2\n': output '-1\n'; expected '3'"
    assert verdict.feedback() == r"0 of 2 tests passed; test 1: input '1 2\n': output '-1\n'"
    assert "ZeroDivisionError" in (await scored("print(1 / 0)", SUMS)).detail
    assert "the answer last gave 3" in (await scored("def f(x): return x + 1", THREE)).detail
    assert "the answer raised KeyError: 'x'" in (await scored("def f(x): return {}['x']", THREE)).detail
    assert "SyntaxError" in (await scored("def f(x) return", THREE)).detail


async def test_all_tests_together_have_a_limit() -> None:
    target = {"inputs": [""] * 20, "outputs": ["1"] * 20}
    score = await scored("import time\ntime.sleep(0.3)\nprint(1)", target, wall_s=1.0, scoring="fraction")
    assert score.value is not None and 0.0 < score.value < 0.5
    assert "stopped after 1 s for all tests" in score.detail


async def test_packages_are_there_where_asked_for() -> None:
    source = "import numpy as np\ndef f(n): return np.arange(n) * 2.0"
    tests = "import numpy as np\nassert np.allclose(f(3), [0, 2, 4])\nassert f(3).shape == (3,)"
    assert (await scored(source, tests, packages=["numpy"])).value == 1.0
    calls = {"fn_name": "f", "inputs": [[3]], "outputs": [[0, 2, 4]]}
    assert (await scored(source, calls, packages=["numpy"])).value == 1.0
