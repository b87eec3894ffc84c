"""What the watchdog sees of a run that works, and what it is not asked about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rlvr
from rlvr import training
from rlvr.config import Config, Transport
from rlvr.demo.problems import Split, rows
from rlvr.learner_handle import LocalLearner
from rlvr.stages import Stages
from rlvr.training import Training
from rlvr.types import RLStream, Row
from rlvr.watchdog import Stalled


async def test_a_token_a_group_a_verdict_a_stage_a_teachers_answer_and_a_micro_batch_are_each_progress() -> None:
    counts = SimpleNamespace(generated_tokens=0, micro_batches=0, answers=0)

    async def statuses() -> list[Any]:
        return [counts, counts]

    async def micro_batches() -> int:
        return counts.micro_batches

    run: Any = SimpleNamespace(
        stages=Stages(),
        rollouts=SimpleNamespace(finished_groups=0),
        scorer=SimpleNamespace(ended_calls=0),
        roles=SimpleNamespace(
            pool=SimpleNamespace(statuses=statuses), learner=SimpleNamespace(micro_batches=micro_batches)
        ),
        teaching=SimpleNamespace(progress=lambda: counts.answers),
    )
    seen = [await Training.progress(run)]
    assert await Training.progress(run) == seen[0]

    counts.generated_tokens += 1
    seen.append(await Training.progress(run))
    counts.micro_batches += 1
    seen.append(await Training.progress(run))
    counts.answers += 1
    seen.append(await Training.progress(run))
    run.rollouts.finished_groups += 1
    seen.append(await Training.progress(run))
    run.scorer.ended_calls += 1
    seen.append(await Training.progress(run))
    with run.stages("learn"):
        seen.append(await Training.progress(run))
    assert len(set(seen)) == 7


def row(group: int) -> Row:
    return Row(group, [5] * 40, [False] + [True] * 39, RLStream([1.0] * 40, [-3.0] * 40, [0] * 40))


async def test_a_learner_tells_its_micro_batches_while_a_step_is_under_way(tmp_path: Path) -> None:
    """Those of the policy's own pass, of the scoring before two updates, and of a reference."""
    config = Config.model_validate(
        {
            "model": "tiny",
            "data": {"path": "none", "max_prompt_tokens": 8},
            "sampling": {"max_new_tokens": 56},
            "learner": {"token_budget": 64, "updates_per_step": 2},
            "algorithm": {"preset": "grpo", "beta": 0.1},
        }
    )
    learner = LocalLearner(config, tmp_path, Transport.SHARED_MEMORY)
    await learner.start()
    begun = await learner.micro_batches()
    step = asyncio.create_task(learner.train([row(group) for group in range(8)]))
    seen = set()
    while not step.done():
        seen.add(await learner.micro_batches())
        await asyncio.sleep(0.001)
    assert len(seen) > 3
    assert await learner.micro_batches() == begun + 8 + 8 + 8


def test_loading_and_exporting_have_deadlines_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer ones than the watchdog's, so it does not watch them."""
    watched, calls = False, []

    async def watch(work: Coroutine[Any, Any, None], progress: Callable[[], Awaitable[Hashable]], *_: object) -> None:
        nonlocal watched
        watched = True
        await work
        watched = False

    def noted(name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(LocalLearner, name)

        async def note(*arguments: Any) -> Any:
            calls.append((name, watched))
            return await call(*arguments)

        return note

    monkeypatch.setattr(training, "watch", watch)
    for name in ("load", "train", "export"):
        monkeypatch.setattr(LocalLearner, name, noted(name))

    async def letters(completion: str) -> float:
        return float(len(completion))

    for steps in (1, 2):
        settings: dict[str, Any] = {"resume": steps > 1, "steps": steps}
        rlvr.train(
            model="tiny",
            data={"path": rows(Split.TRAIN, 16, 0), "prompt": "question"},
            reward=letters,
            rollout={"groups_per_step": 2, "group_size": 2, "drop_zero_variance": False},
            sampling={"max_new_tokens": 4},
            generator={"engine": "transformers"},
            cluster={"backend": "local"},
            run_dir=tmp_path / "run",
            tensorboard=False,
            **settings,
        )
    assert calls == [("train", True), ("export", False), ("load", False), ("train", True), ("export", False)]


def test_a_verdict_that_an_evaluation_waits_for_in_vain_is_named_by_its_stage(tmp_path: Path) -> None:
    async def never(completion: str) -> float:
        await asyncio.Event().wait()
        return 0.0

    with pytest.raises(Stalled, match=r"nothing has moved for 1 s .*step 1, stage evaluate"):
        rlvr.train(
            model="tiny",
            data={"path": rows(Split.TRAIN, 4, 0), "prompt": "question"},
            evaluation_data={"path": rows(Split.HELD_OUT, 2, 0), "prompt": "question"},
            reward=never,
            sampling={"max_new_tokens": 4},
            generator={"engine": "transformers"},
            cluster={"backend": "local", "watchdog_s": 1},
            run_dir=tmp_path / "run",
            tensorboard=False,
        )
