"""Ray where it cannot be started, and actors that have much in hand. Whole runs under Ray are in test_training.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from rlvr.actors import RemoteGenerator
from rlvr.cluster import _Ground, connect_ray, disconnect_ray
from rlvr.config import Config
from rlvr.placement import ClusterError, Placement


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
    """Ray answers as many calls at once as an actor was started for: 1000, if nobody says otherwise."""

    class Slow:
        """Has answered nothing yet. Pickled with the test, which Ray's processes cannot import."""

        def __init__(self, *_: object) -> None:
            self.asked = 0

        async def generate(self, _: object) -> None:
            self.asked += 1
            await asyncio.Event().wait()

        async def status(self) -> int:
            return self.asked

    requests = 1500
    ground = _Ground(Config(model="tiny", data="none"), 1, [], 0)
    generator: Any = RemoteGenerator(ground.actor(Slow, Placement("generator-0", 0.0, 1, ()), {}), "generator-0")
    asked = [asyncio.ensure_future(generator.generate(None)) for _ in range(requests)]
    async with asyncio.timeout(60):
        while await generator.status() < requests:
            await asyncio.sleep(0.05)
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
