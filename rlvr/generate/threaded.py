"""The generator protocol over an engine in this process, which one thread steps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from rlvr.generate.engine_thread import EngineThread, Phase, Steppable
from rlvr.generate.protocol import GeneratorStatus
from rlvr.generate.settings import EngineSettings, check_request
from rlvr.types import Completion, GenerateRequest, ScoreRequest, TokenScores
from rlvr.weights.transport import read_weights
from rlvr.weights.update import WeightReceipt, WeightUpdate


class Engine(Steppable, Protocol):
    """A model and the requests in its hands. Used on one thread, but for reading these three."""

    version: int
    checksum: int
    generated_tokens: int

    @property
    def running(self) -> int:
        """Sequences in hand."""
        ...

    def add(self, request: GenerateRequest, future: Future[list[Completion]]) -> None: ...

    def add_scoring(self, request: ScoreRequest, future: Future[TokenScores]) -> None: ...

    def abort(self, request_id: str) -> None:
        """Take a request back and answer it with what it has. Nothing happens if it is not in hand."""
        ...

    def load(self, update: WeightUpdate, weights: dict[str, Any]) -> None:
        """Take up a version. `weights` are those of the update's source, read already."""
        ...


class ThreadedGenerator:
    """`make_engine` is called on the thread that will step it."""

    def __init__(self, settings: EngineSettings, make_engine: Callable[[], Engine]) -> None:
        self._settings = settings
        self._make_engine = make_engine
        self._thread = EngineThread(settings.name)
        self._engine: Engine | None = None

    async def start(self) -> GeneratorStatus:
        await self._thread.start(self._make)
        return await self.status()

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        check_request(request, self._settings.max_tokens)
        engine = self._started()
        try:
            return await self._thread.request(lambda future: engine.add(request, future))
        except asyncio.CancelledError:
            self._thread.post(lambda: engine.abort(request.id))
            raise

    async def abort(self, request_id: str) -> None:
        engine = self._started()
        await self._thread.call(lambda: engine.abort(request_id))

    async def score(self, request: ScoreRequest) -> TokenScores:
        engine = self._started()
        return await self._thread.request(lambda future: engine.add_scoring(request, future))

    async def update_weights(self, update: WeightUpdate) -> WeightReceipt:
        engine = self._started()
        # Read (and fetched from another node) while generation goes on; only the copying stalls it.
        weights = await asyncio.to_thread(read_weights, update.source)

        def load() -> float:
            started = time.perf_counter()
            engine.load(update, weights)
            return time.perf_counter() - started

        stall_s = await self._thread.call(load, Phase.UPDATING)
        return WeightReceipt(self._settings.name, engine.version, engine.checksum, stall_s)

    async def status(self) -> GeneratorStatus:
        engine = self._started()
        return self._thread.clock.status(
            self._settings.name, engine.version, engine.checksum, engine.running, engine.generated_tokens
        )

    async def close(self) -> None:
        await self._thread.close()
        self._engine = None

    def _make(self) -> Engine:
        self._engine = self._make_engine()
        return self._engine

    def _started(self) -> Engine:
        if self._engine is None:
            raise RuntimeError(f"{self._settings.name}: not running; `start` comes first and `close` last")
        return self._engine
