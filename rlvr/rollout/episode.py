"""Episodes: a task, an env and a generator leave trajectories. Tokens in, tokens out.

What the policy sampled is never decoded and encoded again: text is made for envs and rewards to read, and only
what an env says is encoded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rlvr.env import Env, EnvError
from rlvr.rollout.scoring import Scorer
from rlvr.types import (
    Completion,
    FinishReason,
    GenerateRequest,
    Group,
    Message,
    Outcome,
    Sampling,
    Score,
    Task,
    Trajectory,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlvr.types import Experts


class Generates(Protocol):
    """What an episode asks of a generator or a pool of them."""

    async def generate(self, request: GenerateRequest) -> list[Completion]: ...

    async def abort(self, request_id: str) -> None: ...


# Stands for the policy's answer while the messages around it are rendered; never reaches a model.
_ANSWER_MARK = "\x00answer\x00"

_CLOSE_DEADLINE_S = 60.0


@contextmanager
def _env_may_fail() -> Iterator[None]:
    """Whatever an env raises is an EnvError, so that it is told from what a generator raises."""
    try:
        yield
    except EnvError:
        raise
    except Exception as error:
        raise EnvError(f"{type(error).__name__}: {error}") from error


class EpisodeRunner:
    """Runs the episodes of a group: `group_size` answers to one task, each followed by its env, then scored."""

    def __init__(
        self,
        generator: Generates,
        tokenizer: PreTrainedTokenizerBase,
        make_env: Callable[[], Env],
        scorer: Scorer,
        sampling: Sampling,
        *,
        group_size: int,
        deadline_s: float,
        name: str = "g",
    ) -> None:
        self._generator = generator
        self._tokenizer = tokenizer
        self._make_env = make_env
        self._scorer = scorer
        self._sampling = sampling
        self._group_size = group_size
        self._deadline_s = deadline_s
        self._name = name  # begins request ids, so that training and evaluation do not collide

    async def run(self, group_id: int, task: Task) -> Group:
        """One scored group. An episode that breaks or outlasts its deadline has the outcome ENV_FAILED.

        What a generator raises is raised here: it is no property of the episode.
        """
        started = time.perf_counter()
        request = GenerateRequest(f"{self._name}{group_id}", task.prompt_ids, self._group_size, self._sampling)
        try:
            async with asyncio.timeout(self._deadline_s):
                completions = await self._generator.generate(request)
        except TimeoutError:
            await self._generator.abort(request.id)
            return Group(group_id, task, [self._nothing(task) for _ in range(self._group_size)])
        trajectories = [self._begin(task, completion) for completion in completions]
        ends = started + self._deadline_s
        await asyncio.gather(*(self._follow(task, t, f"{request.id}.{i}", ends) for i, t in enumerate(trajectories)))
        generated = time.perf_counter()
        await self._score(task, [t for t in trajectories if t.score is None])
        for trajectory in trajectories:
            trajectory.generate_s = generated - started
            trajectory.score_s = time.perf_counter() - generated
        return Group(group_id, task, trajectories)

    def _begin(self, task: Task, completion: Completion) -> Trajectory:
        return Trajectory(
            prompt_ids=task.prompt_ids,
            token_ids=list(completion.token_ids),
            sampled=[True] * len(completion.token_ids),
            logprobs=list(completion.logprobs),
            versions=list(completion.versions),
            finish=completion.finish,
            text=self._text(completion),
            experts=completion.experts,
        )

    async def _follow(self, task: Task, trajectory: Trajectory, request_id: str, ends: float) -> None:
        """Go on with the episode as its env says; a failure of the env is an outcome of the trajectory."""
        turn = 0
        try:
            async with asyncio.timeout(ends - time.perf_counter()), self._env() as env:
                while trajectory.finish is FinishReason.STOP:
                    with _env_may_fail():
                        messages = await env.follow(task, trajectory.text, turn)
                    if messages is None:
                        break
                    turn += 1
                    await self._next_turn(trajectory, messages, f"{request_id}.{turn}")
        except TimeoutError:
            await self._generator.abort(f"{request_id}.{turn}")
            trajectory.score = Score(None, Outcome.ENV_FAILED, detail=f"no end in {self._deadline_s:g} s")
        except EnvError as error:
            trajectory.score = Score(None, Outcome.ENV_FAILED, detail=str(error))
        if trajectory.finish is FinishReason.ABORT:
            trajectory.score = Score(None, Outcome.ENV_FAILED, detail="the generator gave the answer up")

    @asynccontextmanager
    async def _env(self) -> AsyncIterator[Env]:
        with _env_may_fail():
            env = self._make_env()
        try:
            yield env
        finally:
            with _env_may_fail():
                try:
                    await asyncio.wait_for(env.close(), _CLOSE_DEADLINE_S)
                except TimeoutError:
                    raise EnvError(f"the env has not closed in {_CLOSE_DEADLINE_S:g} s") from None

    async def _next_turn(self, trajectory: Trajectory, messages: Sequence[Message], request_id: str) -> None:
        read = self._between_turns(messages, trajectory.token_ids[-1])
        left = self._sampling.max_new_tokens - len(trajectory.token_ids) - len(read)
        if left <= 0:  # what the env says would not fit: the policy never reads it
            trajectory.finish = FinishReason.LENGTH
            return
        trajectory.token_ids += read
        trajectory.sampled += [False] * len(read)
        trajectory.logprobs += [0.0] * len(read)
        trajectory.versions += [-1] * len(read)
        context = (*trajectory.prompt_ids, *trajectory.token_ids)
        sampling = replace(self._sampling, max_new_tokens=left)
        (completion,) = await self._generator.generate(GenerateRequest(request_id, context, 1, sampling))
        trajectory.token_ids += completion.token_ids
        trajectory.sampled += [True] * len(completion.token_ids)
        trajectory.logprobs += completion.logprobs
        trajectory.versions += completion.versions
        trajectory.finish = completion.finish
        trajectory.text = self._text(completion)
        trajectory.experts = _continued(trajectory.experts, completion.experts)

    def _between_turns(self, messages: Sequence[Message], last_token: int) -> list[int]:
        """Tokens between the end of an answer and the start of the next, by the tokenizer's chat template."""
        answered = [Message(role="user", content=""), Message(role="assistant", content=_ANSWER_MARK)]
        rendered = self._tokenizer.apply_chat_template(
            [*answered, *messages], add_generation_prompt=True, tokenize=False
        )
        after = str(rendered).split(_ANSWER_MARK)[-1]
        end_of_turn = self._tokenizer.decode([last_token])  # sampled by the policy already: not read again
        return self._tokenizer.encode(after.removeprefix(end_of_turn), add_special_tokens=False)

    def _text(self, completion: Completion) -> str:
        return str(self._tokenizer.decode(completion.token_ids, skip_special_tokens=True))

    async def _score(self, task: Task, trajectories: list[Trajectory]) -> None:
        scores = await self._scorer.score(task, trajectories) if trajectories else []
        for trajectory, score in zip(trajectories, scores, strict=True):
            trajectory.score = score

    def _nothing(self, task: Task) -> Trajectory:
        score = Score(None, Outcome.ENV_FAILED, detail=f"no answer in {self._deadline_s:g} s")
        return Trajectory(task.prompt_ids, [], [], [], [], FinishReason.ABORT, "", score)


def _continued(earlier: Experts | None, later: Experts | None) -> Experts | None:
    """The experts of a conversation after one turn more, which reads the turns before it again: what was recorded
    when they were sampled stays."""
    if earlier is None or later is None:
        return later
    return np.concatenate([earlier, later[len(earlier) :]])
