"""What a learner holds whatever it computes: weights, gradients, and what the optimizer keeps of them."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.architecture.facts import Architecture
from rlvr.architecture.parameters import (
    count,
    indexer_parameters,
    linear_parameters,
    matrix_parameters,
    router_parameters,
)
from rlvr.config import Config, OptimizerName
from rlvr.plan.adapters import adapter_parameters

WIDE = 4  # bytes of a float32, which masters, gradients, momenta and all logits are
# Bytes of a weight in NF4 with double quantization: half a byte, a byte for each 64, a float32 for each 256 of those.
FOUR_BITS = 1 / 2 + 1 / 64 + WIDE / (64 * 256)


@dataclass(frozen=True, slots=True)
class Part:
    """One use of memory; `why` says how it was counted."""

    name: str
    bytes: int
    why: str


def held_parts(config: Config, architecture: Architecture) -> list[Part]:
    """Of the whole learner, however many GPUs share it."""
    trainable = trainable_parameters(config, architecture)
    adapters = WIDE * trainable if config.model.lora.rank > 0 else 0
    base = _base_bytes(config, architecture)
    parts = [
        Part(
            "weights", base + adapters, "4 bits, the rest float32" if config.model.lora.quantize else "float32 masters"
        ),
        Part("gradients", WIDE * trainable, "float32"),
        optimizer_state(config, architecture),
    ]
    if config.algorithm.needs_reference and config.model.lora.rank == 0:
        parts.append(Part("reference", base, "the model as the run began with it, for the KL"))
    return parts


def held_bytes(config: Config, architecture: Architecture) -> int:
    """All of it together."""
    return sum(part.bytes for part in held_parts(config, architecture))


def trainable_parameters(config: Config, architecture: Architecture) -> int:
    """Adapters, or all weights but those of an indexer, which get no gradient, and of routers that are frozen."""
    if config.model.lora.rank > 0:
        return adapter_parameters(architecture, config.model.lora.rank)
    frozen = sum(n * indexer_parameters(layer.attention, architecture.hidden) for layer, n in architecture.kinds())
    if config.learner.router.frozen:
        frozen += router_parameters(architecture)
    return count(architecture).total - frozen


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


def _base_bytes(config: Config, architecture: Architecture) -> int:
    """The model without adapters. In 4 bits are the linear layers; fused experts, embeddings and head stay wide."""
    total = count(architecture).total
    if not config.model.lora.quantize:
        return WIDE * total
    linear = linear_parameters(architecture)
    return round(FOUR_BITS * linear) + WIDE * (total - linear)
