"""Plain values as bytes and back, between programs that do not trust each other.

What comes back is made of exact builtin types, whatever the sender had: a subclass of `str` with an `__eq__` of its own
arrives as a `str`. Nothing that is read can name code to run. Also runs inside the sandbox: it needs nothing of ours.
"""

import json
import re
import struct
import sys
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

DEEPEST = 100  # levels of nesting
MOST_NODES = 2_000_000
MOST_BYTES = 32 << 20
_JSON_INTEGER = 1 << 63  # larger ones travel as hexadecimal digits, which take linear time
_LONGEST_FRACTION = 1 << 12  # hexadecimal digits of its parts: reading it takes the square of their number
_NUMBER_KINDS = "biufc"  # of a numpy array
_ARRAY = re.compile(rf"[{_NUMBER_KINDS}]\d{{1,2}}")

# What reading bytes that no program of ours wrote may raise; ImportError where an array comes and numpy is not here.
_UNREADABLE = (
    *(ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError, AttributeError, ImportError),
)

Refer = Callable[[object], int]
Resolve = Callable[[int], object]


class NotPlain(TypeError):
    """A value that has no plain form: an object, a function, something nested in itself."""


class TooLarge(NotPlain):
    """A value that is nested too deep, or in itself, or too large."""


class Malformed(ValueError):
    """Bytes that are no values of ours."""


def encode(value: object, refer: Refer | None = None) -> bytes:
    """Objects without a plain form are replaced by the number that `refer` gives. Raises NotPlain, TooLarge."""
    return json.dumps(_Packer(refer).pack(value, DEEPEST), separators=(",", ":")).encode()


def decode(data: bytes, resolve: Resolve | None = None) -> Any:
    """The value; `resolve` gives what stands for an object's number. Raises Malformed."""
    if len(data) > MOST_BYTES:
        raise Malformed(f"a value of {len(data)} bytes: more than {MOST_BYTES}")
    try:
        return _Unpacker(resolve).unpack(json.loads(data))
    except Malformed:
        raise
    except _UNREADABLE as error:
        raise Malformed(f"not a value: {type(error).__name__}: {error}") from None


class _Packer:
    """To what JSON holds as it is, and else a list that begins with the name of a type."""

    def __init__(self, refer: Refer | None) -> None:
        self._refer = refer
        self._nodes = 0

    def pack(self, value: Any, depth: int) -> Any:
        self._nodes += 1
        if depth == 0 or self._nodes > MOST_NODES:
            raise TooLarge("a value that is nested too deep, or in itself, or too large")
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            value = value.item()
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            number = int(value)
            return number if -_JSON_INTEGER < number < _JSON_INTEGER else ["int", hex(number)]
        if isinstance(value, float):
            return float(value)
        if isinstance(value, str):
            return value if type(value) is str else "".join(value)
        if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in _NUMBER_KINDS:
            items = [self.pack(item, 2) for item in value.ravel().tolist()]
            return ["array", value.dtype.kind + str(value.dtype.itemsize), list(value.shape), items]
        return self._scalar(value) or self._collection(value, depth - 1) or self._reference(value)

    def _scalar(self, value: Any) -> list[Any] | None:
        match value:
            case complex():
                return ["complex", value.real, value.imag]
            case bytes() | bytearray():
                return [_base(value, bytes, bytearray), value.hex()]
            case range():
                return ["range", *(self.pack(part, 1) for part in (value.start, value.stop, value.step))]
            case Decimal():
                return ["Decimal", str(value)]
            case Fraction():
                parts = [hex(value.numerator), hex(value.denominator)]
                if max(map(len, parts)) > _LONGEST_FRACTION:
                    raise TooLarge("a fraction of too many digits")
                return ["Fraction", *parts]
            case datetime() | date() | time():
                return [_base(value, datetime, date, time), value.isoformat()]
            case timedelta():
                return ["timedelta", value.days, value.seconds, value.microseconds]
            case _:
                return None

    def _collection(self, value: Any, depth: int) -> list[Any] | None:
        match value:
            case dict():
                return ["dict", [[self.pack(k, depth), self.pack(v, depth)] for k, v in dict.items(value)]]
            case list() | tuple() | set() | frozenset() | deque():
                name = _base(value, list, tuple, set, frozenset, deque)
                return [name, [self.pack(item, depth) for item in value]]
            case _:
                return None

    def _reference(self, value: object) -> list[Any]:
        if self._refer is None:
            raise NotPlain(f"a value of type {type(value).__name__}")
        return ["object", self._refer(value)]


