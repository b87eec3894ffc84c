"""Tiny random models in Hugging Face form, and batches of rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GemmaConfig,
    GlmMoeDsaConfig,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from rlvr.config import Config
from rlvr.types import RLStream, Row

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Large enough for attention to matter: with the usual 0.02 a row that sees its neighbour hardly changes.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
LATENT: dict[str, Any] = SIZES | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "qwen3": Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True),
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama_mha": LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "deepseek_v3": DeepseekV3Config(
        **SIZES | {"num_key_value_heads": 4},
        moe_intermediate_size=24,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=12,
        kv_lora_rank=10,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
    ),
    "qwen2": Qwen2Config(**SIZES),
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "mistral_windowed": MistralConfig(**SIZES, sliding_window=6),
    "olmoe": OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
    "qwen3_moe": Qwen3MoeConfig(
        **SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True
    ),
    "llama4": Llama4TextConfig(
        **SIZES,
        head_dim=8,
        intermediate_size_mlp=48,
        num_local_experts=4,
        num_experts_per_tok=1,
        interleave_moe_layer_step=2,
        attention_chunk_size=8,
        no_rope_layers=[1, 0],
        tie_word_embeddings=False,
    ),
    "glm5": GlmMoeDsaConfig(**LATENT, index_topk=6, index_n_heads=8, index_head_dim=16),
    "granite": GraniteConfig(**SIZES, logits_scaling=4.0),
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random model of a family."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            torch.manual_seed(0)
            made[family] = tmp_path_factory.mktemp(family)
            AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(made[family])
            _tokenizer().save_pretrained(made[family])
        return made[family]

    return make


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", pad_token="w0")


@pytest.fixture
def config(checkpoint: Callable[[str], Path]) -> Callable[..., Config]:
    """A config for a tiny model: `config("llama", learner={"learning_rate": 1e-3})`."""

    def make(family: str = "qwen3", **sections: Any) -> Config:
        model = {"name": str(checkpoint(family))} | sections.pop("model", {})
        learner = {"learning_rate": 1e-2, "warmup_steps": 0, "token_budget": 512} | sections.pop("learner", {})
        return Config.model_validate(
            {
                "model": model,
                "learner": learner,
                "data": {"path": "none.jsonl", "max_prompt_tokens": 64},
                "sampling": {"max_new_tokens": 64},
                **sections,
            }
        )

    return make


def make_rows(seed: int = 0, groups: int = 3, size: int = 4, tool_output: bool = True) -> list[Row]:
    """Groups with a common prompt, answers of random length, and in every third answer a stretch nobody sampled."""
    source = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [source.randrange(2, VOCABULARY) for _ in range(count)]

    rows = []
    for group in range(groups):
        prompt = tokens(source.randint(3, 12))
        for number in range(size):
            answer = tokens(source.randint(4, 17))
            trained = [True] * len(answer)
            if tool_output and number % 3 == 0:
                trained[2:4] = [False, False]
            flags = [False] * len(prompt) + trained
            advantage = source.uniform(-2, 2)
            rows.append(
                Row(
                    group_id=group,
                    token_ids=prompt + answer,
                    trained=flags,
                    rl=RLStream(
                        advantages=[advantage if f else 0.0 for f in flags],
                        sampler_logprobs=[source.uniform(-5, -3) if f else 0.0 for f in flags],
                        staleness=[0] * len(flags),
                    ),
                    trajectory=number,
                )
            )
    return rows


def rl_of(row: Row) -> RLStream:
    """The row's `rl` stream, which it must have."""
    assert row.rl is not None
    return row.rl
