"""Datasets to tasks: what is read, what is refused and where it was, and an order that a resume continues."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rlvr.config import DataConfig
from rlvr.data import Cursor, CursorState, DataError, load_tasks, read_rows, write_rows
from rlvr.types import Task

ROWS: list[dict[str, Any]] = [
    {"prompt": "2+2?", "answer": "4", "level": 1},
    {"prompt": "é or 漢?", "answer": "é", "level": 2},
    {"prompt": "3*3?", "answer": "9", "level": 1},
]


def jsonl(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(path: Path, tokenizer: PreTrainedTokenizerFast, **keywords: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_tasks(DataConfig(path=str(path), **keywords), tokenizer)
    return str(caught.value)


# -------------------------------------------------------------------- reading


def test_jsonl_and_parquet_give_the_same_tasks(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    parquet = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), parquet)
    from_jsonl = load_tasks(DataConfig(path=str(jsonl(tmp_path))), tokenizer)
    assert load_tasks(DataConfig(path=str(parquet)), tokenizer) == from_jsonl
    assert [dict(task.columns) for task in from_jsonl.tasks] == ROWS
    assert [task.target for task in from_jsonl.tasks] == ["4", "é", "9"]
    assert from_jsonl.columns == ("prompt", "answer", "level")


def test_rows_in_memory_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "data" / "train.jsonl"
    write_rows(iter(ROWS), path)
    assert read_rows(DataConfig(path=str(path))) == ROWS


def test_a_row_in_memory_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2 of the data cannot be stored as JSON.*bytes"):
        write_rows([ROWS[0], {"prompt": b"raw"}], tmp_path / "rows.jsonl")
    write_rows(ROWS, tmp_path / "rows.jsonl")
    with pytest.raises(DataError):
        write_rows([ROWS[0], {"prompt": b"raw"}], tmp_path / "rows.jsonl")
    assert read_rows(DataConfig(path=str(tmp_path / "rows.jsonl"))) == ROWS, "what was there before stays"


def test_empty_lines_are_no_rows_and_limit_takes_the_first(tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    path.write_text("\n" + path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert read_rows(DataConfig(path=str(path))) == ROWS
    assert read_rows(DataConfig(path=str(path), limit=2)) == ROWS[:2]


# -------------------------------------------------------------------- refusals


def test_a_file_that_is_not_there_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert f"no file at {tmp_path}/none.jsonl" in refused(tmp_path / "none.jsonl", tokenizer)


@pytest.mark.parametrize(
    ("line", "word"),
    [(b"{not json}", "not valid JSON"), (b"[1, 2]", "expected an object"), (b'{"prompt": "\xff"}', "not valid JSON")],
    ids=["syntax", "not_an_object", "not_utf8"],
)
def test_a_bad_line_is_named_by_file_and_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, line: bytes, word: str
) -> None:
    path = jsonl(tmp_path)
    path.write_bytes(path.read_bytes() + b"\n" + line + b"\n")
    message = refused(path, tokenizer)
    assert message.startswith(f"{path}:5: ")
    assert word in message


def test_a_broken_parquet_file_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    assert refused(path, tokenizer).startswith(f"{path}: cannot be read as Parquet")


def test_an_empty_file_has_no_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert "no rows" in refused(jsonl(tmp_path, []), tokenizer)


@pytest.mark.parametrize("setting", ["prompt", "target"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, setting: str
) -> None:
    message = refused(jsonl(tmp_path), tokenizer, **{setting: "nothing"})
    assert message.startswith(f"data.{setting}=nothing: ")
    assert message.endswith("it has prompt, answer, level")


def test_a_later_row_without_a_target_is_refused_and_not_given_none(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    message = refused(jsonl(tmp_path, [*ROWS, {"prompt": "?"}]), tokenizer)
    assert "data.target=answer" in message and "row 4" in message


@pytest.mark.parametrize("prompt", [7, [], ["hello"], [{"role": "user"}], None])
def test_a_prompt_of_another_kind_is_named_by_row_and_column(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, prompt: object
) -> None:
    message = refused(jsonl(tmp_path, [ROWS[0], {"prompt": prompt, "answer": ""}]), tokenizer)
    assert "row 2, column prompt: expected text, or a list of messages" in message


# -------------------------------------------------------------------- prompts


def rendered(tokenizer: PreTrainedTokenizerFast, path: Path, **keywords: Any) -> str:
    (task,) = load_tasks(DataConfig(path=str(path), **keywords), tokenizer).tasks
    return str(tokenizer.decode(task.prompt_ids))


def test_a_text_prompt_is_the_users_turn(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = jsonl(tmp_path, ROWS[:1])
    asked = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(tokenizer, path) == asked
    assert rendered(tokenizer, path, system="Be brief.") == f"<|im_start|>system\nBe brief.<|im_end|>\n{asked}"


def test_a_chat_prompt_is_taken_as_it_is(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    path = jsonl(tmp_path, [{"prompt": chat, "answer": ""}])
    expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(tokenizer, path) == expected
    assert rendered(tokenizer, path, system="not used: the prompt has its own") == expected


def test_a_base_model_without_a_template_reads_the_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base = copy.deepcopy(tokenizer)
    base.chat_template = None
    path = jsonl(tmp_path, ROWS[:1])
    assert rendered(base, path) == "2+2?"
    assert rendered(base, path, system="Be brief.") == "Be brief.\n\n2+2?"


def test_prompts_that_are_too_long_are_counted_and_never_cut(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = jsonl(tmp_path, [*ROWS, {"prompt": "x" * 100, "answer": ""}])
    tasks = load_tasks(DataConfig(path=str(path), max_prompt_tokens=60), tokenizer)
    assert ([task.target for task in tasks.tasks], tasks.too_long) == (["4", "é", "9"], 1)
    longest = max(len(task.prompt_ids) for task in tasks.tasks)
    exactly = load_tasks(DataConfig(path=str(path), max_prompt_tokens=longest), tokenizer)
    assert exactly.too_long == 1
    assert "every prompt is longer than data.max_prompt_tokens=3" in refused(path, tokenizer, max_prompt_tokens=3)


# -------------------------------------------------------------------- ids


def test_ids_depend_on_the_row_and_not_on_its_place(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    forth = load_tasks(DataConfig(path=str(jsonl(tmp_path))), tokenizer).tasks
    back = load_tasks(DataConfig(path=str(jsonl(tmp_path, ROWS[::-1]))), tokenizer).tasks
    assert [task.id for task in forth] == [task.id for task in back[::-1]]
    assert len({task.id for task in forth}) == len(ROWS)


def test_ids_are_the_same_in_every_run(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Written down once: a run of tomorrow must find the tasks of today."""
    assert [task.id for task in load_tasks(DataConfig(path=str(jsonl(tmp_path))), tokenizer).tasks] == [
        "a9a000374e1e33b1",
        "606941b8836733a6",
        "bf1ef49f59b15aed",
    ]


