"""What a step of Muon takes beside gradients and momentum, which are held: copies of the matrices in hand.

Read off `rlvr/learn/muon.py`: matrices of one shape are orthogonalized together, a batch at a time, and what is
sharded is gathered one matrix at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rlvr.architecture.facts import Architecture, MixtureOfExperts
from rlvr.architecture.parameters import linear_layers
from rlvr.config import MUON_BATCH_ELEMENTS
from rlvr.plan.held import WIDE

NARROW = 2  # bytes of a bfloat16, in which a GPU orthogonalizes


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of matrices that are orthogonalized together. Halves of fused ones are not together with whole ones."""

    rows: int
    columns: int
    halves: bool = False


def muon_step_bytes(
    architecture: Architecture, *, gpu: bool, gpus: int = 1, sharded: bool = False, offloaded: bool = False
) -> int:
    """The most that exists at one time on each of `gpus` GPUs (or ranks on a processor) that share the learner.

    Where parameters are `sharded`, a linear layer is gathered, and a rank orthogonalizes the experts that it has; with
    `offloaded` ones in host memory.
    """
    linear, experts = _linear_layers(architecture), _experts(architecture, gpus)
    if not sharded:
        return max(_orthogonalizing(shape, number, gpu) for shape, number in (linear + experts).items())
    # What is gathered, and its change.
    gathered = [2 * WIDE * shape.rows * shape.columns + _orthogonalizing(shape, 1, gpu) for shape in linear]
    own = [] if gpu and offloaded else [_orthogonalizing(shape, number, gpu) for shape, number in experts.items()]
    return max(gathered + own)


def _orthogonalizing(shape: _Shape, number: int, gpu: bool) -> int:
    """A batch in float32, and of it in the format of the products either four of its size and one of its Gram
    matrices' (the end of a round), or two and four (the polynomial of the Gram matrices)."""
    elements = shape.rows * shape.columns
    together = min(number, max(1, MUON_BATCH_ELEMENTS // elements))
    gram = min(shape.rows, shape.columns) ** 2
    products = max(4 * elements + gram, 2 * elements + 4 * gram)
    return together * (WIDE * elements + (NARROW if gpu else WIDE) * products)


def _linear_layers(architecture: Architecture) -> Counter[_Shape]:
    found: Counter[_Shape] = Counter()
    for layer, number in architecture.kinds():
        for matrix in linear_layers(layer, architecture):
            found[_Shape(matrix.outputs, matrix.inputs)] += number
    return found


def _experts(architecture: Architecture, ranks: int) -> Counter[_Shape]:
    """Those of one rank: gate and up are one fused tensor, down is a tensor of its own."""
    found: Counter[_Shape] = Counter()
    for layer, number in architecture.kinds():
        if isinstance(layer.mlp, MixtureOfExperts):
            own = number * -(-layer.mlp.experts // ranks)
            found[_Shape(layer.mlp.width, architecture.hidden, halves=True)] += 2 * own
            found[_Shape(architecture.hidden, layer.mlp.width)] += own
    return found
