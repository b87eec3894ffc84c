"""The rows of sandbox_attacks.jsonl, run and judged. Also a program of its own, for another user to run:

python attack_rows.py TIER   prints one JSON line per row
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlvr.sandbox import Limits, Program, Result, Sandbox, Status, Tier

SECRET = "SECRET_EXPECTED_OUTPUT"
LIMITS = Limits(wall_s=1.0, cpu_s=1.0, memory_bytes=256 << 20, processes=32)
KILLED = {Status.TIMEOUT: "wall", Status.OUTPUT: "output", Status.MEMORY: "memory", Status.CPU: "cpu"}


@dataclass(frozen=True)
class Row:
    id: str
    language: str
    code: str
    stdin: str
    check: str


@dataclass(frozen=True)
class Verdict:
    id: str
    holds: bool
    tier: str
    seen: str


def rows() -> list[Row]:
    lines = Path(os.environ["RLVR_DATA"], "sandbox_attacks.jsonl").read_text(encoding="utf-8").splitlines()
    return [Row(**{name: json.loads(line)[name] for name in Row.__annotations__}) for line in lines]


def shell_code(result: Result) -> int:
    return result.exit_code if result.exit_code is not None else 128 + (result.signal or 0)


def judge(sandbox: Sandbox, row: Row) -> Verdict:
    """A row that the clock spoiled, on a busy machine, is run once more with more time."""
    verdict, late = _try(sandbox, row, LIMITS)
    return _try(sandbox, row, replace(LIMITS, wall_s=5.0, cpu_s=5.0))[0] if late and not verdict.holds else verdict


def _try(sandbox: Sandbox, row: Row, limits: Limits) -> tuple[Verdict, bool]:
    started = time.monotonic()
    result = sandbox.run(Program(row.code, row.language), stdin=row.stdin.encode(), limits=limits)
    names = {
        "out": result.stdout,
        "err": result.stderr,
        "code": shell_code(result),
        "killed": KILLED.get(result.status, ""),
        "dt": time.monotonic() - started,
        "rss_kb": result.peak_memory_bytes >> 10,
    }
    in_time = result.wall_s <= limits.wall_s + 0.1 or row.language == "cpp"
    holds = bool(eval(row.check, {}, names)) and in_time and result.status is not Status.SANDBOX_ERROR
    late = result.status is Status.TIMEOUT or not in_time
    return Verdict(row.id, holds, result.tier, repr(result)[:600]), late


def judge_all(sandbox: Sandbox) -> list[Verdict]:
    # What a grader holds, in the process that calls the sandbox: no attack may find it.
    expected = {"answer": SECRET}
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda row: judge(sandbox, row), rows()))
    assert expected["answer"] == SECRET
    return verdicts


if __name__ == "__main__":
    with Sandbox(slots=4, only_tier=Tier(sys.argv[1])) as of_tier:
        for verdict in judge_all(of_tier):
            print(json.dumps(asdict(verdict)))
