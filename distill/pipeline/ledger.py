"""What is written down of each stage, and where.

FOLDER/recipe.yaml               the recipe, as it was run last
FOLDER/STAGE/begun.json          its identity, before it starts
FOLDER/STAGE/config.yaml         the settings it was started with
FOLDER/STAGE/log.txt             what it printed
FOLDER/STAGE/stage.json          its record, when it is done: without this file it is not
FOLDER/STAGE/evaluation/         what its policy answered: config.yaml, log.txt, metrics.json; evaluation.json at last
FOLDER/replaced/STAGE-1          what `--from` put aside
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rlvr.distill.pipeline.identity import Identity
from rlvr.distill.pipeline.recipe import ASIDE, RecipeError
from rlvr.files import replacing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """A stage that is done.

    `seconds` are those of its process, start and end included; where it was resumed, without what a kill has undone.
    `gpus` are those that it held, 0 on a processor. `output` is below the recipe's folder.
    """

    stage: str
    identity: Identity
    output: str
    output_hash: str
    seconds: float
    gpus: int
    finished_at: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy answered. `identity` says what was asked of which policy."""

    identity: Identity
    metrics: dict[str, float]
    seconds: float

    def accuracies(self) -> dict[str, float]:
        """The share of right answers, as `accuracy`, and that of each verifier where there are several."""
        prefix = "evaluation/accuracy/"
        of = {key.removeprefix(prefix): value for key, value in self.metrics.items() if key.startswith(prefix)}
        return {"accuracy": self.metrics["evaluation/pass@1"]} | of


@dataclass(frozen=True, slots=True)
class StageFolder:
    """One stage's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def evaluation(self) -> StageFolder:
        """Where its policy is asked."""
        return StageFolder(self.path / "evaluation")

    def record(self) -> Record | None:
        """None while the stage is not done. Raises RecipeError for a record that cannot be read."""
        return _read(self.path / "stage.json", Record, f"run the stage anew with --from {self.path.name}")

    def write_record(self, record: Record) -> None:
        _write(self.path / "stage.json", record)

    def evaluated(self) -> Evaluation | None:
        """None while its policy has not been asked. Raises RecipeError for a record that cannot be read."""
        file = self.evaluation.path / "evaluation.json"
        return _read(file, Evaluation, "remove it, and the policy is asked again")

    def write_evaluation(self, evaluation: Evaluation) -> None:
        _write(self.evaluation.path / "evaluation.json", evaluation)

    def write_config(self, settings: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.config) as partial:
            partial.write_text(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def begun(self) -> Identity | None:
        """As what it was begun; None if it was not."""
        file = self.path / "begun.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def begin(self, identity: Identity) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / "begun.json") as partial:
            partial.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")

    def clear(self) -> None:
        """Remove what a stage that was killed has left."""
        shutil.rmtree(self.path, ignore_errors=True)

    def put_aside(self) -> Path | None:
        """Move all that the stage left out of the way, and say where; None if there is nothing."""
        if not self.path.exists():
            return None
        place = self.path.parent / ASIDE
        place.mkdir(exist_ok=True)
        number = 1 + sum(1 for other in place.iterdir() if other.name.rpartition("-")[0] == self.path.name)
        return self.path.rename(place / f"{self.path.name}-{number}")


def _read(file: Path, kind: type[T], remedy: str) -> T | None:
    if not file.is_file():
        return None
    try:
        return kind(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{file}: not a record of this version ({error}); {remedy}") from None


def _write(file: Path, record: Record | Evaluation) -> None:
    with replacing(file) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n", encoding="utf-8")
