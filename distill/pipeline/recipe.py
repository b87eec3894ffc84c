"""A recipe: inputs, and stages that make things of them and of one another.

    name: two-stages
    inputs:
      questions: questions.jsonl        # a file or folder, from where the recipe stands
    evaluation:                         # asked of every policy that a stage leaves; settings of `rlvr eval`
      data: {path: "${questions}", prompt: question}
      reward: math_answer
    stages:
      reason:
        verb: train
        settings: {model: tiny, data: "${questions}", reward: math_answer, steps: 50}
      again:
        verb: train
        settings: {model: "${reason}", data: "${questions}", reward: math_answer, steps: 50}

`${NAME}` stands for the path of an input, or of what a stage leaves. Nothing else ties stages together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlvr.distill.pipeline.verbs import VERBS, Leaves
from rlvr.plugins import CommandError

REFERENCE = re.compile(r"\$\{([^}]*)\}")
OUT = "out"  # in a command: where the stage must leave what it makes
ASIDE = "replaced"  # the folder beside the stages' for what is run anew
_NAME = re.compile(r"[A-Za-z][\w-]*")


class RecipeError(CommandError):
    """A recipe that cannot be run, or not in this folder."""


class Bound(BaseModel):
    """A figure of an evaluation that a policy must not lose: that `of` another stage's policy, less `within`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    of: str
    within: float = Field(0.01, ge=0)


class Stage(BaseModel):
    """One step of a recipe. `settings` are the verb's config, `arguments` and `options` its other words.

    Options are given by name: `{n: 4}` is `--n 4`, `{tag: [a, b]}` is `--tag a --tag b`. `output` is how the file or
    folder is called that a command leaves at `${out}` (data is known by its ending), or an export makes. `gate` is held
    against the evaluation of the stage's policy: `{accuracy/code: {of: coder, within: 0.02}}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    verb: str
    settings: dict[str, Any] = Field(default_factory=dict)
    arguments: list[str] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)
    output: str | None = None
    gate: dict[str, Bound] = Field(default_factory=dict)

    def references(self) -> set[str]:
        """The names of what it is made of."""
        return set(_references([self.settings, self.arguments, self.options])) - {OUT}


class Recipe(BaseModel):
    """A checked recipe. `stages` are in an order in which each comes after what it needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    inputs: dict[str, Path] = Field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    stages: dict[str, Stage]

    def needs(self, stage: str) -> set[str]:
        """The stages whose output it reads."""
        return self.stages[stage].references() & set(self.stages)

    def measured_by(self, stage: str) -> set[str]:
        """The stages against whose figures its gate is held."""
        return {bound.of for bound in self.stages[stage].gate.values()}

    def after(self, stage: str) -> list[str]:
        """The stage, and all that are made of what it leaves, in order."""
        found = {stage}
        for name in self.stages:
            if self.needs(name) & found:
                found.add(name)
        return [name for name in self.stages if name in found]


