"""What a run is told of vLLM's asynchronous engine. A stand-in samples, in the engine's own words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvr.config import DType
from rlvr.generate import vllm_async
from rlvr.generate.vllm_async import AsyncVLLM
from rlvr.types import GenerateRequest, Sampling
from rlvr.weights.update import SharedFile, WeightUpdate

from .conftest import settings_for

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


class Processor:
    """Takes in what each step sampled."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def process_outputs(self, outputs: list[Any], timestamp: float, *, weight_version: str) -> str:
        self.taken += [token for output in outputs for token in output.new_token_ids]
        return weight_version


class Engine:
    """Answers when it may, with what was taken in till then; so with updates."""

    def __init__(self) -> None:
        self.output_processor = Processor()
        self.may_answer, self.may_load = asyncio.Event(), asyncio.Event()

    def step(self, *tokens: list[int]) -> None:
        outputs = [SimpleNamespace(new_token_ids=new) for new in tokens]
        assert self.output_processor.process_outputs(outputs, 0.0, weight_version="0") == "0"

    async def generate(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        await self.may_answer.wait()
        tokens = self.output_processor.taken
        logprobs = [{token: SimpleNamespace(logprob=-1.0)} for token in tokens]
        spans = [SimpleNamespace(version="0", start=0, end=len(tokens))]
        yield SimpleNamespace(
            outputs=[
                SimpleNamespace(
                    token_ids=tokens,
                    logprobs=logprobs,
                    weight_versions=spans,
                    finish_reason="length",
                    routed_experts=None,
                )
            ]
        )

    async def collective_rpc(self, name: str, args: tuple[Any, ...] = ()) -> list[dict[str, int]]:
        if name == "rlvr_load_file":
            await self.may_load.wait()
        return [{"weight": 1}]

    async def update_weight_version(self, version: str) -> None: ...
    async def pause_generation(self, **_: Any) -> None: ...
    async def resume_generation(self) -> None: ...


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> tuple[AsyncVLLM, Engine]:
    engine = Engine()
    monkeypatch.setattr(vllm_async, "_build_engine", lambda *_: engine)
    generator = AsyncVLLM(settings_for(Path("none")))
    await generator.start()
    return generator, engine


async def test_tokens_are_counted_as_they_come_and_once(running: tuple[AsyncVLLM, Engine]) -> None:
    generator, engine = running
    asked = asyncio.create_task(generator.generate(GenerateRequest("a", (5, 6), 1, Sampling(4))))
    await asyncio.sleep(0)
    counts = []
    for new in ([7], [8, 9], []):
        engine.step(new)
        counts.append((await generator.status()).generated_tokens)
    assert counts == [1, 3, 3]
    engine.may_answer.set()
    (completion,) = await asked
    assert completion.token_ids == [7, 8, 9]
    assert (await generator.status()).generated_tokens == 3


async def test_an_update_takes_its_time_though_requests_come_and_go(running: tuple[AsyncVLLM, Engine]) -> None:
    generator, engine = running
    before = asyncio.create_task(generator.generate(GenerateRequest("before", (5, 6), 1, Sampling(4))))
    await asyncio.sleep(0)
    update = WeightUpdate(1, 1, SharedFile(Path("none")), DType.FLOAT32)
    updating = asyncio.create_task(generator.update_weights(update))
    await asyncio.sleep(0.01)
    start = await generator.status()
    came = asyncio.create_task(generator.generate(GenerateRequest("came", (5, 6), 1, Sampling(4))))
    await asyncio.sleep(0.05)
    came.cancel()
    before.cancel()
    await asyncio.gather(came, before, return_exceptions=True)
    await asyncio.sleep(0.05)
    end = await generator.status()
    assert end.updating_s - start.updating_s >= 0.1
    assert (end.busy_s, end.waiting_s) == (start.busy_s, start.waiting_s)

    engine.may_load.set()
    await updating
    asked = asyncio.create_task(generator.generate(GenerateRequest("after", (5, 6), 1, Sampling(4))))
    await asyncio.sleep(0.02)
    last = await generator.status()
    assert last.busy_s - end.busy_s >= 0.01
    engine.may_answer.set()
    await asked
