"""Several generators as one: who gets a request, and that none may lie about what it holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from rlvr.config import DType
from rlvr.generate.pool import GeneratorPool, StaleGenerator
from rlvr.generate.protocol import GeneratorStatus
from rlvr.types import Completion, FinishReason, GenerateRequest, Sampling, ScoreRequest, TokenScores
from rlvr.weights.update import SharedFile, WeightReceipt, WeightUpdate

UPDATE = WeightUpdate(7, 0xABC, SharedFile(Path("w.safetensors")), DType.FLOAT32)
SCORES = TokenScores(np.zeros(2, np.float32), np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32), 7)


class FakeGenerator:
    """Holds every request until it is let go, and answers an update as it was told to."""

    def __init__(self, name: str, version: int = 7, checksum: int = 0xABC) -> None:
        self.name = name
        self.requests: list[str] = []
        self.scored = 0
        self.aborted: list[str] = []
        self.closed = False
        self.free = asyncio.Event()
        self._receipt = WeightReceipt(name, version, checksum, 0.0)

    async def start(self) -> GeneratorStatus:
        return await self.status()

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        self.requests.append(request.id)
        await self.free.wait()
        return [Completion([1], [0.0], [0], FinishReason.STOP)] * request.n

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    async def score(self, request: ScoreRequest) -> TokenScores:
        self.scored += 1
        await self.free.wait()
        return SCORES

    async def update_weights(self, update: WeightUpdate) -> WeightReceipt:
        return self._receipt

    async def status(self) -> GeneratorStatus:
        return GeneratorStatus(self.name, 0, 0, len(self.requests), 0, 0.0, 0.0, 0.0)

    async def close(self) -> None:
        self.closed = True


def request(request_id: str, n: int = 1) -> GenerateRequest:
    return GenerateRequest(request_id, (1, 2), n, Sampling(8))


async def begin(pool: GeneratorPool, *requests: GenerateRequest) -> list[asyncio.Task[list[Completion]]]:
    """Send requests one after another, without waiting for answers."""
    tasks = []
    for each in requests:
        tasks.append(asyncio.create_task(pool.generate(each)))
        await asyncio.sleep(0)
    return tasks


async def test_a_request_goes_to_the_generator_with_the_fewest_sequences() -> None:
    a, b = FakeGenerator("a"), FakeGenerator("b")
    pool = GeneratorPool([a, b])
    tasks = await begin(pool, request("g0", n=4), request("g1", n=1), request("g2", n=2), request("g3", n=2))
    assert (a.requests, b.requests) == (["g0"], ["g1", "g2", "g3"])
    b.free.set()
    assert [len(await task) for task in tasks[1:]] == [1, 2, 2]
    tasks += await begin(pool, request("g4"))
    assert b.requests[-1] == "g4", "what was answered is no load"
    a.free.set()
    await asyncio.gather(*tasks)


async def test_a_request_that_fails_or_is_cancelled_is_no_load_either() -> None:
    a, b = FakeGenerator("a"), FakeGenerator("b")
    pool = GeneratorPool([a, b])
    (task,) = await begin(pool, request("g0", n=4))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await begin(pool, request("g1", n=1))
    assert a.requests == ["g0", "g1"]


async def test_the_turns_of_a_group_stay_with_its_generator_also_after_a_pause() -> None:
    a, b = FakeGenerator("a"), FakeGenerator("b")
    a.free.set()
    b.free.set()
    pool = GeneratorPool([a, b])
    await pool.generate(request("g0", n=2))
    a.free.clear()
    waiting = await begin(pool, request("g1", n=8))
    assert a.requests == ["g0", "g1"]
    turns = await begin(pool, request("g0.0.1"), request("g0.1.1"), request("g0.0.2"))
    assert a.requests == ["g0", "g1", "g0.0.1", "g0.1.1", "g0.0.2"]
    assert b.requests == []
    a.free.set()
    await asyncio.gather(*waiting, *turns)


async def test_training_and_evaluation_groups_of_one_number_are_not_confused() -> None:
    a, b = FakeGenerator("a"), FakeGenerator("b")
    await begin(GeneratorPool([a, b]), request("g0", n=2), request("evaluation0", n=2))
    assert (a.requests, b.requests) == (["g0"], ["evaluation0"])


async def test_scoring_is_spread_too() -> None:
    a, b = FakeGenerator("a"), FakeGenerator("b")
    pool = GeneratorPool([a, b])
    scoring = [asyncio.create_task(pool.score(ScoreRequest((1, 2, 3)))) for _ in range(4)]
    await asyncio.sleep(0)
    assert (a.scored, b.scored) == (2, 2)
    a.free.set()
    b.free.set()
    assert await asyncio.gather(*scoring) == [SCORES] * 4


async def test_all_are_asked_to_abort_and_to_close() -> None:
    generators = [FakeGenerator("a"), FakeGenerator("b")]
    pool = GeneratorPool(generators)
    await pool.abort("g0")
    await pool.close()
    assert [(g.aborted, g.closed) for g in generators] == [(["g0"], True)] * 2


async def test_generators_that_hold_what_was_sent_answer_with_their_receipts() -> None:
    pool = GeneratorPool([FakeGenerator("a"), FakeGenerator("b")])
    assert pool.version == 0
    receipts = await pool.update_weights(UPDATE)
    assert pool.version == 7
    assert [(r.generator, r.version, r.checksum) for r in receipts] == [("a", 7, 0xABC), ("b", 7, 0xABC)]


@pytest.mark.parametrize(
    ("liar", "message"),
    [
        (FakeGenerator("b", version=6), "generator b answers with version 6 after version 7 was sent"),
        (FakeGenerator("b", checksum=0xABD), r"generator b holds other weights .*0x0000000000000abd.*0x0*abc"),
    ],
    ids=["version", "checksum"],
)
async def test_one_that_holds_something_else_is_named_and_stops_the_run(liar: FakeGenerator, message: str) -> None:
    with pytest.raises(StaleGenerator, match=message):
        await GeneratorPool([FakeGenerator("a"), liar]).update_weights(UPDATE)


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one generator"):
        GeneratorPool([])
