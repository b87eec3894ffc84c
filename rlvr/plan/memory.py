"""Memory of a learner and of a generator, part by part."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlvr.architecture.cost import kv_bytes
from rlvr.architecture.facts import Architecture, GroupedQueryAttention
from rlvr.architecture.parameters import (
    count,
    expert_parameters,
    indexer_parameters,
    layer_parameters,
    matrix_parameters,
)
from rlvr.config import CPU_KV_CACHE_GIB, Config, OptimizerName
from rlvr.plan.accelerators import GIB
from rlvr.plan.activations import (
    Pass,
    checkpointed_bytes,
    layer_copies_bytes,
    saved_bytes,
    weight_copies_bytes,
)
from rlvr.plan.adapters import adapted_layers, adapter_parameters
from rlvr.plan.workload import Workload, generator_element, largest_pass

WIDE = 4  # bytes of a float32, which masters, gradients, momenta and all logits are

# Assumed: the CUDA context and what the allocator cannot use; what vLLM takes besides weights and cache.
LEARNER_RESERVE = int(1.5 * GIB)
ENGINE_RESERVE = int(2.5 * GIB)
CPU_PROCESS = int(0.6 * GIB)  # a process with torch, and vLLM in a generator's


@dataclass(frozen=True, slots=True)
class Part:
    """One use of memory; `why` says how it was counted."""

    name: str
    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one GPU that a role has, or of the role's process on a processor."""

    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        return sum(part.bytes for part in self.parts)


def trainable_parameters(config: Config, architecture: Architecture) -> int:
    """Adapters, or all weights but those of an indexer, which get no gradient."""
    if config.model.lora.rank > 0:
        return adapter_parameters(architecture, config.model.lora.rank)
    frozen = sum(n * indexer_parameters(layer.attention, architecture.hidden) for layer, n in architecture.kinds())
    return count(architecture).total - frozen


def held_bytes(config: Config, architecture: Architecture) -> int:
    """What a learner holds whatever it computes: masters, gradients, and the optimizer's state."""
    trainable = trainable_parameters(config, architecture)
    adapters = trainable if config.model.lora.rank > 0 else 0
    return WIDE * (count(architecture).total + adapters + trainable) + optimizer_state(config, architecture).bytes


def optimizer_state(config: Config, architecture: Architecture) -> Part:
    """What the optimizer keeps of each trainable parameter."""
    trainable = trainable_parameters(config, architecture)
    match config.learner.optimizer:
        case OptimizerName.ADAMW:
            return Part("AdamW", 2 * WIDE * trainable, "two moments, float32")
        case OptimizerName.ADAMW_8BIT:
            return Part("AdamW", 2 * trainable, "two moments, a byte each")
        case OptimizerName.MUON | OptimizerName.MUONCLIP:
            rest = trainable - matrix_parameters(architecture)
            return Part("Muon, AdamW", WIDE * (trainable + rest), "momentum of matrices, two moments of the rest")


