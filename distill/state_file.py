"""What a stage of a run keeps in a checkpoint: a dataclass as a JSON file. Every float comes back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rlvr.checkpoint import CheckpointError, WriteState

T = TypeVar("T")


def writing(name: str, state: Any) -> WriteState:
    """What writes a file of this name. `state`, a dataclass of plain values or such dataclasses, must stay as it is."""

    def write(folder: Path) -> None:
        (folder / name).write_bytes(TypeAdapter(type(state)).dump_json(state))

    return write


def read_state(file: Path, kind: type[T]) -> T:
    """The state, of class `kind`, that a file was written from. Raises CheckpointError."""
    try:
        return TypeAdapter(kind).validate_json(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(f"{file} cannot be used: {where}: {first['msg']}") from None
