"""What goes into the sandbox and what comes out: programs, limits, results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1 << 20


class Status(StrEnum):
    """How a program ended. Only OK is a clean end; SANDBOX_ERROR alone says nothing about the program."""

    OK = "ok"  # by itself, exit code 0
    WRONG_EXIT = "wrong_exit"  # by itself, another exit code
    KILLED = "killed"  # by a signal that no limit of ours sent: a crash, or its own doing
    TIMEOUT = "timeout"  # wall time
    CPU = "cpu"  # CPU time
    MEMORY = "memory"
    OUTPUT = "output"  # more on stdout or stderr than is read
    PROCESSES = "processes"  # more processes and threads than allowed
    DISK = "disk"  # more written than allowed
    COMPILE_ERROR = "compile_error"  # the compiler refused it; `stderr` is the compiler's
    SANDBOX_ERROR = "sandbox_error"  # a failure of ours, after a second try: no verdict on the program


class SandboxUnavailable(Exception):
    """This machine gives less isolation than was asked for. The message says what is missing and what to do."""


class Tier(StrEnum):
    """What stands between the program and the machine, from most to least."""

    FULL = "full"  # namespaces, private root, Landlock, seccomp, limits
    LANDLOCK = "landlock"  # no namespaces here: Landlock, seccomp, limits
    NONE = "none"  # limits alone; only where the caller asked for it by name


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `memory_bytes` and `processes` are of all its processes together."""

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_bytes: int = 512 * MIB
    output_bytes: int = 1 * MIB  # of stdout and of stderr, each
    disk_bytes: int = 64 * MIB
    processes: int = 32


@dataclass(frozen=True, slots=True)
class Program:
    """Source text in a language of `rlvr.sandbox.languages`, with files that lie beside it (name -> content)."""

    source: str
    language: str = "python"
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left. `exit_code` is None when a signal ended it, and `signal` when none did.

    `files` are those that the caller asked to collect and that were there. `detail` says in a sentence what
    went wrong, where `status` alone does not. `compile_s` is what its compiler took just before, 0 where the program
    was compiled earlier.
    """

    status: Status
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    signal: int | None = None
    wall_s: float = 0.0
    compile_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    tier: Tier = Tier.FULL
    detail: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
