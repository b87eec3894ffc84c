"""Nobody waits for ever: whatever breaks an engine reaches all who wait for it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from rlvr.config import DType
from rlvr.generate import engine_thread, transformers, vllm_inprocess
from rlvr.generate.engine_thread import EngineThread, GeneratorFailed, Phase
from rlvr.types import GenerateRequest, Sampling, ScoreRequest
from rlvr.weights.transport import publish_file

from .conftest import Subject, make, settings_for

# A thread that breaks prints its traceback on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class CountingEngine:
    """Answers each request after three steps; breaks at a step, if told to."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.steps = 0
        self.waiting: list[tuple[int, Future[int]]] = []
        self.breaks_at = breaks_at

    def ask(self, future: Future[int]) -> None:
        self.waiting.append((self.steps + 3, future))

    def has_work(self) -> bool:
        return bool(self.waiting)

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.breaks_at:
            raise ZeroDivisionError("step of doom")
        for due, future in [w for w in self.waiting if w[0] <= self.steps]:
            self.waiting.remove((due, future))
            future.set_result(self.steps)

    def fail(self, error: GeneratorFailed) -> None:
        for _, future in self.waiting:
            future.set_exception(error)


async def started(engine: CountingEngine) -> EngineThread:
    thread = EngineThread("generator-7")
    await thread.start(lambda: engine)
    return thread


async def test_requests_are_answered_by_later_steps_and_commands_between_them() -> None:
    engine = CountingEngine()
    thread = await started(engine)
    answers = await asyncio.gather(*(thread.request(engine.ask) for _ in range(5)))
    assert all(3 <= answer <= engine.steps for answer in answers)
    assert await thread.call(threading.get_ident) != threading.get_ident()
    await thread.close()


async def test_a_step_that_breaks_reaches_all_who_wait_and_all_who_come_later() -> None:
    engine = CountingEngine(breaks_at=2)
    thread = await started(engine)
    answers = await asyncio.wait_for(
        asyncio.gather(*(thread.request(engine.ask) for _ in range(3)), return_exceptions=True), 10
    )
    for answer in answers:
        assert isinstance(answer, GeneratorFailed)
        assert "generator-7 broke: ZeroDivisionError: step of doom" in str(answer)
        assert isinstance(answer.__cause__, ZeroDivisionError)
    with pytest.raises(GeneratorFailed, match="step of doom"):
        await asyncio.wait_for(thread.call(lambda: 1), 10)
    await asyncio.wait_for(thread.close(), 10)


async def test_an_error_of_a_command_is_its_callers_alone() -> None:
    engine = CountingEngine()
    thread = await started(engine)
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0)
    assert await thread.request(engine.ask) == 3
    await thread.close()


async def test_closing_answers_those_who_wait() -> None:
    engine = CountingEngine()
    engine.step = lambda: None  # type: ignore[method-assign]
    thread = await started(engine)
    waiting = asyncio.create_task(thread.request(engine.ask))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(thread.close(), 10)
    with pytest.raises(GeneratorFailed, match="closed"):
        await waiting


async def test_a_step_that_hangs_does_not_keep_the_closing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_thread, "END_S", 0.1)
    engine, may_end = CountingEngine(), threading.Event()
    engine.step = may_end.wait  # type: ignore[method-assign,assignment]
    thread = await started(engine)
    waiting = asyncio.create_task(thread.request(engine.ask))
    await asyncio.sleep(0.05)
    with pytest.raises(GeneratorFailed, match=r"generator-7 has not ended in 0\.1 s"):
        await asyncio.wait_for(thread.close(), 10)
    may_end.set()
    with pytest.raises(GeneratorFailed, match="closed"):
        await waiting


async def test_closing_lets_go_of_the_engine() -> None:
    engine = CountingEngine()
    thread, held = await started(engine), weakref.ref(engine)
    await thread.close()
    del engine
    assert held() is None


async def test_a_model_that_cannot_be_loaded_is_the_starters_error() -> None:
    def load() -> CountingEngine:
        raise FileNotFoundError("no such model")

    thread = EngineThread("generator-7")
    with pytest.raises(FileNotFoundError, match="no such model"):
        await thread.start(load)
    await asyncio.wait_for(thread.close(), 10)


async def test_the_phases_tell_updates_from_work() -> None:
    engine = CountingEngine()
    thread = await started(engine)
    pause = threading.Event()
    await thread.call(lambda: pause.wait(0.2), Phase.UPDATING)
    seconds = thread.clock.seconds()
    assert 0.2 <= seconds[Phase.UPDATING] < 0.3
    assert seconds[Phase.BUSY] < 0.1
    await thread.close()


async def test_weights_that_do_not_fit_end_the_generator(running: Subject, tmp_path: Path) -> None:
    """Half loaded weights are of no version: nothing may be sampled from them."""
    generator = make(running.engine, settings_for(running.model_folder))
    await generator.start()
    asked = asyncio.create_task(generator.generate(GenerateRequest("a", (5, 6, 7), 2, Sampling(370))))
    while not (await generator.status()).running:
        await asyncio.sleep(0.01)
    other_model = publish_file(tmp_path, 1, {"model.layers.0.nothing.weight": torch.ones(3, 3)}, DType.FLOAT32)
    with pytest.raises((ValueError, KeyError, AttributeError)):
        await generator.update_weights(other_model)
    with pytest.raises(GeneratorFailed, match="generator-0 broke"):
        await asyncio.wait_for(asked, 10)
    with pytest.raises(GeneratorFailed, match="generator-0 broke"):
        await generator.generate(GenerateRequest("b", (5, 6, 7), 1, Sampling(5)))
    await asyncio.wait_for(generator.close(), 10)


async def test_a_scoring_that_breaks_the_engine_is_told_so_too(
    running: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("scores of doom")

    for module in (transformers, vllm_inprocess):
        monkeypatch.setattr(module, "scores_from_logits", broken)
    generator = make(running.engine, settings_for(running.model_folder))
    await generator.start()
    for request in (ScoreRequest((5, 6, 7), temperature=0.5), ScoreRequest((5, 6, 7))):
        with pytest.raises(GeneratorFailed, match="generator-0 broke: ZeroDivisionError: scores of doom"):
            await asyncio.wait_for(generator.score(request), 60)
    await asyncio.wait_for(generator.close(), 10)
