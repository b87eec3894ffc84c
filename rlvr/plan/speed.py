"""How fast a policy may sample and learn: rooflines with stated efficiencies, no measurement.

Shares of a machine's peak are assumptions. Published learners reach 3 to 36 percent of the dense bfloat16 peak
(prime-rl's benchmarks of 2026-02: Qwen3-0.6B 11 to 27, 4B 15 to 36, 30B-A3B 3 to 29), most at long sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rlvr.architecture.cost import decode_flops, forward_flops, kv_bytes
from rlvr.architecture.facts import Architecture
from rlvr.architecture.parameters import count, expert_parameters
from rlvr.config import Config
from rlvr.plan.accelerators import Accelerator
from rlvr.plan.activations import RUNS_ALL_EXPERTS
from rlvr.plan.adapters import adapter_parameters
from rlvr.plan.held import WIDE
from rlvr.plan.memory import kv_shards
from rlvr.plan.workload import Workload, generator_element, learner_element, shares_prompts

BANDWIDTH_SHARE = 0.6  # of memory bandwidth, when a generator reads weights and cache
PREFILL_SHARE = 0.5  # of peak operations, in products of a generator
LEARNER_SHARE = 0.12  # of peak operations, of the format that each product is in
LEARNER_SHARE_CPU = 0.3
PUBLISH_BYTES_S = 2e9  # of a version's way through host memory


class Bound(StrEnum):
    """What a generator waits for."""

    BANDWIDTH = "memory bandwidth"
    OPERATIONS = "operations"
    LATENCY = "steps"


@dataclass(frozen=True, slots=True)
class Generation:
    """Of one generator: `sequences` at a time, `tokens_s` sampled, limited by `bound`."""

    sequences: int
    tokens_s: float
    bound: Bound


def generation(
    config: Config,
    architecture: Architecture,
    machine: Accelerator,
    work: Workload,
    sequences: int,
    tensor_parallel: int,
) -> Generation:
    """A step reads the weights that its sequences use and their keys and values, and makes one token of each."""
    element = generator_element(config, gpu=not machine.is_cpu)
    position = work.prompt + work.answer // 2
    weights = element * _weights_read(architecture, sequences) / tensor_parallel
    cache = sequences * kv_bytes(architecture, position, element) / kv_shards(architecture, tensor_parallel)
    peak = machine.flops(element) * tensor_parallel * PREFILL_SHARE
    times = {
        Bound.BANDWIDTH: (weights + cache) / (machine.bandwidth * BANDWIDTH_SHARE),
        Bound.OPERATIONS: sequences * decode_flops(architecture, position) / peak,
        Bound.LATENCY: machine.engine_step_s,
    }
    step_s = max(times[Bound.BANDWIDTH], times[Bound.OPERATIONS]) + machine.engine_step_s
    # A group's prompt is read once: its answers find it in the cache.
    prompt_s = work.prompt * forward_flops(architecture, work.prompt) / peak / work.group_size
    answer_s = work.answer * step_s / sequences + prompt_s
    return Generation(sequences, work.answer / answer_s, max(times, key=lambda bound: times[bound]))


def _weights_read(architecture: Architecture, tokens: int) -> float:
    """Parameters that a step over `tokens` reads: of E experts, those that any token chose, E (1 - (1 - k/E)^n)."""
    unused = sum(
        number * m.experts * (1 - m.chosen / m.experts) ** tokens * expert_parameters(m, architecture.hidden)
        for m, number in architecture.mixtures()
    )
    return count(architecture).total_multiplied - unused


def training_s(
    config: Config, architecture: Architecture, machine: Accelerator, work: Workload, gpus: int = 1
) -> float:
    """Seconds of the learner for one batch, on `gpus` that share it evenly.

    A full update costs three forward passes, adapters two (no weight gradients of the base); one more where layers
    are computed again, one where several updates need log-probabilities from before the first, and one of the
    reference where there is one. The head computes its logits twice. Fused experts compute in float32, but
    where all of them run on every token, as plain products.
    """
    answers = work.groups_per_step * work.group_size
    prompts = work.groups_per_step if shares_prompts(config, architecture) else answers
    tokens = prompts * work.prompt + answers * work.answer
    passes = 2 if config.model.lora.rank > 0 else 3
    passes += config.learner.gradient_checkpointing
    passes += config.learner.updates_per_step > 1
    passes += config.algorithm.needs_reference
    element = learner_element(config, gpu=not machine.is_cpu)
    experts, idle = _expert_flops(architecture)
    layers = forward_flops(architecture, work.sequence)
    if architecture.family in RUNS_ALL_EXPERTS:
        layers, wide = layers + idle, 0.0
    else:
        layers, wide = layers - experts, experts
    head = 2 * architecture.vocabulary * architecture.hidden * answers * work.answer
    usual_s = (tokens * layers * passes + head) / machine.flops(element)
    wide_s = tokens * wide * passes / machine.flops(WIDE)
    return (usual_s + wide_s) / (gpus * learner_share(machine))


def learner_share(machine: Accelerator) -> float:
    """Of the machine's peak that a learner is assumed to reach."""
    return LEARNER_SHARE_CPU if machine.is_cpu else LEARNER_SHARE


def _expert_flops(architecture: Architecture) -> tuple[float, float]:
    """Operations per token of the experts that were chosen, and of those that were not."""
    per_expert = [(m, 2 * number * expert_parameters(m, architecture.hidden)) for m, number in architecture.mixtures()]
    return sum(m.chosen * f for m, f in per_expert), sum((m.experts - m.chosen) * f for m, f in per_expert)


def publish_s(config: Config, architecture: Architecture, machine: Accelerator) -> float:
    """Seconds for a version's way to the generators: all weights in their format, or the adapter in float32."""
    if config.model.lora.publish == "adapter":
        sent = WIDE * adapter_parameters(architecture, config.model.lora.rank)
    else:
        sent = generator_element(config, gpu=not machine.is_cpu) * count(architecture).total
    return sent / PUBLISH_BYTES_S
