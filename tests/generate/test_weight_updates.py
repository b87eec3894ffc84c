"""New weights in flight: every generator says what it holds, and every token which version sampled it."""

from __future__ import annotations

import asyncio
import copy
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import PreTrainedModel

from rlvr.config import DType
from rlvr.types import Completion, GenerateRequest, Sampling
from rlvr.weights.transport import (
    checksum,
    combined_checksum,
    pack,
    publish_adapter,
    publish_file,
    published_weights,
    unpack,
)
from rlvr.weights.update import SharedFile, WeightUpdate

from . import tiny_models
from .conftest import ENGINES, Subject, make, settings_for

PROMPT = (5, 17, 400, 31, 8)
BOUND = 1e-4
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def independent_checksum(model: PreTrainedModel) -> int:
    """Bit patterns added up one tensor at a time in numpy, in Python's unbounded integers."""
    names = model.state_dict()
    tied = names.pop("lm_head.weight") if model.config.tie_word_embeddings else None
    assert tied is None or tied.data_ptr() == names["model.embed_tokens.weight"].data_ptr()
    return sum(int(np.sum(t.numpy().view(np.int32), dtype=np.int64)) for t in names.values()) % 2**64


def difference(model: PreTrainedModel, prompt: tuple[int, ...], completion: Completion) -> torch.Tensor:
    return (torch.tensor(completion.logprobs) - tiny_models.logprobs(model, prompt, completion.token_ids)).abs()


async def test_the_receipt_names_what_is_held(subject: Subject) -> None:
    tiny_models.perturb(subject.model, seed=1)
    update = subject.publish()
    receipt = await subject.generator.update_weights(update)
    assert receipt.version == update.version == (await subject.generator.status()).version
    assert receipt.checksum == update.checksum == independent_checksum(subject.model)
    assert receipt.checksum == (await subject.generator.status()).checksum
    assert 0 < receipt.stall_s < 5


async def test_a_checksum_that_was_not_sent_is_visible(subject: Subject) -> None:
    """What is answered comes from what is loaded: one flipped bit in the file shows."""
    update = subject.publish()
    assert isinstance(update.source, SharedFile)
    weights = published_weights(subject.model)
    name = next(iter(weights))
    weights[name] = weights[name].clone()
    weights[name].view(torch.int32).view(-1)[3] ^= 1
    bad = publish_file(subject.folder, update.version, weights, DType.FLOAT32)
    receipt = await subject.generator.update_weights(
        WeightUpdate(update.version, update.checksum, bad.source, DType.FLOAT32)
    )
    assert receipt.checksum != update.checksum
    assert abs(receipt.checksum - update.checksum) in (1, 2**64 - 1)


async def test_new_weights_are_exact_for_new_requests(subject: Subject) -> None:
    before = await subject.generate(PROMPT, Sampling(10, temperature=0.0))
    tiny_models.perturb(subject.model, seed=2)
    await subject.update()
    after = await subject.generate(PROMPT, Sampling(30))
    assert after[0].versions == [subject.version] * 30
    assert difference(subject.model, PROMPT, after[0]).max() < BOUND
    assert difference(subject.model, PROMPT, before[0]).max() > 0.01  # it was another policy


async def test_a_running_sequence_goes_on_under_the_new_weights(subject: Subject) -> None:
    old = copy.deepcopy(subject.model)
    first = subject.version
    tiny_models.perturb(subject.model, seed=3)
    completion = await subject.generate_over(subject.publish(), PROMPT, 300)
    switch = completion.versions.index(subject.version)
    assert 0 < switch < 300
    assert completion.versions == [first] * switch + [subject.version] * (300 - switch)
    assert difference(old, PROMPT, completion)[:switch].max() < BOUND
    assert difference(subject.model, PROMPT, completion)[switch:].max() < BOUND


async def test_weights_that_are_gone_are_an_error_and_change_nothing(subject: Subject) -> None:
    held = await subject.generator.status()
    gone = WeightUpdate(99, 0, SharedFile(subject.folder / "version-00000099.safetensors"), DType.FLOAT32)
    with pytest.raises(FileNotFoundError, match="version-00000099"):
        await subject.generator.update_weights(gone)
    assert (await subject.generator.status()).checksum == held.checksum


