"""Tests as datasets have them, read into three forms: outputs for inputs, results of calls, and test code."""

from __future__ import annotations

import ast
import base64
import binascii
import builtins
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class SuiteError(ValueError):
    """Tests that cannot be read. The message says what was found and what is expected."""


@dataclass(frozen=True, slots=True)
class InputOutput:
    """A program reads `inputs[i]` from stdin, and should write `outputs[i]`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """The function `name`, called with the arguments `inputs[i]`, should give one of `outputs[i]`."""

    name: str
    inputs: tuple[tuple[Any, ...], ...]
    outputs: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class TestCode:
    """Python code that calls the answer and asserts. `entry_point` is what a `check` function is given."""

    chunks: tuple[str, ...]
    entry_point: str


Suite = InputOutput | Calls | TestCode


def read_suite(tests: Any, entry_point: str = "") -> Suite:
    """Read tests in any of the forms that docs/rewards.md shows; JSON text is what it stands for. Raises SuiteError."""
    if isinstance(tests, str):
        tests = _from_text(tests)
    match tests:
        case str():
            return _test_code([tests], entry_point)
        case [str(), *_]:
            return _test_code(tests, entry_point)
        case {"inputs": [*inputs], "outputs": [*outputs]}:
            return _apps(inputs, outputs, str(tests.get("fn_name") or ""))
        case [{"input": _, "output": _}, *_]:
            return _livecodebench(tests, entry_point)
    raise SuiteError(
        f"tests: expected Python code, a list of asserts, {{inputs, outputs}} or a list of {{input, output}}; "
        f"got {tests!r:.80}"
    )


def _from_text(text: str) -> Any:
    """What a text holds: JSON, LiveCodeBench's packed JSON, or itself."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if text[:2] == "eJ" and text.isascii() and len(text.split()) == 1:
        return _unpacked(text)
    return text


def _unpacked(text: str) -> Any:
    """LiveCodeBench packs its private tests as JSON in a pickle in zlib in base64."""
    try:
        return json.loads(_OnlyText(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load())
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, TypeError, ValueError) as error:
        raise SuiteError(f"tests: looks like LiveCodeBench's packed tests, and cannot be unpacked: {error}") from None


class _OnlyText(pickle.Unpickler):
    """Reads a pickle that holds no object of any class."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _test_code(chunks: Sequence[str], entry_point: str) -> TestCode:
    trees = []
    for number, chunk in enumerate(chunks, start=1):
        try:
            trees.append(ast.parse(chunk))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise SuiteError(f"tests: part {number} of {len(chunks)} is no Python: {error}") from None
    return TestCode(tuple(chunks), entry_point or _hidden_function(trees))


def _hidden_function(trees: Sequence[ast.Module]) -> str:
    """The tested function, where it has the name of a builtin and the tests call nothing else in all their parts."""
    called = [
        {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        for tree in trees
    ]
    in_all = set.intersection(*called) if called else set()
    builtin = set(dir(builtins))
    return in_all.pop() if len(in_all) == 1 and set.union(*called) <= builtin else ""


def _apps(inputs: Sequence[Any], outputs: Sequence[Any], name: str) -> InputOutput | Calls:
    if len(inputs) != len(outputs) or not inputs:
        raise SuiteError(f"tests: {len(inputs)} inputs and {len(outputs)} outputs; expected as many, and some")
    if not name:
        return InputOutput(tuple(map(_text, inputs)), tuple(map(_text, outputs)))
    if not all(isinstance(args, (list, tuple)) for args in inputs):
        raise SuiteError(f"tests: each input of {name!r} must be a list of arguments; got {inputs[0]!r:.80}")
    # Where each output of a task is a list of one, APPS means that one by it.
    wrapped = all(isinstance(output, list) and len(output) == 1 for output in outputs)
    accepted = [(output, output[0]) if wrapped else (output,) for output in outputs]
    return Calls(name, tuple(tuple(args) for args in inputs), tuple(accepted))


def _livecodebench(tests: Sequence[Mapping[str, Any]], entry_point: str) -> InputOutput | Calls:
    kinds = {str(test.get("testtype") or test.get("type") or "stdin") for test in tests}
    name = entry_point or str(tests[0].get("fn_name") or "")
    if kinds <= {"stdin", "stdin_stdout"}:
        return InputOutput(tuple(_text(t["input"]) for t in tests), tuple(_text(t["output"]) for t in tests))
    if not kinds <= {"functional", "function_call"}:
        raise SuiteError(
            f"tests: expected testtype stdin or functional, the same for all; got {', '.join(sorted(kinds))}"
        )
    if not name:
        raise SuiteError("tests: functional tests need the function's name, as the argument or column entry_point")
    inputs = tuple(_arguments(test["input"]) for test in tests)
    return Calls(name, inputs, tuple((_literal(test["output"]),) for test in tests))


def _arguments(given: Any) -> tuple[Any, ...]:
    """A list of arguments, or JSON text with one on each line."""
    if isinstance(given, str):
        return tuple(_literal(line) for line in given.splitlines() if line.strip())
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)


def _literal(given: Any) -> Any:
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError as error:
        raise SuiteError(f"tests: {given!r:.80} is no JSON value: {error}") from None


def _text(given: Any) -> str:
    """APPS has lists of lines beside text."""
    return "\n".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
