"""Runs tests inside the sandbox, in a process that the answer is not in.

To the tests, the answer's functions and objects are stand-ins that ask it over a socket. What they get is rebuilt here
of exact builtin types, or is another stand-in, that is equal to nothing but itself: whether a test passes is decided by
Python's own comparisons. What each test came to is written as lines of JSON.
"""

import ast
import builtins
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from rlvr.rewards.code.answer_program import LINK, PRELUDE
from rlvr.rewards.code.tests_source import CHECK, RECORDER, calls_check, free_names, make_tests, modules_meant
from rlvr.rewards.code.values import Malformed, NotPlain, TooLarge, decode, encode, frame, read_frame

TESTS = "tests.json"
SOLUTION = "solution"  # the module that tests may import the answer's names from
_LONGEST = 300  # characters of a test, or of a message


class AnswerGone(BaseException):
    """The answer's process has ended, or says what cannot be read. No test can catch it as an error of the function."""


class Unjudgeable(BaseException):
    """The tests ask for what cannot be done here: that says nothing of the answer."""


class Stop(BaseException):
    """A test failed, and no other need run."""


class Answer:
    """The answer, at the other end of the socket."""

    def __init__(self) -> None:
        self.raised: BaseException | None = None  # the last error that came from there
        self._last: tuple[Any, ...] = ()  # the value that came last from there, for messages
        self._exceptions: dict[str, type[Exception]] = {}

    def ask(self, *request: object) -> Any:
        try:
            message = frame(encode(list(request), _number))
        except TooLarge as error:  # a value that came from the answer, as tests write none of this kind
            raise ValueError(str(error)) from None
        except NotPlain as error:
            raise Unjudgeable(f"a test gives the answer {error}, which cannot be sent to another process") from None
        try:
            while message:
                message = message[os.write(LINK, message) :]
            reply = read_frame(lambda count: os.read(LINK, count))
            if reply is None:
                raise AnswerGone("its process has ended")
            match decode(reply, lambda number: Thing(self, number)):
                case ["value", value]:
                    self._last = (value,)
                    return value
                case ["raised", [*kinds], [*args]] if _is_plain(reply):
                    self._raise(kinds, args)
                case _:
                    raise AnswerGone("it replied with something else than a value")
        except (OSError, Malformed) as error:
            raise AnswerGone(str(error)) from None

    def find(self, wanted: list[str]) -> dict[str, Any]:
        """The names that the answer defines, of these. It could say others, to put its own in the place of ours."""
        found: dict[str, Any] = {}
        for name, kind, value in self.ask("find", wanted):
            if name not in wanted:
                continue
            if kind == "value":
                found[name] = value
            elif kind == "exception":
                found[name] = self._exceptions[name] = type(name, (self._known(value[1:]),), {})
            elif value == name and name in sys.stdlib_module_names:
                found[name] = importlib.import_module(name)  # ours, and not what the answer made of it
        return found

    def forget(self) -> None:
        self._last = ()

    def last_said(self) -> str:
        if not self._last:
            return ""
        try:
            shown = repr(*self._last)
        except (Exception, AnswerGone):  # noqa: BLE001 - an object of the answer does not say what it is
            shown = "an object"
        return f"; the answer last gave {shown[:_LONGEST]}"

    def _known(self, kinds: list[str]) -> type[Exception]:
        """The nearest kind of error that this side knows: never one that would end a program."""
        for name in kinds:
            kind = self._exceptions.get(name) or getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                return kind
        return RuntimeError

    def _raise(self, kinds: list[str], args: list[Any]) -> NoReturn:
        self._last = ()
        try:
            error = self._known(kinds)(*args)
        except (TypeError, ValueError, IndexError):  # of which none takes any arguments
            error = RuntimeError(*args)
        self.raised = error
        raise error


