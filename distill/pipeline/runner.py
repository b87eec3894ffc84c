"""Runs a recipe, stage after stage. Each stage is a process of its own, which ends with all its memory and actors.

A stage is done when its record is written, which is the last thing that happens to it. So a run that was killed goes
on at the stage that it was in; one that trains goes on from its newest checkpoint. Then its policy is asked the
recipe's questions, which has a record of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from rlvr.checkpoint import Checkpoint, latest_checkpoint
from rlvr.distill.pipeline.checks import check_stages
from rlvr.distill.pipeline.cost import gpus_held
from rlvr.distill.pipeline.identity import differences, evaluation_identity, hash_of, identity_of
from rlvr.distill.pipeline.ledger import Evaluation, Record, StageFolder
from rlvr.distill.pipeline.models import check_models
from rlvr.distill.pipeline.place import Place, evaluation_command
from rlvr.distill.pipeline.recipe import RecipeError
from rlvr.distill.pipeline.regression_gate import hold
from rlvr.distill.pipeline.verbs import VERBS, Leaves, Verb
from rlvr.files import replacing
from rlvr.metrics import read_metrics
from rlvr.readable import duration
from rlvr.run_folder import RunFolder

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """A stage that is done, and what its policy answered; None where it leaves no policy or nothing is asked."""

    record: Record
    evaluation: Evaluation | None


def run_recipe(place: Place, start: Sequence[str], tell: Tell) -> list[Finished]:
    """Run what is not done. `start` (--from) puts aside stages and all that is made of them, and runs them anew.

    Raises RecipeError: for what is wrong in any stage, and for stages that were run as others than they are now, before
    anything is run; for a stage that fails; and for one that does not hold its gate.
    """
    check_stages(place)
    check_models(place)
    place.folder.mkdir(parents=True, exist_ok=True)
    with _locked(place.folder):
        hashes = {name: hash_of(path) for name, path in place.recipe.inputs.items()}
        anew = _made_anew(place, start)
        done = _done_before(place, hashes, anew)
        _put_aside(place, anew, tell)
        with replacing(place.folder / "recipe.yaml") as partial:
            partial.write_text(yaml.safe_dump(place.recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        finished: dict[str, Finished] = {}
        for number, name in enumerate(place.recipe.stages, start=1):
            head = f"[{number}/{len(place.recipe.stages)}] {name}"
            record = done.get(name)
            if record is None:
                record = _run_stage(place, name, hashes, head, tell)
                tell(f"{head}: done in {duration(record.seconds)}")
            else:
                tell(f"{head}: done before")
            hashes[name] = record.output_hash
            evaluation = _evaluation(place, record, hashes, head, tell)
            finished[name] = Finished(record, evaluation)
            if evaluation is not None:
                tell(f"{head}: " + ", ".join(f"{key} {value:.3f}" for key, value in evaluation.accuracies().items()))
                others = {other: one.evaluation for other, one in finished.items()}
                for line in hold(name, place.recipe.stages[name].gate, evaluation, others):
                    tell(f"{head}: {line}")
        return list(finished.values())


def done_before(place: Place, name: str, hashes: Mapping[str, str]) -> Record | None:
    """The record of a stage that is done as it stands in the recipe. Raises RecipeError when it is another one now."""
    stage = place.recipe.stages[name]
    identity = identity_of(stage, hashes)
    record = place.stage(name).record()
    if record is not None and record.identity != identity:
        lines = "\n".join(f"  - {line}" for line in differences(record.identity, identity, stage))
        raise RecipeError(f"stage {name} in {place.folder} was run as another one:\n{lines}")
    if record is not None and hash_of(place.output(name)) != record.output_hash:
        raise RecipeError(f"stage {name}: {place.output(name)} is not what the stage left")
    return record


def _done_before(place: Place, inputs: Mapping[str, str], anew: Collection[str]) -> dict[str, Record]:
    """The records of all stages that are done, but those that are made anew. Raises RecipeError for all that changed.

    What is made of a stage that is not done is not done either.
    """
    hashes, done = dict(inputs), dict[str, Record]()
    changed: dict[str, str] = {}
    for name, stage in place.recipe.stages.items():
        if name in anew or stage.references() - set(hashes):
            continue
        try:
            record = done_before(place, name, hashes)
        except RecipeError as error:
            changed[name] = str(error)
            continue
        if record is not None:
            done[name], hashes[name] = record, record.output_hash
    if changed:
        words = " ".join(f"--from {name}" for name in changed)
        raise RecipeError(
            "\n".join(changed.values()) + f"\nrun that and what is made of it anew with {words}, or use another folder"
        )
    return done


def _run_stage(place: Place, name: str, hashes: Mapping[str, str], head: str, tell: Tell) -> Record:
    stage, folder = place.recipe.stages[name], place.stage(name)
    verb, identity = VERBS[stage.verb], identity_of(stage, hashes)
    if folder.begun() not in (None, identity):
        tell(f"{head}: was begun as another one; what that left is now in {folder.put_aside()}")
    checkpoint, run = newest(folder, verb)
    if checkpoint is None:
        folder.clear()
    folder.begin(identity)
    if checkpoint is None and stage.settings:
        folder.write_config(place.settings(name))
    tell(f"{head}: {stage.verb}" + (f", from its checkpoint of step {checkpoint.state.step}" if checkpoint else ""))
    before_s = 0.0 if checkpoint is None else _seconds_until(run, checkpoint.state.step)
    started = time.monotonic()
    _run_process(name, place.command(name, resume=checkpoint is not None), folder.log, _show)
    output = place.output(name)
    if not output.exists():
        raise RecipeError(f"stage {name} ended without an error, but left nothing at {output}")
    record = Record(
        stage=name,
        identity=identity,
        output=str(output.relative_to(place.folder)),
        output_hash=hash_of(output),
        seconds=round(before_s + time.monotonic() - started, 1),
        gpus=gpus_held(place, name),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    folder.write_record(record)
    return record


def newest(folder: StageFolder, verb: Verb) -> tuple[Checkpoint | None, RunFolder]:
    """The newest checkpoint of a stage, of any of its peers, and the run that it is of."""
    found: Checkpoint | None = None
    run = RunFolder(folder.path)
    for checkpoints in folder.path.glob(verb.checkpoints) if verb.checkpoints else ():
        checkpoint = latest_checkpoint(checkpoints)
        if checkpoint is not None and (found is None or checkpoint.state.step > found.state.step):
            found, run = checkpoint, RunFolder(checkpoints.parent)
    return found, run


def _seconds_until(run: RunFolder, step: int) -> float:
    """What a run that was interrupted took up to the step that it goes on from."""
    return max((record.wall_s for record in read_metrics(run.metrics) if record.step <= step), default=0.0)


def _evaluation(place: Place, record: Record, hashes: Mapping[str, str], head: str, tell: Tell) -> Evaluation | None:
    """What a stage's policy answers; asked again only where the policy or the questions are others than they were."""
    name, leaves = record.stage, VERBS[place.recipe.stages[record.stage].verb].leaves
    if leaves is Leaves.METRICS:
        return Evaluation({}, json.loads(place.output(name).read_text(encoding="utf-8")), record.seconds)
    if leaves is not Leaves.POLICY or place.recipe.evaluation is None:
        return None
    identity = evaluation_identity(place.recipe.evaluation, hashes, record.output_hash)
    before = place.stage(name).evaluated()
    if before is not None and before.identity == identity:
        return before
    tell(f"{head}: asking its policy" + (" again: the questions are others than they were" if before else ""))
    folder = place.stage(name).evaluation
    folder.clear()
    folder.write_config(place.evaluation(place.output(name)))
    result = folder.path / "metrics.json"
    started = time.monotonic()
    # Its figures are told by us; what engines say when they start is in the log.
    _run_process(f"{name} (evaluation)", evaluation_command(folder, result), folder.log, lambda line: None)
    metrics = json.loads(result.read_text(encoding="utf-8"))
    evaluation = Evaluation(identity, metrics, round(time.monotonic() - started, 1))
    place.stage(name).write_evaluation(evaluation)
    return evaluation


def _run_process(what: str, words: list[str], log: Path, show: Callable[[bytes], None]) -> None:
    """Run a command to its end, its output kept and given to `show`. It ends with us, however we end."""
    # In a session of its own, so that a kill of our group leaves the guardian to end what the stage has started.
    guarded = [sys.executable, "-m", "rlvr.distill.pipeline.guardian", str(os.getpid()), *words]
    with (
        log.open("ab") as kept,
        subprocess.Popen(guarded, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                kept.write(line)
                show(line)
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


def _show(line: bytes) -> None:
    sys.stdout.write("    " + line.decode(errors="replace"))
    sys.stdout.flush()


def _made_anew(place: Place, start: Sequence[str]) -> list[str]:
    """The stages of --from and all that is made of them, in order. Raises RecipeError for one that is none."""
    for name in start:
        if name not in place.recipe.stages:
            raise RecipeError(f"--from {name}: no such stage; there are {', '.join(place.recipe.stages)}")
    return [name for name in place.recipe.stages if any(name in place.recipe.after(one) for one in start)]


def _put_aside(place: Place, stages: Sequence[str], tell: Tell) -> None:
    for name in stages:
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
