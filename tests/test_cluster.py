"""Starting what a run is made of, and actors that have much in hand. Whole runs under Ray are in test_training.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from transformers import Qwen3MoeConfig

from rlvr.actors import RemoteGenerator
from rlvr.cluster import _Ground, connect_ray, disconnect_ray, start_generators, start_teacher
from rlvr.config import Config
from rlvr.generate import factory
from rlvr.generate.pool import GeneratorPool
from rlvr.generate.settings import EngineSettings, engine_settings
from rlvr.placement import ClusterError, Placement
from rlvr.types import GenerateRequest, Sampling


def test_a_machine_on_which_ray_starts_too_slowly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray says it

    monkeypatch.setattr(ray, "init", too_slow)
    with pytest.raises(ClusterError, match=r"timed out during startup.*cluster.backend=local, which needs no Ray"):
        connect_ray("local")


@pytest.fixture
def own_ray() -> Iterator[None]:
    connect_ray("local")
    yield
    disconnect_ray()


@pytest.mark.usefixtures("own_ray")
async def test_a_generator_is_heard_however_many_requests_it_has_in_hand() -> None:
    """Ray answers as many calls at once as an actor was started for: 1000, if nobody says otherwise.

    And whoever goes away leaves nothing in hand: Ray does not tell the actor of it.
    """

    class Slow:
        """Has answered nothing yet. Pickled with the test, which Ray's processes cannot import."""

        def __init__(self, *_: object) -> None:
            self.asked = 0

        async def generate(self, _: object) -> None:
            self.asked += 1
            await asyncio.Event().wait()

        async def abort(self, _: str) -> None:
            self.asked -= 1

        async def status(self) -> int:
            return self.asked

    requests, request = 1500, GenerateRequest("r", (1,), 1, Sampling(1))
    ground = _Ground(Config(model="tiny", data="none"), 1, [], 0)
    generator: Any = RemoteGenerator(ground.actor(Slow, Placement("generator-0", 0.0, 1, ()), {}), "generator-0")
    asked = [asyncio.ensure_future(generator.generate(request)) for _ in range(requests)]
    async with asyncio.timeout(60):
        while await generator.status() < requests:
            await asyncio.sleep(0.05)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        while await generator.status():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("start", [start_generators, start_teacher])
async def test_generators_without_a_learner_record_no_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[Config], Awaitable[GeneratorPool]]
) -> None:
    Qwen3MoeConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    settings: list[EngineSettings] = []

    class StandIn:
        async def start(self) -> None: ...

    def made(config: Config, name: str) -> StandIn:
        settings.append(engine_settings(config, name, config.model.name, gpu=False))
        return StandIn()

    monkeypatch.setattr(factory, "make_generator", made)
    config = Config.model_validate({"model": str(tmp_path), "data": "none", "cluster": {"backend": "local"}})
    assert engine_settings(config, "generator-0", str(tmp_path), gpu=False).record_experts
    await start(config)
    assert [one.record_experts for one in settings] == [False]


@pytest.mark.parametrize(
    ("count", "gpus", "beside_learner", "share"),
    [
        (1, 1, True, 0.4),
        (3, 1, True, 0.4 / 3),
        (1, 1, False, 0.85),
        (2, 1, False, 0.425),
        (3, 4, True, 0.85),
        (2, 2, False, 0.85),
    ],
)
def test_generators_on_one_gpu_share_what_a_learner_leaves_them(
    monkeypatch: pytest.MonkeyPatch, count: int, gpus: int, beside_learner: bool, share: float
) -> None:
    configs: list[Config] = []
    monkeypatch.setattr(_Ground, "actor", lambda ground, *_: configs.append(ground.config))
    config = Config.model_validate({"model": "tiny", "data": "none", "generator": {"count": count}})
    placements = [Placement(f"generator-{i}", 1.0, 1, ()) for i in range(count)]
    _Ground(config, 1, [], gpus).generators(placements, beside_learner=beside_learner)
    assert [c.generator.gpu_memory_share for c in configs] == [pytest.approx(share)] * count

    asked = config.model_copy(update={"generator": config.generator.model_copy(update={"gpu_memory_share": 0.3})})
    configs.clear()
    _Ground(asked, 1, [], gpus).generators(placements, beside_learner=beside_learner)
    assert [c.generator.gpu_memory_share for c in configs] == [0.3] * count
