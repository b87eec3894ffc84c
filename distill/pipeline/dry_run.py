"""What a run of a recipe would do: each stage's state, what it is made of, and what its settings say of its cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from rlvr.distill.pipeline.checks import check_stages
from rlvr.distill.pipeline.cost import bounds, gpu_hours
from rlvr.distill.pipeline.identity import hash_of
from rlvr.distill.pipeline.place import Place
from rlvr.distill.pipeline.recipe import RecipeError
from rlvr.distill.pipeline.runner import done_before
from rlvr.plan.accelerators import Accelerator


class State(StrEnum):
    DONE = "done"
    UNFINISHED = "goes on"  # begun, and not ended
    TO_RUN = "to run"
    CHANGED = "changed"  # was run as another one: refused without --from


@dataclass(frozen=True, slots=True)
class Outlook:
    """One stage as a run would find it. `seconds` is what it took, if it is done; `why` says what has changed."""

    stage: str
    verb: str
    state: State
    made_of: tuple[str, ...]
    cost: str
    seconds: float | None = None
    why: str = ""


def outlook(place: Place, gpu: Accelerator | None = None) -> list[Outlook]:
    """Of all stages, in order; with a kind of GPU, its GPU-hours are estimated. Nothing is run or written.

    Raises RecipeError for everything that is wrong and can be known.
    """
    check_stages(place)
    hashes = {name: hash_of(path) for name, path in place.recipe.inputs.items()}
    return [_of_stage(place, name, hashes, gpu) for name in place.recipe.stages]


def _of_stage(place: Place, name: str, hashes: dict[str, str], gpu: Accelerator | None) -> Outlook:
    stage = place.recipe.stages[name]
    cost = [bounds(place, name), gpu_hours(place, name, gpu) if gpu is not None else ""]
    made_of = tuple(sorted(stage.references()))
    found = Outlook(name, stage.verb, State.TO_RUN, made_of, "; ".join(part for part in cost if part))
    if stage.references() - set(hashes):
        return found  # what it is made of is not there yet
    try:
        record = done_before(place, name, hashes)
    except RecipeError as error:
        return replace(found, state=State.CHANGED, why=str(error))
    if record is None:
        return replace(found, state=State.UNFINISHED) if place.stage(name).begun() is not None else found
    hashes[name] = record.output_hash
    return replace(found, state=State.DONE, seconds=record.seconds)
