"""Bytes that the learner's forward pass keeps for its backward pass.

Read off transformers' code, operation by operation, as our learner runs it: float32 parameters and a float32 residual
stream, and in bfloat16 layers that compute under autocast. A test measures what torch saves and holds these formulas
within a percent.

Two things follow that one would not expect: under autocast every linear layer keeps a rounded copy of its input of
its own, and fused experts (torch's grouped products know no autocast) compute in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.architecture.facts import (
    Architecture,
    Attention,
    DenseMLP,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    MixtureOfExperts,
    QKNorm,
)
from rlvr.architecture.parameters import expert_parameters, linear_layers
from rlvr.plan.adapters import adapted_matrices, adapts_dense_mlps, adapts_experts
from rlvr.plan.held import WIDE

# The families whose code in transformers runs every expert on every token, and adds up those that were chosen.
RUNS_ALL_EXPERTS = frozenset({"llama4_text"})
# Those that turn pairs of channels as complex numbers, with one angle for each pair; others keep it twice.
HALF_ANGLES = frozenset({"llama4_text"})


@dataclass(frozen=True, slots=True)
class Pass:
    """How a micro-batch goes through the learner.

    `tokens` in lines of `line` tokens each. `element` is 4 (float32) or 2 (bfloat16 under autocast). `spans`: the
    learner's own attention over spans (`rlvr/learn/span_attention.py`); else torch's, with a mask that keeps the rows
    of a line apart (or a row and what fills up its line), so that keys and values are repeated for the heads that
    share them. `fuses_latent`: torch's takes values of another width than keys (CUDA's does, the CPU's does not and
    keeps all probabilities). `adapter_rank` 0 trains all parameters, else adapters on all linear layers. `quantized`:
    those layers are held in 4 bits.
    """

    tokens: int
    line: int
    element: int
    spans: bool
    fuses_latent: bool
    adapter_rank: int = 0
    quantized: bool = False

    @property
    def mixed(self) -> bool:
        return self.element < WIDE

    @property
    def trains_all(self) -> bool:
        return self.adapter_rank == 0


def saved_bytes(architecture: Architecture, run: Pass) -> int:
    """All that is kept at the end of a forward pass in which every token's log-probability is read."""
    layers = sum(number * layer_bytes_per_token(layer, architecture, run) for layer, number in architecture.kinds())
    if not run.trains_all:  # frozen embeddings have no gradient, so the first norm need not keep what it was given
        layers -= WIDE * (architecture.hidden + 1) + 8
    return round(run.tokens * (layers + _around_the_layers(architecture, run)))


def checkpointed_bytes(architecture: Architecture, run: Pass) -> int:
    """The same where each layer is computed again: the layers' inputs, and the largest layer once."""
    inputs = WIDE * architecture.hidden * len(architecture.layers)
    largest = max(layer_bytes_per_token(layer, architecture, run) for layer, _ in architecture.kinds())
    return round(run.tokens * (inputs + largest + _around_the_layers(architecture, run)))


def weight_copies_bytes(architecture: Architecture, run: Pass) -> int:
    """Weights that the graph keeps beside the parameters themselves, of all layers."""
    return sum(number * layer_copies_bytes(layer, architecture, run) for layer, number in architecture.kinds())


def layer_copies_bytes(layer: Layer, architecture: Architecture, run: Pass) -> int:
    """Those of one block.

    Under autocast, its linear layers and adapters in bfloat16, and experts that are plain products. An adapter on
    experts is added to their whole fused tensors before each use: a second copy of all experts, in float32.
    """
    hidden, total = architecture.hidden, 0
    mixture = layer.mlp if isinstance(layer.mlp, MixtureOfExperts) else None
    if mixture is not None and not run.trains_all and adapts_experts(architecture):
        total += WIDE * mixture.experts * expert_parameters(mixture, hidden)
    if not run.mixed:
        return total
    # Weights of 4 bits are widened at each use, and what comes of it is not kept.
    matrices = [] if run.quantized else linear_layers(layer, architecture)
    rounded = sum(matrix.inputs * matrix.outputs for matrix in matrices)
    if mixture is not None:
        rounded += mixture.experts * hidden  # the router
        if architecture.family in RUNS_ALL_EXPERTS:
            rounded += mixture.experts * expert_parameters(mixture, hidden)
    adapted = adapted_matrices(layer, architecture)
    rounded += run.adapter_rank * sum(matrix.inputs + matrix.outputs for matrix in adapted)
    return total + run.element * rounded


def layer_bytes_per_token(layer: Layer, architecture: Architecture, run: Pass) -> float:
    """What one block keeps for one token."""
    hidden = architecture.hidden
    adapted = len(adapted_matrices(layer, architecture))
    total = _attention_bytes(layer.attention, hidden, run) + run.element * run.adapter_rank * adapted
    match layer.mlp:
        case DenseMLP(width):
            trained = run.trains_all or adapts_dense_mlps(architecture)
            return total + _norm_bytes(hidden, 2 if trained else 0, run) + _gated_bytes(width, run, trained)
        case MixtureOfExperts():
            return total + _mixture_bytes(layer.mlp, architecture, run)


