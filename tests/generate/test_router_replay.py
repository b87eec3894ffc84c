"""What a generator records of its routers, and what replaying it does to the difference between sampler and learner."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from rlvr.config import Config, DType
from rlvr.generate.expert_record import ExpertRecord, narrow
from rlvr.generate.transformers import TransformersGenerator
from rlvr.learn.learner import Learner
from rlvr.routing import ExpertChoice, routers_of
from rlvr.types import Completion, GenerateRequest, RLStream, Row, Sampling

from . import tiny_models
from .conftest import ENGINES, Subject, make, settings_for


def choices(*experts: int) -> np.ndarray:
    return narrow(np.array(experts).reshape(-1, 1, 1), 8)


def test_what_is_computed_again_keeps_its_first_record() -> None:
    record = ExpertRecord()
    assert record.whole() is None
    record.add(0, choices(1, 2, 3))  # a prompt
    record.add(3, choices(4))
    record.add(0, choices(5, 6, 7, 5, 6))  # all again after an update, and one token more
    record.add(5, choices(7))
    whole = record.whole()
    assert whole is not None
    assert whole.ravel().tolist() == [1, 2, 3, 4, 6, 7]


def test_a_choice_takes_one_byte_where_one_is_enough() -> None:
    assert narrow(np.zeros((3, 2, 2), np.int64), 256).dtype == np.uint8
    assert narrow(np.full((3, 2, 2), 383), 384).dtype == np.uint16


# ---------------------------------------------------------------------- an update in flight

PROMPT = (5, 17, 400, 31, 8)
TOKENS = 200


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def sample_over_an_update(engine: str, folder: Path) -> tuple[Completion, np.ndarray, np.ndarray]:
    """An answer that an update reached half-way, and what the old and the new model's routers choose for all of it."""
    return asyncio.run(_sample_over_an_update(engine, folder))


async def _sample_over_an_update(engine: str, folder: Path) -> tuple[Completion, np.ndarray, np.ndarray]:
    model = tiny_models.save(tiny_models.qwen3_moe(), folder / "model")
    generator = make(engine, replace(settings_for(folder / "model"), record_experts=True))
    subject = Subject(engine, generator, model, folder, folder / "model")
    await generator.start()
    old = copy.deepcopy(model)
    tiny_models.perturb(model, seed=1)
    completion = await subject.generate_over(subject.publish(), PROMPT, TOKENS)
    await generator.close()
    return completion, _own_choices(old, completion), _own_choices(model, completion)


def _own_choices(model: PreTrainedModel, completion: Completion) -> np.ndarray:
    control = ExpertChoice(routers_of(model))
    with torch.no_grad():
        model(torch.tensor([[*PROMPT, *completion.token_ids[:-1]]]))
    return np.sort(control.chosen.numpy(), axis=-1)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_token_keeps_the_experts_under_which_its_successor_was_sampled(
    other_process: ProcessPoolExecutor, engine: str, tmp_path: Path
) -> None:
    completion, old, new = other_process.submit(sample_over_an_update, engine, tmp_path).result(timeout=300)
    switch = completion.versions.index(1)
    assert 0 < switch < TOKENS
    first_new = len(PROMPT) - 1 + switch  # the token that is read to sample the first one of the new version
    assert completion.experts is not None
    recorded = np.sort(completion.experts.astype(np.int64), axis=-1)
    assert (recorded[:first_new] == old[:first_new]).all()
    assert (recorded[first_new:] == new[first_new:]).all()
    assert (old != new).mean() > 0.05


# ---------------------------------------------------------------------- mismatch


async def _sampled_in_bfloat16(folder: Path) -> list[Row]:
    """Sixteen answers by transformers in bfloat16, every second of them right."""
    source = random.Random(0)
    prompts = [tuple(source.choices(range(3, tiny_models.VOCABULARY), k=12)) for _ in range(4)]
    generator = TransformersGenerator(replace(settings_for(folder, DType.BFLOAT16), record_experts=True))
    await generator.start()
    requests = [GenerateRequest(f"r{i}", prompt, 4, Sampling(40)) for i, prompt in enumerate(prompts)]
    answers = await asyncio.gather(*(generator.generate(request) for request in requests))
    await generator.close()
    rows = []
    for group, (prompt, completions) in enumerate(zip(prompts, answers, strict=True)):
        before = [0.0] * len(prompt)
        for place, completion in enumerate(completions):
            advantages = [1.0 - 2 * (place % 2)] * len(completion.token_ids)
            rows.append(
                Row(
                    group_id=group,
                    token_ids=[*prompt, *completion.token_ids],
                    trained=[False] * len(prompt) + [True] * len(completion.token_ids),
                    rl=RLStream(before + advantages, before + completion.logprobs, [0] * len(before + advantages)),
                    trajectory=place,
                    experts=completion.experts,
                )
            )
    return rows


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        pytest.param(tiny_models.qwen3_moe(layers=6, experts=8), 3, id="qwen3_moe"),
        pytest.param(
            tiny_models.deepseek_v3(kv_lora_rank=32, rope_dimensions=16, layers=6, experts=8), 30, id="deepseek_v3"
        ),
    ],
)
async def test_replay_lowers_the_mismatch_and_routers_are_trained(
    model: PretrainedConfig, factor: float, tmp_path: Path
) -> None:
    """A sampler in bfloat16, a learner in float32: near-ties of router scores fall otherwise."""
    network = tiny_models.save(model, tmp_path, scale=1.0)
    with torch.no_grad():
        for parameter in network.parameters():  # the same weights on both sides
            parameter.copy_(parameter.bfloat16())
    network.save_pretrained(tmp_path)
    rows = await _sampled_in_bfloat16(tmp_path)
    config = Config.model_validate(
        {
            "model": str(tmp_path),
            "data": {"path": "none.jsonl", "max_prompt_tokens": 64},
            "sampling": {"max_new_tokens": 64},
            "learner": {"learning_rate": 1e-9, "warmup_steps": 0, "token_budget": 512},
        }
    )
    learner = Learner(config)
    learner.start()
    gradients: dict[str, float] = {}
    for router in learner.model.experts.routers:
        weight = router.module.get_parameter("weight")
        weight.register_post_accumulate_grad_hook(lambda w, name=router.name: gradients.update({name: w.grad.norm()}))
    without = learner.train([replace(row, experts=None) for row in rows]).mismatch_kl
    gradients.clear()
    replayed = learner.train(rows)
    assert replayed.mismatch_kl * factor < without
    assert 0.9 < replayed.expert_load["experts/replay_agreement"] < 1
    assert len(gradients) == len(learner.model.experts.routers)
    assert min(gradients.values()) > 1e-4
