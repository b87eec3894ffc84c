"""Mixtures of experts and latent attention, before and after updates.

They run in a process of their own: vLLM sets up a process for experts, or not, with the first model it serves.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig

from rlvr.types import Sampling

from . import tiny_models
from .conftest import ENGINES, Subject, make, settings_for

PROMPT = (5, 17, 400, 31, 8)


@dataclass(frozen=True)
class Held:
    """What a generator holds at one version, against what was published."""

    checksum: int
    published: int
    worst: float  # difference of a log-probability to transformers


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def serve(engine: str, config: PretrainedConfig, folder: Path) -> list[Held]:
    """The model as saved, and after each of two updates."""
    return asyncio.run(_serve(engine, config, folder))


async def _serve(engine: str, config: PretrainedConfig, folder: Path) -> list[Held]:
    model = tiny_models.save(config, folder / "model")
    generator = make(engine, settings_for(folder / "model"))
    subject = Subject(engine, generator, model, folder, folder / "model")
    checksum = (await generator.start()).checksum
    held = [Held(checksum, subject.publish().checksum, await _worst(subject))]
    for seed in (1, 2):
        tiny_models.perturb(model, seed)
        update = subject.publish()
        receipt = await generator.update_weights(update)
        held.append(Held(receipt.checksum, update.checksum, await _worst(subject)))
    await generator.close()
    return held


async def _worst(subject: Subject) -> float:
    completions = await subject.generate(PROMPT, Sampling(30), n=4)
    return max(
        (torch.tensor(c.logprobs) - tiny_models.logprobs(subject.model, PROMPT, c.token_ids)).abs().max().item()
        for c in completions
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(tiny_models.qwen3_moe(), id="qwen3_moe"),
        pytest.param(tiny_models.deepseek_v3(kv_lora_rank=64, rope_dimensions=32), id="deepseek_v3_small"),
        pytest.param(tiny_models.deepseek_v3(kv_lora_rank=512, rope_dimensions=64), id="deepseek_v3"),
    ],
)
def test_experts_and_latent_attention_are_exact_at_every_version(
    other_process: ProcessPoolExecutor, engine: str, config: PretrainedConfig, tmp_path: Path
) -> None:
    versions = other_process.submit(serve, engine, config, tmp_path).result(timeout=300)
    assert [held.checksum for held in versions] == [held.published for held in versions]
    assert len({held.checksum for held in versions}) == 3
    assert max(held.worst for held in versions) < 1e-4
