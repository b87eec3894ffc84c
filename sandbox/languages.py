"""How programs of each language are compiled and run. To add one is to add an entry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlvr.sandbox.job import MIB, Limits, Tier
from rlvr.sandbox.tools import Tool, find_tool, unreadable


class Start(Enum):
    FORK = "the warm interpreter forks"
    BINARY = "what the compiler left is executed"
    COMMAND = "`command` is executed"


@dataclass(frozen=True, slots=True)
class Header:
    """A header that programs include first and that takes long to read: it is compiled once, and then read so.

    `compiler` makes `artifact` of it. A compiler that is told to look in the folder INCLUDES finds that by itself.
    """

    name: str
    compiler: tuple[str, ...]
    artifact: str


INCLUDES = "include"
COMPILE_LIMITS = Limits(wall_s=20.0, cpu_s=20.0, memory_bytes=1024 * MIB, disk_bytes=128 * MIB, processes=64)


@dataclass(frozen=True, slots=True)
class Language:
    """`command` and `compiler` begin with the name of a tool (see tools.py) and run in the private folder.

    `artifact` is the file that the compiler leaves. A language that starts by a command gets it as a file again.
    {memory_bytes} in a word of `command` is the limit on memory.
    """

    name: str
    source: str  # how the source file is called
    start: Start
    command: tuple[str, ...] = ()
    compiler: tuple[str, ...] = ()
    artifact: str = ""
    tools: tuple[str, ...] = ()  # what these call in turn, and may be missing
    environment: tuple[str, ...] = ()
    home: tuple[str, ...] = ()  # arguments with which its tool says where it is installed, if `bin/..` is not that
    linkers: tuple[tuple[str, str], ...] = ()  # (tool, word for the compiler): the first that is installed is used
    header: Header | None = None
    sample: str = ""  # a program that every compiler of it compiles, if it is not broken itself
    compile_limits: Limits = COMPILE_LIMITS

    def tool_names(self) -> list[str]:
        return [*(words[0] for words in (self.compiler, self.command) if words), *self.tools]

    def find(self, tool: str) -> Tool | None:
        return find_tool(tool, self.home if tool == self.tool_names()[0] else ())

    def folders(self) -> list[str]:
        """Of its tools that lie outside the system's folders."""
        tools = [self.find(name) for name in self.tool_names()]
        return sorted({tool.folder for tool in tools if tool is not None and tool.folder is not None})

    def missing(self, tier: Tier | None = None) -> str | None:
        """Why programs of this language cannot be run here, or not in that tier; None if they can."""
        for name in self.tool_names():
            tool = self.find(name)
            if tool is None:
                return f"{name!r} is not installed (looked in the system's folders and in PATH)"
            reason = unreadable(tool.folder, tier) if tier is not None and tool.folder is not None else None
            if reason is not None:
                return f"{name!r} is at {tool.path}, which programs cannot read in tier {tier}: {reason}"
        return None

    def linker(self) -> tuple[str, ...]:
        return next(((word,) for tool, word in self.linkers if find_tool(tool) is not None), ())


_LINKERS = (("ld.mold", "-fuse-ld=mold"), ("ld.lld", "-fuse-ld=lld"), ("ld.gold", "-fuse-ld=gold"))
_C_SAMPLE = "int main() { return 0; }"
_CPP = ("g++", "-O2", "-std=gnu++17", "-pipe")
# A JVM lives for a fraction of a second here: the quick compiler alone, and a collector without threads.
_JVM = ("-Xshare:auto", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")

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
            linkers=_LINKERS,
            sample=_C_SAMPLE,
        ),
        Language(
            "cpp",
            "main.cpp",
            Start.BINARY,
            compiler=(*_CPP, f"-I{INCLUDES}", "-o", "main", "main.cpp"),
            artifact="main",
            linkers=_LINKERS,
            header=Header("bits/stdc++.h", (*_CPP, "-x", "c++-header", "-o", "header.gch"), "header.gch"),
            sample=_C_SAMPLE,
        ),
        Language("bash", "main.sh", Start.COMMAND, command=("bash", "main.sh")),
        Language(
            "javascript",
            "main.js",
            Start.COMMAND,
            command=("node", "main.js"),
            environment=("OPENSSL_CONF=/dev/null",),  # which it opens first, and may not find shut
        ),
        Language(
            "rust",
            "main.rs",
            Start.BINARY,
            compiler=("rustc", "--edition=2021", "-O", "-o", "main", "main.rs"),
            artifact="main",
            tools=("cc",),
            home=("--print", "sysroot"),
            sample="fn main() {}",
        ),
        Language(
            "go",
            "main.go",
            Start.BINARY,
            compiler=("go", "build", "-o", "main", "main.go"),
            artifact="main",
            home=("env", "GOROOT"),
            environment=("GOTOOLCHAIN=local", "GO111MODULE=off"),
            sample="package main\n\nfunc main() {}\n",
        ),
        Language(
            "java",
            "Main.java",  # and its class Main has the program's main
            Start.COMMAND,
            command=("java", *_JVM, "-XX:MaxRAM={memory_bytes}", "-XX:MaxRAMPercentage=60", "-cp", "main.jar", "Main"),
            compiler=("bash", "-c", "javac -d classes Main.java && jar -c -f main.jar -0 -C classes ."),
            artifact="main.jar",
            tools=("javac", "jar"),
            sample="class Main { public static void main(String[] arguments) {} }",
        ),
    )
}


def language_named(name: str) -> Language:
    """Raises ValueError with the names that there are."""
    if name not in LANGUAGES:
        raise ValueError(f"unknown language {name!r}; there are {', '.join(sorted(LANGUAGES))}")
    return LANGUAGES[name]


def tool_folders(tier: Tier) -> list[str]:
    """Where the tools of all languages lie, outside the system's folders, that programs of that tier may read."""
    folders = {folder for language in LANGUAGES.values() for folder in language.folders()}
    return sorted(folder for folder in folders if unreadable(folder, tier) is None)
