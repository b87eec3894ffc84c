"""A policy that teaches itself: on the same prompt it has nothing to say, on one that tells more it has."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlvr.config import Config
from rlvr.config_loading import check
from rlvr.data import render_prompt
from rlvr.demo.problems import Split, oracle_trace, problems
from rlvr.distill.opd import OPDOptions, run_opd
from rlvr.distill.readings import OtherPrompt, PromptError, PromptTemplate
from rlvr.distill.signals import Signal, SignalKind
from rlvr.distill.teachers import ALL, OwnPolicy, TeacherError
from rlvr.distill.teaching import OnPolicyDistillation, Teachers
from rlvr.generate.factory import make_generator
from rlvr.generate.pool import GeneratorPool
from rlvr.learn.learner import Learner
from rlvr.types import (
    Completion,
    FinishReason,
    GenerateRequest,
    Group,
    Message,
    RLStream,
    Row,
    Sampling,
    Score,
    ScoreRequest,
    Task,
    TokenScores,
    Trajectory,
)

from .conftest import BASE

QUESTION = next(problems(Split.TRAIN, 11))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return check(
        {
            "model": "tiny",
            "data": {"path": "unused.jsonl", "max_prompt_tokens": 128},
            "sampling": {"max_new_tokens": 44},
            "learner": {"learning_rate": 1e-3, "warmup_steps": 0, "token_budget": 4096},
            "cluster": {"backend": "local"},
            "generator": {"engine": "transformers"},
        }
    )


def asked(tokenizer: PreTrainedTokenizerBase, **columns: str) -> Task:
    prompt = (Message(role="user", content=QUESTION.prompt),)
    return Task("t", prompt, tuple(render_prompt(tokenizer, prompt)), None, columns)


def answered(task: Task, number: int, completion: Completion) -> tuple[Group, Row]:
    ids, logprobs = completion.token_ids, completion.logprobs
    versions = [0] * len(ids)
    trajectory = Trajectory(
        task.prompt_ids, ids, [True] * len(ids), logprobs, versions, completion.finish, "", Score(0.0)
    )
    before = len(task.prompt_ids)
    stream = RLStream([0.0] * (before + len(ids)), [0.0] * before + logprobs, [0] * (before + len(ids)))
    row = Row(number, [*task.prompt_ids, *ids], [False] * before + [True] * len(ids), stream)
    return Group(number, task, [trajectory]), row


def stage(tokenizer: PreTrainedTokenizerBase, kind: SignalKind, template: str) -> OnPolicyDistillation:
    reading = OtherPrompt(tokenizer, PromptTemplate(template, ["solution"]))
    return OnPolicyDistillation(Teachers({ALL: OwnPolicy()}, readings={ALL: reading}), Signal(kind, k=8), 1.0)


async def test_on_its_own_prompt_a_policy_teaches_itself_nothing(
    config: Config, tokenizer: PreTrainedTokenizerBase
) -> None:
    pool = GeneratorPool([make_generator(config, "generator-0")])
    await pool.start()
    task = asked(tokenizer, solution=oracle_trace(QUESTION))
    sampling = Sampling(30, stop_token_ids=(tokenizer.eos_token_id,))
    try:
        completions = await pool.generate(GenerateRequest("g0", task.prompt_ids, 4, sampling))
        groups, rows = zip(*(answered(task, n, one) for n, one in enumerate(completions)), strict=True)
        same, metrics = await stage(tokenizer, SignalKind.SAMPLED, "{prompt}").teach(groups, rows, pool)
        dense, _ = await stage(tokenizer, SignalKind.STUDENT_TOPK, "{prompt}").teach(groups, rows, pool)
        other, told = await stage(tokenizer, SignalKind.SAMPLED, "{solution} {prompt}").teach(groups, rows, pool)
        for row, of_row in zip(rows, dense, strict=True):
            assert of_row.kl is not None
            first = row.trained.index(True)
            plain = await pool.score(ScoreRequest(tuple(row.token_ids), first, ids=of_row.kl.ids[first:]))
            assert np.abs(of_row.kl.logprobs[first:] - plain.id_logprobs).max() < 1e-4
    finally:
        await pool.close()
    assert sum(len(one.token_ids) for one in completions) > 40
    for row in same:
        assert row.rl is not None and row.rl.advantages == pytest.approx([0.0] * len(row), abs=1e-4)
    assert abs(metrics["teacher/all/reverse_kl"]) < 1e-4
    assert [row.token_ids for row in other] == [row.token_ids for row in rows], "what is trained stays as it was"
    assert abs(told["teacher/all/reverse_kl"]) > 0.01, "another prompt, another opinion"


class ReadsTheSolution:
    """Stands for the run's generators: whoever reads the solution in the prompt finds it likely, and else nothing."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    async def score(self, request: ScoreRequest) -> TokenScores:
        prompt = self._tokenizer.decode(request.token_ids[: request.first])
        answer = self._tokenizer.decode(request.token_ids[request.first : -1])
        likely = math.log(0.9) if f"Solution: {answer}" in prompt else math.log(1e-6)
        none = np.empty((request.places, 0))
        return TokenScores(np.full(request.places, likely, np.float32), none.astype(np.int32), none, 0)


