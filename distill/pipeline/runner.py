"""Runs a recipe, stage after stage. Each stage is a process of its own, which ends with all its memory and actors.

A stage is done when its record is written, which is the last thing that happens to it. So a run that was killed goes
on at the stage that it was in; one that trains goes on from its newest checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rlvr.distill.pipeline.identity import differences, hash_of, identity_of
from rlvr.distill.pipeline.ledger import Record, StageFolder
from rlvr.distill.pipeline.recipe import OUT, Recipe, RecipeError, filled
from rlvr.distill.pipeline.verbs import VERBS, Leaves
from rlvr.files import replacing

Tell = Callable[[str], None]


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


def run_recipe(place: Place, start: str | None, tell: Tell) -> list[Record]:
    """Run what is not done. `start` (--from) puts aside a stage and all that is made of it, and runs them anew.

    Raises RecipeError: for a stage that was run as another one than it is now, and for one that fails.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    with _locked(place.folder):
        if start is not None:
            _put_aside(place, start, tell)
        with replacing(place.folder / "recipe.yaml") as partial:
            partial.write_text(yaml.safe_dump(place.recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        hashes = {name: hash_of(path) for name, path in place.recipe.inputs.items()}
        records = []
        for number, name in enumerate(place.recipe.stages, start=1):
            head = f"[{number}/{len(place.recipe.stages)}] {name}"
            record = done_before(place, name, hashes)
            if record is None:
                record = _run_stage(place, name, hashes, head, tell)
            else:
                tell(f"{head}: done before")
            if "evaluation/pass@1" in record.metrics:
                tell(f"{head}: accuracy {record.metrics['evaluation/pass@1']:.3f}")
            hashes[name] = record.output_hash
            records.append(record)
        return records


def done_before(place: Place, name: str, hashes: Mapping[str, str]) -> Record | None:
    """The record of a stage that is done as it stands in the recipe. Raises RecipeError when it is another one now."""
    identity = identity_of(place.recipe.stages[name], hashes)
    record = place.stage(name).record()
    if record is not None and record.identity != identity:
        lines = "\n".join(f"  - {line}" for line in differences(record.identity, identity))
        raise RecipeError(
            f"stage {name} in {place.folder} was run as another one:\n{lines}\n"
            f"run it and what is made of it anew with --from {name}, or use another folder"
        )
    if record is not None and hash_of(place.output(name)) != record.output_hash:
        raise RecipeError(
            f"stage {name}: {place.output(name)} is not what the stage left; "
            f"run it and what is made of it anew with --from {name}"
        )
    return record


def _run_stage(place: Place, name: str, hashes: Mapping[str, str], head: str, tell: Tell) -> Record:
    stage, folder = place.recipe.stages[name], place.stage(name)
    verb, identity = VERBS[stage.verb], identity_of(stage, hashes)
    if folder.begun() not in (None, identity):
        tell(f"{head}: was begun as another one; what that left is now in {folder.put_aside()}")
    resume = verb.resumes and any(folder.run.glob("checkpoints/step-*"))
    if not resume:
        folder.clear()
    folder.begin(identity)
    tell(f"{head}: {stage.verb}{', from its newest checkpoint' if resume else ''}")
    started = time.monotonic()
    _run_process(name, words_of(place, name, resume=resume), folder.log)
    output = place.output(name)
    if not output.exists():
        raise RecipeError(f"stage {name} ended without an error, but left nothing at {output}")
    metrics = _evaluate(place, name, output, tell) if verb.leaves is Leaves.POLICY else {}
    record = Record(
        stage=name,
        identity=identity,
        output=str(output.relative_to(place.folder)),
        output_hash=hash_of(output),
        seconds=round(time.monotonic() - started, 1),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=metrics,
    )
    folder.write_record(record)
    return record


def words_of(place: Place, name: str, *, resume: bool = False) -> list[str]:
    """The command line of a stage. Writes its config where the stage has settings."""
    stage, folder = place.recipe.stages[name], place.stage(name)
    verb = VERBS[stage.verb]

    def path_of(reference: str) -> str:
        return str(place.output(name if reference == OUT else reference))

    arguments = [str(word) for word in filled(stage.arguments, path_of)]
    if not verb.words:  # a command; `python` is the one that runs this
        return [sys.executable, *arguments[1:]] if arguments[0] == "python" else arguments
    where = [word.format(folder=folder.path) for word in verb.place]
    words = [sys.executable, "-m", "rlvr.cli", *verb.words]
    if resume:
        return [*words, "--resume", *where]
    if stage.settings:
        _write_config(folder, filled(stage.settings, path_of))
        words.append(str(folder.config))
    return [*words, *arguments, *where, *_options(filled(stage.options, path_of))]


def _evaluate(place: Place, name: str, policy: Path, tell: Tell) -> dict[str, float]:
    """The answers of a policy to the recipe's questions, counted."""
    if place.recipe.evaluation is None:
        return {}
    folder = StageFolder(place.stage(name).path / "evaluation")
    folder.path.mkdir(exist_ok=True)
    settings = filled(place.recipe.evaluation, lambda reference: str(place.output(reference)))
    _write_config(folder, settings | {"model": str(policy)})
    result = folder.path / "metrics.json"
    words = [sys.executable, "-m", "rlvr.cli", "eval", str(folder.config), "--json", str(result)]
    _run_process(f"{name} (evaluation)", words, folder.log)
    metrics: dict[str, float] = json.loads(result.read_text(encoding="utf-8"))
    return metrics


def _write_config(folder: StageFolder, settings: Mapping[str, Any]) -> None:
    with replacing(folder.config) as partial:
        partial.write_text(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _options(options: Mapping[str, Any]) -> list[str]:
    """`{n: 4, tag: [a, b], tail: true}` as `--n 4 --tag a --tag b --tail`."""
    words: list[str] = []
    for key, value in options.items():
        flag = "--" + key.replace("_", "-")
        for one in value if isinstance(value, list) else [value]:
            words += [flag] if one is True else [] if one is False else [flag, str(one)]
    return words


def _run_process(what: str, words: list[str], log: Path) -> None:
    """Run a command to its end, its output shown and kept. It ends with us, however we end."""
    # The child asks the kernel for its own end when we end: a pipeline that is killed leaves no stage behind.
    guarded = [sys.executable, "-m", "rlvr.distill.pipeline.with_parent", *words]
    with log.open("ab") as kept, subprocess.Popen(guarded, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                kept.write(line)
                sys.stdout.write("    " + line.decode(errors="replace"))
                sys.stdout.flush()
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        shown = "\n".join(f"  {line}" for line in tail)
        raise RecipeError(
            f"stage {what} failed (exit code {process.returncode}); the end of {log}:\n{shown}\n"
            "mend it and run the recipe again: what is done is not done twice"
        )


def _put_aside(place: Place, start: str, tell: Tell) -> None:
    if start not in place.recipe.stages:
        raise RecipeError(f"--from {start}: no such stage; there are {', '.join(place.recipe.stages)}")
    for name in place.recipe.after(start):
        aside = place.stage(name).put_aside()
        if aside is not None:
            tell(f"{name}: what it left is now in {aside}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One run in a folder at a time. The lock goes with the process, however it ends."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"another process runs a recipe in {folder}: wait for it, or use another folder"
            ) from None
        yield
