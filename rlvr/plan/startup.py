"""Whether this machine can hold a run at all: the one thing that is refused before anything is loaded.

Only what is certain counts: masters, gradients and optimizer of the learner, and the generators' weights.
Activations, caches and processes come on top, so a run that passes may still not fit; `rlvr plan` says more.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.architecture.facts import Architecture
from rlvr.architecture.parameters import count
from rlvr.config import Config
from rlvr.plan.advice import adapter_words, with_adapters
from rlvr.plan.estimate import gib
from rlvr.plan.held import held_bytes
from rlvr.plan.workload import generator_element


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is: bytes of memory that processes may use, swap included, and of each GPU."""

    memory: int
    gpus: tuple[int, ...] = ()


def shortfall(config: Config, architecture: Architecture, machine: Machine) -> str | None:
    """Why the run can never fit on this machine, with what to change; None where it may."""
    gpu = bool(machine.gpus) and config.learner.device != "cpu"
    learner = held_bytes(config, architecture)
    generator = generator_element(config, gpu=bool(machine.gpus)) * count(architecture).total
    if gpu:
        alone = len(machine.gpus) > 1
        on_gpu = 0 if config.learner.offload else learner // config.learner.ranks
        needed = on_gpu if alone else on_gpu + config.generator.count * generator
        room, where = max(machine.gpus), "the largest GPU" if alone else "the GPU, which generator and learner share,"
    else:
        generators = 0 if machine.gpus else config.generator.count * generator
        needed, room, where = learner + generators, machine.memory, "this machine"
    if needed <= room:
        return None
    return (
        f"model.name={config.model.name}: weights, gradients and optimizer of {count(architecture).total / 1e9:.2f} "
        f"billion parameters take {gib(needed)} before the first token, and {where} has {gib(room)}; "
        f"{_remedy(config, architecture, machine)}; `rlvr plan` shows each part"
    )


def _remedy(config: Config, architecture: Architecture, machine: Machine) -> str:
    adapted = with_adapters(config)
    if config.model.lora.rank == 0 and shortfall(adapted, architecture, machine) is None:
        return f"set {adapter_words(config)} to train adapters, or take a smaller model"
    return "take a smaller model, or a machine with more memory"