# -------------------------------------------------------------------- the cursor


def numbered(count: int) -> list[Task]:
    return [Task(str(i), (), (), None, {}) for i in range(count)]


def walk(cursor: Cursor, steps: int) -> list[str]:
    return [cursor.next().id for _ in range(steps)]


@given(count=st.integers(1, 40), seed=st.integers(0, 2**32), epochs=st.integers(1, 4))
def test_each_epoch_has_every_task_once(count: int, seed: int, epochs: int) -> None:
    cursor = Cursor(numbered(count), seed)
    for _ in range(epochs):
        assert sorted(walk(cursor, count), key=int) == [str(i) for i in range(count)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    cursor = Cursor(numbered(50), seed=0)
    orders = [walk(cursor, 50), walk(cursor, 50), walk(Cursor(numbered(50), seed=1), 50)]
    assert len({tuple(order) for order in orders}) == 3
    assert walk(Cursor(numbered(50), seed=0), 50) == orders[0]


@settings(deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 1000), before=st.integers(0, 90), after=st.integers(0, 60))
def test_a_resumed_cursor_goes_on_exactly(count: int, seed: int, before: int, after: int) -> None:
    cursor = Cursor(numbered(count), seed)
    walk(cursor, before)
    state = cursor.state()
    assert walk(Cursor(numbered(count), seed, state), after) == walk(cursor, after)


def test_a_cursor_refuses_a_checkpoint_of_other_data() -> None:
    with pytest.raises(DataError, match="stands at task 9 of an epoch, but there are 5 tasks"):
        Cursor(numbered(5), 0, CursorState(epoch=0, position=9))
    with pytest.raises(DataError, match="at least one task"):
        Cursor([], 0)
