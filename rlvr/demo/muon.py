"""Muon in float32, for the warm start on a processor.

`torch.optim.Muon` orthogonalizes in bfloat16, which a processor without bfloat16 instructions emulates: for
the demo's model its step then takes five times as long as the forward and backward pass together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor

# The quintic of K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): five
# rounds bring singular values from anywhere in (0, 1] to between about 0.7 and 1.2.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# An orthogonal matrix times 0.2 sqrt(max(rows, columns)) has entries as large as an AdamW update
# (Liu et al., "Muon is scalable for LLM training", 2025), so both can take learning rates of one scale.
UPDATE_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized, as the update of each matrix. Nesterov momentum; no weight decay."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.ndim != 2:
                    raise ValueError(f"Muon takes matrices only; got the shape {tuple(matrix.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient. A closure is not taken."""
        for group in self.param_groups:
            updates: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    smoothed = self._smoothed(matrix, matrix.grad, group["momentum"])
                    updates[matrix.shape].append((matrix, smoothed))
            for shape, pairs in updates.items():
                directions = orthogonalize(torch.stack([update for _, update in pairs]))
                length = group["lr"] * UPDATE_RMS * sqrt(max(shape))
                for (matrix, _), direction in zip(pairs, directions, strict=True):
                    matrix.sub_(direction, alpha=length)

    def _smoothed(self, matrix: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[matrix]
        if "average" not in state:
            state["average"] = torch.zeros_like(matrix)
        average: Tensor = state["average"]
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """About the nearest matrices with orthonormal rows or columns: [..., rows, columns] to the same."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
