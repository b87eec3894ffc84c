"""Muon: the momentum of a weight matrix, made orthogonal, is its update."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from rlvr.config import MUON_BATCH_ELEMENTS
from rlvr.learn.model import own_shard, whole

# The quintic of K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): five
# rounds bring singular values from anywhere in (0, 1] to between about 0.7 and 1.2.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# An orthogonal matrix times 0.2 sqrt(max(rows, columns)) has entries as large as an AdamW update
# (Liu et al., "Muon is scalable for LLM training", 2025), so both can take learning rates of one scale.
UPDATE_RMS = 0.2

# How one parameter holds two matrices: as its upper and lower rows, its left and right columns, or every other column.
Fused = Literal["rows", "columns", "alternate_columns"]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, as the update of each matrix; weight decay as AdamW's.

    A parameter is a matrix, or a batch of them [experts, rows, columns]; `fused` says that each is two. Every matrix
    has an update of its own. Groups of parameters may have their own `fused`, `lr`, `momentum` and `weight_decay`.

    Of a parameter that is sharded over ranks (DTensor) the momentum is sharded alike; each rank orthogonalizes the
    experts that it holds, or gathers the whole matrix.
    """

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        fused: Fused | None = None,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "fused": fused})
        for matrix in (matrix for group in self.param_groups for matrix in group["params"]):
            if matrix.ndim not in (2, 3):
                raise ValueError(f"Muon takes matrices, or batches of them; got the shape {tuple(matrix.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient, which is overwritten. A closure is not taken."""
        for group in self.param_groups:
            local = []
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                smoothed = self._smoothed(matrix, matrix.grad, group["momentum"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                if not isinstance(matrix, DTensor):
                    local.append((matrix, smoothed))
                    continue
                assert isinstance(smoothed, DTensor), "the momentum is sharded as its parameter"
                if _holds_whole_matrices(matrix):
                    local.append((matrix.to_local(), smoothed.to_local()))
                else:
                    _descend_sharded(matrix, smoothed, group["lr"], group["fused"])
            _descend(local, group["lr"], group["fused"])

    def _smoothed(self, matrix: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[matrix]
        if "average" not in state:
            state["average"] = torch.zeros_like(matrix)
        average: Tensor = state["average"]
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp_(average, momentum)  # in its place: another copy of all would be 4 bytes a parameter


def _descend(pairs: Iterable[tuple[Tensor, Tensor]], lr: float, fused: Fused | None) -> None:
    """Move each first of a pair, in place, against the orthogonalized second; those of one shape together."""
    by_shape: defaultdict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for target, source in pairs:
        for part, of_source in zip(_parts(target, fused), _parts(source, fused), strict=True):
            by_shape[part.shape[1:]].append((part, of_source))
    for shape, parts in by_shape.items():
        for batch in _batches(parts, shape.numel()):
            _descend_together(batch, lr * UPDATE_RMS * sqrt(max(shape)))


def _descend_together(batch: list[tuple[Tensor, Tensor]], rate: float) -> None:
    """Of matrices of one shape. Nothing of one batch is there any more when the next begins."""
    directions = orthogonalize(torch.cat([source for _, source in batch]))
    sizes = [len(target) for target, _ in batch]
    for (target, _), direction in zip(batch, directions.split(sizes), strict=True):
        target.sub_(direction, alpha=rate)


def _parts(tensor: Tensor, fused: Fused | None) -> list[Tensor]:
    """Views [matrices, rows, columns], none larger than a batch."""
    match fused:
        case None:
            halves: tuple[Tensor, ...] = (tensor,)
        case "rows":
            halves = tensor.chunk(2, -2)
        case "columns":
            halves = tensor.chunk(2, -1)
        case "alternate_columns":
            halves = (tensor[..., 0::2], tensor[..., 1::2])
    most = max(1, MUON_BATCH_ELEMENTS // halves[0].shape[-2:].numel())
    return [part for half in halves for part in (half if half.ndim == 3 else half[None]).split(most)]


def _batches(parts: list[tuple[Tensor, Tensor]], elements: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The parts in order, as many together as fit; each matrix has `elements`."""
    batch: list[tuple[Tensor, Tensor]] = []
    count = 0
    for part in parts:
        if batch and (count + len(part[0])) * elements > MUON_BATCH_ELEMENTS:
            yield batch
            batch, count = [], 0
        batch.append(part)
        count += len(part[0])
    yield batch


def orthogonalize(matrices: Tensor) -> Tensor:
    """About the nearest matrices with orthonormal rows or columns: [..., rows, columns] to the same.

    In bfloat16 on a GPU. In float32 on a processor, many of which emulate bfloat16: `torch.optim.Muon` then takes
    five times as long for a step of the demo's model as its forward and backward pass together.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    if x.device.type == "cuda":
        x = x.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def _holds_whole_matrices(matrix: DTensor) -> bool:
    """Whether each rank has whole experts, of which it can update its own."""
    return matrix.ndim == 3 and all(not isinstance(p, Shard) or p.dim == 0 for p in matrix.placements)


def _descend_sharded(matrix: DTensor, smoothed: DTensor, lr: float, fused: Fused | None) -> None:
    gathered = whole(smoothed)
    change = torch.zeros_like(gathered)
    _descend([(change, gathered)], lr, fused)
    # Every rank has computed the same change, and takes its own shard of it.
    matrix.to_local().add_(own_shard(change, matrix))
