"""From a program to the jobs that compile and run it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rlvr.sandbox.isolation import PROGRAM
from rlvr.sandbox.job import MIB, Limits, Program, Tier
from rlvr.sandbox.languages import INCLUDES, Header, Language, Start, language_named
from rlvr.sandbox.link import ENVIRONMENT
from rlvr.sandbox.sealed import sealed
from rlvr.sandbox.wire import Job

_HEADER_BYTES = 512 * MIB  # a compiled header may be large


@dataclass(slots=True)
class Plan:
    """A job with the descriptors that go with it, after its stdin and its link. `close` when it has ended."""

    job: Job
    descriptors: list[int] = field(default_factory=list)

    def close(self) -> None:
        for descriptor in set(self.descriptors):
            os.close(descriptor)


def check_call(program: Program, limits: Limits, collect: tuple[str, ...]) -> Language:
    """Raises ValueError for what could never run."""
    language = language_named(program.language)
    for name in (*program.files, *collect):
        if not name or "\0" in name or name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"{name!r} cannot be a file in a program's folder: give a relative path without '..'")
    if language.source in program.files:
        raise ValueError(f"files: {language.source!r} is how the program itself is called")
    for limit in Limits.__slots__:
        if not getattr(limits, limit) > 0:
            raise ValueError(f"limits: {limit} must be above 0, got {getattr(limits, limit)}")
    return language


def source_bytes(program: Program) -> bytes:
    """As a file: a lone surrogate, which UTF-8 does not have, stays what it is for the compiler to refuse."""
    return program.source.encode(errors="surrogatepass")


def check_installed(language: Language, tier: Tier) -> None:
    """Raises ValueError where this machine has no such language, or not for programs of that tier."""
    reason = language.missing(tier)
    if reason is not None:
        raise ValueError(f"{language.name} programs cannot be run here: {reason}")


def compile_plan(program: Program, language: Language, header: int | None, most_s: float | None = None) -> Plan:
    """`header` is the language's compiled one, for programs that include it, and is the plan's to close."""
    files = {language.source: source_bytes(program), **program.files}
    command, limits = (*language.compiler, *language.linker()), language.compile_limits
    if most_s is not None:
        limits = replace(limits, wall_s=min(limits.wall_s, most_s))
    job = _command_job(language, command, limits, files, collect=(language.artifact,), keep=False)
    archive = sealed(*files.values())
    if header is None or language.header is None:
        return Plan(job, [archive])
    link = (f"{INCLUDES}/{language.header.name}.gch", f"/proc/self/fd/{PROGRAM}")
    return Plan(replace(job, has_program=True, links=(link,)), [header, archive])


def header_plan(language: Language, header: Header) -> Plan:
    """How to compile it."""
    files = {"header.h": f"#include <{header.name}>\n".encode()}
    limits = replace(language.compile_limits, wall_s=60.0, cpu_s=60.0, disk_bytes=_HEADER_BYTES)
    job = _command_job(language, (*header.compiler, *files), limits, files, collect=(header.artifact,), keep=False)
    return Plan(job, [sealed(*files.values())])


def includes(program: Program, header: Header) -> bool:
    """Whether it is among what the program includes first: a compiler takes it compiled only there."""
    for line in program.source.splitlines():
        word = line.strip()
        if word.startswith("#") and word[1:].lstrip().startswith("include"):
            return word[1:].split("include", 1)[1].strip(' \t<>"') == header.name
    return False


def run_plan(
    program: Program, language: Language, compiled: int | None, limits: Limits, collect: tuple[str, ...], *, keep: bool
) -> Plan:
    """How to run it. `compiled` is what the compiler left, and is the plan's to close."""
    files: dict[str, bytes] = dict(program.files)
    if language.start is Start.BINARY:
        assert compiled is not None
        job = _job(language, (f"./{language.artifact}",), None, limits, files, collect, keep, has_program=True)
        return Plan(job, [compiled, *([sealed(*files.values())] if files else [])])
    if compiled is None:
        files = {language.source: source_bytes(program), **files}
    else:
        files = {language.artifact: os.pread(compiled, os.fstat(compiled).st_size, 0), **files}
        os.close(compiled)
    archive = sealed(*files.values())
    if language.start is Start.FORK:
        job = _job(language, (), None, limits, files, collect, keep, has_program=True)
        return Plan(job, [archive, archive])
    return Plan(_command_job(language, language.command, limits, files, collect, keep=keep), [archive])


def _command_job(
    language: Language,
    command: tuple[str, ...],
    limits: Limits,
    files: Mapping[str, bytes],
    collect: tuple[str, ...],
    *,
    keep: bool,
) -> Job:
    tool = language.find(command[0])
    assert tool is not None, f"{command[0]} was there when the program was checked"
    words = tuple(word.replace("{memory_bytes}", str(limits.memory_bytes)) for word in command)
    return _job(language, words, tool.path, limits, files, collect, keep, has_program=False)


def _job(
    language: Language,
    arguments: tuple[str, ...],
    path: str | None,
    limits: Limits,
    files: Mapping[str, bytes],
    collect: tuple[str, ...],
    keep: bool,
    *,
    has_program: bool,
) -> Job:
    path_folders = ":".join([ENVIRONMENT["PATH"], *(f"{folder}/bin" for folder in language.folders())])
    environment = tuple(f"{name}={value}" for name, value in (ENVIRONMENT | {"PATH": path_folders}).items())
    return Job(
        arguments=arguments,
        path=path,
        python=language.start is Start.FORK,
        environment=(*environment, *language.environment),
        limits=limits,
        files=tuple((name, len(content)) for name, content in files.items()),
        links=(),
        collect=collect,
        collect_bytes=limits.disk_bytes,
        has_program=has_program,
        has_link=False,
        keep=keep,
        wall_s=limits.wall_s,
    )
