"""The file of a co-distillation: settings that all peers share, each peer's own, and how they teach each other.

    codistill: {mode: joint, alpha_max: 0.5}
    peers:
      maths: {model: runs/maths/policy}
      code: {model: runs/code/policy, learner: {learning_rate: 5.0e-7}}
      elder: {model: Qwen/Qwen3-8B, learn: false}       # an ordinary teacher: it answers, and is not trained
    data: {path: both.jsonl, prompt: question}          # and all other settings of a run, for every peer
    run_dir: runs/both

A peer's settings are the shared ones with its own on top, and make one complete `Config`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from rlvr.config import Config, Engine, Section
from rlvr.config_loading import ConfigError, check, merge, read_tree
from rlvr.distill.codistill.weights import HIGHEST_ALPHA, schedule
from rlvr.distill.gate import Gate
from rlvr.files import replacing

_NAME = re.compile(r"[A-Za-z][\w-]*")
_FILE = "codistill.yaml"
_GATE = "gate"  # its key in the file that is saved


class Mode(StrEnum):
    """When peers teach."""

    JOINT = "joint"  # in every step, beside the verifier
    ALTERNATE = "alternate"  # steps of the verifier alone, then steps in which what is taught is taught by peers alone


class PeerSignal(StrEnum):
    """What a peer's word on an answer is."""

    SAMPLED = "sampled"  # of each sampled token how likely the peer finds it: an advantage
    STUDENT_TOPK = "student_topk"  # the same of the ids that the student finds likeliest: the divergence KL(i || j)
    PEER_TOPK = "peer_topk"  # the ids that the peer finds likeliest: the divergence KL(j || i)


# Steps of the verifier alone and of peers, in mode `alternate`: CoPD's 1.5 to 1 (arXiv 2604.27083).
_VERIFIER_STEPS, _PEER_STEPS = 3, 2


class CodistillSettings(Section):
    """How peers teach each other. `weights` has the formulas; shares are of the run's steps."""

    mode: Mode = Field(Mode.JOINT, description="joint: verifier and peers in every step; alternate: 3 steps to 2")
    signal: PeerSignal = Field(
        PeerSignal.SAMPLED,
        description="peers' word is on sampled tokens, on what the student finds likeliest, or what they do",
    )
    alpha_max: float = Field(0.5, ge=0, description="what peers' word counts at most, of 1; 0 is plain GRPO")
    kappa: float | Literal["rms"] = Field(1.0, description="scale of the peers' word; rms: as large as the verifier's")
    burn_in: float = Field(0.05, ge=0, le=1, description="share of the steps without peers")
    ramp: float = Field(0.10, ge=0, le=1, description="share of the steps over which their word grows")
    fade: float = Field(0.25, ge=0, le=1, description="share of the steps, the last, over which it falls to 0")
    clip: float = Field(5.0, gt=0, description="nats; bound of what a peer says of one token")
    k: int = Field(16, ge=1, description="likeliest ids of a token that are compared, and of the topk signals taught")
    overlap_low: float = Field(0.60, ge=0, le=1, description="share in common up to which a peer is not followed")
    overlap_high: float = Field(0.85, ge=0, le=1, description="share in common from which it is followed fully")
    delta: float = Field(0.1, ge=0, le=1, description="by how much a pass rate must be higher to count as higher")
    half_life: float = Field(8.0, gt=0, description="steps of a peer after which what it said counts half")
    highest_age: float = Field(32.0, ge=0, description="steps of a peer after which it counts nothing")
    tag_column: str = Field("tag", description="column by which pass rates are averaged; rows without are one kind")
    patience_s: float = Field(
        30.0, gt=0, description="seconds that a step waits for what peers say; the rest is dropped"
    )

    @field_validator("alpha_max")
    @classmethod
    def _keep_the_verifier(cls, value: float) -> float:
        if value > HIGHEST_ALPHA:
            raise ValueError(
                f"{value:g} is more than {HIGHEST_ALPHA}: each peer is drawn to the other, so any agreement is a fixed "
                f"point, and without at least {1 - HIGHEST_ALPHA:.1f} of the verifier's word they can agree on nonsense"
            )
        return value

    @model_validator(mode="after")
    def _check_spans(self) -> Self:
        if self.burn_in + self.ramp + self.fade > 1:
            raise ValueError("burn_in + ramp + fade is more than 1, the whole run")
        if self.overlap_low >= self.overlap_high:
            raise ValueError("overlap_low must be below overlap_high")
        if self.signal is not PeerSignal.SAMPLED and self.kappa == "rms":
            raise ValueError(f"kappa=rms compares advantages, and signal={self.signal} has none: set kappa to a number")
        return self

    def strength(self, step: int, steps: int) -> float:
        """s of the step after `step` finished ones, of `steps`.

        In mode `alternate` it is 0 in a cycle's first steps and up to 1 in its last, whatever `alpha_max` above 0 is:
        over a cycle the verifier keeps 0.6.
        """
        now = schedule(step / steps, self.alpha_max, self.burn_in, self.ramp, self.fade)
        if self.mode is Mode.JOINT or now == 0:
            return now
        is_peers_turn = step % (_VERIFIER_STEPS + _PEER_STEPS) >= _VERIFIER_STEPS
        return now / self.alpha_max if is_peers_turn else 0.0


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """One peer: a complete config, in a folder of its own. One that does not learn is an ordinary teacher."""

    name: str
    config: Config
    learns: bool


