"""What a stage may do: the verbs of the command line that make something. To add one is to add an entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Leaves(StrEnum):
    """What a verb makes."""

    POLICY = "a policy"  # a folder in Hugging Face form; it is evaluated
    METRICS = "metrics"  # what an evaluation found, a JSON file
    DATA = "data"  # a file or a folder


@dataclass(frozen=True, slots=True)
class Verb:
    """`words` start it; `place` are the words that say where to work: `{folder}` is the stage's own, `{output}` the
    name that the stage gives to what it leaves.

    `output` is what it leaves, below that folder; empty where the stage says how it is called. One that `has_settings`
    reads a config of a run (`rlvr.config.Config`), over which it puts what it `sets` itself, and as its `data` what the
    option `data_option` names; the settings of one that `has_peers` are those of a co-distillation. One with
    `checkpoints`, a pattern below the stage's folder, goes on from the newest when it was killed; another begins anew.
    """

    words: tuple[str, ...]
    leaves: Leaves
    output: str
    place: tuple[str, ...]
    has_settings: bool = True
    sets: Mapping[str, Any] = field(default_factory=dict)
    data_option: str | None = None
    has_peers: bool = False
    checkpoints: str | None = None


# Where all answers of a task are equally good a verifier has nothing to say, and a teacher has.
_TAUGHT = {"rollout": {"drop_zero_variance": False}}


def _trains(*words: str, sets: Mapping[str, Any] | None = None, data_option: str | None = None) -> Verb:
    """A verb that leaves a run, and in it a policy."""
    return Verb(
        words,
        Leaves.POLICY,
        "run/policy",
        ("run_dir={folder}/run",),
        sets=sets or {},
        data_option=data_option,
        checkpoints="run/checkpoints",
    )


def _makes(*words: str, output: str, sets: Mapping[str, Any] | None = None) -> Verb:
    """A verb that leaves a file or a folder of data where `--out` says."""
    return Verb(words, Leaves.DATA, output, ("--out", f"{{folder}}/{output}"), sets=sets or {})


VERBS: dict[str, Verb] = {
    "sft": _trains("sft"),
    "train": _trains("train"),
    "distill sample": _makes("distill", "sample", output="answers.parquet", sets=_TAUGHT),
    "distill sft": _trains("distill", "sft", data_option="rows"),
    "distill capture": _makes("distill", "capture", output="store"),
    "distill logits": _trains("distill", "logits", data_option="store"),
    "distill opd": _trains("distill", "opd", sets=_TAUGHT),
    # It leaves several policies: `${NAME}/PEER/policy` is one of them, and an `eval` asks it.
    "codistill": Verb(
        ("codistill",),
        Leaves.DATA,
        "run/peers",
        ("run_dir={folder}/run",),
        has_peers=True,
        checkpoints="run/peers/*/checkpoints",
    ),
    "distill merge": Verb(
        ("distill", "merge"), Leaves.POLICY, "policy", ("--out", "{folder}/policy"), has_settings=False
    ),
    # The folder's name is the one that the model is given to others by: the stage says it.
    "distill export": Verb(("distill", "export"), Leaves.DATA, "", ("{folder}/{output}",), has_settings=False),
    "eval": Verb(("eval",), Leaves.METRICS, "metrics.json", ("--json", "{folder}/metrics.json")),
    # Any program of one's own, which leaves a file or a folder at ${out}; the stage says how it is called.
    "command": Verb((), Leaves.DATA, "", (), has_settings=False),
}
