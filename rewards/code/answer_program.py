"""The answer's side in the sandbox: loads what the model wrote, and does what the other side asks of it.

Nothing here is trusted: the answer shares this process, and may do with it what it likes. All it can change are the
bytes that are sent back, and those are read as plain values by somebody who knows what they should be.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rlvr.rewards.code.values import NotPlain, decode, encode, frame, read_frame

PRELUDE, ANSWER = "prelude.py", "answer.py"
LINK = 3
_SOLUTION = "Solution"  # the class that LeetCode's answers put their function in


def load_answer() -> dict[str, Any]:
    """Run the prelude and the answer as one module that is not the main program, and give its names."""
    module = sys.modules["answer"] = ModuleType("answer")
    for name in (PRELUDE, ANSWER):
        exec(compile(Path(name).read_bytes(), name, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def function_named(name: str, names: dict[str, Any]) -> Any:
    """A function of the answer, or a method of its `Solution`. Raises NameError."""
    name = name.removeprefix(f"{_SOLUTION}().")
    if name in names:
        return names[name]
    if hasattr(names.get(_SOLUTION), name):
        return getattr(names[_SOLUTION](), name)
    raise NameError(f"the answer defines no {name!r}")


class Objects:
    """What has no plain form stays here, and the other side holds its number."""

    def __init__(self) -> None:
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}

    def number(self, value: object) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]

    def numbered(self, number: int) -> object:
        return self._objects[number]


def serve() -> None:
    """Answer the tests' requests until they end."""
    names = load_answer()
    objects = Objects()
    while (request := read_frame(lambda count: os.read(LINK, count))) is not None:
        try:
            reply = encode(["value", _do(decode(request, objects.numbered), names)], objects.number)
        except BaseException as error:  # noqa: BLE001 - whatever the answer raises is its reply
            reply = _raised(error)
        sent = frame(reply)
        while sent:
            sent = sent[os.write(LINK, sent) :]


def _do(request: list[Any], names: dict[str, Any]) -> Any:
    match request:
        case ["find", wanted]:
            return [_described(name, names) for name in wanted if name in names]
        case ["function", name]:
            return function_named(name, names)
        case ["call", function, args, kwargs]:
            return function(*args, **kwargs)
        case ["method", thing, name, args]:
            if not hasattr(thing, name):  # as Python says of its own objects; `list` relies on it
                raise TypeError(f"an object of type {type(thing).__name__} has no {name}")
            return getattr(thing, name)(*args)
        case ["get", thing, name]:
            return getattr(thing, name)
        case ["set", thing, name, value]:
            return setattr(thing, name, value)
        case ["truth", thing]:
            return bool(thing)
        case ["is", thing, kind]:
            return isinstance(thing, kind)
    raise ValueError(f"unknown request {request!r:.80}")


def _described(name: str, names: dict[str, Any]) -> list[Any]:
    """A name, what kind of thing it is where that matters to the tests, and the thing."""
    value = names[name]
    if isinstance(value, ModuleType):
        return [name, "module", value.__name__]
    if isinstance(value, type) and issubclass(value, BaseException):
        return [name, "exception", [kind.__name__ for kind in value.__mro__]]
    return [name, "value", value]


def _raised(error: BaseException) -> bytes:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    try:
        return encode(["raised", kinds, list(error.args)])
    except NotPlain:
        return encode(["raised", kinds, [str(error)]])
