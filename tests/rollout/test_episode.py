"""Episodes: tokens in, tokens out; what an env says is read, not sampled; and what breaks is an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from rlvr.env import Env, EnvError
from rlvr.envs.single_turn import SingleTurn
from rlvr.reward_function import Reward
from rlvr.rollout import episode
from rlvr.rollout.episode import EpisodeRunner
from rlvr.rollout.scoring import Scorer
from rlvr.types import Completion, FinishReason, GenerateRequest, Group, Message, Outcome, Sampling, Task

END = "<|im_end|>"


@dataclass
class ScriptedGenerator:
    """Answers with the texts that it was given, one after another for each answer of a group."""

    tokenizer: PreTrainedTokenizerFast
    texts: list[str]
    finish: FinishReason = FinishReason.STOP
    requests: list[GenerateRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        self.requests.append(request)
        return [self._completion(self.texts.pop(0)) for _ in range(request.n)]

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def _completion(self, text: str) -> Completion:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        version = len(self.requests)
        return Completion(ids, [-0.1 * (i + 1) for i in range(len(ids))], [version] * len(ids), self.finish)


@dataclass
class Conversation:
    """An env that says its lines, one after each answer."""

    lines: list[Message]
    heard: list[tuple[str, int]] = field(default_factory=list)
    closed: int = 0

    async def follow(self, task: Task, answer: str, turn: int) -> Sequence[Message] | None:
        self.heard.append((answer, turn))
        return [self.lines[turn]] if turn < len(self.lines) else None

    async def close(self) -> None:
        self.closed += 1


async def says_length(completion: str) -> float:
    return float(len(completion))


def question(tokenizer: PreTrainedTokenizerFast, text: str = "2+2?") -> Task:
    prompt = (Message(role="user", content=text),)
    ids = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
    return Task("t0", prompt, tuple(ids), "4", {"prompt": text})


async def run(
    generator: ScriptedGenerator,
    make_env: Callable[[], Env],
    *,
    answers: int = 1,
    deadline_s: float = 30.0,
    max_new_tokens: int = 1000,
) -> Group:
    scorer = Scorer([Reward(says_length, "length")], deadline_s=5, retries=0, workers=1)
    sampling = Sampling(max_new_tokens)
    runner = EpisodeRunner(
        generator, generator.tokenizer, make_env, scorer, sampling, group_size=answers, deadline_s=deadline_s
    )
    try:
        return await runner.run(3, question(generator.tokenizer))
    finally:
        scorer.close()


# -------------------------------------------------------------------- tokens in, tokens out


class RecordingGenerator(ScriptedGenerator):
    """Sends the token at place i of its n-th request to expert 10 n + i of one layer."""

    def _completion(self, text: str) -> Completion:
        completion = super()._completion(text)
        read = len(self.requests[-1].prompt_ids) + len(completion.token_ids) - 1
        completion.experts = (10 * len(self.requests) + np.arange(read, dtype=np.uint8)).reshape(-1, 1, 1)
        return completion


async def test_turns_read_again_keep_the_experts_they_were_sampled_with(tokenizer: PreTrainedTokenizerFast) -> None:
    generator = RecordingGenerator(tokenizer, [f"ab{END}", f"c{END}"])
    env = Conversation([Message(role="user", content="go on")])
    group = await run(generator, lambda: env)
    (trajectory,) = group.trajectories
    prompt = len(trajectory.prompt_ids)
    first = prompt + len("ab")  # its last token was read in the second turn alone
    total = prompt + len(trajectory.token_ids) - 1
    assert trajectory.experts is not None
    expected = [(10 + i) % 256 for i in range(first)] + [(20 + i) % 256 for i in range(first, total)]
    assert trajectory.experts.ravel().tolist() == expected


async def test_a_single_turn_keeps_exactly_what_was_sampled(tokenizer: PreTrainedTokenizerFast) -> None:
    generator = ScriptedGenerator(tokenizer, [f"4{END}", f"five{END}"])
    group = await run(generator, SingleTurn, answers=2)
    (request,) = generator.requests
    assert (request.n, request.prompt_ids) == (2, question(tokenizer).prompt_ids)
    assert (group.id, group.task.id) == (3, "t0")
    for trajectory, text in zip(group.trajectories, ("4", "five"), strict=True):
        assert trajectory.token_ids == tokenizer.encode(f"{text}{END}", add_special_tokens=False)
        assert trajectory.sampled == [True] * len(trajectory.token_ids)
        assert trajectory.logprobs == pytest.approx([-0.1 * (i + 1) for i in range(len(trajectory.token_ids))])
        assert trajectory.versions == [1] * len(trajectory.token_ids)
        assert trajectory.text == text
        assert trajectory.score is not None and trajectory.score.value == len(text)


async def test_ids_that_text_would_not_give_back_are_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    """Half of a two-byte letter, as a sampler may leave it: it decodes to a replacement mark."""
    half = tokenizer.encode("é", add_special_tokens=False)[:1]

    class Halves(ScriptedGenerator):
        async def generate(self, request: GenerateRequest) -> list[Completion]:
            return [Completion(half, [-1.0], [0], FinishReason.LENGTH)]

    (trajectory,) = (await run(Halves(tokenizer, []), SingleTurn)).trajectories
    assert tokenizer.encode(trajectory.text, add_special_tokens=False) != half
    assert trajectory.token_ids == half


LINES = [
    Message(role="tool", content="4"),
    Message(role="user", content="Sure?\nSay <|so|>."),
]


async def test_turns_are_joined_as_the_template_renders_the_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    answers = ["calc(2+2)", "4", " yes, 4\n"]
    env = Conversation(LINES)
    generator = ScriptedGenerator(tokenizer, [text + END for text in answers])
    (trajectory,) = (await run(generator, lambda: env)).trajectories

    conversation = [dict(question(tokenizer).prompt[0]), {"role": "assistant", "content": answers[0]}]
    for line, answer in zip(LINES, answers[1:], strict=True):
        conversation += [dict(line), {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(conversation, return_dict=False)
    after_the_end = tokenizer.encode("\n", add_special_tokens=False)  # the template's, after the last <|im_end|>
    assert [*trajectory.prompt_ids, *trajectory.token_ids, *after_the_end] == whole

    sampled = [i for i, was_sampled in zip(trajectory.token_ids, trajectory.sampled, strict=True) if was_sampled]
    assert sampled == tokenizer.encode("".join(text + END for text in answers), add_special_tokens=False)
    not_sampled = [i for i, was_sampled in enumerate(trajectory.sampled) if not was_sampled]
    assert not_sampled
    assert all(trajectory.logprobs[i] == 0.0 and trajectory.versions[i] == -1 for i in not_sampled)
    assert {v for v, s in zip(trajectory.versions, trajectory.sampled, strict=True) if s} == {1, 2, 3}

    assert env.heard == [(text, turn) for turn, text in enumerate(answers)]
    assert env.closed == 1
    assert trajectory.text == answers[-1], "the last answer is what a reward reads"


async def test_each_turn_goes_on_from_exactly_what_came_before(tokenizer: PreTrainedTokenizerFast) -> None:
    generator = ScriptedGenerator(tokenizer, [f"a{END}", f"b{END}", f"c{END}"])
    (trajectory,) = (await run(generator, lambda: Conversation(LINES))).trajectories
    whole = [*trajectory.prompt_ids, *trajectory.token_ids]
    for request in generator.requests:
        assert list(request.prompt_ids) == whole[: len(request.prompt_ids)]
        assert len(request.prompt_ids) + request.sampling.max_new_tokens == len(trajectory.prompt_ids) + 1000
    assert [request.id for request in generator.requests] == ["g3", "g3.0.1", "g3.0.2"]


async def test_a_truncated_answer_ends_the_episode(tokenizer: PreTrainedTokenizerFast) -> None:
    env = Conversation(LINES)
    (trajectory,) = (await run(ScriptedGenerator(tokenizer, ["cut"], FinishReason.LENGTH), lambda: env)).trajectories
    assert env.heard == []
    assert trajectory.finish is FinishReason.LENGTH
    assert trajectory.score is not None and trajectory.score.value == 3.0


async def test_what_an_env_says_counts_against_the_token_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    env = Conversation([Message(role="tool", content="x" * 500)])
    generator = ScriptedGenerator(tokenizer, [f"a{END}"])
    (trajectory,) = (await run(generator, lambda: env, max_new_tokens=100)).trajectories
    assert trajectory.finish is FinishReason.LENGTH
    assert len(trajectory.token_ids) <= 100
    assert trajectory.sampled == [True, True], "what could not be answered is not read"


# -------------------------------------------------------------------- what breaks is an outcome, never a 0


def the_failure(group: Group) -> str:
    (trajectory,) = group.trajectories
    assert trajectory.score is not None
    assert (trajectory.score.value, trajectory.score.outcome) == (None, Outcome.ENV_FAILED)
    return trajectory.score.detail


class Broken(Conversation):
    """Raises what it was given when it should follow."""

    def __init__(self, error: Exception) -> None:
        super().__init__([])
        self._error = error

    async def follow(self, task: Task, answer: str, turn: int) -> Sequence[Message] | None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (EnvError("the database is gone"), "the database is gone"),
        (ValueError("odd answer"), "ValueError: odd answer"),
        (TimeoutError("http"), "TimeoutError: http"),
    ],
    ids=["env_error", "any_error", "a_timeout_of_its_own"],
)
async def test_an_env_that_breaks(tokenizer: PreTrainedTokenizerFast, error: Exception, detail: str) -> None:
    env = Broken(error)
    assert the_failure(await run(ScriptedGenerator(tokenizer, [f"a{END}"]), lambda: env)) == detail
    assert env.closed == 1


async def test_an_env_that_cannot_be_made(tokenizer: PreTrainedTokenizerFast) -> None:
    def make() -> Env:
        raise OSError("no docker")

    assert the_failure(await run(ScriptedGenerator(tokenizer, [f"a{END}"]), make)) == "OSError: no docker"


async def test_one_broken_env_leaves_the_rest_of_its_group_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    envs: list[Env] = [Broken(EnvError("gone")), Conversation([])]
    group = await run(ScriptedGenerator(tokenizer, [f"a{END}", f"bb{END}"]), lambda: envs.pop(0), answers=2)
    assert [t.score.value for t in group.trajectories if t.score is not None] == [None, 2.0]


async def test_an_env_that_does_not_answer_is_ended_at_the_deadline(tokenizer: PreTrainedTokenizerFast) -> None:
    class Silent(Conversation):
        async def follow(self, task: Task, answer: str, turn: int) -> Sequence[Message] | None:
            await asyncio.Event().wait()
            return None

    env = Silent([])
    group = await asyncio.wait_for(
        run(ScriptedGenerator(tokenizer, [f"a{END}"]), lambda: env, deadline_s=0.1), timeout=5
    )
    assert the_failure(group) == "no end in 0.1 s"
    assert env.closed == 1


async def test_an_env_that_does_not_close_is_left_behind(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(Conversation):
        async def close(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(episode, "_CLOSE_DEADLINE_S", 0.1)
    group = await asyncio.wait_for(run(ScriptedGenerator(tokenizer, [f"a{END}"]), lambda: Stuck([])), timeout=5)
    assert the_failure(group) == "the env has not closed in 0.1 s"


@pytest.mark.parametrize(("silent_turn", "request_id"), [(0, "g3"), (1, "g3.0.1")])
async def test_a_generator_that_does_not_answer_is_told_to_stop(
    tokenizer: PreTrainedTokenizerFast, silent_turn: int, request_id: str
) -> None:
    class Silent(ScriptedGenerator):
        async def generate(self, request: GenerateRequest) -> list[Completion]:
            if len(self.requests) == silent_turn:
                await asyncio.Event().wait()
            return await super().generate(request)

    generator = Silent(tokenizer, [f"a{END}"])
    group = await asyncio.wait_for(run(generator, lambda: Conversation(LINES), deadline_s=0.1), timeout=5)
    assert the_failure(group).endswith("in 0.1 s")
    assert generator.aborted == [request_id]


async def test_an_answer_that_the_generator_gave_up_is_not_scored(tokenizer: PreTrainedTokenizerFast) -> None:
    generator = ScriptedGenerator(tokenizer, ["half an ans"], FinishReason.ABORT)
    assert the_failure(await run(generator, SingleTurn)) == "the generator gave the answer up"


@pytest.mark.parametrize("turn", [0, 1])
async def test_what_a_generator_raises_is_not_the_envs_fault(tokenizer: PreTrainedTokenizerFast, turn: int) -> None:
    class Gone(ScriptedGenerator):
        async def generate(self, request: GenerateRequest) -> list[Completion]:
            if len(self.requests) == turn:
                raise ConnectionError("generator-0 is gone")
            return await super().generate(request)

    with pytest.raises(ConnectionError, match="generator-0 is gone"):
        await run(Gone(tokenizer, [f"a{END}"]), lambda: Conversation(LINES))