def _around_the_layers(architecture: Architecture, run: Pass) -> float:
    """Token ids, sines and cosines, the last norm, and what the head keeps: hidden state, target, normalizer, place."""
    hidden = architecture.hidden
    attention = architecture.layers[0].attention
    rotary = attention.rotary_width / 2 if isinstance(attention, LatentAttention) else attention.head_width
    if architecture.family in HALF_ANGLES:
        rotary /= 2
    last_norm = WIDE * (2 * hidden + 1 if run.trains_all else hidden + 1)
    head = WIDE * hidden + 8 + 8 + WIDE
    return 8 + 2 * WIDE * rotary + last_norm + head


def _norm_bytes(width: int, readers: int, run: Pass) -> int:
    """An RMS norm on the residual stream: its input, the input normalised, 1 / rms, and what its readers keep.

    A frozen scale needs no normalised input. In float32 the readers share one output; under autocast each linear
    layer rounds it for itself.
    """
    normalised = WIDE * width if run.trains_all else 0
    outputs = run.element * readers if run.mixed else WIDE * min(1, readers)
    return WIDE * (width + 1) + normalised + outputs * width


def _attention_bytes(attention: Attention, hidden: int, run: Pass) -> float:
    match attention:
        case GroupedQueryAttention():
            return _norm_bytes(hidden, 3, run) + _grouped_bytes(attention, run)
        case LatentAttention():
            return _norm_bytes(hidden, 2, run) + _latent_bytes(attention, run)


def _grouped_bytes(attention: GroupedQueryAttention, run: Pass) -> float:
    e, heads, shared = run.element, attention.query_heads, attention.key_value_heads
    queries, keys = heads * attention.head_width, shared * attention.head_width
    seen = keys if run.spans else queries  # a mask goes with keys and values repeated for every head
    total = e * (2 * queries + 2 * seen) + WIDE * heads  # queries, output, keys, values; log of the normalizer
    if run.spans:
        total += WIDE * heads  # the normalizer in two parts
    if not run.spans:
        total += e * run.line  # the mask
    if (attention.partly_rotary and not run.spans) or (run.mixed and not run.trains_all):
        total += e * queries  # the output once more, in the order that the next layer (or its adapter) reads
    match attention.qk_norm:
        case QKNorm.RMS:
            normalised = e if run.trains_all else 0
            total += (WIDE + normalised) * (queries + keys) + WIDE * (heads + shared)
        case QKNorm.L2:
            total += WIDE * (queries + keys) + WIDE * (heads + shared)
    return total


def _latent_bytes(attention: LatentAttention, run: Pass) -> float:
    e, heads = run.element, attention.heads
    both = heads * attention.query_width
    values = heads * attention.value_width
    total = 0.0
    if attention.query_rank is not None:
        total += _inner_norm_bytes(attention.query_rank, run)
    total += _inner_norm_bytes(attention.latent_rank, run)
    if not run.mixed:
        total += WIDE * attention.rotary_width  # its norm keeps the whole of what was projected
    projected = heads * (attention.plain_width + attention.value_width)  # values are a part of it
    if run.spans:
        total += e * (2 * both + projected + values) + 2 * WIDE * heads
        if run.mixed and not run.trains_all:
            total += e * values  # the output once more, as its adapter reads it
    elif run.fuses_latent or attention.query_width == attention.value_width:
        total += e * (2 * both + projected + 2 * values) + WIDE * heads + e * run.line  # the output in two orders
    else:  # queries, keys, values and probabilities in float32, and the output
        total += WIDE * (2 * both + values + heads * run.line) + e * values
    return total


def _inner_norm_bytes(width: int, run: Pass) -> int:
    """A norm between two linear layers: its input in float32, normalised, its output, 1 / rms."""
    normalised = run.element if run.trains_all else 0
    return (WIDE + normalised + run.element) * width + WIDE


def _gated_bytes(width: int, run: Pass, trained: bool) -> int:
    """Gate, its activation, up, and their product, which a frozen down projection does not need."""
    return (4 if trained else 3) * run.element * width


def _mixture_bytes(mixture: MixtureOfExperts, architecture: Architecture, run: Pass) -> int:
    hidden, shared = architecture.hidden, mixture.shared_experts * mixture.shared_width
    trained = run.trains_all or adapts_dense_mlps(architecture)
    routed = run.trains_all or adapts_experts(architecture)
    readers = routed + (2 if shared and trained else 0)  # the router; gate and up of shared experts
    total = _norm_bytes(hidden, readers, run) + _gated_bytes(shared, run, trained)
    if architecture.family in RUNS_ALL_EXPERTS:
        return total + _all_experts_bytes(mixture, hidden, run)
    return total + _chosen_experts_bytes(mixture, hidden)


def _chosen_experts_bytes(mixture: MixtureOfExperts, hidden: int) -> int:
    """Inputs sorted by expert, outputs, gate and up, activation, product; and the router's scores."""
    places = 40 * mixture.chosen  # indices of 8 bytes, there and back
    return WIDE * mixture.chosen * (2 * hidden + 4 * mixture.width) + places + WIDE * mixture.experts


def _all_experts_bytes(mixture: MixtureOfExperts, hidden: int, run: Pass) -> int:
    """As for the chosen ones, but of all; inputs are kept before and after they are weighted.

    Experts that are frozen need neither the inputs of gate and up, nor that of down.
    """
    products = hidden + 4 * mixture.width if run.trains_all else 3 * mixture.width
    return mixture.experts * (WIDE * hidden + run.element * products)
