"""How programs of each language are compiled and run. To add one is to add an entry."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from enum import Enum

from rlvr.sandbox.job import MIB, Limits

PATH = "/usr/local/bin:/usr/bin:/bin"


class Start(Enum):
    FORK = "the warm interpreter forks"
    BINARY = "what the compiler left is executed"
    COMMAND = "`command` is executed"


@dataclass(frozen=True, slots=True)
class Language:
    """`command` and `compiler` begin with the name of a program, looked up in `search`, and run in the private folder.

    `artifact` is the file that the compiler leaves. A language that starts by a command gets it as a file again.
    """

    name: str
    source: str  # how the source file is called
    start: Start
    command: tuple[str, ...] = ()
    compiler: tuple[str, ...] = ()
    artifact: str = ""
    environment: tuple[str, ...] = ()
    search: str = PATH
    readable: tuple[str, ...] = ()  # where its tools lie, if that is outside the system's folders
    compile_limits: Limits = field(
        default=Limits(wall_s=20.0, cpu_s=20.0, memory_bytes=1024 * MIB, disk_bytes=128 * MIB, processes=32)
    )

    def find(self, tool: str) -> str | None:
        """The tool's path; None if it is not installed."""
        return shutil.which(tool, path=self.search)

    def missing(self) -> str | None:
        """The tool that this language needs and that is not there."""
        tools = [words[0] for words in (self.compiler, self.command) if words]
        return next((tool for tool in tools if self.find(tool) is None), None)


LANGUAGES = {
    language.name: language
    for language in (
        Language("python", "main.py", Start.FORK),
        Language(
            "c",
            "main.c",
            Start.BINARY,
            compiler=("gcc", "-O2", "-std=gnu17", "-pipe", "-o", "main", "main.c", "-lm"),
            artifact="main",
        ),
        Language(
            "cpp",
            "main.cpp",
            Start.BINARY,
            compiler=("g++", "-O2", "-std=gnu++17", "-pipe", "-o", "main", "main.cpp"),
            artifact="main",
        ),
        Language("bash", "main.sh", Start.COMMAND, command=("bash", "main.sh")),
    )
}


def language_named(name: str) -> Language:
    """Raises ValueError with the names that there are."""
    if name not in LANGUAGES:
        raise ValueError(f"unknown language {name!r}; there are {', '.join(sorted(LANGUAGES))}")
    return LANGUAGES[name]
