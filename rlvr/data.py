"""Datasets to tasks, and a cursor that goes through them in an order that a resume can continue."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rlvr.config import DataConfig
from rlvr.files import replacing
from rlvr.types import Message, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Item = TypeVar("Item")


class DataError(ValueError):
    """A dataset that does not give tasks. The message names the file, the row, and what is expected."""


@dataclass(frozen=True, slots=True)
class TaskSet:
    """Tasks of one dataset, and how many rows were left out because their prompt is too long."""

    tasks: list[Task]
    too_long: int
    columns: tuple[str, ...]


def load_tasks(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> TaskSet:
    """Read the rows that `config` names and render their prompts. Raises DataError."""
    rows = read_rows(config)
    if not rows:
        raise DataError(f"data.path={config.path}: no rows")
    for number, row in enumerate(rows, start=1):
        _check_columns(row, number, config)
    tasks = [_task(row, number, config, tokenizer) for number, row in enumerate(rows, start=1)]
    short = [task for task in tasks if len(task.prompt_ids) <= config.max_prompt_tokens]
    if not short:
        shortest = min(len(task.prompt_ids) for task in tasks)
        raise DataError(
            f"data.path={config.path}: every prompt is longer than data.max_prompt_tokens="
            f"{config.max_prompt_tokens} (the shortest has {shortest} tokens)"
        )
    return TaskSet(short, len(tasks) - len(short), tuple(rows[0]))


def read_rows(config: DataConfig) -> list[dict[str, Any]]:
    """Rows as dictionaries, in the dataset's order."""
    path = Path(config.path)
    if path.suffix in (".jsonl", ".json", ".parquet"):
        if not path.is_file():
            raise DataError(f"data.path: no file at {path} (looked from {Path.cwd()})")
        rows = _read_parquet(path) if path.suffix == ".parquet" else list(_read_jsonl(path))
        return rows[: config.limit]
    return _read_hub(config)


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Rows in memory to a JSONL file, so that a run's folder holds all that a resume needs: all of them, or none."""
    with replacing(path) as partial:
        partial.write_text(_jsonl(rows), encoding="utf-8")


def refuse_other_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Raise DataError unless the rows are those that `write_rows` wrote."""
    if _jsonl(rows) != path.read_text(encoding="utf-8"):
        raise DataError(f"the rows given are not those in {path}: a run goes on with the data it began with")


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for number, row in enumerate(rows, start=1):
        try:
            lines.append(json.dumps(dict(row), ensure_ascii=False) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(f"row {number} of the data cannot be stored as JSON: {error}") from None
    return "".join(lines)


def _read_jsonl(path: Path) -> Iterable[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # of the JSON, or of its UTF-8
                raise DataError(f"{path}:{number}: not valid JSON, one object a line ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: expected an object, one row a line, found {type(row).__name__}")
            yield row


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


def _read_hub(config: DataConfig) -> list[dict[str, Any]]:
    import datasets

    try:
        dataset = datasets.load_dataset(config.path, config.subset, split=config.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data.path={config.path}: neither a .jsonl or .parquet file nor a dataset that can be loaded: {error}"
        ) from None
    return dataset.select(range(min(len(dataset), config.limit or len(dataset)))).to_list()


def _check_columns(row: Mapping[str, Any], number: int, config: DataConfig) -> None:
    for setting, column in (("data.prompt", config.prompt), ("data.target", config.target)):
        if column not in row:
            raise DataError(
                f"{setting}={column}: {config.path}, row {number} has no such column; it has {', '.join(map(str, row))}"
            )


def _task(row: Mapping[str, Any], number: int, config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Task:
    prompt = messages_of(row.get(config.prompt), config.system, f"{config.path}, row {number}, column {config.prompt}")
    target = row.get(config.target)
    identity = json.dumps([prompt, target], sort_keys=True, ensure_ascii=False, default=str)
    return Task(
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        prompt=prompt,
        prompt_ids=tuple(render_prompt(tokenizer, prompt)),
        target=target,
        columns=dict(row),
    )


def messages_of(value: Any, system: str | None, where: str) -> tuple[Message, ...]:
    """A column's text as one message of the user, after `system`; or its list of messages. Raises DataError."""
    if isinstance(value, str):
        user = Message(role="user", content=value)
        return (Message(role="system", content=system), user) if system is not None else (user,)
    if isinstance(value, list) and value and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value):
        return tuple(Message(role=str(m["role"]), content=str(m["content"])) for m in value)
    raise DataError(f"{where}: expected text, or a list of messages with role and content, found {value!r:.120}")


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to where the policy begins to answer.

    A tokenizer without a chat template belongs to a base model: it reads the text of the messages as it stands.
    """
    if tokenizer.chat_template is None:
        return list(tokenizer.encode("\n\n".join(m["content"] for m in messages)))
    return list(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))


def fingerprint(tasks: Iterable[Task]) -> str:
    """The same for the same tasks in the same order."""
    return hashlib.sha256("".join(task.id for task in tasks).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CursorState:
    """Where a cursor stands: all that a resume needs besides the seed and the dataset."""

    epoch: int
    position: int


class Cursor(Generic[Item]):
    """Goes through tasks or examples again and again, each epoch in an order of its own, made from the seed."""

    def __init__(self, items: Sequence[Item], seed: int, state: CursorState | None = None) -> None:
        if not items:
            raise DataError("a cursor needs at least one task or example")
        self.items = items
        self._seed = seed
        self._epoch = state.epoch if state else 0
        self._position = state.position if state else 0
        self._order = self._shuffled(self._epoch)
        if self._position > len(items):
            raise DataError(
                f"the checkpoint stands at task {self._position} of an epoch, but there are {len(items)} tasks: "
                "a run goes on with the data it began with"
            )

    def __len__(self) -> int:
        """Items of an epoch."""
        return len(self.items)

    def next(self) -> Item:
        """The next one; never the end."""
        if self._position == len(self._order):
            self._epoch, self._position = self._epoch + 1, 0
            self._order = self._shuffled(self._epoch)
        item = self.items[self._order[self._position]]
        self._position += 1
        return item

    def state(self) -> CursorState:
        return CursorState(self._epoch, self._position)

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.items)))
        random.Random(f"{self._seed}:{epoch}").shuffle(order)
        return order
