"""Muon against singular values, against torch's own, and on which parameters of which models."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    Llama4TextConfig,
    PreTrainedConfig,
    Qwen3NextConfig,
)

from rlvr.config import LearnerConfig
from rlvr.learn import muon
from rlvr.learn.muon import Muon, orthogonalize
from rlvr.learn.optimizer import muon_matrices, optimizer_for

from .conftest import FAMILIES


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved_by(start: Tensor, gradients: list[Tensor], **settings: Any) -> Tensor:
    """Where Muon takes a parameter."""
    parameter = Parameter(start.clone())
    optimizer = Muon([parameter], **settings)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8)])
def test_orthogonalize_keeps_directions_and_levels_lengths(shape: tuple[int, int]) -> None:
    matrix = random(3, *shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ orthogonalize(matrix) @ vh.mT  # diagonal when the singular vectors are kept
    lengths = inner.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inner, torch.diag_embed(lengths), atol=1e-9, rtol=0)
    # The smallest singular values of a square random matrix are not lifted all the way in five rounds.
    assert lengths.median() > 0.65 and lengths.max() < 1.25 and lengths.min() > 0


def test_two_steps_by_singular_values() -> None:
    """W - lr (0.2 sqrt(max) U f(S) V' + decay W), f the quintic five times over, of Nesterov momentum."""
    start, gradients = random(6, 10), [random(6, 10, seed=1), random(6, 10, seed=2)]
    lr, decay, mu = 0.1, 0.5, 0.95
    expected, average = start.clone(), torch.zeros(6, 10, dtype=torch.float64)
    for gradient in gradients:
        average = mu * average + (1 - mu) * gradient
        smoothed = mu * average + (1 - mu) * gradient
        u, s, vh = torch.linalg.svd(smoothed / smoothed.norm(), full_matrices=False)
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        expected = expected - lr * (0.2 * math.sqrt(10) * u @ s.diag() @ vh + decay * expected)
    result = moved_by(start, gradients, lr=lr, weight_decay=decay)
    torch.testing.assert_close(result, expected, atol=1e-10, rtol=0)


def test_muon_steps_as_the_one_in_torch() -> None:
    """Equal within what bfloat16 rounds away in torch's."""
    start = torch.randn(24, 48, generator=torch.Generator().manual_seed(1))
    ours, theirs = Parameter(start.clone()), Parameter(start.clone())
    mine = Muon([ours], lr=0.1)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    noise = torch.Generator().manual_seed(2)
    for _ in range(5):
        gradient = torch.randn(24, 48, generator=noise)
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = theirs.detach() - start
    assert (ours.detach() - theirs.detach()).norm() < 0.02 * moved.norm()


@pytest.mark.parametrize("batch_elements", [1, 100, 1 << 24])
def test_experts_have_updates_of_their_own(monkeypatch: pytest.MonkeyPatch, batch_elements: int) -> None:
    monkeypatch.setattr(muon, "MUON_BATCH_ELEMENTS", batch_elements)
    start, gradient = random(5, 4, 6), random(5, 4, 6, seed=1)
    together = moved_by(start, [gradient], lr=0.1)
    for expert in range(5):
        torch.testing.assert_close(together[expert], moved_by(start[expert], [gradient[expert]], lr=0.1))


@pytest.mark.parametrize("experts", [(), (3,)])
@pytest.mark.parametrize("fused", ["rows", "columns", "alternate_columns"])
def test_fused_matrices_have_updates_of_their_own(experts: tuple[int, ...], fused: Any) -> None:
    halves = {
        "rows": (slice(0, 4), slice(None)),
        "columns": (slice(None), slice(0, 5)),
        "alternate_columns": (slice(None), slice(0, 10, 2)),
    }
    start, gradient = random(*experts, 8, 10), random(*experts, 8, 10, seed=1)
    together = moved_by(start, [gradient], lr=0.1, fused=fused)
    first = (..., *halves[fused])
    torch.testing.assert_close(together[first], moved_by(start[first], [gradient[first]], lr=0.1))
    assert not torch.allclose(together, moved_by(start, [gradient], lr=0.1), atol=1e-3)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes matrices.*\(5,\)"):
        Muon([Parameter(torch.zeros(5))], lr=0.1)


def test_a_parameter_without_gradient_stays() -> None:
    parameter = Parameter(torch.ones(2, 2))
    Muon([parameter], lr=0.1, weight_decay=0.5).step()
    assert parameter.tolist() == [[1, 1], [1, 1]]


# ---------------------------------------------------------------------- which parameters

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
LATENT = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
DENSE = {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("config", "expected", "gate_up"),
    [
        (FAMILIES["qwen3"], ATTENTION | DENSE, None),
        (FAMILIES["olmoe"], ATTENTION | {"gate_up_proj", "down_proj"}, "rows"),
        (FAMILIES["deepseek_v3"], LATENT | DENSE | {"gate_up_proj"}, "rows"),
        (
            Llama4TextConfig(**SIZES, head_dim=8, num_local_experts=4, interleave_moe_layer_step=1),
            ATTENTION | DENSE | {"gate_up_proj"},
            "columns",
        ),
        (
            GptOssConfig(**SIZES, head_dim=8, num_local_experts=4),
            ATTENTION | {"gate_up_proj", "down_proj"},
            "alternate_columns",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_matrices_of_layers_and_experts_and_nothing_else(
    config: PreTrainedConfig, expected: set[str], gate_up: str | None
) -> None:
    """Not embedding, head, router, norms, biases."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    matrices = muon_matrices(network)
    names = {
        name.removesuffix(".weight").split(".")[-1]: matrices[p]
        for name, p in network.named_parameters()
        if p in matrices
    }
    assert set(names) == expected
    assert names.get("gate_up_proj") == gate_up
    assert {form for name, form in names.items() if name != "gate_up_proj"} == {None}
    left = {name for name, p in network.named_parameters() if p not in matrices and p.ndim > 1}
    assert all(any(word in name for word in ("embed", "lm_head", "gate.weight", "router", "bias")) for name in left), (
        left
    )


def test_convolutions_of_linear_attention_stay_with_adamw() -> None:
    config = Qwen3NextConfig(
        **SIZES,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    left = {name for name, p in network.named_parameters() if p not in muon_matrices(network) and p.ndim == 3}
    assert left == {"model.layers.0.linear_attn.conv1d.weight"}


def test_every_parameter_has_one_optimizer() -> None:
    network = AutoModelForCausalLM.from_config(FAMILIES["olmoe"])
    parameters = dict(network.named_parameters())
    optimizer = optimizer_for(parameters, network, LearnerConfig(optimizer="muon"))
    held = [p for part in optimizer.parts for group in part.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(parameters)


def test_an_8_bit_optimizer_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    network = AutoModelForCausalLM.from_config(FAMILIES["llama"])
    config = LearnerConfig(optimizer="adamw_8bit")
    for found, needs in ((None, "pip install bitsandbytes"), (object(), "needs a GPU")):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        with pytest.raises(ValueError, match=needs):
            optimizer_for(dict(network.named_parameters()), network, config)


def test_a_step_needs_no_memory_for_all_matrices_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "MUON_BATCH_ELEMENTS", 64 * 64)
    peaks = []
    for count in (4, 40):
        matrices = [Parameter(torch.randn(64, 64)) for _ in range(count)]
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        optimizer = Muon(matrices, lr=1e-3)
        optimizer.step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            optimizer.step()
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
        peaks.append(max(held))
    assert peaks[1] <= peaks[0] + 4 * 64 * 64
