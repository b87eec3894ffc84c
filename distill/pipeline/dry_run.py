"""What a run of a recipe would do: each stage's state, what it is made of, and bounds of what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rlvr.config import Config
from rlvr.config_loading import ConfigError, check
from rlvr.distill.pipeline.identity import hash_of
from rlvr.distill.pipeline.recipe import Recipe, RecipeError, Stage
from rlvr.distill.pipeline.runner import Place, done_before
from rlvr.distill.pipeline.verbs import VERBS


class State(StrEnum):
    DONE = "done"
    UNFINISHED = "goes on"  # begun, and not ended
    TO_RUN = "to run"
    CHANGED = "changed"  # was run as another one: refused without --from


@dataclass(frozen=True, slots=True)
class Outlook:
    """One stage as a run would find it. `seconds` is what it took, if it is done."""

    stage: str
    verb: str
    state: State
    made_of: tuple[str, ...]
    cost: str
    seconds: float | None = None
    why: str = ""


def outlook(place: Place) -> list[Outlook]:
    """Of all stages, in order. Nothing is run or written. Raises RecipeError for settings that are wrong."""
    hashes = {name: hash_of(path) for name, path in place.recipe.inputs.items()}
    return [_of_stage(place, name, hashes) for name in place.recipe.stages]


def _of_stage(place: Place, name: str, hashes: dict[str, str]) -> Outlook:
    stage = place.recipe.stages[name]
    found = Outlook(name, stage.verb, State.TO_RUN, tuple(sorted(stage.references())), cost_of(place.recipe, name))
    if stage.references() - set(hashes):
        return found  # what it is made of is not there yet
    try:
        record = done_before(place, name, hashes)
    except RecipeError as error:
        return _but(found, State.CHANGED, why=str(error))
    if record is None:
        return _but(found, State.UNFINISHED if place.stage(name).begun() is not None else State.TO_RUN)
    hashes[name] = record.output_hash
    return _but(found, State.DONE, seconds=record.seconds)


def _but(found: Outlook, state: State, seconds: float | None = None, why: str = "") -> Outlook:
    return Outlook(found.stage, found.verb, state, found.made_of, found.cost, seconds, why)


def cost_of(recipe: Recipe, name: str) -> str:
    """Upper bounds, from the settings alone. Raises RecipeError for settings that no run would take."""
    stage = recipe.stages[name]
    if not VERBS[stage.verb].is_run:
        return ""
    config = _config(name, stage)
    if stage.verb == "sft":
        return (
            f"{config.steps:,} steps of {config.sft.rows_per_step:,} examples"
            if not config.sft.epochs
            else (f"{config.sft.epochs:g} passes over the data")
        )
    answers = config.steps * config.rollout.groups_per_step * config.rollout.group_size
    tokens = answers * config.sampling.max_new_tokens
    return f"{config.steps:,} steps, {answers:,} trained answers, at most {tokens:,} tokens of them"


def _config(name: str, stage: Stage) -> Config:
    settings: dict[str, Any] = dict(stage.settings)
    try:
        return check(settings)
    except ConfigError as error:
        raise RecipeError(f"stage {name}: {error}") from None
