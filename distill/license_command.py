"""`rlvr license`: what the licences of teachers say, before anything is made from them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rlvr.distill.licence import TeacherTerms, Use

app = typer.Typer(help="Licences of teachers: may their outputs train another model?", no_args_is_help=True)


@app.callback()
def _license() -> None:
    """Licences of teachers: may their outputs train another model?"""


@app.command()
def check(
    teachers: Annotated[list[str], typer.Argument(help="folders in Hugging Face form, hub names, or API models")],
    use: Annotated[str, typer.Option(help="what the student is for: commercial or research")] = "commercial",
    license_: Annotated[
        list[str] | None, typer.Option("--license", help="TEACHER=ID: a licence that you know of; may be repeated")
    ] = None,
    accept_license: Annotated[
        list[str] | None, typer.Option(help="a licence id that you have read and accept; may be repeated")
    ] = None,
) -> None:
    """Say whether outputs of teachers may train another model, with clause and source. Exit code 1: not all may."""
    from rlvr.distill.licence import NOT_LEGAL_ADVICE, LicenceRefused, parse_use, require, terms_of_all

    for_use = parse_use(use)
    terms = terms_of_all(teachers, license_ or [])
    for teacher in terms:
        _show(teacher, for_use)
    print(NOT_LEGAL_ADVICE)
    try:
        require(terms, for_use, accept_license or [])
    except LicenceRefused as refused:
        sys.exit(f"refused: {refused}")


def _show(teacher: TeacherTerms, use: Use) -> None:
    print(f"{teacher.teacher}: {teacher.verdict_for(use)} ({use} use)")
    for licence, where in zip(teacher.licences, teacher.found_in, strict=True):
        print(f"  {licence.id}: {licence.name} [{where}]")
        print(f"    {licence.verdict_for(use)}: {licence.clause}")
        print(f"    source: {licence.source}")
        for condition in licence.conditions:
            print(f"    - {condition}")
        if licence.name_prefix:
            print(f"    - `rlvr distill export` asks for a name that begins with {licence.name_prefix!r}")
