"""What a run that goes on takes up from its folder besides the checkpoint, and what it leaves behind."""

from __future__ import annotations

from rlvr.checkpoint import CheckpointState
from rlvr.evaluation import EvaluationReport, VerifierOf, summarize
from rlvr.events import EventKind, append_event
from rlvr.metrics import read_metrics
from rlvr.rollout_log import read_groups
from rlvr.run_folder import RunFolder
from rlvr.types import newest_version


def go_on(folder: RunFolder, state: CheckpointState) -> None:
    """Remove rollouts and evaluations of later steps, which are made again, and note the resume among the events."""
    rollouts = [folder.rollouts(step) for step in folder.rollout_steps() if step > state.step]
    evaluations = [folder.evaluation(step) for step in folder.evaluation_steps() if step > state.step]
    for file in (*rollouts, *evaluations):
        file.unlink()
    text = f"resumed from the checkpoint of step {state.step}, policy version {state.version}"
    append_event(folder, state.step, EventKind.NOTE, text)


def first_evaluation(folder: RunFolder, verifier: VerifierOf) -> EvaluationReport | None:
    """The run's first, whoever has resumed it since; `verifier` is as in `summarize`. Raises RunFolderError."""
    steps = folder.evaluation_steps()
    return evaluation_after(folder, steps[0], verifier) if steps else None


def evaluation_after(folder: RunFolder, step: int, verifier: VerifierOf) -> EvaluationReport | None:
    """The one that was made after `step`, None where none was; `verifier` as above. Raises RunFolderError."""
    if step not in folder.evaluation_steps():
        return None
    groups = read_groups(folder.evaluation(step))
    version = newest_version(trajectory for group in groups for trajectory in group.trajectories)
    return summarize(groups, version, verifier)


def first_of(folder: RunFolder, metric: str) -> float | None:
    """The first number of a name in the run's log; None where there is none. Raises RunFolderError."""
    values = (record.values for record in read_metrics(folder.metrics))
    return next((of_line[metric] for of_line in values if metric in of_line), None)
