"""Whether a query gives the rows that the reference query gives, on the same SQLite database.

Both run in the sandbox, each in a process of its own; rows are compared out of it. So a query can change neither the
database nor what is expected, and one that never ends is stopped.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rlvr.reward_function import reward
from rlvr.rewards.answer_text import answer_text
from rlvr.rewards.once import Once
from rlvr.rewards.sql_in_sandbox import DATABASE
from rlvr.rewards.sql_rows import QueryFailed, score_of, why_no_reference
from rlvr.sandbox import Limits, Program, Sandbox, Status
from rlvr.types import Outcome, Score
from rlvr.workers.pool import WorkerPool

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:sql|sqlite)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_SOURCE = Path(__file__).with_name("sql_in_sandbox.py").read_text(encoding="utf-8")
_MIB = 1 << 20
_QUERY_CPU_S = 5.0
_OUTPUT_BYTES = 32 * _MIB
_REMEMBERED = 10_000  # results of references
_READ_AT_ONCE_BYTES = 1 << 16  # of results; more are read in a worker
_READING_DEADLINE_S = 60.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Reference:
    """What the reference query gave, and why nothing can be compared with it; empty where it can."""

    answer: bytes
    why_not: str


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
    queries = _queries_of(os.getpid())
    content = await queries.database(database, script)
    reference = await queries.reference(target, content)
    if reference.why_not:
        return Score(None, Outcome.NO_VERDICT, detail=f"sql: the reference query {reference.why_not}")
    try:
        answer = await queries.run(query, content)
    except QueryFailed as error:
        return Score(0.0, detail=f"the query {error}")
    return await queries.compute(score_of, answer, reference.answer, ordered)


def query_of(completion: str) -> str | None:
    """The query in an answer, without its final semicolon; None where there is no answer."""
    answer = answer_text(completion)
    if not answer:
        return None
    fenced = _FENCE.findall(answer)
    return (fenced[-1] if fenced else answer).strip().rstrip(";").strip() or None


class _Queries:
    """Runs queries in a sandbox. Databases and what references gave are made once for all answers that need them."""

    def __init__(self) -> None:
        self._sandbox = Sandbox()
        self._workers = WorkerPool(size=2, preload=("rlvr.rewards.sql_rows",))
        self._made: Once[bytes] = Once(64)
        self._files: Once[bytes] = Once(16)
        self._references: Once[_Reference] = Once(_REMEMBERED)

    async def database(self, path: str, script: str) -> bytes:
        if bool(path) == bool(script):
            raise ValueError(
                "sql: give either `database`, the path of an SQLite file, or `script`, the SQL that makes one"
            )
        if script:
            return await self._made.get(script, lambda: asyncio.to_thread(_made_by, script))
        file = Path(path)
        changed_ns = file.stat().st_mtime_ns  # a new key for a new file
        return await self._files.get((path, changed_ns), lambda: asyncio.to_thread(file.read_bytes))

    async def reference(self, query: str, content: bytes) -> _Reference:
        return await self._references.get((query, hash(content)), lambda: self._asked(query, content))

    async def _asked(self, query: str, content: bytes) -> _Reference:
        try:
            answer = await self.run(query.strip().rstrip(";"), content)
        except QueryFailed as error:
            return _Reference(b"", str(error))
        return _Reference(answer, await self.compute(why_no_reference, answer))

    async def run(self, query: str, content: bytes) -> bytes:
        """The rows it gave, or its error, as `sql_rows` reads them. Raises QueryNotRun, and QueryFailed at a limit."""
        limits = Limits(
            wall_s=4 * _QUERY_CPU_S,
            cpu_s=_QUERY_CPU_S,
            output_bytes=_OUTPUT_BYTES,
            disk_bytes=len(content) + 64 * _MIB,
        )
        program = Program(_SOURCE, files={DATABASE: content})
        result = await self._sandbox.run_async(program, stdin=query.encode("utf-8", "replace"), limits=limits)
        match result.status:
            case Status.OK:
                return result.stdout
            case Status.CPU | Status.MEMORY | Status.OUTPUT | Status.DISK:
                raise QueryFailed(f"takes more than it may: {result.status.value}")
            case _:
                raise QueryNotRun(
                    f"{result.status.value}: {result.detail or result.stderr[-300:].decode(errors='replace')}"
                )

    async def compute(self, function: Callable[..., _T], *of: Any) -> _T:
        """Of answers: small ones here, large ones in a worker."""
        if sum(len(answer) for answer in of if isinstance(answer, bytes)) <= _READ_AT_ONCE_BYTES:
            return function(*of)
        return await self._workers.run(function, *of, deadline_s=_READING_DEADLINE_S)


@cache
def _queries_of(process_id: int) -> _Queries:
    # By process: after a fork, the parent's servers are not the child's to speak with.
    return _Queries()


def _made_by(script: str) -> bytes:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(script)
        return connection.serialize()
    finally:
        connection.close()
