"""Kills a recipe by SIGKILL in the middle of each stage in turn, and sees that it goes on and ends whole:

    python tests/distill/kill_recipe.py examples/recipes/r1-tiny.yaml --folder runs/killed

`--stages cold_start cold_start/evaluation` kills in a stage and in the evaluation of its policy alone.

Each kill is of the command's whole process group. What the group leaves behind becomes a child of this program, so no
process can hide: all must be gone within GONE_WITHIN_S. Then the next run goes on, and is killed in the next stage.
What is printed at the end is what was seen; the exit code is 1 where anything was not as it should be.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rlvr.distill.pipeline.guardian import descendants
from rlvr.distill.pipeline.identity import hash_of
from rlvr.distill.pipeline.place import Place
from rlvr.distill.pipeline.recipe import read_recipe
from rlvr.distill.pipeline.verbs import VERBS
from rlvr.metrics import read_metrics
from rlvr.run_folder import RunFolder

_PR_SET_CHILD_SUBREAPER = 36
GONE_WITHIN_S = 30.0
STAGE_WITHIN_S = 600.0
A_MOMENT_S = 3.0  # into a stage that has no steps


@dataclass(frozen=True)
class Kill:
    """What was seen of one: where it hit, the seconds until no process was left, and what was wrong."""

    stage: str
    hit: str
    gone_s: float
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return f"killed in {self.stage:24} {self.hit:40} no process left after {self.gone_s:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="a new one")
    parser.add_argument("--stages", nargs="*", help="where it is killed: STAGE or STAGE/evaluation; unset: every stage")
    given = parser.parse_args()
    if given.folder.exists():
        sys.exit(f"{given.folder} is there already: name a new folder")
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_CHILD_SUBREAPER) failed")
    place = Place(read_recipe(given.recipe), given.folder.resolve())
    stages = given.stages or list(place.recipe.stages)
    words = [sys.executable, "-m", "rlvr.cli", "pipeline", "run", str(given.recipe), "--folder", str(place.folder)]
    kills = []
    for stage in stages:
        kills.append(kill_in(stage, place, words))
        print(kills[-1], flush=True)
    faults = [f"killed in {kill.stage}: {fault}" for kill in kills for fault in kill.faults]
    faults += run_to_the_end(place, words)
    for fault in faults:
        print(f"FAULT: {fault}")
    sys.exit(1 if faults else 0)


def kill_in(stage: str, place: Place, words: list[str]) -> Kill:
    """One run, killed in the middle of `stage`."""
    before = records(place)
    with (place.folder.parent / f"{place.folder.name}.log").open("ab") as log:
        command = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        hit = wait_for_the_middle(stage, place, command)
        faults = [] if command.poll() is None else [f"the command had ended with {command.returncode}; see {log.name}"]
        if not faults:
            os.killpg(command.pid, signal.SIGKILL)
        command.wait()
    gone_s, left = wait_for_descendants()
    faults += [f"still there after {gone_s:.0f} s: {process}" for process in left]
    faults += [f"{name} was run again" for name, record in before.items() if records(place).get(name) != record]
    return Kill(stage, hit, gone_s, tuple(faults))


def wait_for_the_middle(target: str, place: Place, command: subprocess.Popen[bytes]) -> str:
    """Until the stage has begun: where it has checkpoints, until a step after the first; else for a moment."""
    stage, _, evaluation = target.partition("/")
    folder = place.stage(stage).path / evaluation
    begun, ended = ("config.yaml", "evaluation.json") if evaluation else ("begun.json", "stage.json")
    has_steps = VERBS[place.recipe.stages[stage].verb].checkpoints is not None and not evaluation
    deadline = time.monotonic() + STAGE_WITHIN_S
    begun_at: float | None = None
    while command.poll() is None and time.monotonic() < deadline:
        if (folder / ended).is_file():
            return "it had just ended"
        if begun_at is None and (folder / begun).is_file():
            begun_at = time.monotonic()
        for step, checkpoint in map(steps_of, runs_of(place, stage)) if has_steps else ():
            if checkpoint and step > checkpoint:
                return f"after step {step}, checkpoint of {checkpoint}"
        if not has_steps and begun_at is not None and time.monotonic() - begun_at > A_MOMENT_S:
            return f"{A_MOMENT_S:g} s after its start"
        time.sleep(0.02)
    return "nowhere"


def runs_of(place: Place, stage: str) -> list[RunFolder]:
    """Those that the stage has begun: one, of a co-distillation one of each peer."""
    pattern = VERBS[place.recipe.stages[stage].verb].checkpoints
    return [RunFolder(found.parent) for found in place.stage(stage).path.glob(pattern)] if pattern else []


def steps_of(run: RunFolder) -> tuple[int, int]:
    """The last step that was told, and that of the newest whole checkpoint; 0 for none."""
    steps = [record.step for record in read_metrics(run.metrics)] if run.metrics.is_file() else []
    whole = [int(path.name.partition("-")[2]) for path in run.checkpoints.glob("step-*") if path.suffix == ""]
    return max(steps, default=0), max(whole, default=0)


def run_to_the_end(place: Place, words: list[str]) -> list[str]:
    """Not killed any more. What is wrong with the whole."""
    before = records(place)
    ended = subprocess.run(words, stdout=sys.stdout, stderr=subprocess.STDOUT)
    if ended.returncode != 0:
        return [f"the last run ended with {ended.returncode}"]
    faults = [f"{name} was run again" for name, record in before.items() if records(place)[name] != record]
    for name in place.recipe.stages:
        record = place.stage(name).record()
        if record is None or hash_of(place.output(name)) != record.output_hash:
            faults.append(f"{name} is not whole")
        for run in runs_of(place, name):
            told = Counter(line.step for line in read_metrics(run.metrics) if "learner/grad_norm" in line.values)
            wanted = place.configs(name)[0].steps
            if told != Counter(range(1, wanted + 1)):
                faults.append(f"{name}: steps were told {dict(told)}, expected each of 1 to {wanted} once")
    _, left = wait_for_descendants()
    return faults + [f"still there after the end: {process}" for process in left]


def records(place: Place) -> dict[str, bytes]:
    """Of the stages that are done, as they are on disk."""
    files = {name: place.stage(name).path / "stage.json" for name in place.recipe.stages}
    return {name: file.read_bytes() for name, file in files.items() if file.is_file()}


def wait_for_descendants() -> tuple[float, list[str]]:
    """Seconds until this program has none, and those that are left after GONE_WITHIN_S, which are killed then."""
    started = time.monotonic()
    while (left := descendants()) and time.monotonic() - started < GONE_WITHIN_S:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return time.monotonic() - started, [f"{pid} {words[:120]}" for pid, words in left.items()]


if __name__ == "__main__":
    main()
