"""The formulas of activation memory against what torch saves in our learner's own forward pass."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable, Sequence

import pytest
import torch

from rlvr.learn.model import PolicyModel
from rlvr.learn.packing import MicroBatch, pack
from rlvr.learn.selfcheck import scored_row
from rlvr.plan.activations import (
    Pass,
    checkpointed_bytes,
    layer_bytes_per_token,
    saved_bytes,
    weight_copies_bytes,
)
from rlvr.plan.adapters import adapter_parameters

from .conftest import VOCABULARY, Tiny


def one_batch(model: PolicyModel, answers: Sequence[int] = (60,) * 8) -> MicroBatch:
    """A micro-batch of one group with answers of so many tokens, as the learner packs it."""
    source = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [source.randrange(2, VOCABULARY) for _ in range(count)]

    prompt = tokens(50)
    [batch] = list(pack([scored_row(prompt + tokens(count), 0) for count in answers], model.plan))
    return batch


def measured_bytes(model: PolicyModel, batch: MicroBatch) -> int:
    """All memory that a forward pass leaves behind: what autograd saved, and what Python still holds.

    Each storage once; parameters and the batch are not of the pass.
    """
    before = {t.untyped_storage().data_ptr() for t in gc.get_objects() if issubclass(type(t), torch.Tensor)}
    left: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in before:
            left[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results = model.logprobs(batch)
    own = {result.untyped_storage().data_ptr() for result in results}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor) and found.untyped_storage().data_ptr() not in own:
            keep(found)
    return sum(size for size, _ in left.values())


def pass_of(model: PolicyModel, batch: MicroBatch, *, element: int, lora: int) -> Pass:
    lines, length = batch.token_ids.shape
    spans = batch.spans is not None
    return Pass(lines * length, length, element, spans=spans, fuses_latent=False, adapter_rank=lora)


def expected_bytes(tiny: Tiny, run: Pass, read: int) -> int:
    """This batch reads a token of its prompt once for each row; the formula counts each token once."""
    more = (read - run.tokens) * (4 * tiny.architecture.hidden + 20)
    return saved_bytes(tiny.architecture, run) + weight_copies_bytes(tiny.architecture, run) + more


@pytest.mark.parametrize(
    ("family", "dtype", "lora"),
    [
        ("qwen3", "float32", 0),
        ("qwen3", "bfloat16", 0),
        ("qwen3", "float32", 4),
        ("qwen3", "bfloat16", 4),
        ("qwen2", "bfloat16", 4),
        ("qwen3_moe", "float32", 0),
        ("qwen3_moe", "bfloat16", 0),
        ("qwen3_moe", "float32", 4),
        ("qwen3_moe", "bfloat16", 4),
        ("glm4_moe", "bfloat16", 0),
        ("mixtral", "bfloat16", 0),
        ("glm_moe_dsa", "float32", 0),
        ("glm_moe_dsa", "bfloat16", 0),
        ("deepseek_v3", "float32", 0),
        ("deepseek_v3", "bfloat16", 0),
        ("deepseek_v3", "bfloat16", 4),
        ("deepseek_v3_equal_widths", "bfloat16", 0),
    ],
)
def test_activation_bytes_are_those_that_torch_saves(
    tiny: Callable[[str], Tiny], family: str, dtype: str, lora: int
) -> None:
    made = tiny(family)
    model = PolicyModel(made.config(lora=lora, dtype=dtype))
    batch = one_batch(model)
    run = pass_of(model, batch, element=4 if dtype == "float32" else 2, lora=lora)
    measured = measured_bytes(model, batch)
    assert expected_bytes(made, run, len(batch.read)) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(
    ("layout", "family"),
    [
        *itertools.product(["packed", "alone"], ["qwen3", "qwen3_moe", "deepseek_v3", "deepseek_v3_equal_widths"]),
        ("auto", "llama4_text"),  # alone: its layers attend within chunks
    ],
)
@pytest.mark.parametrize(("dtype", "lora"), [("float32", 0), ("bfloat16", 0), ("float32", 4), ("bfloat16", 4)])
def test_rows_of_other_lengths_need_a_mask_behind_one_another_and_alone(
    tiny: Callable[[str], Tiny], layout: str, family: str, dtype: str, lora: int
) -> None:
    made = tiny(family)
    model = PolicyModel(made.config(lora=lora, dtype=dtype, layout=layout))
    batch = one_batch(model, [150, 50, 50, 50])  # and the prompt before each: 200, 100, 100 and 100 tokens
    run = pass_of(model, batch, element=4 if dtype == "float32" else 2, lora=lora)
    assert run.tokens == (600 if layout == "packed" else 800)
    measured = measured_bytes(model, batch)
    assert expected_bytes(made, run, len(batch.read)) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize(("dtype", "lora"), [("float32", 0), ("bfloat16", 0), ("bfloat16", 4)])
def test_checkpointed_layers_leave_their_inputs(
    tiny: Callable[[str], Tiny], family: str, dtype: str, lora: int
) -> None:
    """And no copies of weights. The one layer that is computed again is not there yet after the forward pass."""
    made = tiny(family)
    model = PolicyModel(made.config(lora=lora, dtype=dtype, gradient_checkpointing=True))
    batch = one_batch(model)
    run = pass_of(model, batch, element=4 if dtype == "float32" else 2, lora=lora)
    one_layer = run.tokens * layer_bytes_per_token(made.architecture.layers[0], made.architecture, run)
    more = (len(batch.read) - run.tokens) * (4 * made.architecture.hidden + 20)
    expected = checkpointed_bytes(made.architecture, run) - one_layer + more
    assert expected == pytest.approx(measured_bytes(model, batch), rel=0.05)


@pytest.mark.parametrize(
    "family", ["qwen3", "qwen3_moe", "deepseek_v3", "glm4_moe", "mixtral", "glm_moe_dsa", "llama4_text"]
)
def test_adapter_parameters_are_those_that_peft_makes(tiny: Callable[[str], Tiny], family: str) -> None:
    made = tiny(family)
    model = PolicyModel(made.config(lora=4))
    assert adapter_parameters(made.architecture, 4) == sum(p.numel() for p in model.trainable().values())
