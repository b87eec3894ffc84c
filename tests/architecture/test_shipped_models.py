"""The shipped facts against published figures, and against transformers' own networks, built without memory."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.architecture.catalog import find_model, shipped_config, shipped_names
from rlvr.architecture.cost import forward_flops, indexer_bytes_per_token, kv_bytes, kv_bytes_per_token
from rlvr.architecture.parameters import count
from rlvr.architecture.summary import summarise

# Billions: total, active, active without input embedding; bytes: keys and values per token in bfloat16. From the
# models' papers and cards.
PUBLISHED = {
    "deepseek-v3": (671.026, 37.552, 36.626, 70_272),
    "kimi-k2": (1026.408, 32.861, 31.687, 70_272),
    "qwen3-235b-a22b": (235.094, 22.191, 21.568, 192_512),
    "qwen3-30b-a3b": (30.532, 3.353, None, 98_304),
    "llama-4-scout": (107.770, 17.173, 16.138, 196_608),
    "llama-4-maverick": (400.712, 17.185, 16.150, 196_608),
    "glm-5": (743.911, 41.785, 40.833, 89_856),
    "mistral-large-3": (673.421, 39.947, 39.007, 70_272),
}
# Forward operations per token, in 1e9, at 4k, 32k and 128k.
GIGAFLOPS = {
    "deepseek-v3": (83.5, 155.1, 400.7),
    "kimi-k2": (68.5, 104.3, 227.1),
    "mistral-large-3": (88.2, 159.9, 405.5),
    "glm-5": (90.8, 102.3, 133.9),
    "qwen3-235b-a22b": (49.4, 93.6, 245.0),
    "qwen3-30b-a3b": (7.7, 19.0, 57.6),
    "llama-4-scout": (34.3, 39.3, 51.4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_kv_bytes_are_the_published_ones(name: str) -> None:
    total, active, multiplied, kv = PUBLISHED[name]
    architecture = find_model(name).architecture
    counted = count(architecture)
    assert counted.total / 1e9 == pytest.approx(total, rel=1e-4)
    assert counted.active / 1e9 == pytest.approx(active, rel=1e-4)
    if multiplied is not None:
        assert counted.active_multiplied / 1e9 == pytest.approx(multiplied, rel=1e-4)
    assert kv_bytes_per_token(architecture) == kv


@pytest.mark.parametrize("name", GIGAFLOPS)
def test_flops_per_token_at_three_contexts(name: str) -> None:
    architecture = find_model(name).architecture
    found = [round(forward_flops(architecture, tokens) / 1e9, 1) for tokens in (4096, 32_768, 131_072)]
    assert found == pytest.approx(GIGAFLOPS[name], abs=0.051)


def test_every_layer_chunked_but_one_in_four_stops_growing_at_its_chunk() -> None:
    scout = find_model("llama-4-scout").architecture
    grows = kv_bytes(scout, 20_000) - kv_bytes(scout, 19_999)
    assert grows == 49_152
    assert kv_bytes(scout, 8192) == 8192 * 196_608


def test_sparse_attention_keeps_its_indexers_keys_besides() -> None:
    glm = find_model("glm-5").architecture
    assert indexer_bytes_per_token(glm) == 19_968
    assert kv_bytes(glm, 1000) == 1000 * (89_856 + 19_968)


@pytest.mark.parametrize("name", shipped_names())
def test_transformers_counts_the_same(name: str) -> None:
    assert count(find_model(name).architecture).total == parameters_in_transformers(shipped_config(name))


def parameters_in_transformers(values: dict[str, Any]) -> int:
    """Of the network that transformers makes of a config, on the device without memory."""
    values = dict(values.get("text_config", values))
    family = values.pop("model_type")
    config = AutoConfig.for_model("deepseek_v3" if family == "kimi_k2" else family, **values)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_summary_is_whole_as_json() -> None:
    facts = summarise(find_model("glm-5"), [1000])
    told = json.loads(json.dumps(dataclasses.asdict(facts)))
    assert told["parameters"] == 743_911_199_232
    assert told["attention"] == "MLA 64, DSA top 2048"
    assert told["at_context"][0]["kv_bytes"] == 1000 * (89_856 + 19_968)
    assert (told["dense_layers_first"], told["moe_layers"], told["shared_experts"]) == (3, 75, 1)
    assert told["weight_bytes"] == 2 * told["parameters"]
