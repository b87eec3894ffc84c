"""One engine of each kind for all tests of this folder: starting one takes seconds."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from rlvr.config import DType
from rlvr.generate.protocol import Generator
from rlvr.generate.settings import EngineSettings
from rlvr.types import Completion, GenerateRequest, Sampling
from rlvr.weights.transport import publish_file, published_weights
from rlvr.weights.update import WeightReceipt, WeightUpdate

from . import tiny_models

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ENGINES = [
    pytest.param("transformers"),
    pytest.param("vllm", marks=pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")),
]


def make(engine: str, settings: EngineSettings) -> Generator:
    if engine == "vllm":
        from rlvr.generate.vllm_inprocess import InProcessVLLM

        return InProcessVLLM(settings)
    from rlvr.generate.transformers import TransformersGenerator

    return TransformersGenerator(settings)


@dataclass
class Subject:
    """A running generator, and the model it was started from, to hold it against."""

    engine: str
    generator: Generator
    model: PreTrainedModel  # the weights of the version published last
    folder: Path  # for published versions
    model_folder: Path
    version: int = 0
    _names: Iterator[int] = field(default_factory=itertools.count)

    async def generate(self, prompt: tuple[int, ...], sampling: Sampling, n: int = 1) -> list[Completion]:
        return await self.generator.generate(GenerateRequest(self.name(), prompt, n, sampling))

    def name(self) -> str:
        return f"r{next(self._names)}"

    def publish(self, dtype: DType = DType.FLOAT32) -> WeightUpdate:
        """The next version, with the weights that `model` has now."""
        self.version += 1
        return publish_file(self.folder, self.version, published_weights(self.model), dtype)

    def reset_model(self) -> None:
        """The weights that the engine was started with. They reach it by the next `update`."""
        self.model.load_state_dict(tiny_models.load(self.model_folder).state_dict())

    async def update(self) -> WeightReceipt:
        return await self.generator.update_weights(self.publish())

    async def generate_over(self, update: WeightUpdate, prompt: tuple[int, ...], tokens: int) -> Completion:
        """An answer that this update reaches after an eighth of it: whatever the speed, not before and not after it."""
        before = (await self.generator.status()).generated_tokens
        running = asyncio.create_task(self.generate(prompt, Sampling(tokens)))
        while (await self.generator.status()).generated_tokens < before + tokens // 8:
            await asyncio.sleep(0.001)
        assert (await self.generator.update_weights(update)).checksum == update.checksum
        (completion,) = await running
        return completion


def settings_for(folder: Path, dtype: DType = DType.FLOAT32) -> EngineSettings:
    return EngineSettings(
        "generator-0", str(folder), dtype, max_tokens=384, max_sequences=32, seed=0, kv_cache_bytes=32 * 2**20
    )


@pytest.fixture(scope="session", params=ENGINES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    folder = tmp_path_factory.mktemp("qwen3")
    model = tiny_models.save(tiny_models.qwen3(), folder)
    generator = make(request.param, settings_for(folder))
    asyncio.run(generator.start())
    yield Subject(request.param, generator, model, tmp_path_factory.mktemp("weights"), folder)
    asyncio.run(generator.close())


@pytest.fixture
async def subject(running: Subject) -> Subject:
    """The engine, with the weights it was started with."""
    running.reset_model()
    await running.update()
    return running
