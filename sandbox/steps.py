"""Isolation as data: a step is one system call to make, and why. Tables of steps are run by `executor`."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from rlvr.sandbox.syscalls import Machine


class Kept:
    """Stands for the result of the last step that keeps its own: a descriptor that it opened."""


KEPT = Kept()
KEPT_WORD = -(1 << 63)  # how KEPT looks in a row
WORDS_PER_ROW = 9  # number, six arguments, their kinds, keeps
KIND_BITS = 2


class Kind(IntEnum):
    """Of an argument: a number, or where in the table's memory it lies."""

    NUMBER = 0
    BYTES = 1  # a C string or a struct
    STRINGS = 2  # an array of where the strings lie, with 0 at its end, as execve takes it once they are addresses


Argument = int | bytes | tuple[bytes, ...] | Kept


@dataclass(frozen=True, slots=True)
class Step:
    call: str
    args: tuple[Argument, ...]
    why: str
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Steps in the form that the executors read. Holds no addresses, so any process can run it."""

    rows: bytes
    memory: bytes
    steps: tuple[Step, ...]

    def __len__(self) -> int:
        return len(self.steps)


def compile_steps(machine: Machine, steps: Iterable[Step]) -> Table:
    memory = _Memory()
    steps = tuple(steps)
    rows = [_row(machine.numbers[step.call], step, memory) for step in steps]
    return Table(b"".join(rows), bytes(memory.content), steps)


def _row(number: int, step: Step, memory: _Memory) -> bytes:
    words, kinds = [0] * 6, 0
    for place, arg in enumerate(step.args):
        words[place], kind = _word(arg, memory)
        kinds |= kind << (KIND_BITS * place)
    return struct.pack(f"={WORDS_PER_ROW}q", number, *words, kinds, step.keeps)


def _word(arg: Argument, memory: _Memory) -> tuple[int, Kind]:
    if isinstance(arg, int):
        return arg, Kind.NUMBER
    if isinstance(arg, Kept):
        return KEPT_WORD, Kind.NUMBER
    if isinstance(arg, bytes):
        return memory.add(arg), Kind.BYTES
    places = [memory.add(string) for string in arg]
    return memory.add(struct.pack(f"={len(places) + 1}q", *places, 0)), Kind.STRINGS


class _Memory:
    def __init__(self) -> None:
        self.content = bytearray(8)  # so that no string lies at 0, which ends an array

    def add(self, content: bytes) -> int:
        place = len(self.content)
        self.content += content
        self.content += bytes(8 - len(content) % 8)  # a NUL at least, and the next one aligned
        return place
