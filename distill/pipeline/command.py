"""`rlvr pipeline`: recipes of several stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlvr.distill.pipeline.place import Place
    from rlvr.distill.pipeline.runner import Finished

app = typer.Typer(help="Recipes: several stages as one file, which goes on where it was killed.", no_args_is_help=True)


@app.callback()
def _pipeline() -> None:
    """Recipes: several stages as one file, which goes on where it was killed."""


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="the recipe, a .yaml file")],
    folder: Annotated[Path | None, typer.Option(help="where it runs; unset: runs/NAME, by the recipe's name")] = None,
    start: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="STAGE", help="run this stage and all made of it anew; may be repeated"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    gpu: Annotated[
        str | None, typer.Option(help="in a dry run: a kind of GPU, for which `rlvr plan` estimates hours")
    ] = None,
) -> None:
    """Run a recipe's stages that are not done yet. Run the same command again after a crash or a kill."""
    from rlvr.distill.pipeline.place import Place
    from rlvr.distill.pipeline.recipe import read_recipe
    from rlvr.distill.pipeline.runner import run_recipe

    if gpu is not None and not dry_run:
        raise typer.BadParameter("is for --dry-run: a run takes what is there", param_hint="--gpu")
    recipe = read_recipe(file)
    place = Place(recipe, (folder or Path("runs") / recipe.name).resolve())
    if dry_run:
        _show_outlook(place, gpu)
    else:
        _show_finished(place, run_recipe(place, start or (), print))


def _show_outlook(place: Place, gpu: str | None) -> None:
    from rlvr.distill.pipeline.checks import on_trust
    from rlvr.distill.pipeline.dry_run import State, outlook
    from rlvr.plan.accelerators import GPUS, accelerator
    from rlvr.readable import duration

    if gpu is not None and gpu.lower() not in GPUS:
        raise typer.BadParameter(f"{gpu}: there are {', '.join(GPUS)}", param_hint="--gpu")
    stages = outlook(place, accelerator(gpu) if gpu is not None else None)
    print(f"{place.recipe.name}, in {place.folder}")
    for number, stage in enumerate(stages, start=1):
        took = f" in {duration(stage.seconds)}" if stage.seconds is not None else ""
        made_of = f" of {', '.join(stage.made_of)}" if stage.made_of else ""
        print(f"[{number}/{len(stages)}] {stage.stage}: {stage.state}{took}: {stage.verb}{made_of}")
        for line in filter(None, [stage.cost, *stage.why.splitlines()]):
            print(f"    {line}")
    if changed := [stage.stage for stage in stages if stage.state is State.CHANGED]:
        print(f"a run would stop at what has changed; anew with {' '.join(f'--from {name}' for name in changed)}")
    if gpu is not None:
        print(
            "GPU-hours are estimated as `rlvr plan` does, not measured: prompts and answers half as long as allowed, "
            "no group sampled again, without starts, evaluations and teachers"
        )
    if names := on_trust(place):
        print(f"not looked for, as a dry run asks no network: {', '.join(names)}")
    print("checked: settings, options, names of rewards, licences of named teachers; not the columns of data")


def _show_finished(place: Place, finished: Sequence[Finished]) -> None:
    from rich.console import Console
    from rich.table import Table

    from rlvr.readable import duration, number

    on_gpus = any(one.record.gpus for one in finished)
    accuracies = [one.evaluation.accuracies() if one.evaluation is not None else {} for one in finished]
    figures = list(dict.fromkeys(figure for of_one in accuracies for figure in of_one))
    table = Table("stage", "verb", *figures, "time", *(["GPU-hours"] if on_gpus else []), title=place.recipe.name)
    for record, of_one in zip((one.record for one in finished), accuracies, strict=True):
        row = [record.stage, place.recipe.stages[record.stage].verb]
        row += [f"{of_one[figure]:.3f}" if figure in of_one else "" for figure in figures]
        row += [duration(record.seconds)]
        row += [number(record.gpus * record.seconds / 3600)] if on_gpus else []
        table.add_row(*row)
    Console().print(table)
    print(f"folder: {place.folder}")
