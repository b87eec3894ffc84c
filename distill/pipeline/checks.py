"""All that can be known of a recipe's stages before one is run: the last should not fail after days of the others.

Nothing is asked of the network: that a model or dataset of the hub is there is not checked, and `on_trust` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import typer

from rlvr.config import Config
from rlvr.config_loading import ConfigError
from rlvr.distill.gate import Gate
from rlvr.distill.licence import LicenceRefused
from rlvr.distill.pipeline.place import Place
from rlvr.distill.pipeline.recipe import REFERENCE, RecipeError
from rlvr.distill.pipeline.verbs import VERBS, Verb
from rlvr.distill.teachers import TeacherError
from rlvr.plugins import PluginError
from rlvr.prepare import PreparationError, load_env, load_reward

# Of click's errors, typer shows this one to the outside; its base is that of all wrong words.
_WrongWords = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])
_FILE_ENDINGS = (".jsonl", ".json", ".parquet")


def check_stages(place: Place) -> None:
    """Raises RecipeError with everything that is wrong in settings, options, names and licences of teachers."""
    wrong = [f"stages.{name}: {line}" for name in place.recipe.stages for line in _stage_faults(place, name)]
    if place.recipe.evaluation is not None:
        wrong += [f"evaluation: {line}" for line in _settings_faults(lambda: [place.evaluation_config()])]
    if wrong:
        raise RecipeError("the recipe cannot be run:\n" + "\n".join(f"  - {line}" for line in wrong))


def on_trust(place: Place) -> list[str]:
    """Models, datasets and teachers that are named and neither here nor made by a stage. Of a checked recipe."""
    made = [str(place.output(name)) for name in [*place.recipe.inputs, *place.recipe.stages]]
    named: list[str] = []
    for name in place.recipe.stages:
        if VERBS[place.recipe.stages[name].verb].has_settings:
            for config in place.configs(name):
                named += _names_in(config)
        named += _named_teachers(place, name)
    if place.recipe.evaluation is not None:
        named += _names_in(place.evaluation_config())[1:]  # its model is a policy that a stage makes
    return [one for one in dict.fromkeys(named) if not one.startswith(tuple(made)) and not Path(one).exists()]


def _stage_faults(place: Place, name: str) -> Iterable[str]:
    stage = place.recipe.stages[name]
    verb = VERBS[stage.verb]
    if verb.data_option is not None and verb.data_option not in stage.options:
        yield f"options: {verb.data_option} must be given"
    elif verb.has_settings:
        faults = list(_settings_faults(lambda: place.configs(name)))
        yield from faults
        if faults:
            return
    if verb.words:
        yield from _word_faults(verb, place.words_after_verb(name))
        yield from _licence_faults(place, name)


def _settings_faults(read: Callable[[], list[Config]]) -> Iterable[str]:
    try:
        configs = read()
    except ConfigError as error:
        yield str(error)
        return
    for config in configs:
        yield from _config_faults(config)


def _config_faults(config: Config) -> Iterable[str]:
    data = [config.data, *([config.evaluation.data] if config.evaluation.data else [])]
    for one in data:
        if one.path.endswith(_FILE_ENDINGS) and not Path(one.path).is_absolute() and not Path(one.path).is_file():
            yield f"data.path: no file at {one.path} (looked from {Path.cwd()}); a recipe names its files in `inputs`"
    for spec in config.reward.functions:
        try:
            load_reward(spec)
        except (PluginError, PreparationError) as error:
            yield str(error)
    try:
        load_env(config.env)
    except (PluginError, PreparationError) as error:
        yield str(error)


def _word_faults(verb: Verb, words: list[str]) -> Iterable[str]:
    """As the command line itself would say."""
    from rlvr.cli import app

    command: Any = typer.main.get_command(app)
    for word in verb.words:
        command = command.commands[word]
    try:
        command.make_context(" ".join(verb.words), [*words])
    except _WrongWords as error:
        yield f"rlvr {' '.join(verb.words)}: {error.format_message()}"


def _licence_faults(place: Place, name: str) -> Iterable[str]:
    """Of teachers that no stage makes; the licences of those that a stage makes follow from theirs."""
    options = {key.replace("_", "-"): value for key, value in place.recipe.stages[name].options.items()}
    gate = Gate(
        options.get("use", "commercial"), _listed(options.get("license")), _listed(options.get("accept-license"))
    )
    try:
        gate.check(_named_teachers(place, name))
    except (LicenceRefused, TeacherError) as error:
        yield str(error)


def _named_teachers(place: Place, name: str) -> list[str]:
    """Those that are none of the recipe's own; peers are each other's."""
    has_peers = VERBS[place.recipe.stages[name].verb].has_peers
    peers = [config.model.name for config in place.configs(name)] if has_peers else []
    own = tuple(str(place.output(other)) for other in place.recipe.stages)
    named = [word.name for word in place.teachers(name) if not REFERENCE.search(word.name)]
    return [*(model for model in dict.fromkeys(peers) if not model.startswith(own)), *named]


def _listed(value: Any) -> list[str]:
    return [] if value is None else [str(one) for one in (value if isinstance(value, list) else [value])]


def _names_in(config: Config) -> list[str]:
    return [config.model.name, config.data.path, *([config.evaluation.data.path] if config.evaluation.data else [])]
