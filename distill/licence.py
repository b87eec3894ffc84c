"""Whether a teacher's outputs may train another model, by its licence, and on what conditions.

This is no legal advice. The table says what rlvr's authors read in each licence, names the clause and gives its
source; whoever trains reads it there.

A teacher has one licence or several: that of its card, that of the model it was made from, and those that its own
training data brought along (`provenance.json` in its folder). The strictest counts, and the conditions of all.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from rlvr.architecture.model_card import CardError, card_head
from rlvr.distill.provenance import inherited_licences
from rlvr.plugins import CommandError

NOT_LEGAL_ADVICE = "This is not legal advice: read the clause at its source."


class Use(StrEnum):
    """What the student is for."""

    COMMERCIAL = "commercial"
    RESEARCH = "research"


class Verdict(StrEnum):
    """From the mildest to the strictest."""

    ALLOW = "allow"
    OBLIGATIONS = "allow with obligations"
    ASK = "ask"  # not to be had from a table: a person reads the licence and accepts it
    BLOCK = "block"

    @property
    def strictness(self) -> int:
        return list(Verdict).index(self)


class LicenceRefused(CommandError):
    """A teacher may not be used like this, or nobody has said that it may."""


@dataclass(frozen=True, slots=True)
class Licence:
    """What one licence says of training on outputs. `clause` is a paraphrase."""

    id: str
    name: str
    verdict: Verdict
    commercial: Verdict
    clause: str
    source: str
    conditions: tuple[str, ...] = ()
    notice: str = ""
    name_prefix: str = ""

    def verdict_for(self, use: Use) -> Verdict:
        return self.commercial if use is Use.COMMERCIAL else self.verdict


@dataclass(frozen=True, slots=True)
class TeacherTerms:
    """The licences of a teacher, and where each was found."""

    teacher: str
    licences: tuple[Licence, ...]
    found_in: tuple[str, ...]

    def verdict_for(self, use: Use) -> Verdict:
        """That of the strictest licence."""
        return max((licence.verdict_for(use) for licence in self.licences), key=lambda verdict: verdict.strictness)


def terms_of(teacher: str, given: Sequence[str] = ()) -> TeacherTerms:
    """The licences of a folder in Hugging Face form, or of a hub or API name.

    `given` are licence ids that the user names: they take the place of the card's and the table's, but not of what
    the teacher inherited from its own teachers. Raises LicenceRefused for a card that cannot be read.
    """
    folder = Path(teacher)
    found: dict[str, str] = dict.fromkeys(given, "given by the user")
    if not found:
        found = _from_table(teacher) or (_from_card(folder) or _from_run(folder) if folder.is_dir() else {})
    if folder.is_dir():
        found = dict.fromkeys(inherited_licences(folder), "inherited from its own teachers") | found
    if not found:
        where = "its folder has no card that names one" if folder.is_dir() else "the table does not know this name"
        found = {teacher: where}
    return TeacherTerms(teacher, tuple(find_licence(licence) for licence in found), tuple(found.values()))


def parse_use(word: str) -> Use:
    """Raises LicenceRefused for a use that nobody has thought of."""
    try:
        return Use(word)
    except ValueError:
        raise LicenceRefused(f"--use {word}: expected one of {', '.join(Use)}") from None


def terms_of_all(teachers: Sequence[str], given: Sequence[str] = ()) -> list[TeacherTerms]:
    """Of several teachers; `given` are words `TEACHER=ID`. Raises LicenceRefused."""
    by_teacher: dict[str, list[str]] = {teacher: [] for teacher in teachers}
    for word in given:
        teacher, separator, licence = word.rpartition("=")
        if not separator or not licence or teacher not in by_teacher:
            raise LicenceRefused(f"--license {word}: expected TEACHER=ID with a teacher of {', '.join(teachers)}")
        by_teacher[teacher].append(licence)
    return [terms_of(teacher, licences) for teacher, licences in by_teacher.items()]


def find_licence(licence_id: str) -> Licence:
    """The licence of an id; one that the table does not know asks for a person's acceptance."""
    key = licence_id.lower()
    known = _table()
    key = known.aliases.get(key, key)
    return known.licences.get(key) or Licence(
        licence_id, "unknown", Verdict.ASK, Verdict.ASK, "nobody has read this licence for you", "unknown"
    )


