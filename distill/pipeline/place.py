"""A recipe in the folder in which it runs: where each stage is, and the command line that makes it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.config import Config
from rlvr.config_loading import check, merge
from rlvr.distill.codistill.plan import plan_of
from rlvr.distill.gate import Gate
from rlvr.distill.opd import TeacherWord, teacher_word
from rlvr.distill.pipeline.ledger import StageFolder
from rlvr.distill.pipeline.recipe import OUT, Recipe, filled
from rlvr.distill.pipeline.verbs import VERBS


@dataclass(frozen=True, slots=True)
class Place:
    """A recipe and the folder in which it runs."""

    recipe: Recipe
    folder: Path

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.folder / name)

    def output(self, name: str) -> Path:
        """The path that `${name}` stands for."""
        if name in self.recipe.inputs:
            return self.recipe.inputs[name]
        stage = self.recipe.stages[name]
        return self.stage(name).path / (stage.output or VERBS[stage.verb].output)

    def settings(self, name: str) -> dict[str, Any]:
        """A stage's settings with paths in the place of names."""
        return self._filled(self.recipe.stages[name].settings, name)

    def configs(self, name: str) -> list[Config]:
        """A stage's settings as its verb reads them; of a co-distillation those of each peer. Raises ConfigError."""
        if VERBS[self.recipe.stages[name].verb].has_peers:
            plan = plan_of(self.settings(name), Gate(), self.stage(name).path / "run")
            return [peer.config for peer in plan.peers]
        return [self.config(name)]

    def config(self, name: str) -> Config:
        """The same of a verb without peers. Raises ConfigError."""
        stage = self.recipe.stages[name]
        verb = VERBS[stage.verb]
        settings = merge(self.settings(name), verb.sets)
        if verb.data_option is not None and verb.data_option in stage.options:
            settings["data"] = str(self._filled(stage.options[verb.data_option], name))
        return check(settings)

    def evaluation_config(self) -> Config:
        """What is asked of every policy. Raises ConfigError."""
        return check(self.evaluation(Path("policy")))

    def evaluation(self, policy: Path) -> dict[str, Any]:
        """The settings of `rlvr eval` for a policy that a stage leaves; empty where the recipe asks nothing."""
        asked = self.recipe.evaluation
        return {} if asked is None else self._filled(asked, "") | {"model": str(policy)}

    def command(self, name: str, *, resume: bool = False) -> list[str]:
        """The command line of a stage, whose config file is in its folder where it has settings."""
        verb = VERBS[self.recipe.stages[name].verb]
        if not verb.words:  # a command; `python` is the one that runs this
            arguments = self._words(name)
            return [sys.executable, *arguments[1:]] if arguments[0] == "python" else arguments
        words = [sys.executable, "-m", "rlvr.cli", *verb.words]
        return [*words, "--resume", *self._where(name)] if resume else [*words, *self.words_after_verb(name)]

    def words_after_verb(self, name: str) -> list[str]:
        """What a stage gives to its verb: its config file, its arguments, where to work, its options."""
        stage = self.recipe.stages[name]
        config = [str(self.stage(name).config)] if stage.settings else []
        return [*config, *self._words(name), *self._where(name), *_options(self._filled(stage.options, name))]

    def teachers(self, name: str) -> list[TeacherWord]:
        """The models that a stage's option `teacher` names, as the recipe writes them; not the student itself.

        Raises TeacherError.
        """
        given = self.recipe.stages[name].options.get("teacher", [])
        words = [teacher_word(str(word)) for word in (given if isinstance(given, list) else [given])]
        return [word for word in words if not word.is_student]

    def _words(self, name: str) -> list[str]:
        return [str(word) for word in self._filled(self.recipe.stages[name].arguments, name)]

    def _where(self, name: str) -> list[str]:
        stage = self.recipe.stages[name]
        return [word.format(folder=self.stage(name).path, output=stage.output) for word in VERBS[stage.verb].place]

    def _filled(self, value: Any, name: str) -> Any:
        return filled(value, lambda reference: str(self.output(name if reference == OUT else reference)))


def evaluation_command(folder: StageFolder, result: Path) -> list[str]:
    """The command line that asks a policy the questions of the config in `folder`."""
    return [sys.executable, "-m", "rlvr.cli", "eval", str(folder.config), "--json", str(result)]


def _options(options: Mapping[str, Any]) -> list[str]:
    """`{n: 4, tag: [a, b], tail: true}` as `--n 4 --tag a --tag b --tail`."""
    words: list[str] = []
    for key, value in options.items():
        flag = "--" + key.replace("_", "-")
        for one in value if isinstance(value, list) else [value]:
            words += [flag] if one is True else [] if one is False else [flag, str(one)]
    return words
