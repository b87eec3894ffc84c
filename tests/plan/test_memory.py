"""What a learner and a generator hold, against a learner that has trained and figures that were measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rlvr.architecture.catalog import find_model
from rlvr.architecture.facts import Architecture, DenseMLP, GroupedQueryAttention, Layer
from rlvr.config import AlgorithmConfig, Config, Preset
from rlvr.learn.head import token_logprobs
from rlvr.learn.learner import Learner
from rlvr.learn.presets import algorithm_from
from rlvr.plan.accelerators import GIB, GPUS
from rlvr.plan.held import held_bytes, trainable_parameters
from rlvr.plan.memory import generator_memory, head_bytes, learner_memory
from rlvr.plan.workload import workload
from rlvr.types import RLStream, Row

from .conftest import Tiny, peak_of


def config_for(model: str, *, lora: int = 0, chunk: int = 1024) -> Config:
    """Prompts and answers of up to 2,048 tokens each."""
    return Config.model_validate(
        {
            "model": {"name": model, "lora": {"rank": lora}},
            "data": {"path": "x", "max_prompt_tokens": 2048},
            "sampling": {"max_new_tokens": 2048},
            "learner": {"head_chunk_tokens": chunk},
        }
    )


def parts(config: Config, architecture: Architecture, *, gpu: bool, gpus: int = 1) -> dict[str, int]:
    return {part.name: part.bytes for part in learner_memory(config, architecture, gpu=gpu, gpus=gpus).parts}


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "qwen3_moe", "deepseek_v3", "glm_moe_dsa", "llama4_text"])
@pytest.mark.parametrize(
    ("lora", "optimizer", "state"), [(0, "adamw", "AdamW"), (4, "adamw", "AdamW"), (0, "muon", "Muon, AdamW")]
)
def test_weights_gradients_and_optimizer_are_those_of_a_learner_that_trained(
    tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch, family: str, lora: int, optimizer: str, state: str
) -> None:
    made = tiny(family)
    config = made.config(lora=lora, optimizer=optimizer)
    learner = Learner(config)
    learner.start()
    row = Row(0, list(range(2, 40)), [False] + [True] * 37, RLStream([1.0] * 38, [-4.0] * 38, [0] * 38))
    monkeypatch.setattr(learner.optimizer, "zero_grad", lambda: None)  # so that gradients can be counted
    learner.train([row])
    gradients = sum(p.grad.nbytes for p in learner.parameters.values() if p.grad is not None)
    states = [kept for part in learner.optimizer.parts for kept in part.state.values()]
    moments = sum(tensor.nbytes for kept in states for name, tensor in kept.items() if name != "step")
    weights = sum(parameter.nbytes for parameter in learner.model.network.parameters())
    expected = parts(config, made.architecture, gpu=False)
    assert expected["weights"] == weights
    assert expected["gradients"] == gradients
    assert expected[state] == moments
    assert held_bytes(config, made.architecture) == weights + gradients + moments


def test_frozen_routers_and_a_reference_are_those_of_a_learner(tiny: Callable[[str], Tiny]) -> None:
    made = tiny("qwen3_moe")
    config = made.config(router={"frozen": True})
    config = config.model_copy(update={"algorithm": AlgorithmConfig(preset=Preset.GRPO)})
    learner = Learner(config)
    learner.start()
    assert learner.reference is not None
    expected = parts(config, made.architecture, gpu=False)
    assert expected["gradients"] == sum(parameter.nbytes for parameter in learner.parameters.values())
    assert expected["reference"] == sum(p.nbytes for p in learner.reference.model.network.parameters())


@pytest.mark.parametrize("beta", [None, 0.0, 0.1])
@pytest.mark.parametrize("preset", Preset)
def test_the_config_knows_which_algorithms_have_a_reference(preset: Preset, beta: float | None) -> None:
    config = AlgorithmConfig(preset=preset, beta=beta)
    assert config.needs_reference == algorithm_from(config, 2, 100).needs_reference


def test_four_bits_are_of_linear_layers_alone() -> None:
    """Qwen3-8B: 6.95 of 8.19 billion weights are in linear layers; NF4 takes 0.516 bytes of each."""
    model = find_model("qwen3-8b").architecture
    config = Config.model_validate({"model": {"name": "qwen3-8b", "lora": {"rank": 16, "quantize": True}}, "data": "x"})
    linear = 36 * (4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 12_288)
    adapters = 4 * trainable_parameters(config, model)
    held = parts(config, model, gpu=True)
    assert held["weights"] - adapters == pytest.approx(0.5159 * linear + 4 * (8_190_735_360 - linear), rel=1e-4)
    assert held["weights in use"] == adapters // 2  # no copies of the base


def test_what_is_offloaded_is_beside_the_gpu() -> None:
    model = find_model("qwen3-8b").architecture
    config = config_for("qwen3-8b")
    offload = config.learner.model_copy(update={"offload": True})
    made = learner_memory(config.model_copy(update={"learner": offload}), model, gpu=True)
    assert made.on_host == held_bytes(config, model)
    assert not {"weights", "gradients", "AdamW"} & {part.name for part in made.parts}


def head_of(vocabulary: int, hidden: int) -> Architecture:
    layer = Layer(GroupedQueryAttention(1, 1, hidden), DenseMLP(hidden))
    return Architecture("llama", hidden, vocabulary, False, None, (layer,))


def peak_of_head(tokens: int, vocabulary: int, hidden: int, chunk: int, *, trained: bool) -> int:
    """Of all that our head allocates, forward and backward."""
    states = torch.randn(tokens, hidden, requires_grad=True)
    weight = torch.randn(vocabulary, hidden, requires_grad=trained)
    targets = torch.zeros(tokens, dtype=torch.long)
    if trained:
        weight.grad = torch.zeros_like(weight)  # a step's later micro-batches add to it

    def run() -> None:
        logprobs, _ = token_logprobs(states, weight, targets, 1.0, chunk)
        logprobs.sum().backward()

    return peak_of(run)


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("sizes", [(1024, 8000, 512, 256), (2048, 8000, 256, 64), (512, 20_000, 64, 256)])
def test_the_heads_peak_is_what_it_allocates(sizes: tuple[int, int, int, int], lora: int) -> None:
    tokens, vocabulary, hidden, chunk = sizes
    expected = head_bytes(config_for("x", lora=lora, chunk=chunk), head_of(vocabulary, hidden), tokens)
    assert expected == pytest.approx(peak_of_head(*sizes, trained=lora == 0), rel=0.02)


@pytest.mark.parametrize(("lora", "megabytes"), [(0, 804), (4, 336)])
def test_the_heads_peak_is_near_what_was_measured_once(lora: int, megabytes: int) -> None:
    """2,048 tokens, a vocabulary of 151,936, 1,024 wide, chunks of 256, on a processor."""
    expected = head_bytes(config_for("x", lora=lora, chunk=256), head_of(151_936, 1024), 2048)
    assert expected / 1e6 == pytest.approx(megabytes, rel=0.05)


def test_sharding_divides_what_is_held_and_keeps_activations() -> None:
    config, model = config_for("qwen3-8b"), find_model("qwen3-8b").architecture
    one, four = parts(config, model, gpu=True), parts(config, model, gpu=True, gpus=4)
    for name in ("weights", "gradients", "AdamW"):
        assert four[name] == one[name] // 4
    assert four["activations"] == one["activations"]
    # Two layers in bfloat16; embedding, head and last norm in float32.
    layer = 4096 * (2 * 4096 + 2 * 1024) + 2 * 128 + 3 * 4096 * 12_288 + 2 * 4096
    assert four["gathered"] == 2 * 2 * layer + 4 * (2 * 151_936 * 4096 + 4096)


def test_ranks_on_a_processor_share_what_is_held_and_have_a_pass_each() -> None:
    config, model = config_for("qwen3-0.6b"), find_model("qwen3-0.6b").architecture
    four = config.model_copy(update={"learner": config.learner.model_copy(update={"ranks": 4})})
    one, all_four = parts(config, model, gpu=False), parts(four, model, gpu=False)
    for name in ("weights", "gradients", "AdamW", "published version"):
        assert all_four[name] == one[name]
    for name in ("activations", "head", "reserve"):
        assert all_four[name] == 4 * one[name]


def test_full_training_of_8_billion_holds_16_bytes_a_parameter() -> None:
    config, model = config_for("qwen3-8b"), find_model("qwen3-8b").architecture
    assert held_bytes(config, model) == 16 * 8_190_735_360


@pytest.mark.parametrize(("tensor_parallel", "shards"), [(1, 1), (4, 4), (16, 8)])
def test_key_value_heads_are_dealt_out_over_gpus(tensor_parallel: int, shards: int) -> None:
    """Qwen3-8B keeps 147,456 bytes a token in bfloat16, for 8 heads."""
    config, model, room = config_for("qwen3-8b"), find_model("qwen3-8b").architecture, 60 * GIB
    made = generator_memory(config, model, workload(config), gpu=True, room=room, tensor_parallel=tensor_parallel)
    assert made.per_sequence == 4096 * 147_456 // shards
    held = {part.name: part.bytes for part in made.memory.parts}
    assert held["weights"] == 2 * 8_190_735_360 // tensor_parallel
    assert sum(held.values()) == room
    assert made.longest_sequences == held["keys and values"] // made.per_sequence


def test_latent_keys_and_values_are_on_every_gpu_of_a_generator() -> None:
    config, model = config_for("deepseek-v3"), find_model("deepseek-v3").architecture
    made = generator_memory(config, model, workload(config), gpu=True, room=130 * GIB, tensor_parallel=16)
    assert made.per_sequence == 4096 * 70_272


def test_the_table_of_gpus_is_near_the_makers_figures() -> None:
    """What torch reports is a little below the label, never above, in GiB."""
    labels = {"b200": 180, "h200": 141, "h100": 80, "a100": 80, "a100-40gb": 40, "l40s": 48, "l4": 24, "rtx4090": 24}
    for name, label in labels.items():
        assert 0.9 * label * GIB < GPUS[name].memory < label * GIB
