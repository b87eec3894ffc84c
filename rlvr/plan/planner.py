"""A whole plan: the config as it is, what would make it fit, and how GPUs are best shared."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.architecture.catalog import Model, find_model
from rlvr.config import Config
from rlvr.plan.accelerators import CPU, GPUS, Accelerator, accelerator
from rlvr.plan.advice import Advisor, Change
from rlvr.plan.estimate import Estimate, configured_split, estimate
from rlvr.plan.workload import Workload, workload


class PlanError(ValueError):
    """A plan that cannot be made. The message says what to give instead."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `rlvr plan` says.

    `best` is the best split with a learner of any number of GPUs, None where there is no choice or nothing fits.
    """

    config: Config
    model: Model
    machine: Accelerator
    gpus: int  # 0: a processor
    work: Workload
    now: Estimate
    changes: tuple[Change, ...]
    best: Estimate | None

    @property
    def fits(self) -> bool:
        return self.now.fits

    @property
    def run_s(self) -> float:
        """Of the whole run, starting and evaluations left out."""
        return self.config.steps * self.now.step_s


def plan_run(config: Config, gpu: str, gpus: int, *, prompt: int | None = None, answer: int | None = None) -> Plan:
    """Plan a config on `gpus` GPUs of a kind by name, or on this machine's processor (`cpu`).

    `prompt` and `answer` are mean lengths in tokens. Raises PlanError, ModelNotFound, UnknownArchitecture.
    """
    try:
        machine = accelerator(gpu)
    except KeyError:
        raise PlanError(f"--gpu {gpu}: not in the table; there are {', '.join([*GPUS, CPU])}") from None
    if gpus < 1:
        raise PlanError(f"--gpus {gpus}: at least 1 is needed; --gpu cpu plans without")
    for option, length in (("--prompt-tokens", prompt), ("--answer-tokens", answer)):
        if length is not None and length < 1:
            raise PlanError(f"{option} {length}: a mean length is at least 1 token")
    devices = 0 if machine.is_cpu else gpus
    model = find_model(config.model.name)
    work = workload(config, prompt, answer)
    advisor = Advisor(config, model.architecture, machine, devices, work)
    return Plan(
        config=config,
        model=model,
        machine=machine,
        gpus=devices,
        work=work,
        now=estimate(config, model.architecture, machine, configured_split(config, devices), work),
        changes=tuple(advisor.changes()),
        best=advisor.best_split(),
    )
