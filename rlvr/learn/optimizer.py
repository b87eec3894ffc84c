"""The optimizer and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import Parameter

from rlvr.config import LearnerConfig


def adamw(parameters: Sequence[Parameter], config: LearnerConfig) -> torch.optim.AdamW:
    """AdamW in one fused kernel, with weight decay on matrices only: a norm's scale should not shrink."""
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def learning_rate(config: LearnerConfig, update: int, total_updates: int) -> float:
    """Of optimizer update `update`, counted from 0.

    Update i of `warmup_steps` has (i + 1) / warmup_steps of the peak; then the schedule goes, if it goes down,
    to 0 at `total_updates`.
    """
    if update < config.warmup_steps:
        return config.learning_rate * (update + 1) / config.warmup_steps
    after = total_updates - config.warmup_steps
    progress = min(1.0, (update - config.warmup_steps) / after) if after > 0 else 0.0
    match config.schedule:
        case "constant":
            return config.learning_rate
        case "linear":
            return config.learning_rate * (1 - progress)
        case "cosine":
            return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
