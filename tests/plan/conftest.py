"""Tiny random models that our learner loads, and their facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.architecture.catalog import find_model
from rlvr.architecture.facts import Architecture
from rlvr.config import Config

VOCABULARY = 61
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
ROUTED = {"moe_intermediate_size": 48, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2}
LATENT = COMMON | {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENT |= {"q_lora_rank": 40, "kv_lora_rank": 24, "qk_rope_head_dim": 16, "qk_nope_head_dim": 20, "v_head_dim": 28}
INDEXED = LATENT | ROUTED | {"index_topk": 512, "index_n_heads": 2, "index_head_dim": 32, "first_k_dense_replace": 1}
CHUNKED = GROUPED | {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 96}
CHUNKED |= {"interleave_moe_layer_step": 2, "attention_chunk_size": 256}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", GROUPED | {"head_dim": 32}),
    "qwen2": ("qwen2", GROUPED | {"tie_word_embeddings": True}),
    "qwen3_moe": (
        "qwen3_moe",
        GROUPED | {"head_dim": 32, "moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2},
    ),
    "glm4_moe": ("glm4_moe", GROUPED | ROUTED | {"head_dim": 32, "n_group": 1, "topk_group": 1, "use_qk_norm": True}),
    "glm_moe_dsa": ("glm_moe_dsa", INDEXED),
    "llama4_text": ("llama4_text", CHUNKED),
    "mixtral": ("mixtral", GROUPED | {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": ("deepseek_v3", LATENT | ROUTED),
    "deepseek_v3_equal_widths": ("deepseek_v3", LATENT | ROUTED | {"v_head_dim": 36}),
}


@dataclass(frozen=True)
class Tiny:
    """A folder with a random model, and its facts."""

    folder: Path
    architecture: Architecture

    def config(self, *, lora: int = 0, dtype: str = "float32", **learner: Any) -> Config:
        return Config.model_validate(
            {
                "model": {"name": str(self.folder), "dtype": dtype, "lora": {"rank": lora}},
                "learner": {"token_budget": 1024, "warmup_steps": 0} | learner,
                "data": {"path": "none.jsonl", "max_prompt_tokens": 64},
                "sampling": {"max_new_tokens": 64},
            }
        )


def peak_of(run: Callable[[], object]) -> int:
    """Bytes that a call allocates at most at one time, as torch's profiler counts them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """A random model of a family, made once."""
    made: dict[str, Tiny] = {}

    def make(name: str) -> Tiny:
        if name not in made:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(name)
            family, values = FAMILIES[name]
            AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values)).save_pretrained(folder)
            made[name] = Tiny(folder, find_model(str(folder)).architecture)
        return made[name]

    return make
