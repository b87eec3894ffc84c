"""`rlvr codistill`: policies that teach each other while all of them learn."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rlvr.distill.codistill.plan import CodistillPlan
    from rlvr.distill.codistill.run import CodistillResult
    from rlvr.distill.gate import Gate

app = typer.Typer(
    help="Two or more policies in one run that teach each other.",
    invoke_without_command=True,
    no_args_is_help=True,
    context_settings={"allow_interspersed_args": True},
)


@app.callback()
def codistill(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="config files (.yaml) and settings (key=value), the later over the earlier"),
    ] = None,
    use: Annotated[str, typer.Option(help="what the peers are for: commercial or research")] = "commercial",
    license_: Annotated[
        list[str] | None, typer.Option("--license", help="MODEL=ID: a licence that you know of")
    ] = None,
    accept_license: Annotated[list[str] | None, typer.Option(help="a licence id that you accept")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in run_dir, all peers of it")] = False,
) -> None:
    """Train two or more policies that teach each other. The file names `peers`, and settings that they share.

    Exit code 1: a peer died, and the others came to their end without it.
    """
    from rlvr.distill.codistill.run import run_codistill
    from rlvr.distill.gate import Gate

    gate = Gate(use, license_ or [], accept_license or [])
    plan = _plan_to_resume(words or []) if resume else _new_plan(words or [], gate)
    result = run_codistill(plan, resume=resume)
    _tell(result)
    sys.exit(1 if result.died else 0)


def _new_plan(words: list[str], gate: Gate) -> CodistillPlan:
    from rlvr.api import new_run_dir
    from rlvr.distill.codistill.plan import read_plan

    files, settings = _parted(words)
    return read_plan(files, settings, gate, new_run_dir())


def _plan_to_resume(words: list[str]) -> CodistillPlan:
    """That of the folder that is named, with the licences it was begun under. Raises ConfigError."""
    from rlvr.config_loading import ConfigError
    from rlvr.distill.codistill.plan import read_saved_plan

    files, settings = _parted(words)
    named = [word.partition("=")[2] for word in settings if word.startswith("run_dir=")]
    if not named or files:
        raise ConfigError("--resume: name the run's folder with run_dir=FOLDER, and no file: its own is taken up")
    return read_saved_plan(Path(named[-1]), settings)


def _parted(words: list[str]) -> tuple[list[str], list[str]]:
    """Files and settings."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def _tell(result: CodistillResult) -> None:
    """What each peer is worth, and who died of what."""
    from rlvr.cli import tell_result
    from rlvr.errors import USER_ERRORS

    for name, of_peer in result.finished.items():
        print(f"{name}:")
        tell_result(of_peer)
    for name, failure in result.died.items():
        if not isinstance(failure, USER_ERRORS):
            traceback.print_exception(failure)
        print(f"{name} died: {type(failure).__name__}: {failure}; `rlvr codistill --resume run_dir={result.folder}`")