class Thing:
    """Stands for a function or an object of the answer.

    It has no arithmetic, no order, no `in` of its own, and is equal to itself alone: these would let the answer decide
    what a test finds.
    """

    __slots__ = ("__answer", "__number")

    def __init__(self, answer: Answer, number: int) -> None:
        object.__setattr__(self, "_Thing__answer", answer)
        object.__setattr__(self, "_Thing__number", number)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.__answer.ask("call", self, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__name__":
            raise AttributeError(name)
        return self.__answer.ask("get", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self.__answer.ask("set", self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.__number == other.__number

    def __hash__(self) -> int:
        return self.__number

    def __bool__(self) -> bool:
        return self.__answer.ask("truth", self) is True

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Thing) and self.__answer.ask("is", instance, self) is True

    def __special(self, name: str, *args: object) -> Any:
        return self.__answer.ask("method", self, name, list(args))

    def __iter__(self) -> Iterator[Any]:
        iterator = self.__special("__iter__")
        return iter(iterator) if not isinstance(iterator, Thing) else iterator

    def __next__(self) -> Any:
        return self.__special("__next__")

    def __len__(self) -> int:
        return self.__special("__len__")

    def __getitem__(self, key: object) -> Any:
        return self.__special("__getitem__", key)

    def __setitem__(self, key: object, value: object) -> None:
        self.__special("__setitem__", key, value)

    def __str__(self) -> str:
        return self.__special("__str__")

    def __repr__(self) -> str:
        return self.__special("__repr__")

    def __enter__(self) -> Any:
        return self.__special("__enter__")

    def __exit__(self, *_: object) -> None:
        self.__special("__exit__", None, None, None)


def _is_plain(reply: bytes) -> bool:
    """Whether a reply holds no object, so that nothing in it asks the answer what it is."""
    try:
        decode(reply)
    except Malformed:
        return False
    return True


def _number(value: object) -> int:
    if isinstance(value, Thing):
        return hash(value)
    raise NotPlain(f"a value of type {type(value).__name__}")


class Recorder:
    """Writes what each test came to."""

    def __init__(self, answer: Answer, output: int, stops: bool) -> None:
        self.answer = answer
        self.stops = stops
        self.planned = 0
        self._output = output

    def plan(self, count: int) -> None:
        self.planned += count
        self.write(planned=self.planned)

    def test(self, name: str) -> "Test":
        return Test(self, name)

    def write(self, **line: object) -> None:
        os.write(self._output, json.dumps(line).encode() + b"\n")


class Test:
    """One test, as a context: it passes when what stands in it comes to its end."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name

    def __enter__(self) -> None:
        self._recorder.answer.forget()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        answer = self._recorder.answer
        if isinstance(error, (Unjudgeable, Stop)):
            return False
        if _cannot_import(error, answer):
            raise Unjudgeable(f"the tests cannot import what they need: {error}")
        message = "" if error is None else _message(error, answer)
        self._recorder.write(test=self._name[:_LONGEST], passed=error is None, message=message)
        if error is None or isinstance(error, AnswerGone):
            return False
        if self._recorder.stops:
            raise Stop
        return isinstance(error, Exception)


def _cannot_import(error: BaseException | None, answer: Answer) -> bool:
    """Whether the tests lack something here that the answer should not give them."""
    return isinstance(error, ImportError) and error is not answer.raised and error.name != SOLUTION


def _message(error: BaseException, answer: Answer) -> str:
    try:
        said = str(error)[:_LONGEST]
    except (Exception, AnswerGone):  # noqa: BLE001 - it holds an object of the answer, which does not say what it is
        said = ""
    if isinstance(error, AnswerGone):
        return f"the answer's program did not reply: {said}"
    words = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"the answer raised {words}" if error is answer.raised else words + answer.last_said()


def run(chunks: list[str], entry_point: str, recorder: Recorder) -> None:
    answer = recorder.answer
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    try:
        exec(compile(Path(PRELUDE).read_bytes(), PRELUDE, "exec"), names)
        trees = [ast.parse(chunk) for chunk in chunks]
    except Exception as error:  # noqa: BLE001 - of the dataset's code
        raise Unjudgeable(f"the tests, or what stands before them: {type(error).__name__}: {error}") from None
    unbound = free_names(trees) - names.keys()
    ours = modules_meant(trees, unbound)
    wanted = sorted(unbound - ours.keys())
    checks = any(s.name == CHECK for tree in trees for s in tree.body if isinstance(s, ast.FunctionDef))
    checked = any(map(calls_check, trees))
    recorder.plan(sum(map(make_tests, trees)))

    sys.modules[SOLUTION] = _module_of(answer)
    names |= answer.find(wanted) | ours
    candidate = answer.ask("function", entry_point) if entry_point else None
    if entry_point.isidentifier():
        names[entry_point] = candidate
    names[RECORDER] = recorder.test
    for tree in trees:
        exec(compile(ast.fix_missing_locations(tree), "tests", "exec"), names)
    if checks and not checked and candidate is not None:
        names[CHECK](candidate)
    _run_functions(names, recorder)


def _run_functions(names: dict[str, Any], recorder: Recorder) -> None:
    """Functions named test_..., and the methods of unittest's classes: each is one test."""
    found: list[tuple[str, Callable[[], object]]] = []
    for name, thing in list(names.items()):
        if (
            isinstance(thing, type)
            and "unittest" in sys.modules
            and issubclass(thing, sys.modules["unittest"].TestCase)
        ):
            thing.setUpClass()  # type: ignore[attr-defined]
            methods = sys.modules["unittest"].defaultTestLoader.getTestCaseNames(thing)
            found += [(f"{name}.{method}", thing(method).debug) for method in methods]
        elif name.startswith("test_") and callable(thing) and not isinstance(thing, Thing):
            found.append((name, thing))
    if found:
        recorder.plan(len(found))
    for name, function in found:
        with recorder.test(name):
            function()


def _module_of(answer: Answer) -> ModuleType:
    """What `from solution import f` imports from."""
    module = ModuleType(SOLUTION)

    def attribute(name: str) -> Any:
        found = answer.find([name])
        if name not in found:
            raise AttributeError(name)
        return found[name]

    module.__getattr__ = attribute  # type: ignore[method-assign]
    return module


def main() -> None:
    order = json.loads(Path(TESTS).read_bytes())
    answer = Answer()
    recorder = Recorder(answer, os.dup(1), order["stops"])
    os.dup2(2, 1)  # what tests print is no verdict
    try:
        run(order["tests"], order["entry_point"], recorder)
    except Stop:
        pass
    except Unjudgeable as error:
        recorder.write(unjudgeable=str(error))
    except (Exception, AnswerGone) as error:  # noqa: BLE001 - outside a test, where the tests prepare something
        if _cannot_import(error, answer):
            recorder.write(unjudgeable=f"the tests cannot import what they need: {error}")
        else:
            recorder.write(broken=_message(error, answer))
