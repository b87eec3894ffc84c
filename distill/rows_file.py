"""Rows of what a teacher wrote, as `rlvr distill sample` leaves them and everything after reads them.

A Parquet file: the task's own columns, `messages` (what the student read), `completion` (what the teacher wrote), and
where it came from: `teacher`, `licences`, `tokenizer`, `verifier`, `score`, `temperature`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlvr.config import DataConfig
from rlvr.data import DataError, read_rows
from rlvr.files import replacing
from rlvr.supervised.examples import Example, examples_of
from rlvr.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def write_rows_file(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Whole or absent. Raises DataError where columns have no one type."""
    try:
        table = pa.Table.from_pylist([dict(row) for row in rows])
    except pa.ArrowException as error:
        raise DataError(f"{path}: the rows' columns cannot be stored as Parquet: {error}") from None
    with replacing(path) as partial:
        pq.write_table(table, partial)


def read_rows_file(path: Path) -> list[dict[str, Any]]:
    """Rows with `messages` and `completion`, from a .parquet or .jsonl file. Raises DataError."""
    rows = read_rows(DataConfig(path=str(path)))
    for number, row in enumerate(rows, start=1):
        for column in ("messages", "completion"):
            if not row.get(column):
                raise DataError(
                    f"{path}, row {number}: no column {column!r}; expected what `rlvr distill sample` leaves: messages "
                    "(a list of role and content) and completion (a text)"
                )
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def example_of(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Example:
    """A conversation whose answer is learned, in the student's own tokenizer and template."""
    messages = [Message(role=str(m["role"]), content=str(m["content"])) for m in row["messages"]]
    answer = Message(role="assistant", content=str(row["completion"]))
    (example,) = examples_of([*messages, answer], [len(messages)], tokenizer)
    return example
