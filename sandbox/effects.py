"""What a call waits for, apart from how: calls are written once, as generators that yield these waits.

`drive` waits in a thread, `drive_async` on an event loop.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from rlvr.sandbox.link import Exchange

T = TypeVar("T")
R = TypeVar("R", covariant=True)


class Wait(Protocol):
    def blocking(self) -> Any: ...

    async def on_loop(self) -> Any: ...


Steps = Generator[Wait, Any, R]


def drive(steps: Steps[T]) -> T:
    try:
        wait = next(steps)
        while True:
            try:
                value = wait.blocking()
            except BaseException as error:  # noqa: BLE001 - the steps raise it again, after they cleaned up
                wait = steps.throw(error)
            else:
                wait = steps.send(value)
    except StopIteration as end:
        result: T = end.value
        return result


async def drive_async(steps: Steps[T]) -> T:
    try:
        wait = next(steps)
        while True:
            try:
                value = await wait.on_loop()
            except BaseException as error:  # noqa: BLE001 - as above; cancelling too
                wait = steps.throw(error)
            else:
                wait = steps.send(value)
    except StopIteration as end:
        result: T = end.value
        return result


class Doing(Generic[T]):
    """Something that takes a while and cannot be awaited: on a loop, it is done in a thread."""

    def __init__(self, action: Callable[[], T]) -> None:
        self._action = action

    def blocking(self) -> T:
        return self._action()

    async def on_loop(self) -> T:
        return await asyncio.to_thread(self._action)


class Claim(Generic[T]):
    """A turn that comes. `abandon` is called if the caller goes before that."""

    def __init__(self, future: Future[T], abandon: Callable[[Future[T]], None]) -> None:
        self._future = future
        self._abandon = abandon

    def blocking(self) -> T:
        try:
            return self._future.result()
        except BaseException:
            self._abandon(self._future)
            raise

    async def on_loop(self) -> T:
        if self._future.done():
            return self._future.result()
        try:
            return await asyncio.wrap_future(self._future)
        except BaseException:
            self._abandon(self._future)
            raise


class AnyDone:
    """Until at least one of these exchanges is done."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._exchanges = exchanges

    def blocking(self) -> None:
        while not self._advance():
            poll = select.poll()
            for exchange in self._exchanges:
                poll.register(exchange.server.connection, select.POLLIN | (select.POLLOUT if exchange.unsent else 0))
            poll.poll(max(0.0, self._deadline() - time.monotonic()) * 1000 + 1)

    async def on_loop(self) -> None:
        if self._advance():
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def advance() -> None:
            if self._advance() and not done.done():
                done.set_result(None)
            for exchange in self._exchanges:
                if not exchange.unsent:
                    loop.remove_writer(exchange.server.connection)

        timer = loop.call_later(max(0.0, self._deadline() - time.monotonic()) + 0.01, advance)
        for exchange in self._exchanges:
            loop.add_reader(exchange.server.connection, advance)
            if exchange.unsent:
                loop.add_writer(exchange.server.connection, advance)
        try:
            await done
        finally:
            timer.cancel()
            for exchange in self._exchanges:
                loop.remove_reader(exchange.server.connection)
                loop.remove_writer(exchange.server.connection)

    def _advance(self) -> bool:
        advanced = [exchange.advance() for exchange in self._exchanges]  # all of them, each time
        return any(advanced)

    def _deadline(self) -> float:
        return min(exchange.deadline for exchange in self._exchanges)
