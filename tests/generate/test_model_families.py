"""Every family of models: sampled from by an engine, trained by a learner, one policy on both sides at every version.

Models run in a process of their own: vLLM sets up a process for experts, or not, with the first model it serves.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig

from rlvr.config import Config
from rlvr.learn.learner import Learner
from rlvr.learn.learner_report import LearnerReport
from rlvr.learn.score import score
from rlvr.types import Completion, RLStream, Row, Sampling

from . import tiny_models
from .conftest import ENGINES, Subject, make, settings_for

PROMPT = (5, 17, 400, 31, 8)
ANSWERS = 4
TOKENS = 30
BOUND = 1e-4


@dataclass(frozen=True)
class Held:
    """What a generator holds at one version, against the learner that published it, and what was trained on it."""

    checksum: int
    published: int
    from_learner: float  # largest difference of a log-probability to the learner's
    from_transformers: float  # and to transformers' own forward pass, of one sequence
    chosen_otherwise: int  # choices of experts that transformers' routers would not have made
    report: LearnerReport


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def serve(engine: str, config: PretrainedConfig, folder: Path) -> list[Held]:
    """The model as saved, and after each of two updates by the learner."""
    torch.set_num_threads(1)
    return asyncio.run(_serve(engine, config, folder))


async def _serve(engine: str, config: PretrainedConfig, folder: Path) -> list[Held]:
    model = tiny_models.save(config, folder / "model")
    learner = _learner(folder / "model")
    generator = make(
        engine, replace(settings_for(folder / "model"), record_experts=bool(learner.model.experts.routers))
    )
    subject = Subject(engine, generator, model, folder, folder / "model")
    await generator.start()
    held = []
    for _ in range(3):
        update = learner.publish(folder)
        receipt = await generator.update_weights(update)
        completions = await subject.generate(PROMPT, Sampling(TOKENS), n=ANSWERS)
        rows = [_row(place, completion) for place, completion in enumerate(completions)]
        ours = score(learner.model, rows, learner.model.plan, learner.model.dtype).logprobs
        sampled = torch.tensor([logprob for c in completions for logprob in c.logprobs])
        theirs = torch.cat([_alone(learner, c) for c in completions])
        held.append(
            Held(
                checksum=receipt.checksum,
                published=update.checksum,
                from_learner=(ours - sampled).abs().max().item(),
                from_transformers=(theirs - sampled).abs().max().item(),
                chosen_otherwise=sum(_chosen_otherwise(learner, c) for c in completions),
                report=learner.train(rows),
            )
        )
    await generator.close()
    return held


def _learner(folder: Path) -> Learner:
    config = Config.model_validate(
        {
            "model": str(folder),
            "data": {"path": "none.jsonl", "max_prompt_tokens": 64},
            "sampling": {"max_new_tokens": 64},
            "learner": {"learning_rate": 1e-2, "warmup_steps": 0, "token_budget": 512},
        }
    )
    learner = Learner(config)
    learner.start()
    return learner


def _row(place: int, completion: Completion) -> Row:
    """An answer, every second of them right."""
    before = [0.0] * len(PROMPT)
    return Row(
        group_id=0,
        token_ids=[*PROMPT, *completion.token_ids],
        trained=[False] * len(PROMPT) + [True] * TOKENS,
        rl=RLStream(
            before + [1.0 - 2 * (place % 2)] * TOKENS, before + completion.logprobs, [0] * (TOKENS + len(PROMPT))
        ),
        trajectory=place,
        experts=completion.experts,
    )


def _alone(learner: Learner, completion: Completion) -> torch.Tensor:
    """Transformers on one sequence, choosing experts by itself."""
    learner.model.experts.replayed = None
    return tiny_models.logprobs(learner.model.network, PROMPT, completion.token_ids)


def _chosen_otherwise(learner: Learner, completion: Completion) -> int:
    if completion.experts is None:
        return 0
    _alone(learner, completion)
    own = learner.model.experts.chosen[:-1].sort(-1).values
    return int((own != torch.from_numpy(completion.experts.astype("int64")).sort(-1).values).sum())


FAMILIES = {
    "llama": tiny_models.llama(),
    "mistral": tiny_models.mistral(),
    "qwen3": tiny_models.qwen3(),
    "qwen3_moe": tiny_models.qwen3_moe(),
    "deepseek_v3_small": tiny_models.deepseek_v3(kv_lora_rank=64, rope_dimensions=32),
    "deepseek_v3": tiny_models.deepseek_v3(kv_lora_rank=512, rope_dimensions=64),
    "llama4": tiny_models.llama4(),
    "glm5": tiny_models.glm5(index_topk=384),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_sampler_and_learner_hold_one_policy_at_every_version(
    other_process: ProcessPoolExecutor, engine: str, family: str, tmp_path: Path
) -> None:
    versions = other_process.submit(serve, engine, FAMILIES[family], tmp_path).result(timeout=300)
    assert [held.checksum for held in versions] == [held.published for held in versions]
    assert len({held.checksum for held in versions}) == 3
    for held in versions:
        assert held.from_learner < BOUND
        assert held.from_transformers < BOUND
        assert held.chosen_otherwise == 0
        assert held.report.grad_norm > 0
        assert held.report.mismatch_kl < 1e-8
        assert held.report.expert_load.get("experts/replay_agreement", 1.0) == 1.0


def test_sparse_attention_beyond_what_vllm_can_do_is_refused(tmp_path: Path) -> None:
    """It would be computed as dense, silently another model."""
    pytest.importorskip("vllm")
    from rlvr.generate.vllm_arguments import cpu_arguments

    tiny_models.save(tiny_models.glm5(index_topk=128), tmp_path)
    with pytest.raises(ValueError, match=r"up to 128 tokens \(index_topk\); the run has up to 384"):
        cpu_arguments(settings_for(tmp_path))


def test_sparse_attention_is_exact_where_it_is_sparse(other_process: ProcessPoolExecutor, tmp_path: Path) -> None:
    """Sixteen keys of up to 35, by the generator on transformers."""
    for held in other_process.submit(serve, "transformers", tiny_models.glm5(index_topk=16), tmp_path).result(300):
        assert held.from_learner < BOUND
        assert held.from_transformers < BOUND
