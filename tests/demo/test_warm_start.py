"""The gradient path of the warm start, against plain rows and against an independent formula."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlvr.demo.problems import Split, oracle_trace, problems
from rlvr.demo.tokenizer import build_tokenizer
from rlvr.demo.warm_start import Author, WarmStart, batches, continuation_logits, new_model, train, tree_batch

PROMPTS = [[7, 8, 9], [20, 21, 22, 23, 24]]
CONTINUATIONS = [[[30, 31, 2], [32, 2]], [[33, 2], [34, 35, 36, 2]]]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    return new_model(tokenizer, seed=0).eval()


@torch.no_grad()
def test_a_tree_gives_the_logits_of_separate_rows(model: Qwen3ForCausalLM) -> None:
    batch = tree_batch(PROMPTS, CONTINUATIONS, pad_id=0)
    plain = []
    for prompt, branches in zip(PROMPTS, CONTINUATIONS, strict=True):
        for branch in branches:
            logits = model(torch.tensor([prompt + branch])).logits[0]
            plain.append(logits[len(prompt) - 1 : -1])
    assert batch.targets.tolist() == [t for branches in CONTINUATIONS for branch in branches for t in branch]
    torch.testing.assert_close(continuation_logits(model, batch), torch.cat(plain), atol=1e-5, rtol=1e-5)


def test_a_warm_start_learns(tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM) -> None:
    # A count of steps, not of seconds: a slow machine then learns as much as a fast one.
    progress = list(islice(train(model, tokenizer, WarmStart()), 50))
    assert [p.step for p in progress] == list(range(1, 51))
    assert progress[0].loss == pytest.approx(torch.log(torch.tensor(512.0)).item(), abs=0.5)
    assert progress[-1].loss < progress[0].loss - 1.0


def test_a_warm_start_ends_when_its_time_is_spent(tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM) -> None:
    *_, last = train(model, tokenizer, WarmStart(cpu_seconds=1.0))
    # The last step ends before the time does, by no more than the next batch took to make.
    assert 0.5 < last.cpu_seconds < 60.0


def test_new_models_depend_on_the_seed_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    def embedding(seed: int) -> torch.Tensor:
        torch.rand(1)  # the global generator plays no part
        return new_model(tokenizer, seed).model.embed_tokens.weight

    assert torch.equal(embedding(1), embedding(1))
    assert not torch.equal(embedding(1), embedding(2))


def test_a_teacher_is_wider_and_its_author_makes_no_mistake(tokenizer: PreTrainedTokenizerFast) -> None:
    layer = 4 * 288 * 288 + 2 * 32 + 3 * 288 * 768 + 2 * 288
    wide = new_model(tokenizer, seed=0, width=3)
    assert sum(p.numel() for p in wide.parameters()) == 512 * 288 + 3 * layer + 288 == 3_135_648

    settings = WarmStart(author=Author.ORACLE, prompts_per_step=4, seed=7)
    right = {oracle_trace(problem) for problem in islice(problems(Split.TRAIN, 7), 32)}
    batch = next(batches(tokenizer, settings))
    *answers, rest = tokenizer.decode(batch.targets).split(tokenizer.eos_token)
    assert len(answers) == 4 and rest == "" and set(answers) <= right
