"""Scores: what a function says is what counts, and what goes wrong with it is never a 0."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reward_functions as functions

from rlvr.plugins import load
from rlvr.reward_function import Reward, reward
from rlvr.rollout.scoring import RewardError, Scorer, check_arguments
from rlvr.types import FinishReason, Message, Outcome, Score, Task, Trajectory

NO_HANG_S = 30.0  # a deadline for functions that answer at once: a busy machine does not fail the test
HANG_S = 1.5

TEXT_PROMPT = (Message(role="user", content="2 + 2?"),)


def task(columns: dict[str, Any] | None = None, prompt: tuple[Message, ...] = TEXT_PROMPT) -> Task:
    columns = {"prompt": prompt[-1]["content"], "answer": "4"} | (columns or {})
    return Task("t0", prompt, (1, 2), columns["answer"], columns)


def answered(*texts: str) -> list[Trajectory]:
    return [
        Trajectory((1, 2), [5, 6, 7], [True, False, True], [-0.5, 0.0, -0.5], [0, -1, 0], FinishReason.LENGTH, text)
        for text in texts
    ]


async def score_all(
    rewards: Sequence[Reward],
    *texts: str,
    of: Task | None = None,
    deadline_s: float = NO_HANG_S,
    retries: int = 0,
    workers: int = 1,
) -> list[Score]:
    scorer = Scorer(rewards, deadline_s=deadline_s, retries=retries, workers=workers)
    try:
        return await scorer.score(of or task(), answered(*texts))
    finally:
        scorer.close()


async def score(function: Callable[..., Any], text: str = "4", **keywords: Any) -> Score:
    (only,) = await score_all([Reward(function, "it")], text, **keywords)
    return only


# -------------------------------------------------------------------- what a function is given


async def test_a_function_gets_what_it_names() -> None:
    def everything(
        completion: str,
        prompt: str,
        target: str,
        answer: str,
        finish: str,
        completion_tokens: int,
        task_id: str,
        x: int,
    ) -> float:
        got = (completion, prompt, target, answer, finish, completion_tokens, task_id, x)
        return float(got == ("4", "2 + 2?", "4", "4", "length", 2, "t0", 9))

    assert (await score(everything, of=task({"x": 9}))).value == 1.0


async def test_a_function_with_any_keywords_gets_all_columns() -> None:
    def counts(**everything: Any) -> float:
        return float(everything["x"] + everything["y"])

    assert (await score(counts, of=task({"x": 9, "y": 1}))).value == 10.0


async def test_a_batch_function_gets_lists_and_answers_with_one_number_each() -> None:
    def batch(
        prompts: list[str], completions: list[str], answer: list[str], **columns: list[Any]
    ) -> list[float | None]:
        assert prompts == ["2 + 2?", "2 + 2?", "2 + 2?"] and columns["x"] == [9, 9, 9]
        assert columns["completion_ids"] == [[5, 6, 7]] * 3
        return [None if c == "?" else float(c == a) for c, a in zip(completions, answer, strict=True)]

    scores = await score_all([Reward(batch, "it")], "4", "5", "?", of=task({"x": 9}))
    assert [s.value for s in scores] == [1.0, 0.0, None]
    assert scores[2].outcome is Outcome.NO_VERDICT


async def test_a_batch_function_gets_messages_where_the_prompt_is_messages() -> None:
    def chat(prompts: list[Any], completions: list[Any]) -> list[float]:
        assert prompts[0] == [{"role": "user", "content": "2 + 2?"}]
        return [float(turns == [{"role": "assistant", "content": "4"}]) for turns in completions]

    of = task({"prompt": [{"role": "user", "content": "2 + 2?"}]})
    assert [s.value for s in await score_all([Reward(chat, "it")], "4", "5", of=of)] == [1.0, 0.0]


async def test_a_system_message_from_the_config_does_not_make_a_text_prompt_a_chat() -> None:
    def text(prompts: list[Any], completions: list[Any]) -> list[float]:
        return [float((prompts[0], completions[0]) == ("2 + 2?", "4"))]

    prompt = (Message(role="system", content="Be brief."), *TEXT_PROMPT)
    assert (await score(text, of=task(prompt=prompt))).value == 1.0


@pytest.mark.parametrize("kind", ["lambda", "closure", "partial", "by_name"])
async def test_any_kind_of_function_travels_to_a_worker(kind: str) -> None:
    right = "4"
    kinds: dict[str, Callable[..., Any]] = {
        "lambda": lambda completion, answer: completion == answer,
        "closure": lambda completion: completion == right,
        "partial": functools.partial(functions.equal, answer="4"),
        "by_name": functions.equal,
    }
    assert (await score(kinds[kind], "4")).value == 1.0
    assert (await score(kinds[kind], "5")).value == 0.0


async def test_a_function_from_a_file_travels_with_what_it_calls(tmp_path: Path) -> None:
    file = tmp_path / "my_reward.py"
    file.write_text(
        "LIMIT = 2\ndef is_long(text):\n    return len(text) > LIMIT\n"
        "def long(completion):\n    return float(is_long(completion))\n"
    )
    function = load("rlvr.rewards", f"{file}:long")
    scores = await score_all([Reward(function, "long")], "abc", "a")
    assert [s.value for s in scores] == [1.0, 0.0], scores


async def test_a_coroutine_function_is_awaited_here() -> None:
    loop = asyncio.get_running_loop()

    async def awaited(completion: str) -> float:
        await asyncio.sleep(0)
        return float(asyncio.get_running_loop() is loop)

    assert (await score(awaited)).value == 1.0


async def test_an_object_with_a_coroutine_call_is_a_coroutine_function() -> None:
    class Judge:
        async def __call__(self, completion: str) -> float:
            return 0.5

    assert (await score(Judge())).value == 0.5


# -------------------------------------------------------------------- what a score is made of


async def test_the_score_is_the_weighted_sum_and_keeps_its_parts() -> None:
    def detailed(completion: str) -> Score:
        return Score(0.5, parts={"steps": 3.0})

    rewards = [
        Reward(lambda completion: 1.0, "right", weight=2.0),
        Reward(detailed, "style", weight=-1.0),
        Reward(lambda completion: 100.0, "watched", weight=0.0),
    ]
    (score,) = await score_all(rewards, "4")
    assert score.value == 1.5
    assert dict(score.parts) == {"right": 1.0, "style": 0.5, "style/steps": 3.0, "watched": 100.0}


async def test_without_a_verdict_of_each_weighted_function_there_is_none_of_the_whole() -> None:
    rewards = [Reward(lambda completion: 1.0, "right"), Reward(lambda completion: None, "style")]
    (score,) = await score_all(rewards, "4")
    assert (score.value, score.outcome) == (None, Outcome.NO_VERDICT)
    assert dict(score.parts) == {"right": 1.0}


async def test_a_metric_that_fails_does_not_take_the_verdict_away() -> None:
    rewards = [Reward(lambda completion: 1.0, "right"), Reward(functions.raises, "watched", weight=0.0)]
    (score,) = await score_all(rewards, "4")
    assert (score.value, score.outcome) == (1.0, Outcome.SCORED)
    assert "KeyError" in score.detail


@pytest.mark.parametrize(
    ("result", "value"), [(True, 1.0), (3, 3.0), (-0.5, -0.5), (np.float32(0.5), 0.5), (np.int64(2), 2.0)]
)
async def test_numbers_of_any_kind_are_values(result: Any, value: float) -> None:
    async def says(completion: str) -> Any:
        return result

    got = await score(says)
    assert (got.value, got.outcome) == (value, Outcome.SCORED)


@pytest.mark.parametrize(
    "result",
    [
        math.nan,
        math.inf,
        10**400,
        "1.0",
        [1.0],
        {},
        np.array([1.0, 2.0]),
        Score(math.nan),
        Score(1.0, parts={"p": math.inf}),
    ],
    ids=repr,
)
async def test_what_is_no_finite_number_is_a_crash_with_a_word_why(result: Any) -> None:
    async def says(completion: str) -> Any:
        return result

    got = await score(says)
    assert (got.value, got.outcome) == (None, Outcome.CRASHED)
    assert got.detail.startswith("it: expected a finite number")


@pytest.mark.parametrize("result", [[1.0], [1.0, 1.0, 1.0], 1.0, "ab", None])
async def test_a_batch_answer_of_the_wrong_length_is_a_crash_of_all(result: Any) -> None:
    async def says(completions: list[str]) -> Any:
        return result

    scores = await score_all([Reward(says, "it")], "4", "5")
    assert [(s.value, s.outcome) for s in scores] == [(None, Outcome.CRASHED)] * 2
    assert "expected a list of 2 numbers" in scores[0].detail


# -------------------------------------------------------------------- failures are not wrong answers


@pytest.mark.parametrize(
    ("function", "word"), [(functions.raises, "KeyError"), (functions.dies, "died")], ids=["raises", "dies"]
)
async def test_an_exception_or_a_dead_process_is_a_crash(function: Callable[..., Any], word: str) -> None:
    got = await score(function)
    assert (got.value, got.outcome) == (None, Outcome.CRASHED)
    assert word in got.detail


async def test_an_exception_of_a_coroutine_is_a_crash() -> None:
    async def raises(completion: str) -> float:
        raise LookupError("no such judge")

    got = await score(raises)
    assert (got.value, got.outcome) == (None, Outcome.CRASHED)
    assert got.detail == "it: LookupError: no such judge"


@pytest.mark.parametrize("function", [functions.sleeps_on_bad, functions.loops_on_bad], ids=["sleeps", "loops"])
async def test_a_function_that_hangs_is_killed_and_the_others_are_scored(function: Callable[..., Any]) -> None:
    scores = await score_all([Reward(function, "it")], "good", "bad", "good", deadline_s=HANG_S, workers=2)
    assert [(s.value, s.outcome) for s in scores] == [
        (1.0, Outcome.SCORED),
        (None, Outcome.TIMEOUT),
        (1.0, Outcome.SCORED),
    ]


async def test_a_process_that_dies_takes_no_other_answer_with_it() -> None:
    scores = await score_all([Reward(functions.dies_on_bad, "it")], "good", "bad", "good")
    assert [s.value for s in scores] == [1.0, None, 1.0]
    assert scores[1].outcome is Outcome.CRASHED


async def test_a_coroutine_that_does_not_answer_times_out() -> None:
    async def never(completion: str) -> float:
        await asyncio.Event().wait()
        return 1.0

    got = await score(never, deadline_s=0.05)
    assert (got.value, got.outcome) == (None, Outcome.TIMEOUT)


async def test_a_crash_is_tried_again(tmp_path: Path) -> None:
    assert (await score(functions.dies_once, of=task({"marks": str(tmp_path)}), retries=1)).value == 1.0


@pytest.mark.parametrize("retries", [0, 2])
async def test_tries_are_counted(tmp_path: Path, retries: int) -> None:
    got = await score(functions.always_dies_and_counts, of=task({"marks": str(tmp_path)}), retries=retries)
    assert (got.value, got.outcome) == (None, Outcome.CRASHED)
    assert len(list(tmp_path.iterdir())) == retries + 1


async def test_no_verdict_is_not_tried_again() -> None:
    calls = 0

    async def undecided(completion: str) -> None:
        nonlocal calls
        calls += 1

    assert (await score(undecided, retries=3)).outcome is Outcome.NO_VERDICT
    assert calls == 1


# -------------------------------------------------------------------- refused before anything starts


def test_an_argument_that_is_no_column_is_refused_with_what_there_is() -> None:
    with pytest.raises(RewardError, match=r"'right' takes solution, .*prompt, answer.*completion_tokens"):
        check_arguments(Reward(lambda completion, solution: 1.0, "right"), ["prompt", "answer"])


def test_arguments_with_a_default_and_built_in_ones_are_not_missed() -> None:
    check_arguments(Reward(lambda completion, target, finish, level=1: 1.0, "it"), ["prompt"])
    check_arguments(Reward(lambda prompts, completions, completion_ids, **rest: [], "batch"), ["prompt"])


def test_names_of_one_form_are_not_offered_to_the_other() -> None:
    with pytest.raises(RewardError, match="takes prompts"):
        check_arguments(Reward(lambda prompts, completion: 1.0, "it"), ["prompt"])


@pytest.mark.parametrize(
    ("rewards", "word"),
    [
        ([], "weight other than 0"),
        ([Reward(functions.equal, "a", weight=0.0)], "weight other than 0"),
        ([Reward(functions.equal, "a"), Reward(functions.raises, "a")], "names of their own, got a, a"),
    ],
    ids=["none", "metrics_only", "one_name_twice"],
)
def test_rewards_that_make_no_score_are_refused(rewards: list[Reward], word: str) -> None:
    with pytest.raises(RewardError, match=word):
        Scorer(rewards, deadline_s=1, retries=0, workers=1)


def test_a_reward_says_what_is_wrong_with_its_function() -> None:
    with pytest.raises(TypeError, match="expected a function, got int"):
        Reward(3, "three")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="positional-only"):
        Reward(lambda completion, /: 1.0, "it")
    with pytest.raises(TypeError, match=r"rlvr.reward\(name=...\)"):
        reward(functools.partial(functions.equal, answer="4"))


def test_a_decorated_function_still_answers_a_direct_call() -> None:
    described = reward(name="right", weight=0.5)(functions.equal)
    assert (described.name, described.weight) == ("right", 0.5)
    assert described("4", answer="4") is True


# -------------------------------------------------------------------- what the watchdog sees


async def test_each_call_counts_when_it_ends_whatever_comes_of_it() -> None:
    """One process, many answers: the last verdict may come long after the last token."""

    async def fails_on_b(completion: str) -> float:
        if completion == "b":
            raise ValueError("b")
        if completion == "c":
            await asyncio.Event().wait()
        return 1.0

    scorer = Scorer([Reward(fails_on_b, "it")], deadline_s=0.05, retries=1, workers=1)
    await scorer.score(task(), answered("a"))
    assert scorer.ended_calls == 1
    await scorer.score(task(), answered("a", "b", "c"))
    assert scorer.ended_calls == 1 + 1 + 2 + 2
    scorer.close()