async def test_many_updates_under_load(subject: Subject) -> None:
    """Many requests, some aborted, versions arriving meanwhile: every token matches transformers at the version
    that it names."""
    requests = 150 if subject.engine == "vllm" else 40  # transformers is slower
    rng = random.Random(0)
    models = {subject.version: copy.deepcopy(subject.model)}
    answers: list[tuple[tuple[int, ...], Completion]] = []

    async def ask(i: int) -> None:
        prompt = tuple(rng.choices(range(3, tiny_models.VOCABULARY), k=rng.randrange(3, 140)))
        name = subject.name()
        asked = asyncio.create_task(
            subject.generator.generate(GenerateRequest(name, prompt, 1 + i % 2, Sampling(rng.randrange(20, 100))))
        )
        if i % 7 == 0:
            await asyncio.sleep(rng.uniform(0.05, 1.0))
            await subject.generator.abort(name)
        answers.extend((prompt, completion) for completion in await asked)

    asking = [asyncio.create_task(ask(i)) for i in range(requests)]
    for seed in range(15):
        await asyncio.sleep(0.1)
        subject.reset_model()
        tiny_models.perturb(subject.model, seed)
        receipt = await asyncio.wait_for(subject.update(), 30)
        models[receipt.version] = copy.deepcopy(subject.model)
    await asyncio.gather(*asking)

    assert len(answers) == requests * 3 // 2
    assert sum(len(set(c.versions)) > 1 for _, c in answers) > 10
    worst = 0.0
    for prompt, completion in answers:
        for version in set(completion.versions):
            of_version = torch.tensor(completion.versions) == version
            worst = max(worst, difference(models[version], prompt, completion)[of_version].max().item())
    assert worst < BOUND
    assert (await subject.generator.status()).running == 0


@pytest.mark.parametrize("engine", ENGINES)
async def test_bfloat16_holds_what_was_published_and_is_close(engine: str, tmp_path: Path) -> None:
    """In bfloat16 the weights are exact still, and log-probabilities differ by the rounding of activations."""
    model = tiny_models.save(tiny_models.qwen3(), tmp_path / "model")
    generator = make(engine, settings_for(tmp_path / "model", DType.BFLOAT16))
    await generator.start()
    subject = Subject(engine, generator, model, tmp_path, tmp_path / "model")
    try:
        tiny_models.perturb(model, seed=1)
        update = subject.publish(DType.BFLOAT16)
        assert (await generator.update_weights(update)).checksum == update.checksum
        model.to(torch.bfloat16).to(torch.float32)  # the same rounding of weights
        completions = await subject.generate(PROMPT, Sampling(40), n=8)
        differences = torch.cat([difference(model, PROMPT, c) for c in completions])
        assert 1e-6 < differences.mean() < 0.05
    finally:
        await generator.close()


@pytest.mark.parametrize("engine", ENGINES)
async def test_adapters_are_exact_for_new_and_running_sequences(engine: str, tmp_path: Path) -> None:
    model = tiny_models.save(tiny_models.qwen3(), tmp_path / "model")
    generator = make(engine, replace(settings_for(tmp_path / "model"), lora_rank=8))
    await generator.start()
    subject = Subject(engine, generator, model, tmp_path, tmp_path / "model")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=LINEAR)).eval()
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}
    models: dict[int, PreTrainedModel] = {}

    def adapter(version: int) -> WeightUpdate:
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(version))
        models[version] = copy.deepcopy(adapted)
        return publish_adapter(tmp_path, version, config, peft.get_peft_model_state_dict(adapted))

    first = adapter(1)
    try:
        assert (await generator.update_weights(first)).checksum == first.checksum
        old = await subject.generate_over(adapter(2), PROMPT, 360)
        (new,) = await subject.generate(PROMPT, Sampling(20))
    finally:
        await generator.close()
    assert set(new.versions) == {2}
    assert difference(models[2], PROMPT, new).max() < BOUND
    assert set(old.versions) == {1, 2}
    for version in (1, 2):
        of_version = torch.tensor(old.versions) == version
        assert difference(models[version], PROMPT, old)[of_version].max() < BOUND


def test_shards_add_up_and_copies_count_once() -> None:
    """Two workers share a matrix and each hold the norm."""
    matrix, norm = torch.randn(8, 6), torch.randn(6)
    workers = [
        {"matrix": checksum([matrix[rows]], DType.FLOAT32), "norm": checksum([norm], DType.FLOAT32)}
        for rows in (slice(0, 4), slice(4, 8))
    ]
    assert combined_checksum(workers) == checksum([norm, matrix], DType.FLOAT32)


def test_packing_is_exact_and_aligned() -> None:
    weights = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).bfloat16(),
        "empty": torch.empty(0, 4),
        "transposed": torch.randn(4, 6).t(),
        "count": torch.tensor(3),
    }
    buffer, layout = pack(weights)
    assert all(place.offset % 64 == 0 for place in layout)
    unpacked = unpack(buffer, layout)
    assert unpacked.keys() == weights.keys()
    for name, tensor in weights.items():
        assert unpacked[name].dtype == tensor.dtype
        assert torch.equal(unpacked[name], tensor)


def test_only_the_newest_version_stays_in_memory(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        publish_file(tmp_path, version, {"w": torch.ones(3)}, DType.FLOAT32)
    assert [path.name for path in tmp_path.iterdir()] == ["version-00000003.safetensors"]
