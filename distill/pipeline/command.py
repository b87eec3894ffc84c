"""`rlvr pipeline`: recipes of several stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rlvr.distill.pipeline.ledger import Record
    from rlvr.distill.pipeline.runner import Place

app = typer.Typer(help="Recipes: several stages as one file, which goes on where it was killed.", no_args_is_help=True)


@app.callback()
def _pipeline() -> None:
    """Recipes: several stages as one file, which goes on where it was killed."""


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="the recipe, a .yaml file")],
    folder: Annotated[Path | None, typer.Option(help="where it runs; unset: runs/NAME, by the recipe's name")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="run this stage and all made of it anew")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
) -> None:
    """Run a recipe's stages that are not done yet. Run the same command again after a crash or a kill."""
    from rlvr.distill.pipeline.recipe import read_recipe
    from rlvr.distill.pipeline.runner import Place, run_recipe

    recipe = read_recipe(file)
    place = Place(recipe, (folder or Path("runs") / recipe.name).resolve())
    if dry_run:
        _show_outlook(place)
        return
    _show_records(place, run_recipe(place, start, print))


def _show_outlook(place: Place) -> None:
    from rich.console import Console
    from rich.table import Table

    from rlvr.distill.pipeline.dry_run import outlook

    stages = outlook(place)
    table = Table("stage", "verb", "state", "made of", "cost", title=f"{place.recipe.name}, in {place.folder}")
    for stage in stages:
        state = f"{stage.state}, {stage.seconds:.0f} s" if stage.seconds is not None else str(stage.state)
        table.add_row(stage.stage, stage.verb, state, ", ".join(stage.made_of), stage.cost)
    console = Console()
    console.print(table)
    for stage in stages:
        if stage.why:
            console.print(stage.why, markup=False)


def _show_records(place: Place, records: list[Record]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "verb", "accuracy", "seconds", "output", title=place.recipe.name)
    for record in records:
        accuracy = record.metrics.get("evaluation/pass@1")
        table.add_row(
            record.stage,
            place.recipe.stages[record.stage].verb,
            "" if accuracy is None else f"{accuracy:.3f}",
            f"{record.seconds:.0f}",
            record.output,
        )
    Console().print(table)
    print(f"folder: {place.folder}")
