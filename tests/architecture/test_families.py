"""Every family against transformers: its own defaults, its odd settings, and what is refused rather than guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PretrainedConfig

from rlvr.architecture.catalog import ModelNotFound, find_model
from rlvr.architecture.cost import attended_keys, kv_bytes
from rlvr.architecture.facts import Architecture, Chunks, GroupedQueryAttention, SlidingWindow, UnknownArchitecture
from rlvr.architecture.families import read_architecture
from rlvr.architecture.parameters import attention_matrices, count, mlp_matrices

COMMON = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
GROUPED = COMMON | {"num_attention_heads": 4, "num_key_value_heads": 2}
ROUTED = {"moe_intermediate_size": 24, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}
LATENT = COMMON | {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
}
INDEXED = LATENT | ROUTED | {"index_topk": 8, "index_n_heads": 2, "index_head_dim": 16, "n_group": 1, "topk_group": 1}
LLAMA4 = GROUPED | {"head_dim": 8, "intermediate_size_mlp": 80, "num_local_experts": 4}
LLAMA4 |= {"attention_chunk_size": 16, "num_experts_per_tok": 1}
GLM4 = GROUPED | ROUTED | {"head_dim": 8, "n_group": 1, "topk_group": 1}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", GROUPED),
    ("llama", GROUPED | {"attention_bias": True, "head_dim": 16, "tie_word_embeddings": True}),
    ("mistral", GROUPED),
    ("mistral", GROUPED | {"sliding_window": None, "head_dim": 16}),
    ("mixtral", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
    ("qwen2", GROUPED),
    ("qwen2", GROUPED | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    ("qwen3", GROUPED),
    ("qwen3", GROUPED | {"head_dim": 16, "attention_bias": True}),
    ("qwen3", GROUPED | {"head_dim": 16, "layer_types": ["full_attention"] * 4}),
    ("qwen3_moe", GROUPED | {"moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}),
    (
        "qwen3_moe",
        GROUPED
        | {"moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2, "head_dim": 16}
        | {"decoder_sparse_step": 2, "mlp_only_layers": [1], "attention_bias": True},
    ),
    ("glm4_moe", GLM4),
    ("glm4_moe", GLM4 | {"use_qk_norm": True, "attention_bias": True, "first_k_dense_replace": 2}),
    ("deepseek_v3", LATENT | ROUTED | {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    (
        "deepseek_v3",
        LATENT
        | ROUTED
        | {"first_k_dense_replace": 9, "q_lora_rank": None, "n_shared_experts": 2, "n_group": 1, "topk_group": 1},
    ),
    ("deepseek_v32", INDEXED),
    ("glm_moe_dsa", INDEXED | {"first_k_dense_replace": 1}),
    ("glm_moe_dsa", INDEXED | {"mlp_layer_types": ["sparse", "dense", "sparse", "dense"]}),
    ("glm_moe_dsa", INDEXED | {"indexer_types": ["full", "shared", "shared", "full"]}),
    ("llama4_text", LLAMA4),
    ("llama4_text", {key: value for key, value in LLAMA4.items() if key != "head_dim"}),
    ("llama4_text", LLAMA4 | {"interleave_moe_layer_step": 2, "use_qk_norm": False, "tie_word_embeddings": True}),
    ("llama4_text", LLAMA4 | {"moe_layers": [0, 3], "no_rope_layers": [1, 0, 1, 0], "attention_bias": True}),
]


def transformers_config(family: str, values: dict[str, Any]) -> PretrainedConfig:
    return AutoConfig.for_model(family, **values)


@pytest.mark.parametrize(("family", "values"), CASES)
def test_totals_are_those_of_transformers(family: str, values: dict[str, Any]) -> None:
    """From the config as a person writes it, and from the one that transformers saves with all defaults set."""
    config = transformers_config(family, values)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    expected = sum(parameter.numel() for parameter in network.parameters())
    for written in ({"model_type": family} | values, json.loads(config.to_json_string(use_diff=False))):
        assert count(read_architecture(written, "test")).total == expected


@pytest.mark.parametrize(("family", "values"), CASES)
def test_active_parameters_are_what_a_token_touches(family: str, values: dict[str, Any]) -> None:
    """Counted by name in transformers: of each fused tensor of experts, the chosen share."""
    config = transformers_config(family, values)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    architecture = read_architecture({"model_type": family} | values, "test")
    mixture = next((mixture for mixture, _ in architecture.mixtures()), None)
    touched = 0.0
    for name, parameter in network.named_parameters():
        fused = ".experts." in name and parameter.ndim == 3
        share = mixture.chosen / mixture.experts if fused and mixture is not None else 1.0
        touched += parameter.numel() * share
    assert count(architecture).active == touched


@pytest.mark.parametrize(("family", "values"), CASES)
def test_linear_layers_are_those_of_the_network(family: str, values: dict[str, Any]) -> None:
    config = transformers_config(family, values)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    left_out = ("lm_head", "indexer", "router")  # an indexer gets no gradient; Llama 4's router counts by itself
    expected = sorted(
        (name.split(".")[-1], module.in_features, module.out_features)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(part in name for part in left_out)
    )

    architecture = read_architecture({"model_type": family} | values, "test")
    found = [
        (matrix.name, matrix.inputs, matrix.outputs)
        for layer in architecture.layers
        for matrix in attention_matrices(layer.attention, 32) + mlp_matrices(layer.mlp, 32)
    ]
    assert sorted(found) == expected


@pytest.mark.parametrize(
    ("family", "values"),
    [case for case in CASES if case[0] not in ("deepseek_v32", "glm_moe_dsa")],  # their caches hold indexers' keys too
)
def test_kv_bytes_are_those_of_a_cache_that_was_filled(family: str, values: dict[str, Any]) -> None:
    """A float32 cache of transformers after 12 tokens, which no window of these models cuts.

    transformers keeps latent keys and values compressed, so the bytes are comparable for every kind.
    """
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(transformers_config(family, values)).eval()
    cache = DynamicCache(config=network.config)
    with torch.no_grad():
        network(input_ids=torch.arange(12)[None] + 3, past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_bytes(read_architecture({"model_type": family} | values, "test"), 12, element=4) == held


def attended(width: int, tokens: int, chunked: bool) -> float:
    """By counting: with which tokens before it does each token share a window? Half of its own is left out."""
    total = 0.0
    for query in range(tokens):
        first = query // width * width if chunked else max(0, query - width + 1)
        total += query - first + 0.5
    return total / tokens


@pytest.mark.parametrize("tokens", [10, 64, 1000])
@pytest.mark.parametrize("width", [7, 64, 400])
def test_attended_keys_are_the_mean_over_a_sequence(tokens: int, width: int) -> None:
    sliding = GroupedQueryAttention(1, 1, 8, window=SlidingWindow(width))
    chunked = GroupedQueryAttention(1, 1, 8, window=Chunks(width))
    assert attended_keys(chunked, tokens) == pytest.approx(attended(width, tokens, True))
    # A window of w is full with w - 1 others and oneself: between the two ways to count, half a key.
    assert attended_keys(sliding, tokens) == pytest.approx(attended(width, tokens, False), abs=0.5)


# -------------------------------------------------------------------- what is not known is refused


def read(values: dict[str, Any]) -> Architecture:
    return read_architecture(values, "config.json")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "rwkv"}, "model_type=rwkv is not known"),
        ({}, "model_type is missing"),
        ({"model_type": "llama"} | {k: v for k, v in GROUPED.items() if k != "num_key_value_heads"}, "num_key_value"),
        ({"model_type": "llama"} | GROUPED | {"hidden_size": "32"}, "hidden_size should be a whole number"),
        ({"model_type": "llama"} | GROUPED | {"mlp_bias": True}, "mlp_bias=True is not known"),
        ({"model_type": "llama"} | GROUPED | {"num_attention_heads": 0}, "should be a whole number of at least 1"),
        ({"model_type": "llama"} | GROUPED | {"vocab_size": -5}, "vocab_size should be a whole number"),
        ({"model_type": "llama4_text"} | LLAMA4 | {"no_rope_layers": [1, 0]}, "no_rope_layers names 2 layers"),
        ({"model_type": "qwen3"} | GROUPED | {"layer_types": ["full_attention"]}, "names 1 layers, the model has 4"),
        ({"model_type": "qwen3"} | GROUPED | {"layer_types": ["linear_attention"] * 4}, "linear_attention"),
        ({"model_type": "deepseek_v3", **LATENT, **ROUTED, "first_k_dense_replace": 1, "moe_layer_freq": 2}, "freq=2"),
        ({"model_type": "glm_moe_dsa"} | INDEXED | {"index_topk_freq": 4}, "index_topk_freq=4"),
        ({"model_type": "kimi_k25", "text_config": {"model_type": "mamba"}}, "model_type=mamba is not known"),
        (
            {
                "model_type": "kimi_k25",
                "text_config": {"model_type": "kimi_k2", **LATENT, **ROUTED, "first_k_dense_replace": 1},
            },
            "tie_word_embeddings is missing",
        ),
    ],
)
def test_what_is_not_known_is_said_and_not_guessed(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UnknownArchitecture, match=told):
        read(values)


def test_a_folder_is_read_with_the_licence_of_its_card(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | GROUPED))
    assert find_model(str(tmp_path)).licence is None
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    model = find_model(str(tmp_path))
    assert model.licence == "apache-2.0"
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n---\nCaf\xe9")  # not UTF-8
    assert find_model(str(tmp_path)).licence == "mit"
    assert len(model.architecture.layers) == 4


def test_a_config_that_is_no_object_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UnknownArchitecture, match="expected an object, found a list"):
        find_model(str(tmp_path))


def test_a_short_name_and_the_hubs_name_are_one_model_and_need_no_network() -> None:
    assert find_model("Qwen/Qwen3-8B") == find_model("qwen3-8b")


def test_a_name_nobody_knows_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelNotFound, match=r"did you mean deepseek-v3\?"):
        find_model("deepseek-v4")


def test_a_folder_that_is_not_there_is_said_where_its_name_could_be_the_hubs() -> None:
    with pytest.raises(ModelNotFound, match=r"runs/policy: no such folder \(looked from "):
        find_model("runs/policy", ask_hub=False)


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"config\.json is a file: name the folder"):
        find_model(str(tmp_path / "config.json"))
