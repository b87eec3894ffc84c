"""What every generator promises, held against transformers' own forward pass."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
import torch

from rlvr.types import Completion, FinishReason, GenerateRequest, Sampling

from . import tiny_models
from .conftest import Subject

PROMPT = (5, 17, 400, 31, 8)
BOUND = 1e-4  # of log-probabilities in float32


def worst(
    subject: Subject, completions: list[Completion], prompt: tuple[int, ...] = PROMPT, temperature: float = 1.0
) -> float:
    """The largest difference between the generator's log-probabilities and transformers'."""
    return max(
        (torch.tensor(c.logprobs) - tiny_models.logprobs(subject.model, prompt, c.token_ids, temperature)).abs().max()
        for c in completions
    ).item()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
async def test_logprobs_are_of_the_distribution_that_was_sampled(subject: Subject, temperature: float) -> None:
    completions = await subject.generate(PROMPT, Sampling(40, temperature=temperature), n=6)
    assert len({tuple(c.token_ids) for c in completions}) > 1  # sampled, not greedy
    assert worst(subject, completions, temperature=temperature) < BOUND


async def test_logprobs_with_a_prompt_longer_than_a_cache_block(subject: Subject) -> None:
    prompt = tuple(random.Random(1).choices(range(3, tiny_models.VOCABULARY), k=200))
    first = await subject.generate(prompt, Sampling(20), n=3)
    again = await subject.generate(prompt, Sampling(20), n=3)  # its keys and values may be cached now
    assert worst(subject, first + again, prompt) < BOUND


async def test_greedy_is_the_likeliest_token(subject: Subject) -> None:
    (completion,) = await subject.generate(PROMPT, Sampling(30, temperature=0.0))
    context = list(PROMPT)
    for token in completion.token_ids:
        with torch.no_grad():
            assert token == subject.model(torch.tensor([context])).logits[0, -1].argmax().item()
        context.append(token)


async def test_n_continuations_of_the_length_asked_for(subject: Subject) -> None:
    completions = await subject.generate(PROMPT, Sampling(12), n=5)
    assert len(completions) == 5
    for completion in completions:
        assert completion.finish is FinishReason.LENGTH
        assert len(completion.token_ids) == len(completion.logprobs) == len(completion.versions) == 12


async def test_a_stop_token_ends_the_turn_and_is_part_of_it(subject: Subject) -> None:
    (free,) = await subject.generate(PROMPT, Sampling(30, temperature=0.0))
    stop = free.token_ids[10]
    end = free.token_ids.index(stop) + 1
    (stopped,) = await subject.generate(PROMPT, Sampling(30, temperature=0.0, stop_token_ids=(1, stop)))
    assert stopped.finish is FinishReason.STOP
    assert stopped.token_ids == free.token_ids[:end]


async def test_only_the_stops_asked_for_end_a_turn(subject: Subject) -> None:
    """The model's configuration calls token 2 EOS; a request that does not name it goes on."""
    subject.model.get_input_embeddings().weight.data[2] *= 20  # tied head: token 2 is sampled most of the time
    await subject.update()
    completions = await subject.generate(PROMPT, Sampling(30), n=4)
    assert any(2 in c.token_ids[:-1] for c in completions)
    assert all(c.finish is FinishReason.LENGTH for c in completions)


async def test_sampling_follows_the_distribution(subject: Subject) -> None:
    """Frequencies of the first token, against its probability: four standard deviations."""
    draws = 2000
    completions = await subject.generate(PROMPT, Sampling(1), n=draws)
    counts = np.bincount([c.token_ids[0] for c in completions], minlength=tiny_models.VOCABULARY)
    with torch.no_grad():
        p = subject.model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1).numpy()
    for token in p.argsort()[-5:]:
        assert abs(counts[token] / draws - p[token]) < 4 * (p[token] * (1 - p[token]) / draws) ** 0.5


async def test_an_aborted_request_is_answered_with_what_it_has(subject: Subject) -> None:
    name = subject.name()
    request = asyncio.create_task(subject.generator.generate(GenerateRequest(name, PROMPT, 4, Sampling(370))))
    while not (await subject.generator.status()).running:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await subject.generator.abort(name)
    completions = await asyncio.wait_for(request, 10)
    assert [c.finish for c in completions] == [FinishReason.ABORT] * 4
    assert all(len(c.token_ids) < 370 for c in completions)
    assert any(c.token_ids for c in completions)
    assert worst(subject, [c for c in completions if c.token_ids]) < BOUND
    assert (await subject.generator.status()).running == 0


async def test_a_caller_who_goes_away_leaves_nothing_running(subject: Subject) -> None:
    request = asyncio.create_task(subject.generate(PROMPT, Sampling(370), n=4))
    while not (await subject.generator.status()).running:
        await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    async with asyncio.timeout(10):
        while (await subject.generator.status()).running:
            await asyncio.sleep(0.01)


async def test_aborting_an_unknown_request_does_nothing(subject: Subject) -> None:
    await subject.generator.abort("never heard of")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerateRequest("x", (), 1, Sampling(5)), "prompt is empty"),
        (GenerateRequest("x", PROMPT, 0, Sampling(5)), "n=0"),
        (GenerateRequest("x", PROMPT, 1, Sampling(0)), "max_new_tokens=0"),
        (GenerateRequest("x", PROMPT, 1, Sampling(380)), "started for 384"),
    ],
)
async def test_impossible_requests_are_refused(subject: Subject, request_: GenerateRequest, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await subject.generator.generate(request_)


async def test_an_id_in_hand_is_refused(subject: Subject) -> None:
    name = subject.name()
    request = GenerateRequest(name, PROMPT, 1, Sampling(100))
    results = await asyncio.gather(
        subject.generator.generate(request), subject.generator.generate(request), return_exceptions=True
    )
    assert isinstance(results[0], list)
    assert isinstance(results[1], ValueError)
    assert name in str(results[1])


async def test_status_counts_tokens_and_all_seconds(subject: Subject) -> None:
    before = await subject.generator.status()
    clock = asyncio.get_running_loop().time
    started = clock()
    await subject.generate(PROMPT, Sampling(25), n=4)
    await subject.update()
    await asyncio.sleep(0.2)
    after = await subject.generator.status()
    wall = clock() - started
    assert after.generated_tokens - before.generated_tokens == 100
    busy, updating, waiting = (
        getattr(after, part) - getattr(before, part) for part in ("busy_s", "updating_s", "waiting_s")
    )
    assert busy > 0 and updating > 0 and waiting > 0.15
    assert busy + updating + waiting == pytest.approx(wall, abs=0.05)
