"""The demo's config: an embedded base model on fresh problems, written into the run's own folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rlvr.api import new_run_dir
from rlvr.config import Config
from rlvr.config_loading import load_config
from rlvr.data import write_rows
from rlvr.demo import BASE_OF_BOTH
from rlvr.demo.problems import Split
from rlvr.demo.subjects import DemoTask
from rlvr.run_folder import RunFolder, refuse_used

_TRAIN_PROBLEMS = 4096
_HELD_OUT_PROBLEMS = 256  # of each subject
_SEED_OF_HELD_OUT = 12345  # one set of held-out problems, whatever the run's seed


def demo_config(overrides: Sequence[str], task: DemoTask = DemoTask.MATH) -> Config:
    """The packaged demo.yaml with `key=value` overrides; its problems are made here, no network is needed."""
    package = Path(str(files("rlvr.demo")))
    named = [word.partition("=")[2] for word in overrides if word.startswith("run_dir=")]
    run_dir = Path(named[-1]) if named else new_run_dir()
    refuse_used(RunFolder(run_dir))  # before problems are written into it
    train, held_out = run_dir / "data" / "train.jsonl", run_dir / "data" / "held_out.jsonl"
    of_package = [
        f"data.path={train}",
        f"evaluation.data.path={held_out}",
        f"run_dir={run_dir}",
    ]
    settings = [package / "demo.yaml"]
    if task is not DemoTask.MATH:
        settings.append(package / f"demo_{task}.yaml")
        of_package.append(f"model={BASE_OF_BOTH}")
    config = load_config(settings, [*of_package, *overrides])
    write_rows(islice(_rows(task, Split.TRAIN, config.seed), _TRAIN_PROBLEMS), train)
    held_out_count = _HELD_OUT_PROBLEMS * len(task.subjects)
    write_rows(islice(_rows(task, Split.HELD_OUT, _SEED_OF_HELD_OUT), held_out_count), held_out)
    return config


def _rows(task: DemoTask, split: Split, seed: int) -> Iterator[dict[str, Any]]:
    """Problems of the task's subjects by turns; each row says which it is of where there are several."""
    sources = [(subject, subject.problems(split, seed)) for subject in task.subjects]
    for subject, source in cycle(sources):
        row = subject.row(next(source))
        yield row if len(sources) == 1 else row | {"subject": subject.name}
