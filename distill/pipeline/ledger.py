"""What is written down of each stage, and where.

FOLDER/recipe.yaml               the recipe, as it was run last
FOLDER/STAGE/begun.json          its identity, before it starts
FOLDER/STAGE/config.yaml         the settings it was started with
FOLDER/STAGE/log.txt             what it printed
FOLDER/STAGE/stage.json          its record, when it is done: without this file it is not
FOLDER/replaced/STAGE-1          what `--from` put aside
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from rlvr.distill.pipeline.identity import Identity
from rlvr.distill.pipeline.recipe import RecipeError
from rlvr.files import replacing


@dataclass(frozen=True, slots=True)
class Record:
    """A stage that is done. `metrics` are those of its policy's evaluation."""

    stage: str
    identity: Identity
    output: str
    output_hash: str
    seconds: float
    finished_at: str
    metrics: dict[str, float] = field(default_factory=dict)


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
    def run(self) -> Path:
        """Where a verb that trains keeps its run."""
        return self.path / "run"

    def record(self) -> Record | None:
        """None while the stage is not done. Raises RecipeError for a record that cannot be read."""
        file = self.path / "stage.json"
        if not file.is_file():
            return None
        try:
            return Record(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RecipeError(
                f"{file}: not a stage's record ({error}); run it anew with --from {self.path.name}"
            ) from None

    def write_record(self, record: Record) -> None:
        with replacing(self.path / "stage.json") as partial:
            partial.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n", encoding="utf-8")

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
        place = self.path.parent / "replaced"
        place.mkdir(exist_ok=True)
        number = 1 + sum(1 for other in place.iterdir() if other.name.rpartition("-")[0] == self.path.name)
        return self.path.rename(place / f"{self.path.name}-{number}")
