"""What a stage may do: the verbs of the command line that make something. To add one is to add an entry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Leaves(StrEnum):
    """What a verb makes."""

    POLICY = "a policy"  # a folder in Hugging Face form; it is evaluated
    DATA = "data"  # a file or a folder


@dataclass(frozen=True, slots=True)
class Verb:
    """`words` start it; `place` are the words that say where to work, in which `{folder}` is the stage's own.

    `output` is what it leaves, below that folder. One that `resumes` goes on from its newest checkpoint when it was
    killed; another begins anew.
    """

    words: tuple[str, ...]
    leaves: Leaves
    output: str
    place: tuple[str, ...]
    resumes: bool = False

    @property
    def is_run(self) -> bool:
        """Whether its settings are those of a run (`rlvr.config.Config`)."""
        return self.output == "run/policy"


def _trains(*words: str, resumes: bool = False) -> Verb:
    """A verb that leaves a run, and in it a policy."""
    return Verb(words, Leaves.POLICY, "run/policy", ("run_dir={folder}/run",), resumes)


def _makes(*words: str, output: str) -> Verb:
    """A verb that leaves a file or a folder of data where `--out` says."""
    return Verb(words, Leaves.DATA, output, ("--out", f"{{folder}}/{output}"))


VERBS: dict[str, Verb] = {
    "sft": _trains("sft", resumes=True),
    "train": _trains("train", resumes=True),
    "distill sample": _makes("distill", "sample", output="answers.parquet"),
    "distill sft": _trains("distill", "sft"),
    "distill capture": _makes("distill", "capture", output="store"),
    "distill logits": _trains("distill", "logits"),
    "distill opd": _trains("distill", "opd", resumes=True),
    "distill merge": Verb(("distill", "merge"), Leaves.POLICY, "policy", ("--out", "{folder}/policy")),
    # Any program of one's own, which leaves a file or a folder at ${out}; the stage says how it is called.
    "command": Verb((), Leaves.DATA, "", ()),
}
