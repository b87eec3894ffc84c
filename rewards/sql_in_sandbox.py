"""Runs one query that a model wrote, inside the sandbox: reads it from stdin and prints what came of it as JSON.

This file is the whole program there, beside a database that it opens for reading only. It knows no expected rows.
"""

import json
import sqlite3
import sys

DATABASE = "database.sqlite"
MOST_ROWS = 100_000

# What a query may do: read tables, and call functions. Else, as ATTACH, PRAGMA and every kind of writing: refused.
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def main() -> None:
    connection = sqlite3.connect(f"file:{DATABASE}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY)
    answer: dict[str, str | list[tuple[object, ...]]]
    try:
        rows = connection.execute(sys.stdin.buffer.read().decode()).fetchmany(MOST_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    else:
        answer = {"error": f"more than {MOST_ROWS} rows"} if len(rows) > MOST_ROWS else {"rows": rows}
    json.dump(answer, sys.stdout, default=lambda blob: {"blob": blob.hex()})


if __name__ == "__main__":
    main()
