"""The optimizer and its learning rate."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from rlvr.config import LearnerConfig, OptimizerName
from rlvr.learn.muon import Fused, Muon


class PolicyOptimizer:
    """Torch's optimizers behind one interface: each of `parts` has parameters of its own, and all have one rate."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)

    def step(self, rate: float) -> None:
        """Update all parameters that have a gradient at learning rate `rate`."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)


def optimizer_for(
    parameters: Mapping[str, Parameter], network: PreTrainedModel, config: LearnerConfig
) -> PolicyOptimizer:
    """`learner.optimizer` for the trainable `parameters` of `network`, by name."""
    match config.optimizer:
        case OptimizerName.ADAMW:
            return PolicyOptimizer([adamw(list(parameters.values()), config)])
        case OptimizerName.ADAMW_8BIT:
            return PolicyOptimizer([_adamw_8bit(list(parameters.values()), config)])
        case OptimizerName.MUON | OptimizerName.MUONCLIP:
            return PolicyOptimizer(_muon_and_adamw(list(parameters.values()), network, config))


def adamw(parameters: Sequence[Parameter], config: LearnerConfig) -> torch.optim.AdamW:
    """AdamW in one fused kernel."""
    groups = _decaying(parameters, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def _adamw_8bit(parameters: Sequence[Parameter], config: LearnerConfig) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW, whose two moments take a byte each. Not measured: it needs a GPU."""
    reason = why_no_adamw_8bit(parameters[0].device)
    if reason is not None:
        raise ValueError(reason)
    import bitsandbytes

    groups = _decaying(parameters, config.weight_decay)
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=config.learning_rate, betas=config.betas)
    return optimizer


def why_no_adamw_8bit(device: torch.device) -> str | None:
    """What is missing for `learner.optimizer=adamw_8bit`, and what to do."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "learner.optimizer=adamw_8bit needs bitsandbytes: `pip install bitsandbytes`, or set adamw or muon"
    if device.type != "cuda":
        return "learner.optimizer=adamw_8bit needs a GPU for the learner; set adamw or muon"
    return None


def _muon_and_adamw(
    parameters: Sequence[Parameter], network: PreTrainedModel, config: LearnerConfig
) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for the rest."""
    matrices = muon_matrices(network)
    forms: dict[Fused | None, list[Parameter]] = {}
    for parameter in parameters:
        if parameter in matrices:
            forms.setdefault(matrices[parameter], []).append(parameter)
    groups = [{"params": of_form, "fused": fused} for fused, of_form in forms.items()]
    rest = [parameter for parameter in parameters if parameter not in matrices]
    return [
        Muon(groups, lr=config.learning_rate, weight_decay=config.weight_decay),
        adamw(rest, config),
    ]


def muon_matrices(network: PreTrainedModel) -> dict[Parameter, Fused | None]:
    """The parameters that Muon moves, and how each holds two matrices, if it does.

    These are weights of linear layers and of experts: maps from activations to activations. Embeddings and head,
    which have a row for each token, stay with AdamW, as do routers (K. Jordan et al.; verl), biases, norms and
    convolutions.
    """
    head = network.get_output_embeddings()
    found: dict[Parameter, Fused | None] = {}
    for path, module in network.named_modules():
        # Routers of transformers hold a plain weight, not a linear layer, and are known by name alone.
        if isinstance(module, nn.Embedding) or module is head or "Router" in type(module).__name__:
            continue
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear):
            if min(own["weight"].shape) > 1:
                found[own["weight"]] = "rows" if path.endswith("gate_up_proj") else None
        elif "down_proj" in own and own["down_proj"].ndim == 3:
            found |= {p: None for p in own.values() if p.ndim == 3}
            if "gate_up_proj" in own:
                found[own["gate_up_proj"]] = _gate_up_form(module, own["gate_up_proj"], own["down_proj"])
    return found


def _gate_up_form(experts: nn.Module, gate_up: Parameter, down: Parameter) -> Fused:
    """Where gate and up lie in [experts, 2 width, hidden], or transposed: `down` has one width, on the other side."""
    if gate_up.shape[-2] == 2 * down.shape[-1]:
        return "rows"
    # transformers marks experts whose columns take turns; those without the mark have them side by side.
    return "columns" if getattr(experts, "is_concatenated", True) else "alternate_columns"


def _decaying(parameters: Sequence[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: a norm's scale should not shrink."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


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
