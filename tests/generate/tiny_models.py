"""Tiny random models in Hugging Face form, of the families that the engines must serve exactly."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GlmMoeDsaConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCABULARY = 500  # not a multiple of 64: engines pad it

_COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


_DENSE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}


def qwen3() -> PretrainedConfig:
    """Dense, grouped queries, tied head."""
    return Qwen3Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        tie_word_embeddings=True,
        **_COMMON,
    )


def qwen3_moe(layers: int = 2, experts: int = 4) -> PretrainedConfig:
    """Mixture of experts, which transformers fuses in memory; a head of its own."""
    return Qwen3MoeConfig(
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_experts=experts,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        **_COMMON,
    )


def deepseek_v3(*, kv_lora_rank: int, rope_dimensions: int, layers: int = 2, experts: int = 4) -> PretrainedConfig:
    """Multi-head latent attention, shared and routed experts, a router's bias that stays in float32."""
    return DeepseekV3Config(
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=128,
        moe_intermediate_size=64,
        n_routed_experts=experts,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=32,
        kv_lora_rank=kv_lora_rank,
        qk_rope_head_dim=rope_dimensions,
        qk_nope_head_dim=32,
        v_head_dim=32,
        routed_scaling_factor=2.5,
        norm_topk_prob=True,
        topk_method="noaux_tc",
        scoring_func="sigmoid",
        tie_word_embeddings=False,
        **_COMMON,
    )


def llama() -> PretrainedConfig:
    """Dense, a head of its own."""
    return LlamaConfig(**_DENSE, head_dim=32, tie_word_embeddings=False, **_COMMON)


def mistral() -> PretrainedConfig:
    """Dense, without the window of its first releases."""
    return MistralConfig(**_DENSE, head_dim=32, sliding_window=None, tie_word_embeddings=False, **_COMMON)


def llama4() -> PretrainedConfig:
    """A dense layer, then one of experts: one of four for each token, beside a shared one. Attention in chunks."""
    return Llama4TextConfig(
        **_DENSE,
        head_dim=32,
        intermediate_size_mlp=128,
        num_local_experts=4,
        num_experts_per_tok=1,
        interleave_moe_layer_step=2,
        attention_chunk_size=32,
        no_rope_layers=[1, 0],
        tie_word_embeddings=False,
        **_COMMON,
    )


def glm5(index_topk: int) -> PretrainedConfig:
    """Latent attention to the `index_topk` keys that an indexer picks; one dense layer, then one of experts."""
    return GlmMoeDsaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=128,
        moe_intermediate_size=64,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        q_lora_rank=32,
        kv_lora_rank=64,
        qk_rope_head_dim=32,
        qk_nope_head_dim=32,
        v_head_dim=32,
        index_topk=index_topk,
        index_head_dim=64,
        index_n_heads=8,  # fewer tie at 0, and then the choice of keys depends on how rows lie in memory
        topk_method="noaux_tc",
        scoring_func="sigmoid",
        tie_word_embeddings=False,
        **_COMMON,
    )


def save(config: PretrainedConfig, folder: Path, seed: int = 0, scale: float = 2.0) -> PreTrainedModel:
    """A random model, written to a folder and loaded from it, as any user of the folder would."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:  # wide enough that distributions are far from flat
                parameter.normal_(std=scale / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    return load(folder)


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


def perturb(model: PreTrainedModel, seed: int, scale: float = 0.3) -> None:
    """Random noise on every matrix, in place: another version of the policy."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += scale * parameter.std() * noise


@torch.no_grad()
def logprobs(
    model: PreTrainedModel, prompt: tuple[int, ...], answer: list[int], temperature: float = 1.0
) -> torch.Tensor:
    """What transformers says of each token of an answer, in one forward pass."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return (logits / temperature).log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