def read_recipe(file: Path) -> Recipe:
    """Raises RecipeError, with the place in the file, for all that can be known before anything is run."""
    if not file.is_file():
        raise RecipeError(f"no recipe at {file} (looked from {Path.cwd()})")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(tree)
    except yaml.YAMLError as error:
        raise RecipeError(f"{file} is not valid YAML: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise RecipeError(f"{file} is no recipe:\n" + "\n".join(f"  - {line}" for line in lines)) from None
    inputs = {name: _input(file, name, path) for name, path in recipe.inputs.items()}
    _check(file, recipe)
    order = _order(file, recipe)
    return recipe.model_copy(update={"inputs": inputs, "stages": {name: recipe.stages[name] for name in order}})


def filled(value: Any, replace: Callable[[str], str]) -> Any:
    """The value with every `${NAME}` in it replaced."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: replace(match[1]), value)
    if isinstance(value, Mapping):
        return {key: filled(inner, replace) for key, inner in value.items()}
    return [filled(inner, replace) for inner in value] if isinstance(value, list) else value


def _references(value: Any) -> list[str]:
    """All NAMEs that stand as `${NAME}` in the value."""
    if isinstance(value, str):
        return REFERENCE.findall(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [name for one in inner for name in _references(one)]


def _input(file: Path, name: str, path: Path) -> Path:
    found = (file.parent / path).resolve()
    if not found.exists():
        raise RecipeError(f"{file}: inputs.{name}: there is nothing at {found}")
    return found


def _check(file: Path, recipe: Recipe) -> None:
    if not recipe.stages:
        raise RecipeError(f"{file}: stages: there is none")
    both = set(recipe.inputs) & set(recipe.stages)
    if both:
        raise RecipeError(f"{file}: {', '.join(sorted(both))}: named both as an input and as a stage")
    known = [*recipe.inputs, *recipe.stages]
    for name in known:
        if not _NAME.fullmatch(name) or name in (OUT, ASIDE):
            raise RecipeError(
                f"{file}: {name!r} is no name: letters, digits, _ and -, a letter first, and not {OUT!r} or {ASIDE!r}"
            )
    for name, stage in recipe.stages.items():
        where = f"{file}: stages.{name}"
        if stage.verb not in VERBS:
            raise RecipeError(f"{where}.verb: {_unknown(stage.verb, list(VERBS))}")
        verb = VERBS[stage.verb]
        if stage.verb == "command" and OUT not in _references(stage.arguments):
            raise RecipeError(f"{where}.arguments: must name ${{{OUT}}}, where the command leaves what it makes")
        if (not verb.output) != (stage.output is not None):
            raise RecipeError(
                f"{where}.output: a command or an export says how what it leaves is called, and no other verb does"
            )
        if stage.verb == "command" and (stage.settings or stage.options):
            raise RecipeError(f"{where}: a command has `arguments` alone: no settings and no options")
        if verb.has_settings != bool(stage.settings):
            raise RecipeError(f"{where}.settings: {stage.verb} {'needs some' if verb.has_settings else 'has none'}")
        for reference in stage.references() - set(known):
            raise RecipeError(f"{where}: ${{{reference}}}: {_unknown(reference, known)}")
        _check_gate(where, recipe, stage)
    for reference in set(_references(recipe.evaluation or {})) - set(known):
        raise RecipeError(f"{file}: evaluation: ${{{reference}}}: {_unknown(reference, known)}")


def _check_gate(where: str, recipe: Recipe, stage: Stage) -> None:
    asked = [name for name, one in recipe.stages.items() if VERBS[one.verb].leaves is Leaves.POLICY]
    asked = asked if recipe.evaluation is not None else []
    if stage.gate and not (recipe.evaluation is not None and VERBS[stage.verb].leaves is Leaves.POLICY):
        raise RecipeError(f"{where}.gate: needs a verb that makes a policy, and the recipe's `evaluation`")
    for figure, bound in stage.gate.items():
        if bound.of not in asked:
            raise RecipeError(f"{where}.gate.{figure}.of: {_unknown(bound.of, asked)}")


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"no {name!r};" + (f" did you mean {near[0]!r}?" if near else "") + f" there are {', '.join(known)}"


def _order(file: Path, recipe: Recipe) -> list[str]:
    """As in the file, but each after what it needs."""
    # A policy is asked as soon as there is one, so what the questions are made of comes first.
    first = set(_references(recipe.evaluation or {})) & set(recipe.stages)
    first |= {need for name in first for need in recipe.needs(name)}
    graph = {
        name: recipe.needs(name) | recipe.measured_by(name) | (first if name not in first else set())
        for name in recipe.stages
    }
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        raise RecipeError(f"{file}: stages wait for one another: {' -> '.join(error.args[1])}") from None
    places = {name: place for place, name in enumerate(recipe.stages)}
    order: list[str] = []
    ready = list(sorter.get_ready())
    while ready:
        name = min(ready, key=places.__getitem__)
        ready.remove(name)
        order.append(name)
        sorter.done(name)
        ready += sorter.get_ready()
    return order
