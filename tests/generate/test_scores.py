"""What generators say of given tokens, held against transformers' own logits."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
import torch

from rlvr.types import Sampling, ScoreRequest

from . import tiny_models
from .conftest import Subject

BOUND = 1e-4  # of log-probabilities in float32
SAMPLING = Sampling(30)


def tokens(count: int, seed: int = 2) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(tiny_models.VOCABULARY), k=count))


@torch.no_grad()
def all_logprobs(subject: Subject, request: ScoreRequest) -> torch.Tensor:
    """Of the whole vocabulary at each place that is scored."""
    logits = subject.model(torch.tensor([request.token_ids])).logits[0, request.first - 1 : -1].float()
    return (logits / request.temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("first", [1, 100])
async def test_scores_are_log_probabilities_of_the_tokens(subject: Subject, first: int, temperature: float) -> None:
    request = ScoreRequest(tokens(150), first, temperature)
    scores = await subject.generator.score(request)
    expected = all_logprobs(subject, request).gather(1, torch.tensor(request.token_ids[first:])[:, None])[:, 0]
    assert scores.logprobs.shape == (150 - first,)
    assert np.abs(scores.logprobs - expected.numpy()).max() < BOUND
    assert scores.ids.shape == scores.id_logprobs.shape == (150 - first, 0)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
async def test_the_likeliest_ids_come_in_falling_order(subject: Subject, temperature: float) -> None:
    request = ScoreRequest(tokens(60), 20, temperature, top_k=8)
    scores = await subject.generator.score(request)
    expected, ids = all_logprobs(subject, request).topk(8)
    assert np.abs(scores.id_logprobs - expected.numpy()).max() < BOUND
    assert (scores.ids == ids.numpy()).all()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
async def test_ids_that_are_named_are_answered_in_their_order(subject: Subject, temperature: float) -> None:
    named = np.random.default_rng(0).integers(0, tiny_models.VOCABULARY, (40, 5), dtype=np.int32)
    request = ScoreRequest(tokens(60), 20, temperature, ids=named)
    scores = await subject.generator.score(request)
    expected = all_logprobs(subject, request).gather(1, torch.tensor(named).long())
    assert np.abs(scores.id_logprobs - expected.numpy()).max() < BOUND
    assert (scores.ids == named).all()


async def test_many_of_different_lengths_at_once_while_another_is_continued(subject: Subject) -> None:
    requests = [ScoreRequest(tokens(length, seed=length)) for length in (2, 90, 17, 90, 33)]
    version = (await subject.generator.status()).version
    *scores, _ = await asyncio.gather(
        *(subject.generator.score(request) for request in requests), subject.generate((5, 6), SAMPLING)
    )
    for request, scored in zip(requests, scores, strict=True):
        expected = all_logprobs(subject, request).gather(1, torch.tensor(request.token_ids[1:])[:, None])[:, 0]
        assert np.abs(scored.logprobs - expected.numpy()).max() < BOUND
        assert scored.version == version


async def test_the_longest_sequence_of_a_run_can_be_scored(subject: Subject) -> None:
    request = ScoreRequest(tokens(384), 380)  # as long as `settings_for` lets prompt and answer be together
    scores = await subject.generator.score(request)
    expected = all_logprobs(subject, request).gather(1, torch.tensor(request.token_ids[380:])[:, None])[:, 0]
    assert np.abs(scores.logprobs - expected.numpy()).max() < BOUND


@pytest.mark.parametrize("odd", [-1, tiny_models.VOCABULARY])
async def test_ids_that_the_model_does_not_have_are_their_callers_error_alone(subject: Subject, odd: int) -> None:
    for request in (ScoreRequest((5, odd, 7)), ScoreRequest((5, 6, 7), ids=np.array([[1, 2], [3, odd]], np.int32))):
        with pytest.raises(ValueError, match=rf"scoring ids .*{odd}.*from 0 to {tiny_models.VOCABULARY - 1}"):
            await asyncio.wait_for(subject.generator.score(request), 30)
    assert (await subject.generator.score(ScoreRequest((5, 6, 7)))).logprobs.shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token_ids": (1,)}, "nothing comes before token 0"),
        ({"token_ids": (1, 2, 3), "first": 0}, "nothing comes before token 0"),
        ({"token_ids": (1, 2, 3), "first": 3}, "scoring token 3 of 3"),
        ({"token_ids": (1, 2), "temperature": 0.0}, "too small"),
        ({"token_ids": (1, 2, 3), "ids": np.zeros((3, 4), np.int32)}, r"expected \(2, K\)"),
        ({"token_ids": (1, 2), "ids": np.zeros((1, 4), np.int32), "top_k": 2}, "no top_k besides"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreRequest(**arguments)  # type: ignore[arg-type]
