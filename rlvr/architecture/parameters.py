"""How many weights a model has, how many work on one token, and which matrices they are in.

Closed formulas; tests hold them against transformers' own networks, built without memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.architecture.facts import (
    MLP,
    Architecture,
    Attention,
    DenseMLP,
    GroupedQueryAttention,
    Indexer,
    Layer,
    MixtureOfExperts,
    QKNorm,
)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer, by the last part of its name in transformers."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts of weights.

    `active` work on one token: all but the experts that were not chosen. The input embedding is looked up and not
    multiplied, so counts without it are what operations follow from; a tied one is the head as well, and stays.
    """

    total: int
    active: int
    looked_up: int

    @property
    def total_multiplied(self) -> int:
        return self.total - self.looked_up

    @property
    def active_multiplied(self) -> int:
        return self.active - self.looked_up


def count(architecture: Architecture) -> Parameters:
    """All weights of the text model. Buffers, such as a router's bias, are none."""
    table = architecture.vocabulary * architecture.hidden
    tables = table if architecture.tied_head else 2 * table
    layers = sum(number * layer_parameters(layer, architecture) for layer, number in architecture.kinds())
    total = tables + architecture.hidden + layers
    idle = sum(
        number * (mixture.experts - mixture.chosen) * expert_parameters(mixture, architecture.hidden)
        for mixture, number in architecture.mixtures()
    )
    return Parameters(total, total - idle, 0 if architecture.tied_head else table)


def layer_parameters(layer: Layer, architecture: Architecture) -> int:
    """Attention, MLP and the two norms before them."""
    hidden = architecture.hidden
    return attention_parameters(layer.attention, hidden) + mlp_parameters(layer.mlp, hidden) + 2 * hidden


def attention_parameters(attention: Attention, hidden: int) -> int:
    """Its matrices, the norms between them, and an indexer's."""
    total = sum(matrix.parameters for matrix in attention_matrices(attention, hidden))
    if isinstance(attention, GroupedQueryAttention):
        return total + (2 * attention.head_width if attention.qk_norm is QKNorm.RMS else 0)
    total += attention.latent_rank + (attention.query_rank or 0)  # norms of what is compressed
    return total + indexer_parameters(attention, hidden)


def indexer_parameters(attention: Attention, hidden: int) -> int:
    """Weights that choose tokens, and get no gradient in transformers."""
    indexer = indexer_of(attention)
    if indexer is None:
        return 0
    key_norm = 2 * indexer.head_width  # a layer norm: weight and bias
    return key_norm + sum(matrix.parameters for matrix in indexer_matrices(attention, hidden))


def mlp_parameters(mlp: MLP, hidden: int) -> int:
    """A dense MLP, or router, experts and shared experts."""
    total = sum(matrix.parameters for matrix in mlp_matrices(mlp, hidden))
    if isinstance(mlp, MixtureOfExperts):
        total += mlp.experts * (hidden + expert_parameters(mlp, hidden))
    return total


def expert_parameters(mixture: MixtureOfExperts, hidden: int) -> int:
    """Of one routed expert: gate, up and down."""
    return 3 * hidden * mixture.width


def attention_matrices(attention: Attention, hidden: int) -> list[Matrix]:
    """The linear layers of an attention, without an indexer's."""
    if isinstance(attention, GroupedQueryAttention):
        queries = attention.query_heads * attention.head_width
        keys = attention.key_value_heads * attention.head_width
        return [
            Matrix("q_proj", hidden, queries, attention.input_bias),
            Matrix("k_proj", hidden, keys, attention.input_bias),
            Matrix("v_proj", hidden, keys, attention.input_bias),
            Matrix("o_proj", queries, hidden, attention.output_bias),
        ]
    queries = attention.heads * attention.query_width
    both = attention.heads * (attention.plain_width + attention.value_width)
    if attention.query_rank is None:
        to_queries = [Matrix("q_proj", hidden, queries)]
    else:
        to_queries = [
            Matrix("q_a_proj", hidden, attention.query_rank),
            Matrix("q_b_proj", attention.query_rank, queries),
        ]
    return [
        *to_queries,
        Matrix("kv_a_proj_with_mqa", hidden, attention.latent_rank + attention.rotary_width),
        Matrix("kv_b_proj", attention.latent_rank, both),
        Matrix("o_proj", attention.heads * attention.value_width, hidden),
    ]


def matrix_parameters(architecture: Architecture) -> int:
    """Weights of linear layers and experts: all but embeddings, head, routers, norms, biases and indexers."""
    experts = sum(n * m.experts * expert_parameters(m, architecture.hidden) for m, n in architecture.mixtures())
    return linear_parameters(architecture) + experts


def linear_parameters(architecture: Architecture) -> int:
    """Weights of the linear layers of the blocks, without biases and indexers."""
    return sum(
        number * matrix.inputs * matrix.outputs
        for layer, number in architecture.kinds()
        for matrix in linear_layers(layer, architecture)
    )


def linear_layers(layer: Layer, architecture: Architecture) -> list[Matrix]:
    """Those of one block, without an indexer's. Routed experts are fused tensors, and the router is none."""
    return attention_matrices(layer.attention, architecture.hidden) + mlp_matrices(layer.mlp, architecture.hidden)


def router_parameters(architecture: Architecture) -> int:
    """Of all routers: a row for each expert."""
    return sum(number * mixture.experts * architecture.hidden for mixture, number in architecture.mixtures())


def indexer_of(attention: Attention) -> Indexer | None:
    """The indexer that a layer has of its own."""
    if isinstance(attention, GroupedQueryAttention) or attention.selection is None:
        return None
    return attention.selection.indexer


def indexer_matrices(attention: Attention, hidden: int) -> list[Matrix]:
    """The linear layers of a layer's own indexer, none where it has none."""
    indexer = indexer_of(attention)
    if indexer is None or isinstance(attention, GroupedQueryAttention):
        return []
    return [
        Matrix("wq_b", attention.query_rank or hidden, indexer.heads * indexer.head_width),
        Matrix("wk", hidden, indexer.head_width),
        Matrix("weights_proj", hidden, indexer.heads),
    ]


def mlp_matrices(mlp: MLP, hidden: int) -> list[Matrix]:
    """Linear layers of an MLP: a dense one's, or those of the shared experts. Routed experts are fused tensors."""
    width = mlp.width if isinstance(mlp, DenseMLP) else mlp.shared_experts * mlp.shared_width
    if width == 0:
        return []
    return [
        Matrix("gate_proj", hidden, width),
        Matrix("up_proj", hidden, width),
        Matrix("down_proj", width, hidden),
    ]
