"""The reward `sql`: rows decide, the sandbox runs the query, and nothing but one SELECT gets through."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from rlvr.rewards import sql as sql_module
from rlvr.rewards import sql_rows
from rlvr.rewards.sql import QueryNotRun, query_of, sql
from rlvr.rewards.sql_rows import same_rows
from rlvr.sandbox import Result, Sandbox, Status
from rlvr.types import Outcome, Score

SCRIPT = """
CREATE TABLE town (name TEXT, people INTEGER, area REAL);
INSERT INTO town VALUES ('Ulm', 126000, 118.7), ('Jena', 110000, 114.8), ('Trier', 110000, 117.1);
"""
GOLD = "SELECT name FROM town WHERE people < 120000;"


async def scored(answer: str, target: str = GOLD, **arguments: object) -> Score:
    return await sql.function(completion=answer, target=target, **({"script": SCRIPT} | arguments))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("SELECT name FROM town WHERE people = 110000", 1.0),
        (
            "<think>SELECT 1</think>```sql\nSELECT 1;\n```\nNo:\n```sql\nSELECT name FROM town LIMIT 2 OFFSET 1;\n```",
            1.0,
        ),
        ("<answer>SELECT name AS n FROM town WHERE area < 118 ORDER BY name DESC</answer>", 1.0),
        ("VALUES ('Trier'), ('Jena')", 1.0),
        ("SELECT name FROM town", 0.0),
        ("SELECT name, people FROM town WHERE people = 110000", 0.0),
        ("SELECT 'Jena' UNION ALL SELECT 'Jena' UNION ALL SELECT 'Trier'", 0.0),  # a row too often
        ("SELECT name FROM city", 0.0),
        ("It is Jena and Trier.", 0.0),
        ("<think>SELECT name FROM town WHERE people = 110000", 0.0),
        ("", 0.0),
    ],
)
async def test_the_rows_decide(answer: str, value: float) -> None:
    got = await scored(answer)
    assert (got.value, got.outcome) == (value, Outcome.SCORED), got.detail


@pytest.mark.parametrize(
    "answer",
    [
        "SELECT name FROM town WHERE people = 110000; SELECT 1",
        "ATTACH DATABASE '/tmp/other.sqlite' AS other",
        "PRAGMA table_info(town)",
        "SELECT name FROM pragma_table_info('town')",
        "DELETE FROM town WHERE name = 'Ulm' RETURNING name",
        "INSERT INTO town VALUES ('Bonn', 1, 1) RETURNING name",
        "CREATE TEMP TABLE t AS SELECT 1",
        "SELECT load_extension('/lib/libc.so.6')",
        "SELECT name FROM town WHERE zeroblob(2000000000) IS NOT randomblob(2000000000)",
    ],
)
async def test_what_is_more_than_one_select_is_a_wrong_answer_and_says_why(answer: str) -> None:
    got = await scored(answer)
    assert (got.value, got.outcome) == (0.0, Outcome.SCORED), got.detail
    assert got.detail.startswith("the query ")


async def test_a_query_that_never_ends_is_stopped_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.rewards.sql._QUERY_CPU_S", 1.0)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    got = await scored(endless)
    assert got.value == 0.0 and "takes more than it may: cpu" in got.detail


@pytest.mark.parametrize("status", [Status.SANDBOX_ERROR, Status.TIMEOUT, Status.KILLED])
async def test_what_the_machine_did_is_no_wrong_answer(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> Result:
        return Result(status, detail="the server died twice")

    monkeypatch.setattr(Sandbox, "run_async", broken)
    with pytest.raises(QueryNotRun, match=f"{status.value}: the server died twice"):
        await scored("SELECT 1", "SELECT 2")


async def test_order_counts_where_it_is_asked_for() -> None:
    ascending, descending = (f"SELECT name FROM town ORDER BY area {way}" for way in ("ASC", "DESC"))
    assert (await scored(descending, ascending)).value == 1.0
    assert (await scored(descending, ascending, ordered=True)).value == 0.0
    assert (await scored(ascending, ascending, ordered=True)).value == 1.0


@pytest.mark.parametrize("gold", ["SELECT name FROM city", "SELECT name FROM town WHERE people > 1e9"])
async def test_a_reference_that_fails_or_finds_nothing_is_no_verdict(gold: str) -> None:
    got = await scored("SELECT name FROM town", gold)
    assert (got.value, got.outcome) == (None, Outcome.NO_VERDICT)


async def test_a_database_file_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "towns.sqlite"
    with sqlite3.connect(file) as connection:
        connection.executescript(SCRIPT)
    connection.close()
    before = file.read_bytes()
    queries = ["SELECT name FROM town WHERE people = 110000", "DROP TABLE town", "UPDATE town SET people = 1"]
    scores = await asyncio.gather(*(scored(q, script="", database=str(file)) for q in queries))
    assert [s.value for s in scores] == [1.0, 0.0, 0.0]
    assert file.read_bytes() == before


async def test_a_reference_and_its_script_are_run_once_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[bytes] = []
    threads: list[threading.Thread] = []
    run, make = Sandbox.run_async, sql_module._made_by

    async def counted(self: Sandbox, *arguments: Any, stdin: bytes, **more: Any) -> Result:
        queries.append(stdin)
        return await run(self, *arguments, stdin=stdin, **more)

    def watched(script: str) -> bytes:
        threads.append(threading.current_thread())
        return make(script)

    monkeypatch.setattr(Sandbox, "run_async", counted)
    monkeypatch.setattr(sql_module, "_made_by", watched)
    script = SCRIPT + "INSERT INTO town VALUES ('Bonn', 1, 1.0);"  # asked of here alone
    scores = await asyncio.gather(*(scored(f"SELECT {number}", script=script) for number in range(6)))
    assert [score.value for score in scores] == [0.0] * 6
    assert len(queries) == 7 and queries.count(GOLD.rstrip(";").encode()) == 1
    assert len(threads) == 1 and threads[0] is not threading.main_thread(), "the event loop waits for no script"


async def test_large_results_are_read_out_of_the_event_loops_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(answer: bytes) -> Any:
        raise AssertionError(f"{len(answer)} bytes are read in this process")

    monkeypatch.setattr(sql_rows, "rows_of", here)
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT i, i * 0.1 FROM n"
    right, wrong = await asyncio.gather(*(scored(f"{many} ORDER BY i {way}", many) for way in ("DESC", "DESC LIMIT 9")))
    assert (right.value, wrong.value) == (1.0, 0.0)
    assert "expected 20000" in wrong.detail


async def test_one_database_must_be_named() -> None:
    for arguments in ({"script": ""}, {"database": "towns.sqlite"}):
        with pytest.raises(ValueError, match=r"either `database`.*or `script`"):
            await scored("SELECT 1", **arguments)


@pytest.mark.parametrize(
    ("rows", "expected", "ordered", "same"),
    [
        ([(1, "a"), (2, "b")], [(2.0, "b"), (1.0, "a")], False, True),
        ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], True, False),
        ([(0.1 + 0.2,)], [(0.3,)], False, True),
        ([(0.3001,)], [(0.3,)], False, False),
        ([("1",)], [(1,)], False, False),
        ([(None,)], [(0,)], False, False),
        ([(b"\x00",)], [(b"\x00",)], False, True),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),
    ],
)
def test_same_rows(rows: list[tuple[object]], expected: list[tuple[object]], ordered: bool, same: bool) -> None:
    assert same_rows(rows, expected, ordered) is same


def test_the_last_fence_holds_the_query() -> None:
    assert query_of("```sql\nSELECT 1;\n```\n```SQL\nSELECT 2;\n```") == "SELECT 2"
    assert query_of("SELECT 3;") == "SELECT 3"
    assert query_of("<think>hm</think>  ;") is None
