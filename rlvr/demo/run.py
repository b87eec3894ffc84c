"""The demo's config: the embedded base model on fresh word problems, written into the run's own folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rlvr.api import new_run_dir
from rlvr.config import Config
from rlvr.config_loading import load_config
from rlvr.demo.problems import Split, write_jsonl
from rlvr.run_folder import RunFolder, refuse_used

_TRAIN_PROBLEMS = 4096
_HELD_OUT_PROBLEMS = 256
_SEED_OF_HELD_OUT = 12345  # one set of held-out problems, whatever the run's seed


def demo_config(overrides: Sequence[str]) -> Config:
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
    config = load_config([package / "demo.yaml"], [*of_package, *overrides])
    write_jsonl(train, Split.TRAIN, _TRAIN_PROBLEMS, config.seed)
    write_jsonl(held_out, Split.HELD_OUT, _HELD_OUT_PROBLEMS, _SEED_OF_HELD_OUT)
    return config
