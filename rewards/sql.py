"""Whether a query gives the rows that the reference query gives, on the same SQLite database.

Both run in the sandbox, each in a process of its own; rows are compared here. So a query can change neither the
database nor what is expected, and one that never ends is stopped.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rlvr.reward_function import reward
from rlvr.rewards.answer_text import answer_text
from rlvr.rewards.sql_in_sandbox import DATABASE
from rlvr.sandbox import Limits, Program, Result, Sandbox, Status
from rlvr.types import Outcome, Score

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:sql|sqlite)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_SOURCE = Path(__file__).with_name("sql_in_sandbox.py").read_text(encoding="utf-8")
_MIB = 1 << 20
_QUERY_CPU_S = 5.0
_OUTPUT_BYTES = 32 * _MIB
_REMEMBERED = 10_000  # results of references
_DIGITS = 9  # of a float that count: sums of the same numbers in another order differ in the last ones


@dataclass(frozen=True, slots=True)
class _Rows:
    """What a query gave."""

    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why it gave no rows, by its own fault."""

    why: str


class QueryNotRun(RuntimeError):
    """The sandbox failed, or the machine was too slow: that says nothing of the query. The outcome is CRASHED."""


@reward(name="sql")
async def sql(completion: str, target: str, database: str = "", script: str = "", ordered: bool = False) -> Score:
    """1.0 where the answer's query gives the rows of the query `target`, else 0.0 with what differs as detail.

    The query is the last fenced block of the answer, else all of it. It runs on the SQLite file at the path
    `database`, or on a new database that the SQL of `script` fills; each is fixed or a column. Columns are compared
    by place, rows as often as they occur, in any order unless `ordered`; 2 equals 2.0, and floats equal to 9 digits.
    Only one SELECT is allowed. NO_VERDICT where the reference fails, or gives no row: any query that finds nothing
    would equal it. Raises ValueError unless one of `database` and `script` is given, QueryNotRun, and
    SandboxUnavailable.
    """
    query = query_of(completion)
    if query is None:
        return Score(0.0, detail="no query in the answer")
    content = _database(database, script)
    queries = _queries_of(os.getpid())
    expected = await queries.expected(target, content)
    if isinstance(expected, _Fault):
        return Score(None, Outcome.NO_VERDICT, detail=f"sql: the reference query {expected.why}")
    if not expected.rows:
        return Score(None, Outcome.NO_VERDICT, detail="sql: the reference query gives no row, as many queries would")
    got = await queries.run(query, content)
    if isinstance(got, _Fault):
        return Score(0.0, detail=f"the query {got.why}")
    return Score(float(same_rows(got.rows, expected.rows, ordered)), detail=_difference(got.rows, expected.rows))


def query_of(completion: str) -> str | None:
    """The query in an answer, without its final semicolon; None where there is no answer."""
    answer = answer_text(completion)
    if not answer:
        return None
    fenced = _FENCE.findall(answer)
    return (fenced[-1] if fenced else answer).strip().rstrip(";").strip() or None


def same_rows(rows: Sequence[tuple[Any, ...]], expected: Sequence[tuple[Any, ...]], ordered: bool) -> bool:
    """Whether two results are the same, value by value."""
    mine, theirs = ([tuple(map(_comparable, row)) for row in result] for result in (rows, expected))
    return mine == theirs if ordered else Counter(mine) == Counter(theirs)


def _comparable(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _difference(rows: Sequence[tuple[Any, ...]], expected: Sequence[tuple[Any, ...]]) -> str:
    return f"{len(rows)} rows, first {rows[:1]!r:.100}; expected {len(expected)}, first {expected[:1]!r:.100}"


# ---------------------------------------------------------------- databases


def _database(path: str, script: str) -> bytes:
    if bool(path) == bool(script):
        raise ValueError("sql: give either `database`, the path of an SQLite file, or `script`, the SQL that makes one")
    return _made_by(script) if script else _content(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _made_by(script: str) -> bytes:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(script)
        return connection.serialize()
    finally:
        connection.close()


@lru_cache(maxsize=16)
def _content(path: str, changed_ns: int) -> bytes:
    """The file as it was when it changed last: `changed_ns` makes a new entry of a new file."""
    return Path(path).read_bytes()


# ---------------------------------------------------------------- queries


class _Queries:
    """Runs queries in a sandbox, and remembers what references gave: each is asked once for all answers to it."""

    def __init__(self) -> None:
        self._sandbox = Sandbox()
        self._expected: dict[tuple[str, int], _Rows | _Fault] = {}

    async def expected(self, query: str, content: bytes) -> _Rows | _Fault:
        key = (query, hash(content))
        if key not in self._expected:
            if len(self._expected) >= _REMEMBERED:
                del self._expected[next(iter(self._expected))]
            self._expected[key] = await self.run(query.strip().rstrip(";"), content)
        return self._expected[key]

    async def run(self, query: str, content: bytes) -> _Rows | _Fault:
        limits = Limits(
            wall_s=4 * _QUERY_CPU_S,
            cpu_s=_QUERY_CPU_S,
            output_bytes=_OUTPUT_BYTES,
            disk_bytes=len(content) + 64 * _MIB,
        )
        program = Program(_SOURCE, files={DATABASE: content})
        return _read(await self._sandbox.run_async(program, stdin=query.encode("utf-8", "replace"), limits=limits))


@cache
def _queries_of(process_id: int) -> _Queries:
    # By process: after a fork, the parent's servers are not the child's to speak with.
    return _Queries()


def _read(result: Result) -> _Rows | _Fault:
    match result.status:
        case Status.OK:
            answer = json.loads(result.stdout)
            if "error" in answer:
                return _Fault(f"fails: {answer['error']}")
            return _Rows([tuple(map(_hashable, row)) for row in answer["rows"]])
        case Status.CPU | Status.MEMORY | Status.OUTPUT | Status.DISK:
            return _Fault(f"takes more than it may: {result.status.value}")
        case _:
            raise QueryNotRun(
                f"{result.status.value}: {result.detail or result.stderr[-300:].decode(errors='replace')}"
            )


def _hashable(value: Any) -> Any:
    return bytes.fromhex(value["blob"]) if isinstance(value, dict) else value
