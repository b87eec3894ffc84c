"""`rlvr sandbox`: what this machine gives, and one program run by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from rlvr.sandbox.job import MIB, Limits, Program, Result, SandboxUnavailable, Status, Tier
from rlvr.sandbox.languages import LANGUAGES
from rlvr.sandbox.sandbox import Sandbox

app = typer.Typer(help="Programs of strangers, run safely: try one, or see what this machine gives.")

_DEFAULT = Limits()
_FAILURE_OF_OURS = 3


@app.command()
def doctor() -> None:
    """Say what this machine gives, and let programs try to get out. Exit code 1: one did, or nothing can run."""
    from rlvr.sandbox.doctor import examine, show

    sys.exit(0 if show(examine()) else 1)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="the program's source", exists=True, dir_okay=False)],
    language: Annotated[str | None, typer.Option(help=f"one of {', '.join(LANGUAGES)}; unset: by the suffix")] = None,
    stdin: Annotated[str | None, typer.Option(help="a file with its input, or - for ours; unset: none")] = None,
    wall_s: Annotated[float, typer.Option(help="seconds on the clock")] = _DEFAULT.wall_s,
    cpu_s: Annotated[float, typer.Option(help="seconds of all its processors")] = _DEFAULT.cpu_s,
    memory_mib: Annotated[float, typer.Option(help="MiB of all its processes")] = _DEFAULT.memory_bytes / MIB,
    output_mib: Annotated[float, typer.Option(help="MiB on stdout, and on stderr")] = _DEFAULT.output_bytes / MIB,
    disk_mib: Annotated[float, typer.Option(help="MiB written to its folder")] = _DEFAULT.disk_bytes / MIB,
    processes: Annotated[int, typer.Option(help="processes and threads at one time")] = _DEFAULT.processes,
    preload: Annotated[list[str] | None, typer.Option(help="a Python package to import first; repeatable")] = None,
    tier: Annotated[Tier, typer.Option(help="refuse to run with less isolation than this")] = Tier.LANDLOCK,
) -> None:
    """Run one program, pass its output on, and say how it ended.

    Exit code 0: the status is ok; 1: it is another; 2: it cannot be run; 3: the sandbox failed.
    """
    try:
        limits = Limits(
            wall_s=wall_s,
            cpu_s=cpu_s,
            memory_bytes=_bytes("--memory-mib", memory_mib),
            output_bytes=_bytes("--output-mib", output_mib),
            disk_bytes=_bytes("--disk-mib", disk_mib),
            processes=processes,
        )
        program = Program(_source(file), language or _language_of(file))
        with Sandbox(slots=1, preload=tuple(preload or ()), minimum_tier=tier) as sandbox:
            result = sandbox.run(program, stdin=_input(stdin), limits=limits)
    except (ValueError, OSError, SandboxUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    _tell(result)
    sys.exit({Status.OK: 0, Status.SANDBOX_ERROR: _FAILURE_OF_OURS}.get(result.status, 1))


def _bytes(option: str, mib: float) -> int:
    if not math.isfinite(mib):
        raise ValueError(f"{option} {mib}: expected a number of MiB")
    return round(mib * MIB)


def _source(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text in UTF-8, from byte {error.start} on") from None


def _language_of(file: Path) -> str:
    for language in LANGUAGES.values():
        if file.suffix and file.suffix == Path(language.source).suffix:
            return language.name
    raise ValueError(f"{file}: no language has files that end in {file.suffix!r}; name one with --language")


def _input(stdin: str | None) -> bytes:
    if stdin is None:
        return b""
    return sys.stdin.buffer.read() if stdin == "-" else Path(stdin).read_bytes()


def _tell(result: Result) -> None:
    sys.stdout.buffer.write(result.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(result.stderr)
    end = f"signal {result.signal}" if result.signal is not None else f"exit code {result.exit_code}"
    facts = [
        f"{result.status}" + (f" ({result.detail})" if result.detail else ""),
        end if result.status is not Status.SANDBOX_ERROR else "no end",
        f"wall {result.wall_s:.3f} s",
        f"CPU {result.cpu_s:.3f} s",
        f"peak memory {result.peak_memory_bytes / MIB:.1f} MiB",
        f"tier {result.tier}",
    ]
    print(f"[{'; '.join(facts)}]", file=sys.stderr)
