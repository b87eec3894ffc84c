"""The licence gate as every verb uses it: checked before anything is made, recorded in what was made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlvr.distill.licence import (
    LicenceRefused,
    TeacherTerms,
    check_name,
    find_licence,
    notice_text,
    parse_use,
    require,
    terms_of,
    terms_of_all,
)
from rlvr.distill.provenance import Provenance, TeacherRecord, merged, read_provenance, write_provenance

NOTICE_FILE = "NOTICE"
CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class Gate:
    """What the user says of licences: the student's use, licences given as `TEACHER=ID`, and ids accepted."""

    use: str = "commercial"
    given: Sequence[str] = ()
    accepted: Sequence[str] = ()

    def check(self, teachers: Sequence[str]) -> list[TeacherTerms]:
        """The terms of each teacher, in their order. Raises LicenceRefused."""
        terms = terms_of_all(teachers, self.given)
        require(terms, parse_use(self.use), self.accepted)
        return terms


def leave_records(made: Path, made_from: Path, teachers: Sequence[TeacherRecord], made_by: str, gate: Gate) -> None:
    """Write provenance, and the notice that licences ask for, into a folder or beside a file that was made.

    `made_from` is the student before, whose own record goes on.
    """
    before = read_provenance(made_from) if made_from.is_dir() else None
    known = merged([Provenance(tuple(teachers), made_by, gate.use), before])
    write_provenance(made, Provenance(known, made_by, gate.use, tuple(gate.accepted)))
    _write_notice(made, known)


def card_of(made_from: Sequence[Path], how: str) -> str:
    """A card's text, with the licences of all models that something was made from, which it would lose otherwise.

    Empty where a model's licence is not known: who asks for that of what was made is told so. Raises LicenceRefused for
    a card that cannot be read.
    """
    licences: list[str] = []
    for model in made_from:
        ids = [licence.id for licence in terms_of(str(model)).licences]
        if str(model) in ids:  # what stands for a licence that nobody knows
            return ""
        licences += ids
    head = yaml.safe_dump({"license": list(dict.fromkeys(licences))}, sort_keys=False)
    return f"---\n{head}---\n\n{how}\n"


def export(policy: Path, folder: Path) -> str:
    """Copy a student under the name it will be given to others by, `folder`'s own. Returns its notice, empty for none.

    Raises LicenceRefused for a name that its teachers' licences do not allow.
    """
    if folder.exists():
        raise LicenceRefused(f"{folder}: exists already; a student is exported into a new folder")
    if not (policy / "config.json").is_file():
        raise LicenceRefused(f"{policy}: no model in Hugging Face form (looked from {Path.cwd()})")
    record = read_provenance(policy)
    licences = [find_licence(licence) for licence in record.licences()] if record is not None else []
    check_name(folder.name, licences)
    card = card_of([policy], "A policy, exported by `rlvr distill export`.")
    shutil.copytree(policy, folder)
    if card and not (folder / CARD_FILE).exists():
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return notice_text(licences)


def _write_notice(made: Path, teachers: Sequence[TeacherRecord]) -> None:
    licences = dict.fromkeys(licence for teacher in teachers for licence in teacher.licences)
    text = notice_text(find_licence(licence) for licence in licences)
    if text:
        file = made / NOTICE_FILE if made.is_dir() else made.with_name(f"{made.name}.{NOTICE_FILE}")
        file.write_text(text, encoding="utf-8")