def _base(value: object, *types: type) -> str:
    return next(kind.__name__ for kind in types if isinstance(value, kind))


class _Unpacker:
    def __init__(self, resolve: Resolve | None) -> None:
        self._resolve = resolve
        self._nodes = 0

    def unpack(self, tree: Any, depth: int = DEEPEST) -> Any:
        self._nodes += 1
        if depth == 0 or self._nodes > MOST_NODES:
            raise Malformed("a value that is nested too deep, or too large")
        if not isinstance(tree, list):
            if isinstance(tree, dict):
                raise Malformed("a JSON object")
            return tree
        name, *parts = tree
        match name, parts:
            case "int", [str(digits)]:
                return int(digits, 16)
            case "complex", [real, imaginary]:
                return complex(float(real), float(imaginary))
            case "bytes", [str(digits)]:
                return bytes.fromhex(digits)
            case "bytearray", [str(digits)]:
                return bytearray.fromhex(digits)
            case "range", [start, stop, step]:
                return range(self.unpack(start), self.unpack(stop), self.unpack(step))
            case "Decimal", [str(digits)]:
                return Decimal(digits)
            case "Fraction", [str(above), str(below)] if max(len(above), len(below)) <= _LONGEST_FRACTION:
                return Fraction(int(above, 16), int(below, 16))
            case "datetime" | "date" | "time", [str(text)]:
                kinds: dict[str, Any] = {"datetime": datetime, "date": date, "time": time}
                return kinds[name].fromisoformat(text)
            case "timedelta", [int(days), int(seconds), int(microseconds)]:
                return timedelta(days, seconds, microseconds)
            case "dict", [list(pairs)]:
                return {self.unpack(key, depth - 1): self.unpack(value, depth - 1) for key, value in pairs}
            case "list" | "tuple" | "set" | "frozenset" | "deque", [list(items)]:
                kinds = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
                return kinds[name](self.unpack(item, depth - 1) for item in items)
            case "array", [str(kind), list(shape), list(items)] if _ARRAY.fullmatch(kind):
                return self._unpack_array(kind, shape, items)
            case "object", [int(number)] if self._resolve is not None:
                return self._resolve(number)
            case _:
                raise Malformed(f"unknown form {str(name)[:40]!r}")

    def _unpack_array(self, kind: str, shape: list[int], items: list[Any]) -> Any:
        import numpy

        return numpy.array([self.unpack(item) for item in items], dtype=kind).reshape(shape)


# ---------------------------------------------------------------- over a socket

_LENGTH = struct.Struct("!I")


def frame(data: bytes) -> bytes:
    """A message, with its length before it."""
    return _LENGTH.pack(len(data)) + data


def read_frame(read: Callable[[int], bytes]) -> bytes | None:
    """The next message; None where the other side has ended. Raises Malformed.

    `read` gives at most so many bytes, and none at the end.
    """
    head = _read_exactly(read, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MOST_BYTES:
        raise Malformed(f"a message of {length} bytes: more than {MOST_BYTES}")
    return _read_exactly(read, length)


def _read_exactly(read: Callable[[int], bytes], count: int) -> bytes | None:
    pieces = []
    while count > 0:
        piece = read(min(count, 1 << 20))
        if not piece:
            return None
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
