"""What LoRA adapts, and how many parameters that is, as peft 0.21 reads `all-linear`."""

from __future__ import annotations

from collections.abc import Iterator

from rlvr.architecture.facts import Architecture, Layer
from rlvr.architecture.parameters import Matrix, attention_matrices, linear_layers

UNADAPTED_EXPERTS = frozenset({"llama4_text"})


def adapter_parameters(architecture: Architecture, rank: int) -> int:
    """Of adapters of `rank` on all linear layers: two matrices each, rank x inputs and outputs x rank.

    Experts are fused tensors: the one of gate and up has an adapter of twice the rank, the one of down and the router
    of the rank.
    """
    linear = sum(matrix.inputs + matrix.outputs for matrix in adapted_layers(architecture))
    h = architecture.hidden
    experts = sum(
        number * (m.experts * (2 * (h + 2 * m.width) + (m.width + h)) + (h + m.experts))
        for m, number in architecture.mixtures()
        if adapts_experts(architecture)
    )
    return rank * (linear + experts)


def adapted_layers(architecture: Architecture) -> Iterator[Matrix]:
    """The linear layers of the blocks that get an adapter."""
    for layer in architecture.layers:
        yield from adapted_matrices(layer, architecture)


def adapted_matrices(layer: Layer, architecture: Architecture) -> list[Matrix]:
    """Those of one block."""
    if adapts_dense_mlps(architecture):
        return linear_layers(layer, architecture)
    return attention_matrices(layer.attention, architecture.hidden)


def adapts_experts(architecture: Architecture) -> bool:
    """Whether routed experts and their router get adapters: those of Llama 4 stay frozen."""
    return architecture.family not in UNADAPTED_EXPERTS


def adapts_dense_mlps(architecture: Architecture) -> bool:
    """Where experts are adapted peft takes the names gate, up and down for theirs, and leaves other MLPs frozen."""
    return architecture.moe_layers == 0 or not adapts_experts(architecture)
