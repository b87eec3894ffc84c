"""How good a demo model is, by plain transformers generation on held-out problems."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from rlvr.demo.code_problems import CodeProblem
from rlvr.demo.problems import Problem, Split
from rlvr.demo.subjects import MATH, Subject
from rlvr.demo.warm_start import encode_prompts
from rlvr.rewards.code import judge_code, read_suite

PROBLEMS_PER_BATCH = 32

BOXED = re.compile(r"\\boxed\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares of problems solved, over `problems` held-out problems with `samples` answers each.

    `greedy` is the share that the most likely answer solves, `pass_at_1` the share of sampled answers that
    are right, `pass_at_n` the share of problems that at least one of the sampled answers solves.
    `mean_length` is in tokens of a sampled answer, end of turn included; `entropy` in nats a sampled token.
    """

    problems: int
    samples: int
    greedy: float
    pass_at_1: float
    pass_at_n: float
    mean_length: float
    entropy: float


@dataclass(frozen=True, slots=True)
class _Answers:
    """Of one batch: `right` is [problems, samples]; the sums run over all sampled tokens."""

    right: Tensor
    tokens: int
    entropy_sum: float


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    samples: int,
    seed: int,
    subject: Subject[Any] = MATH,
) -> Evaluation:
    """Evaluate on the first `count` held-out problems of `seed`. Sampling is at temperature 1, seeded."""
    model.eval()
    tests = list(islice(subject.problems(Split.HELD_OUT, seed), count))
    common = {
        "max_new_tokens": subject.max_new_tokens,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    greedy = GenerationConfig(do_sample=False, **common)
    # Unset, top_k is 50: the library's default, and not the model's own distribution.
    sampled = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=samples, **common
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        best = [_answer(model, tokenizer, batch, greedy) for batch in _cut(tests)]
        drawn = [_answer(model, tokenizer, batch, sampled) for batch in _cut(tests)]
    right = torch.cat([answers.right for answers in drawn])
    tokens = sum(answers.tokens for answers in drawn)
    return Evaluation(
        problems=count,
        samples=samples,
        greedy=torch.cat([answers.right for answers in best]).float().mean().item(),
        pass_at_1=right.float().mean().item(),
        pass_at_n=right.any(dim=1).float().mean().item(),
        mean_length=tokens / right.numel(),
        entropy=sum(answers.entropy_sum for answers in drawn) / tokens,
    )


def is_right(text: str, answer: str) -> bool:
    """Whether the text boxes one number and it is the answer."""
    return BOXED.findall(text) == [answer]


async def _verdicts(texts: Sequence[str], asked: Sequence[Problem | CodeProblem]) -> list[bool]:
    return await asyncio.gather(*(_verdict(text, problem) for text, problem in zip(texts, asked, strict=True)))


async def _verdict(text: str, problem: Problem | CodeProblem) -> bool:
    if isinstance(problem, Problem):
        return is_right(text, problem.answer)
    verdict = await judge_code(text, read_suite(problem.tests()))
    return verdict is not None and verdict.passed


@torch.no_grad()
def _answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: Sequence[Problem] | Sequence[CodeProblem],
    generation: GenerationConfig,
) -> _Answers:
    prompts = tokenizer.pad(
        {"input_ids": encode_prompts(tokenizer, [problem.prompt for problem in batch])}, return_tensors="pt"
    )
    output = model.generate(**prompts, generation_config=generation)
    new_ids = output.sequences[:, prompts["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
    per_problem = len(texts) // len(batch)
    asked = [problem for problem in batch for _ in range(per_problem)]
    right = torch.tensor(asyncio.run(_verdicts(texts, asked)))

    lengths = (new_ids != tokenizer.pad_token_id).sum(dim=1)
    sampled = torch.arange(new_ids.shape[1]) < lengths[:, None]
    entropy = torch.distributions.Categorical(logits=torch.stack(output.logits, dim=1)[sampled]).entropy()
    return _Answers(right.view(len(batch), per_problem), int(lengths.sum()), entropy.sum().item())


def _cut(tests: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(tests), PROBLEMS_PER_BATCH):
        yield tests[start : start + PROBLEMS_PER_BATCH]