async def test_a_prompt_that_tells_the_solution_makes_right_answers_likelier(
    config: Config, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Through the learner: after one update the right answer is likelier than it was, and the wrong one is not."""
    right = oracle_trace(QUESTION)
    wrong = oracle_trace(next(problems(Split.TRAIN, 12)))
    assert right != wrong
    task = asked(tokenizer, solution=right)
    learner = Learner(config)
    learner.start()
    groups, rows = [], []
    for number, text in enumerate((right, wrong)):
        ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        bare = Row(number, [*task.prompt_ids, *ids], [False] * len(task.prompt_ids) + [True] * len(ids))
        (own,) = learner.logprobs([bare])
        completion = Completion(ids, own[len(task.prompt_ids) :], [0] * len(ids), FinishReason.STOP)
        group, row = answered(task, number, completion)
        groups.append(group)
        rows.append(row)
    prompt = len(task.prompt_ids)
    before = [sum(one[prompt:]) for one in learner.logprobs(rows)]
    pool = GeneratorPool([ReadsTheSolution(tokenizer)])  # type: ignore[list-item]
    privileged = stage(tokenizer, SignalKind.SAMPLED, "{prompt}\nSolution: {solution}")
    taught, metrics = await privileged.teach(groups, rows, pool)
    learner.train(taught)
    after = [sum(one[prompt:]) for one in learner.logprobs(rows)]
    assert after[0] > before[0] and after[1] < before[1]
    assert taught[0].rl is not None and min(taught[0].rl.advantages[prompt:]) > math.log(0.9) - 1e-6
    assert taught[1].token_ids[:prompt] == list(task.prompt_ids), "the student never reads it"
    assert metrics["teacher/all/answers"] == 2


def test_templates_that_cannot_be_filled_are_refused() -> None:
    for template, message in {
        "{prompt} {hint}": "no column 'hint'; there are prompt .* and the columns solution",
        "{prompt} {}": "no column ''",
        "{prompt.__class__}": "no column",
        "{prompt": "a brace of the text is written twice",
    }.items():
        with pytest.raises(PromptError, match=message):
            PromptTemplate(template, ["solution"])
    task = Task("t", (Message(role="system", content="s"), Message(role="user", content="u")), (1,), None, {"a": 7})
    assert PromptTemplate("{a:>3}{{}} {prompt}", ["a"])(task) == (
        Message(role="system", content="s"),
        Message(role="user", content="  7{} u"),
    )


def test_what_could_not_be_asked_is_refused_at_the_start(config: Config, data: Path, tmp_path: Path) -> None:
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": str(data), "prompt": "question"}),
            "run_dir": tmp_path / "run",
        }
    )
    with pytest.raises(TeacherError, match="give it --teacher-prompt"):
        run_opd(config, OPDOptions(("self",)))
    with pytest.raises(PromptError, match=r"have room for data\.max_prompt_tokens=128: raise it to"):
        run_opd(config, OPDOptions(("self",), prompt="{prompt} " * 9))
    assert not (tmp_path / "run").exists()
