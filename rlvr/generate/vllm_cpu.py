"""Mends vLLM 0.32.0 on CPU, so that weights can be loaded in place and every model family is exact.

vLLM prepares weights for its CPU kernels when it loads a model: it packs them and drops the originals. New
weights cannot be loaded over a packed copy, and three of the five faults below are silent. `patch` keeps the
weights as they are; a tiny model loses no speed by it, one of 98M parameters about 30 % in float32.

Each patch names the fault it mends. They reach into one release of vLLM, so any other is refused, and the tests
that compare log-probabilities with transformers, before and after an update, are their guard.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from rlvr.generate import vllm_cpu_speed

PATCHED_VERSION = "0.32.0"

# Parameters that vLLM cuts out of others when it loads multi-head latent attention (`kv_b_proj`).
DERIVED = frozenset({"W_UK_T", "W_UV"})


class UnsupportedVLLM(RuntimeError):
    """This release of vLLM was not tried with the patches."""


@cache
def patch() -> None:
    """Apply all patches to this process, once, before a model is built. Raises UnsupportedVLLM."""
    import vllm

    found = vllm.__version__.split("+")[0]
    if found != PATCHED_VERSION:
        raise UnsupportedVLLM(
            f"vLLM {found} is installed, and rlvr mends vLLM {PATCHED_VERSION} on CPU: install that release with "
            "`python -m rlvr.install_cpu_engine`, or set generator.engine=transformers"
        )
    _inspect_models_here()
    _keep_linear_weights()
    _keep_expert_weights()
    _rotate_three_dimensions_exactly()
    _leave_matrix_tiles_alone()
    vllm_cpu_speed.patch()


def refresh_derived_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Compute the DERIVED parameters again, which `load_weights` does not refresh."""
    from vllm.model_executor.layers.attention.mla_attention import MLAAttention

    for module in model.modules():
        if isinstance(module, MLAAttention):
            module.process_weights_after_loading(dtype)


# -------------------------------------------------------------------- the patches


def _inspect_models_here() -> None:
    """Fault: each model class is inspected in a process of its own, 14 s on a fresh machine. On CPU there is no
    driver state that the inspection could spoil."""
    from vllm.model_executor.models import registry

    def run(inspect: Callable[[], Any]) -> Any:
        return inspect()

    registry._run_in_subprocess = run


def _keep_linear_weights() -> None:
    """Fault: linear layers hand their weights to oneDNN or a packed kernel and empty the parameter, so loading in
    place raises, and a tied head goes on with the old embedding. Without the two they use torch's linear."""
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils

    def never(*_: object, **__: object) -> bool:
        return False

    _custom_ops._supports_onednn = False
    utils.check_cpu_sgl_kernel = never


def _keep_expert_weights() -> None:
    """Fault: expert weights are packed at the first load only; a second load writes plain weights into the packed
    layout, silently (log-probabilities off by 0.5 with the very same weights)."""
    from vllm.model_executor.layers.fused_moe.experts import cpu_moe

    def keep(_experts: Any, _layer: torch.nn.Module) -> None:
        pass

    plain = cpu_moe.CPUUnquantizedExperts
    for experts in (plain, *plain.__subclasses__()):
        experts.process_weights_after_loading = keep
        experts.apply = _apply_experts


def _rotate_three_dimensions_exactly() -> None:
    """Fault: the CPU kernel of rotary embeddings is wrong for (tokens, heads, dimension) inputs, which
    multi-head latent attention uses (off by up to 0.35). vLLM's own Python formula is right."""
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    kernel = RotaryEmbedding.forward_cpu

    def rotate(
        self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        exact = self.forward_native if query.dim() == 3 else kernel.__get__(self)
        rotated: tuple[torch.Tensor, torch.Tensor | None] = exact(positions, query, key)
        return rotated

    RotaryEmbedding.forward_cpu = rotate


def _leave_matrix_tiles_alone() -> None:
    """Fault: on processors with AMX multi-head latent attention goes to a backend of its own, which packs weights and
    knows bfloat16 alone: a model in float32 does not even load. Without, vLLM's kernels are those of any processor."""

    def never() -> bool:
        return False

    torch.cpu._is_amx_tile_supported = never


# -------------------------------------------------------------------- experts on plain weights


def _apply_experts(
    self: Any,
    output: torch.Tensor,
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    activation: Any,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
    a1q_scale: torch.Tensor | None,
    a2_scale: torch.Tensor | None,
    workspace13: torch.Tensor,
    workspace2: torch.Tensor,
    expert_tokens_meta: object,
    apply_router_weight_on_input: bool,
) -> None:
    """In place of `CPUUnquantizedExperts.apply`: each expert on the tokens that were routed to it.

    w1 is (experts, 2 * intermediate, hidden): gate and up of each expert; w2 (experts, hidden, intermediate).
    """
    result = torch.zeros_like(output)
    for expert in topk_ids.unique().tolist():
        token, choice = (topk_ids == expert).nonzero(as_tuple=True)
        w1_bias = None if self.w1_bias is None else self.w1_bias[expert]
        w2_bias = None if self.w2_bias is None else self.w2_bias[expert]
        gated = _activate(functional.linear(hidden_states[token], w1[expert], w1_bias), activation.value)
        answer = functional.linear(gated, w2[expert], w2_bias)
        if not apply_router_weight_on_input:  # otherwise vLLM has multiplied the input already
            answer = answer * topk_weights[token, choice, None].to(answer.dtype)
        result.index_add_(0, token, answer)
    output.copy_(result)


def _activate(gate_and_up: torch.Tensor, activation: str) -> torch.Tensor:
    """The gated activations that vLLM's CPU experts support."""
    if activation == "swigluoai":  # GPT-OSS: interleaved, clamped, with a slope of 1.702
        gate = gate_and_up[..., ::2].clamp(max=7.0)
        up = gate_and_up[..., 1::2].clamp(-7.0, 7.0)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)
    gate, up = gate_and_up.chunk(2, dim=-1)
    if activation == "silu":
        return functional.silu(gate) * up
    return functional.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up
