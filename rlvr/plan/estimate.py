"""One way to share machines between learner and generators, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.architecture.facts import Architecture, Attention, LatentAttention
from rlvr.config import Config
from rlvr.plan.accelerators import Accelerator
from rlvr.plan.memory import GeneratorMemory, Memory, generator_memory, learner_memory
from rlvr.plan.speed import Generation, generation, publish_s, training_s
from rlvr.plan.workload import Workload


@dataclass(frozen=True, slots=True)
class Split:
    """Who has which GPUs. One GPU is shared by both roles; on a processor all roles share it, and `gpus` is 0."""

    gpus: int
    learner_gpus: int
    generators: int
    tensor_parallel: int

    @property
    def shared(self) -> bool:
        return self.gpus == 1

    @property
    def used(self) -> int:
        """GPUs that have work."""
        return min(self.gpus, self.learner_gpus + self.generators * self.tensor_parallel)

    def __str__(self) -> str:
        if self.gpus == 0:
            return "learner and generators share the processor's cores"
        if self.shared:
            return "learner and generator share the GPU"
        sharded = f"{self.learner_gpus} GPUs, sharded" if self.learner_gpus > 1 else "1 GPU"
        generators = f"{self.generators} generator{'s' if self.generators > 1 else ''}"
        each = f" of {self.tensor_parallel} GPUs" if self.tensor_parallel > 1 else ""
        return f"learner {sharded}; {generators}{each}"


def configured_split(config: Config, gpus: int) -> Split:
    """As the engine places a config's roles. `gpus` 0 is a processor."""
    generator = config.generator
    return Split(gpus, config.learner.ranks, generator.count, generator.tensor_parallel)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory and times of a split. Times are seconds per optimizer step; `generation` is of one generator."""

    split: Split
    learner: Memory
    learner_room: int
    generator: GeneratorMemory
    sequences_wanted: int
    problems: tuple[str, ...]
    generation: Generation
    sample_s: float
    train_s: float
    publish_s: float
    step_s: float

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def learner_fits(self) -> bool:
        return self.learner.total <= self.learner_room

    @property
    def generator_fits(self) -> bool:
        return self.generator.longest_sequences >= 1 and self.generator.memory.total <= self.generator.room


def estimate(
    config: Config, architecture: Architecture, machine: Accelerator, split: Split, work: Workload
) -> Estimate:
    """What `split` of `split.gpus` machines makes of a config."""
    gpu = not machine.is_cpu
    room = _generator_room(config, machine, split)
    generator = generator_memory(
        config, architecture, work, gpu=gpu, room=room, tensor_parallel=split.tensor_parallel if gpu else 1
    )
    learner_room = _learner_room(config, machine, split, generator)
    learner = learner_memory(config, architecture, gpu=gpu, gpus=split.learner_gpus if gpu else 1)
    wanted = max(1, min(config.generator.max_sequences, work.answers_in_flight // split.generators))
    sequences = max(1, min(wanted, generator.mean_sequences))
    # Cores are dealt out evenly; a shared GPU works for one role at a time, about half of the time each.
    role = machine.share(1 / (split.generators + 1)) if not gpu else machine.share(0.5) if split.shared else machine
    made = generation(config, architecture, role, work, sequences, generator_tensor_parallel(split, gpu))
    sample_s = work.sampled_per_step / (made.tokens_s * split.generators)
    train_s = training_s(config, architecture, role, work, split.learner_gpus if gpu else 1)
    sent_s = publish_s(config, architecture, machine)
    learns_s = train_s + sent_s
    step_s = sample_s + learns_s if config.rollout.max_staleness == 0 else max(sample_s, learns_s)
    return Estimate(
        split=split,
        learner=learner,
        learner_room=learner_room,
        generator=generator,
        sequences_wanted=wanted,
        problems=tuple(_problems(config, architecture, machine, split, learner, learner_room, generator)),
        generation=made,
        sample_s=sample_s,
        train_s=train_s,
        publish_s=sent_s,
        step_s=step_s,
    )


def can_share_heads(architecture: Architecture, gpus: int) -> bool:
    """Whether vLLM deals the heads of every layer out over so many GPUs: evenly, or a key-value head to several."""

    def can(attention: Attention) -> bool:
        if isinstance(attention, LatentAttention):
            return attention.heads % gpus == 0
        shared = attention.key_value_heads
        return attention.query_heads % gpus == 0 and (shared % gpus == 0 or gpus % shared == 0)

    return all(can(layer.attention) for layer, _ in architecture.kinds())


def generator_tensor_parallel(split: Split, gpu: bool) -> int:
    """GPUs of one generator; a processor is one device."""
    return split.tensor_parallel if gpu else 1


def _generator_room(config: Config, machine: Accelerator, split: Split) -> int:
    """Bytes that a generator may take of one GPU; on a processor, of what others leave.

    Its share bounds a cache that vLLM chooses. One whose size is set is taken beside the weights, whatever the share.
    """
    on_gpu = split.generators if split.shared else 1
    if machine.is_cpu:
        return machine.memory
    if config.generator.kv_cache_gib is not None:
        return machine.memory // on_gpu
    return int(machine.memory * config.generator.share_of_gpu(on_gpu, beside_learner=split.shared))


def _learner_room(config: Config, machine: Accelerator, split: Split, generator: GeneratorMemory) -> int:
    """Bytes that the learner may take: of a GPU that it shares, what generators leave."""
    if machine.is_cpu or not split.shared:
        return machine.memory
    each = generator.room if config.generator.kv_cache_gib is None else generator.memory.total
    return max(0, machine.memory - each * split.generators)


def _problems(
    config: Config,
    architecture: Architecture,
    machine: Accelerator,
    split: Split,
    learner: Memory,
    learner_room: int,
    generator: GeneratorMemory,
) -> list[str]:
    found = []
    needed = split.learner_gpus + split.generators * split.tensor_parallel
    for setting, wanted in (
        ("generator.tensor_parallel", split.tensor_parallel),
        ("learner.ranks", split.learner_gpus),
    ):
        if split.shared and wanted > 1:
            found.append(f"{setting}={wanted} needs as many GPUs, and there is one")
    if not can_share_heads(architecture, generator_tensor_parallel(split, not machine.is_cpu)):
        found.append(
            f"generator.tensor_parallel={split.tensor_parallel} does not share the model's attention heads evenly"
        )
    if 1 < split.gpus < needed:
        found.append(f"{split} need {needed} GPUs, and there are {split.gpus}")
    if learner.total > learner_room:
        found.append(f"the learner needs {gib(learner.total)}, and has {gib(learner_room)}")
    if generator.memory.total > generator.room and config.generator.kv_cache_gib is not None and not machine.is_cpu:
        found.append(
            f"a generator needs {gib(generator.memory.total)} with generator.kv_cache_gib="
            f"{config.generator.kv_cache_gib:g}, and has {gib(generator.room)}"
        )
    if generator.kv_space < generator.per_sequence:
        found.append(
            f"a generator has {gib(max(0, generator.kv_space))} for keys and values, and its longest sequence "
            f"takes {gib(generator.per_sequence)}"
        )
    if machine.is_cpu:
        both = learner.total + config.generator.count * generator.memory.total
        if both > machine.memory:
            found.append(f"all roles need {gib(both)} together, and the machine has {gib(machine.memory)}")
    return found


def gib(number: float) -> str:
    """12.3 GiB; 0.4 MiB where it is little."""
    return f"{number / 2**30:,.1f} GiB" if number >= 2**29 else f"{number / 2**20:,.1f} MiB"