def learner_memory(config: Config, architecture: Architecture, *, gpu: bool, gpus: int = 1) -> Memory:
    """Of each of `gpus` GPUs that share a learner by sharding its parameters, or of a learner on a processor."""
    run = largest_pass(config, architecture, gpu=gpu)
    lora = config.model.lora.rank > 0
    trainable = trainable_parameters(config, architecture)
    checkpointed = config.learner.gradient_checkpointing
    weights = WIDE * (count(architecture).total + (trainable if lora else 0))
    state = optimizer_state(config, architecture)
    parts = [
        Part("weights", weights // gpus, "float32 masters"),
        Part("gradients", WIDE * trainable // gpus, "float32"),
        replace(state, bytes=state.bytes // gpus),
    ]
    if gpus > 1:
        parts.append(Part("gathered layers", _gathered_bytes(architecture, run.element), "two of the largest, whole"))
    elif copies := _copies_bytes(architecture, run, checkpointed):
        how = (
            "copies, and experts with adapters" if lora and architecture.moe_layers else "bfloat16 copies for autocast"
        )
        parts.append(Part("weights in use", copies, how))
    activations = (checkpointed_bytes if checkpointed else saved_bytes)(architecture, run)
    how = "layers' inputs, one layer" if checkpointed else "kept for the backward pass"
    parts.append(Part("activations", activations, f"{how}, {run.tokens:,} tokens"))
    head = head_bytes(config, architecture, run.tokens)
    chunk = min(config.learner.head_chunk_tokens, run.tokens)
    parts.append(Part("head", head, f"logits of {chunk:,} tokens, float32"))
    merged = _merged_bytes(config, architecture) // gpus
    if merged > activations + head:
        parts.append(Part("merging adapters", merged - activations - head, "beyond a step; publish=adapter spares it"))
    reserve = LEARNER_RESERVE if gpu else CPU_PROCESS
    return Memory((*parts, Part("reserve", reserve, "assumed")))


def _copies_bytes(architecture: Architecture, run: Pass, checkpointed: bool) -> int:
    """Autocast keeps its copies of trained weights till the end of a pass, and the graph keeps all others.

    Where layers are computed again there is no graph yet, and copies of frozen weights are there for one layer.
    """
    if checkpointed and not run.trains_all:
        return max(layer_copies_bytes(layer, architecture, run) for layer, _ in architecture.kinds())
    return weight_copies_bytes(architecture, run)


def head_bytes(config: Config, architecture: Architecture, tokens: int) -> int:
    """Of the chunked head at its peak.

    Forward: a chunk's logits and their exponentials, and with a frozen head a mean row of it for each place. Backward:
    a chunk's logits and its hidden states twice, the gradient of all hidden states, and that of the weight where it is
    trained.
    """
    chunk = min(config.learner.head_chunk_tokens, tokens)
    logits = WIDE * chunk * architecture.vocabulary
    hidden = WIDE * architecture.hidden
    if config.model.lora.rank > 0:
        return 2 * logits + (tokens + chunk) * hidden
    return max(2 * logits, logits + architecture.vocabulary * hidden + (tokens + 2 * chunk) * hidden)


def _gathered_bytes(architecture: Architecture, element: int) -> int:
    """Two of the largest units of FSDP2, one at work and one on its way, in the format that layers compute in."""
    layer = max(layer_parameters(layer, architecture) for layer, _ in architecture.kinds())
    table = architecture.vocabulary * architecture.hidden
    return 2 * element * max(layer, table)


def _merged_bytes(config: Config, architecture: Architecture) -> int:
    """Every adapted weight once more, which publishing a merged policy makes."""
    if config.model.lora.rank == 0 or config.model.lora.publish == "adapter":
        return 0
    experts = sum(n * m.experts * expert_parameters(m, architecture.hidden) for m, n in architecture.mixtures())
    return WIDE * (experts + sum(matrix.inputs * matrix.outputs for matrix in adapted_layers(architecture)))


# -------------------------------------------------------------------- generators


@dataclass(frozen=True, slots=True)
class GeneratorMemory:
    """Of each GPU of a generator (or its process on a processor), which has `room` bytes for all.

    `kv_space` is what is left for keys and values; `per_sequence` what the longest sequence takes of it.
    """

    memory: Memory
    room: int
    kv_space: int
    per_sequence: int
    per_mean_sequence: int

    @property
    def longest_sequences(self) -> int:
        """Sequences of the greatest length that fit at one time."""
        return max(0, self.kv_space // self.per_sequence)

    @property
    def mean_sequences(self) -> int:
        """Sequences of mean length, prompt and half an answer, that fit at one time."""
        return max(0, self.kv_space // self.per_mean_sequence)


def generator_memory(
    config: Config, architecture: Architecture, work: Workload, *, gpu: bool, room: int, tensor_parallel: int
) -> GeneratorMemory:
    """`room` is what a generator may take of each of its GPUs. On a processor it is taken as it is needed."""
    element = generator_element(config, gpu=gpu)
    weights = element * count(architecture).total // tensor_parallel
    reserve = ENGINE_RESERVE if gpu else CPU_PROCESS
    asked = config.generator.kv_cache_gib
    default = room - weights - reserve if gpu else int(CPU_KV_CACHE_GIB * GIB)
    space = default if asked is None else int(asked * GIB)
    parts = (
        Part(
            "weights",
            weights,
            f"{element} B a parameter" + (f", {tensor_parallel} GPUs" if tensor_parallel > 1 else ""),
        ),
        Part("reserve", reserve, "assumed: CUDA graphs, activations" if gpu else "assumed"),
        Part("keys and values", max(0, space), "what is left" if asked is None and gpu else "as set"),
    )
    shards = kv_shards(architecture, tensor_parallel)
    return GeneratorMemory(
        memory=Memory(parts),
        room=room,
        kv_space=space,
        per_sequence=max(1, kv_bytes(architecture, work.longest, element) // shards),
        per_mean_sequence=max(1, kv_bytes(architecture, work.prompt + work.answer // 2, element) // shards),
    )


def kv_shards(architecture: Architecture, tensor_parallel: int) -> int:
    """Key-value heads are dealt out over GPUs; the one latent vector of latent attention is on each of them."""
    attention = architecture.layers[0].attention
    heads = attention.key_value_heads if isinstance(attention, GroupedQueryAttention) else 1
    return min(tensor_parallel, heads)