def require(terms: Iterable[TeacherTerms], use: Use, accepted: Collection[str] = ()) -> None:
    """Raise LicenceRefused unless every teacher may be used; `accepted` are ids that a person has read and accepted."""
    for teacher in terms:
        for licence, where in zip(teacher.licences, teacher.found_in, strict=True):
            verdict = licence.verdict_for(use)
            if verdict is Verdict.BLOCK:
                raise LicenceRefused(
                    f"{teacher.teacher}: its licence {licence.id} ({licence.name}; {where}) does not let its outputs "
                    f"train another model for {use} use: {licence.clause} ({licence.source}). {NOT_LEGAL_ADVICE} If "
                    f"you have other terms, name them: --license '{teacher.teacher}=ID' --accept-license ID"
                )
            if verdict is Verdict.ASK and licence.id not in accepted:
                raise LicenceRefused(
                    f"{teacher.teacher}: licence {licence.id} ({where}): {licence.clause} ({licence.source}). "
                    f"{NOT_LEGAL_ADVICE} Where you have read it and may train on outputs: "
                    f"--accept-license '{licence.id}'"
                )


def name_prefixes(licences: Iterable[Licence]) -> list[str]:
    """How the name of a distributed student must begin, by these licences; mostly none asks for anything."""
    return sorted({licence.name_prefix for licence in licences if licence.name_prefix})


def check_name(name: str, licences: Collection[Licence]) -> None:
    """Raise LicenceRefused for a name that the licences of a student's teachers do not allow."""
    for prefix in name_prefixes(licences):
        if not name.startswith(prefix):
            ids = ", ".join(licence.id for licence in licences if licence.name_prefix == prefix)
            raise LicenceRefused(f"the name {name!r} must begin with {prefix!r}: a teacher is licensed under {ids}")


def notice_text(licences: Iterable[Licence]) -> str:
    """What a distributed student must show, one paragraph a licence. Empty where nothing must be."""
    paragraphs = []
    for licence in licences:
        if licence.notice or licence.conditions:
            lines = [licence.notice.strip(), *(f"- {condition}" for condition in licence.conditions), licence.source]
            paragraphs.append("\n".join(line for line in lines if line))
    return "\n\n".join(paragraphs) + "\n" if paragraphs else ""


# -------------------------------------------------------------------- where licences are found


@dataclass(frozen=True, slots=True)
class _Table:
    licences: Mapping[str, Licence]
    aliases: Mapping[str, str]
    models: Sequence[tuple[str, tuple[str, ...], str]]  # pattern, licence ids, why


@cache
def _table() -> _Table:
    read = yaml.safe_load((files("rlvr.distill") / "licences.yaml").read_text(encoding="utf-8"))
    licences = {key: _licence(key, facts) for key, facts in read["licences"].items()}
    models = [(entry["match"], tuple(entry["licences"]), entry["why"]) for entry in read["models"]]
    return _Table(licences, read["aliases"], models)


def _licence(key: str, facts: Mapping[str, Any]) -> Licence:
    verdict = _verdict(facts["verdict"])
    return Licence(
        key,
        facts["name"],
        verdict,
        _verdict(facts["commercial"]) if "commercial" in facts else verdict,
        facts["clause"],
        facts["source"],
        tuple(facts.get("conditions", ())),
        facts.get("notice", ""),
        facts.get("name_prefix", ""),
    )


def _verdict(word: str) -> Verdict:
    return Verdict[word.upper()]


def _from_table(teacher: str) -> dict[str, str]:
    """By hub or API name; a folder is known by its own name too."""
    names = {teacher.lower(), Path(teacher).name.lower()}
    for pattern, licences, why in _table().models:
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return dict.fromkeys(licences, f"the table of names: {why}")
    return {}


def _from_card(folder: Path) -> dict[str, str]:
    """`license` of the README's head, `license_name` where that is `other`, and the licences of `base_model`."""
    card = folder / "README.md"
    try:
        head = card_head(card)
    except CardError as error:
        raise LicenceRefused(f"{error}; so its licence cannot be read") from None
    said = head.get("license")
    found: dict[str, str] = {}
    for one in said if isinstance(said, list) else [said]:
        licence = head.get("license_name") if one == "other" else one
        if licence is not None:
            found[str(licence)] = f"{card}"
    base = head.get("base_model")
    for model in base if isinstance(base, list) else [base] if base else []:
        found |= {licence: f"its base model {model}: {why}" for licence, why in _from_table(str(model)).items()}
    return found


def _from_run(folder: Path) -> dict[str, str]:
    """A policy in its run's folder has no card yet: it has the licences of the model that the run began with."""
    config = folder.parent / "config.yaml"
    if folder.name != "policy" or not config.is_file():
        return {}
    began_with = str(yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["name"])
    terms = terms_of(began_with)
    return {licence.id: f"{config}: the run began with {began_with}" for licence in terms.licences}
