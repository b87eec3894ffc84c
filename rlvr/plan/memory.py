"""Memory of a learner and of a generator, part by part."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlvr.architecture.cost import kv_bytes
from rlvr.architecture.facts import Architecture, GroupedQueryAttention
from rlvr.architecture.parameters import count, expert_parameters, layer_parameters
from rlvr.config import CPU_KV_CACHE_GIB, Config
from rlvr.plan.accelerators import GIB
from rlvr.plan.activations import (
    Pass,
    checkpointed_bytes,
    layer_copies_bytes,
    saved_bytes,
    weight_copies_bytes,
)
from rlvr.plan.adapters import adapted_layers, adapts_experts
from rlvr.plan.held import WIDE, Part, held_parts
from rlvr.plan.muon_step import muon_step_bytes
from rlvr.plan.workload import Workload, generator_element, largest_pass

# Assumed: the CUDA context and what the allocator cannot use; what vLLM takes besides weights and cache.
LEARNER_RESERVE = int(1.5 * GIB)
ENGINE_RESERVE = int(2.5 * GIB)
CPU_PROCESS = int(0.6 * GIB)  # a process with torch, and vLLM in a generator's


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one GPU that a role has, or of the role's process on a processor; `on_host` bytes are beside the GPU."""

    parts: tuple[Part, ...]
    on_host: int = 0

    @property
    def total(self) -> int:
        return sum(part.bytes for part in self.parts)


def learner_memory(config: Config, architecture: Architecture, *, gpu: bool, gpus: int = 1) -> Memory:
    """Of each of `gpus` GPUs that share a learner by sharding its parameters, or of all its ranks on a processor."""
    run = largest_pass(config, architecture, gpu=gpu)
    held = [replace(part, bytes=part.bytes // gpus) for part in held_parts(config, architecture)]
    ranks = gpus if gpu else config.learner.ranks
    sharded = config.learner.offload or ranks > 1
    offloaded = gpu and config.learner.offload
    step = _pass_parts(config, architecture, run, sharded)
    at_its_peak = sum(part.bytes for part in step)
    # What comes when a pass is over takes the room that the pass has left.
    largest = max(_after_a_pass(config, architecture, gpu, ranks, sharded), key=lambda part: part.bytes)
    beyond = largest.bytes - at_its_peak
    more = [replace(largest, bytes=beyond, why=f"beyond a pass: {largest.why}")] if beyond > 0 else []
    if not gpu and (file := _published_file_bytes(config, architecture)):
        held.append(Part("published version", file, "a file in shared memory"))
    reserve = Part("reserve", LEARNER_RESERVE if gpu else CPU_PROCESS, "assumed")
    on_host = sum(part.bytes for part in held) if offloaded else 0
    of_rank = [*step, *more, reserve]
    if not gpu and ranks > 1:
        of_rank = [replace(part, bytes=ranks * part.bytes, why=f"{part.why}; {ranks} ranks") for part in of_rank]
    return Memory((*([] if offloaded else held), *of_rank), on_host)


def _pass_parts(config: Config, architecture: Architecture, run: Pass, sharded: bool) -> list[Part]:
    """What a micro-batch takes, forward and backward."""
    parts, lora = [], config.model.lora.rank > 0
    checkpointed = config.learner.gradient_checkpointing
    if sharded:
        parts.append(Part("gathered", _gathered_bytes(architecture, run.element), "two layers; embeddings and head"))
    elif copies := _copies_bytes(architecture, run, checkpointed):
        how = (
            "copies, and experts with adapters"
            if lora and architecture.moe_layers and adapts_experts(architecture)
            else "bfloat16 copies for autocast"
        )
        parts.append(Part("weights in use", copies, how))
    activations = (checkpointed_bytes if checkpointed else saved_bytes)(architecture, run)
    how = "layers' inputs, one layer" if checkpointed else "kept for the backward pass"
    parts.append(Part("activations", activations, f"{how}, {run.tokens:,} tokens"))
    chunk = min(config.learner.head_chunk_tokens, run.tokens)
    head = head_bytes(config, architecture, run.tokens)
    return [*parts, Part("head", head, f"logits of {chunk:,} tokens, float32")]


def _after_a_pass(config: Config, architecture: Architecture, gpu: bool, ranks: int, sharded: bool) -> list[Part]:
    """Each comes at a time of its own."""
    parts = [Part("publishing", _publishing_bytes(config, architecture, gpu), "a version on its way to generators")]
    if config.learner.optimizer.is_muon:
        offloaded = config.learner.offload
        step = muon_step_bytes(architecture, gpu=gpu, gpus=ranks, sharded=sharded, offloaded=offloaded)
        parts.append(Part("Muon's step", step, "a batch of matrices and its products"))
    if sharded and config.model.lora.rank == 0:
        tables = WIDE * _outside_layers(architecture)
        parts.append(Part("summing gradients", 3 * tables, "embeddings and head, their gradients, twice"))
    return parts


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
    """Two of the largest layers, one at work and one on its way, in the format that they compute in; and, as long as
    a pass goes, what is in no layer, in float32."""
    layer = max(layer_parameters(layer, architecture) for layer, _ in architecture.kinds())
    return 2 * element * layer + WIDE * _outside_layers(architecture)


def _outside_layers(architecture: Architecture) -> int:
    """Parameters of embeddings, head and the last norm."""
    layers = sum(number * layer_parameters(layer, architecture) for layer, number in architecture.kinds())
    return count(architecture).total - layers


def _publishing_bytes(config: Config, architecture: Architecture, gpu: bool) -> int:
    """What publishing a whole policy takes of the learner's memory.

    Weights go to host memory one after another, in the generators' format: on a GPU there is one that is merged, with
    what its adapter adds twice. On a processor those that were merged or rounded stay, and the file that is written,
    which lies in memory, stands beside the one before.
    """
    if config.model.lora.publish == "adapter":
        return 0
    adapted = _adapted_sizes(architecture) if config.model.lora.rank > 0 else []
    if gpu:
        return (3 if config.model.lora.quantize else 2) * WIDE * max(adapted, default=0)
    element, total = generator_element(config, gpu=False), count(architecture).total
    return element * (total + (sum(adapted) if element == WIDE else total))


def _published_file_bytes(config: Config, architecture: Architecture) -> int:
    """Of the version that generators hold: on a processor its file takes memory too."""
    merged = config.model.lora.publish == "merged"
    return generator_element(config, gpu=False) * count(architecture).total if merged else 0


def _adapted_sizes(architecture: Architecture) -> list[int]:
    """Numbers in each weight that has an adapter: linear layers, and the two fused tensors of a layer's experts."""
    linear = [matrix.inputs * matrix.outputs for matrix in adapted_layers(architecture)]
    down = [
        m.experts * expert_parameters(m, architecture.hidden) // 3 for m, n in architecture.mixtures() for _ in range(n)
    ]
    return [*linear, *down, *(2 * size for size in down)]


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