@dataclass(frozen=True, slots=True)
class CodistillPlan:
    """A checked file. `tree` is what it says, to be kept for a resume."""

    run_dir: Path
    peers: tuple[PeerPlan, ...]
    settings: CodistillSettings
    gate: Gate
    tree: Mapping[str, Any]

    @property
    def learners(self) -> list[PeerPlan]:
        return [peer for peer in self.peers if peer.learns]

    def save(self) -> None:
        """Into the run's folder, with the licences it was begun under."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        kept = {**self.tree, _GATE: dataclasses.asdict(self.gate)}
        with replacing(plan_file(self.run_dir)) as partial:
            partial.write_text(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")


def plan_file(run_dir: Path) -> Path:
    """What tells that a folder holds a co-distillation."""
    return run_dir / _FILE


def peer_folder(run_dir: Path, name: str) -> Path:
    """Where a peer keeps its own run."""
    return run_dir / "peers" / name


def read_plan(
    files: Sequence[Path | str], overrides: Sequence[str], gate: Gate, default_run_dir: Path
) -> CodistillPlan:
    """Merge files and `key=value` words, and check the whole. Raises ConfigError."""
    return plan_of(read_tree(files, overrides), gate, default_run_dir)


def read_saved_plan(run_dir: Path, overrides: Sequence[str]) -> CodistillPlan:
    """What `save` left, with `key=value` words on top. Raises ConfigError."""
    tree = read_tree([plan_file(run_dir)], overrides)
    return plan_of(tree, Gate(**tree.pop(_GATE, {})), run_dir)


def plan_of(tree: dict[str, Any], gate: Gate, default_run_dir: Path) -> CodistillPlan:
    """Check what a file says. Raises ConfigError."""
    run_dir = Path(tree.setdefault("run_dir", str(default_run_dir)))
    shared = {key: value for key, value in tree.items() if key not in ("codistill", "peers")}
    of_peers = tree.get("peers")
    if not isinstance(of_peers, Mapping) or len(of_peers) < 2:
        raise ConfigError("peers: must name two or more, each with its settings: `peers: {a: {model: ...}, b: {...}}`")
    peers = tuple(_peer(str(name), shared, own, run_dir) for name, own in of_peers.items())
    _refuse_what_does_not_fit(peers)
    return CodistillPlan(run_dir, peers, _settings(tree.get("codistill") or {}), gate, tree)


def _peer(name: str, shared: Mapping[str, Any], own: Any, run_dir: Path) -> PeerPlan:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"peers.{name}: a name begins with a letter, and has letters, digits, _ and - only")
    if not isinstance(own, Mapping):
        raise ConfigError(f"peers.{name}: expected settings, such as {{model: ...}}, found {own!r}")
    learns = own.get("learn", True)
    if not isinstance(learns, bool):
        raise ConfigError(f"peers.{name}.learn: expected true or false, found {learns!r}")
    # Where all answers of a task are equally wrong a verifier has nothing to say, and a peer has.
    below = {"rollout": {"drop_zero_variance": False}}
    settings = merge(merge(below, shared), {key: value for key, value in own.items() if key != "learn"})
    try:
        config = check(settings | {"run_dir": str(peer_folder(run_dir, name))})
    except ConfigError as error:
        raise ConfigError(f"peers.{name}: {error}") from None
    return PeerPlan(name, config, learns)


def _settings(tree: Any) -> CodistillSettings:
    try:
        return CodistillSettings.model_validate(tree)
    except ValidationError as error:
        lines = [f"  - {'.'.join(['codistill', *map(str, e['loc'])])}: {e['msg']}" for e in error.errors()]
        known = ", ".join(CodistillSettings.model_fields)
        raise ConfigError("\n".join(["codistill cannot be used:", *lines, f"  known here: {known}"])) from None


def _refuse_what_does_not_fit(peers: Sequence[PeerPlan]) -> None:
    """Raise ConfigError where peers cannot be in one run, or cannot read each other's answers."""
    if not any(peer.learns for peer in peers):
        raise ConfigError("peers: none of them learns; leave `learn: false` out of at least one")
    first = peers[0]
    for peer in peers:
        c = peer.config
        if c.cluster != first.config.cluster:
            raise ConfigError(f"peers.{peer.name}.cluster: all peers run in one place; set it once, for all of them")
        if c.cluster.backend == "local" and c.generator.engine is Engine.VLLM:
            raise ConfigError(
                "generator.engine=vllm with cluster.backend=local: one process holds one vLLM engine, and peers need "
                "several; set generator.engine=transformers or cluster.backend=ray"
            )
        if peer.learns and c.rollout.drop_zero_variance:
            raise ConfigError(
                f"peers.{peer.name}.rollout.drop_zero_variance: peers teach on the groups that are wrong throughout, "
                "and this drops them before they are taught; leave it out or set it to false"
            )
        if peer.learns and c.learner.router.balance_loss:
            raise ConfigError(
                f"peers.{peer.name}.learner.router.balance_loss: a peer's answer that is imitated does not name the "
                "experts of this model, which the loss needs; set it to 0"
            )
    longest = max(peers, key=_longest)
    for peer in peers:
        if _longest(peer) < _longest(longest) and longest.learns:
            raise ConfigError(
                f"peers.{peer.name}: it reads {_longest(peer)} tokens (data.max_prompt_tokens + "
                f"sampling.max_new_tokens), and answers of {longest.name} may have {_longest(longest)}: set them alike"
            )


def _longest(peer: PeerPlan) -> int:
    return peer.config.data.max_prompt_tokens + peer.config.sampling.max_new_tokens
