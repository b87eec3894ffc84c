"""What a reader of a run should know besides its numbers: warnings, skipped updates, failures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum

from rlvr.run_folder import RunFolder, RunFolderError


class EventKind(StrEnum):
    """How much a reader should care."""

    NOTE = "note"  # for the record: a resume, what a role has to say of itself
    WARNING = "warning"  # the run goes on, and its result may suffer
    FAILURE = "failure"  # the run stopped here


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `step` is the last step that was finished; `at` is UTC in ISO form."""

    step: int
    kind: EventKind
    text: str
    at: str


def append_event(folder: RunFolder, step: int, kind: EventKind, text: str) -> None:
    """Add a line to the run's `events.jsonl`, in the place of a last one that a crash or a full disk cut short."""
    folder.path.mkdir(parents=True, exist_ok=True)
    event = Event(step, kind, text, datetime.now(UTC).isoformat(timespec="seconds"))
    with folder.events.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(asdict(event)).encode() + b"\n")


def read_events(folder: RunFolder) -> list[Event]:
    """In order of writing; none when nothing happened. A last line cut short by a crash is left out.

    Raises RunFolderError when another line is damaged.
    """
    if not folder.events.exists():
        return []
    whole, _, _ = folder.events.read_text(encoding="utf-8").rpartition("\n")
    events = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            fields = json.loads(line)
            events.append(Event(int(fields["step"]), EventKind(fields["kind"]), str(fields["text"]), str(fields["at"])))
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(f"{folder.events}, line {number}: not an event ({error}): {line[:80]!r}") from None
    return events
