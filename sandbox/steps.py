"""Isolation as data: a step is one system call to make, and why. Tables of steps are run by `executor`."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlvr.sandbox.syscalls import Machine


class Kept:
    """Stands for the result of the last step that keeps its own: a descriptor that it opened."""


KEPT = Kept()
KEPT_WORD = -(1 << 63)  # how KEPT looks in a row
WORDS_PER_ROW = 8  # number, six arguments, keeps


class Pointers:
    """A NULL-terminated array of C strings, as execve takes it."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self._strings = [ctypes.create_string_buffer(value) for value in values]
        addresses = [ctypes.addressof(string) for string in self._strings]
        self.array = ctypes.create_string_buffer(struct.pack(f"@{len(addresses) + 1}P", *addresses, 0))


Block = ctypes.Array[ctypes.c_char]
Argument = int | bytes | Kept | Block | Pointers


@dataclass(frozen=True, slots=True)
class Step:
    call: str
    args: tuple[Argument, ...]
    why: str
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Steps in the form that the executors read: rows of eight words. Holds the memory that they point to."""

    rows: bytes
    steps: tuple[Step, ...]
    memory: tuple[Block | Pointers, ...]

    def __add__(self, other: Table) -> Table:
        return Table(self.rows + other.rows, self.steps + other.steps, self.memory + other.memory)

    def __len__(self) -> int:
        return len(self.steps)


def compile_steps(machine: Machine, steps: Iterable[Step]) -> Table:
    rows: list[bytes] = []
    memory: list[Block | Pointers] = []
    steps = tuple(steps)
    for step in steps:
        words = [_word(arg, memory) for arg in step.args] + [0] * (6 - len(step.args))
        rows.append(struct.pack(f"={WORDS_PER_ROW}q", machine.numbers[step.call], *words, step.keeps))
    return Table(b"".join(rows), steps, tuple(memory))


def _word(arg: Argument, memory: list[Block | Pointers]) -> int:
    if isinstance(arg, int):
        return arg
    if isinstance(arg, Kept):
        return KEPT_WORD
    if isinstance(arg, Pointers):
        memory.append(arg)
        return ctypes.addressof(arg.array)
    block = ctypes.create_string_buffer(arg) if isinstance(arg, bytes) else arg
    memory.append(block)
    return ctypes.addressof(block)
