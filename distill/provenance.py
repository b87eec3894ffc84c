"""Where a student's knowledge came from: a record that data and models carry from stage to stage.

`provenance.json` stands in a model's folder or in a teacher store, and beside a file of rows as
`NAME.provenance.json`. Whoever makes something of it writes a record of its own, with all that it read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rlvr.files import replacing
from rlvr.plugins import CommandError

PROVENANCE_FILE = "provenance.json"


class ProvenanceError(CommandError):
    """A record that cannot be read: what a model or a file was made from is not known."""


@dataclass(frozen=True, slots=True)
class TeacherRecord:
    """One teacher: its name, its licences by id, and the tokenizer it speaks."""

    teacher: str
    licences: tuple[str, ...]
    tokenizer: str  # fingerprint


@dataclass(frozen=True, slots=True)
class Provenance:
    """All teachers that something was made from, directly or through what it was made from."""

    teachers: tuple[TeacherRecord, ...]
    made_by: str  # the command
    use: str  # the use that the licences were checked for
    accepted: tuple[str, ...] = ()  # licence ids that a person accepted
    made_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def licences(self) -> list[str]:
        """Of all teachers, each once."""
        return list(dict.fromkeys(licence for teacher in self.teachers for licence in teacher.licences))


def provenance_file(of: Path) -> Path:
    """The record of a folder, or of a file of rows."""
    return of / PROVENANCE_FILE if of.is_dir() else of.with_name(f"{of.name}.{PROVENANCE_FILE}")


def write_provenance(of: Path, provenance: Provenance) -> None:
    """`of` must exist: a record belongs to a folder or to a file."""
    with replacing(provenance_file(of)) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(provenance), indent=2) + "\n", encoding="utf-8")


def read_provenance(of: Path) -> Provenance | None:
    """None where there is no record: nothing was distilled into it. Raises ProvenanceError."""
    file = provenance_file(of)
    if not file.is_file():
        return None
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        teachers = tuple(
            TeacherRecord(one["teacher"], tuple(one["licences"]), one["tokenizer"]) for one in read["teachers"]
        )
        return Provenance(teachers, read["made_by"], read["use"], tuple(read["accepted"]), read["made_at"])
    except (ValueError, KeyError, TypeError) as error:
        raise ProvenanceError(
            f"{file}: not a provenance record ({type(error).__name__}: {error}); without it the licences of what "
            f"{of} was made from are not known"
        ) from None


def merged(records: Iterable[Provenance | None]) -> tuple[TeacherRecord, ...]:
    """The teachers of several records, each once."""
    return tuple(dict.fromkeys(teacher for record in records if record is not None for teacher in record.teachers))


def inherited_licences(folder: Path) -> list[str]:
    """Licence ids that a model brings along from its own teachers."""
    record = read_provenance(folder)
    return record.licences() if record is not None else []
