"""One thread that steps an engine, and executes commands between two steps.

An engine is not thread-safe, and a step must not block the caller's event loop. So all that touches the engine
is a command to this thread; callers await its answer.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from rlvr.generate.protocol import GeneratorStatus

T = TypeVar("T")

END_S = 60.0  # for the step or command under way when the thread is asked to end


class GeneratorFailed(RuntimeError):
    """The engine broke in a step, or was closed: nothing it was asked will be answered."""


class Steppable(Protocol):
    """What the thread drives. All three are called on the thread alone."""

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        ...

    def step(self) -> None:
        """Continue all sequences in hand by one token."""
        ...

    def fail(self, error: GeneratorFailed) -> None:
        """Answer every caller who waits with this error."""
        ...


class Phase(StrEnum):
    """What the thread does at a time."""

    BUSY = "busy"
    UPDATING = "updating"
    WAITING = "waiting"


class PhaseClock:
    """Seconds spent in each phase, which add up to the time since the start."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._phase = Phase.WAITING
        self._since = time.perf_counter()
        self._lock = threading.Lock()

    def enter(self, phase: Phase) -> None:
        with self._lock:
            now = time.perf_counter()
            self._seconds[self._phase] += now - self._since
            self._phase, self._since = phase, now

    def seconds(self) -> dict[Phase, float]:
        with self._lock:
            running = {self._phase: time.perf_counter() - self._since}
            return {phase: spent + running.get(phase, 0.0) for phase, spent in self._seconds.items()}

    def status(self, name: str, version: int, checksum: int, running: int, generated_tokens: int) -> GeneratorStatus:
        """A generator's status, with the seconds of this clock."""
        seconds = self.seconds()
        return GeneratorStatus(
            name=name,
            version=version,
            checksum=checksum,
            running=running,
            generated_tokens=generated_tokens,
            busy_s=seconds[Phase.BUSY],
            updating_s=seconds[Phase.UPDATING],
            waiting_s=seconds[Phase.WAITING],
        )


@dataclass(frozen=True, slots=True)
class _Command(Generic[T]):
    """Something to do between two steps. `begin` answers the future, at once or in a later step."""

    begin: Callable[[Future[T]], None]
    future: Future[T]
    phase: Phase

    def execute(self) -> None:
        try:
            self.begin(self.future)
        except BaseException as error:
            self.future.set_exception(error)  # it belongs to the caller; the engine goes on
            if self.phase is Phase.UPDATING:
                raise  # but not with weights that are half loaded, and of no version


class EngineThread:
    """Runs an engine until it is closed or fails. A failure reaches every caller, those of later calls too."""

    def __init__(self, name: str) -> None:
        self.clock = PhaseClock()
        self._name = name
        self._commands: queue.SimpleQueue[_Command[Any]] = queue.SimpleQueue()
        self._engine: Steppable | None = None
        self._failure: GeneratorFailed | None = None
        self._closing = False
        self._guard = threading.Lock()  # nothing enters the queue after those in it were told of a failure
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def start(self, load: Callable[[], Steppable]) -> None:
        """Start the thread, and build the engine on it. Raises what `load` raises."""

        def build() -> None:
            self._engine = load()
            self.clock = PhaseClock()  # seconds count from here: loading is not work

        self._thread.start()
        await self.call(build)

    async def call(self, command: Callable[[], T], phase: Phase = Phase.BUSY) -> T:
        """The command's result, executed between two steps. Raises what it raises, or GeneratorFailed."""
        return await self.request(_answering(command), phase)

    async def request(self, begin: Callable[[Future[T]], None], phase: Phase = Phase.BUSY) -> T:
        """Hand the engine a future, and wait until a step answers it. Raises what `begin` raises, what the engine
        answers, or GeneratorFailed."""
        return await asyncio.wrap_future(self._put(begin, phase))

    def post(self, command: Callable[[], T]) -> None:
        """Execute a command between two steps; its caller does not wait, and after a failure it is dropped."""
        self._put(_answering(command), Phase.BUSY)

    def _put(self, begin: Callable[[Future[T]], None], phase: Phase) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # a caller that goes away must not break the answer
        with self._guard:
            if self._failure is None:
                self._commands.put(_Command(begin, future, phase))
            else:
                future.set_exception(self._failure)
        return future

    async def close(self) -> None:
        """End the thread. Whoever still waits gets GeneratorFailed.

        Raises it where a step does not return: the thread is left behind, and ends with the process.
        """

        def stop() -> None:
            self._closing = True

        if self._thread.is_alive():
            self.post(stop)
            await asyncio.to_thread(self._thread.join, END_S)
            if self._thread.is_alive():
                raise GeneratorFailed(f"{self._name} has not ended in {END_S:g} s: it hangs in a step or in a command")

    # ---------------------------------------------------------------- on the thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._execute_commands()
                if self._engine is not None and self._engine.has_work() and not self._closing:
                    self.clock.enter(Phase.BUSY)
                    self._engine.step()
            self._end(GeneratorFailed(f"{self._name} was closed"))
        except BaseException as error:
            failure = GeneratorFailed(f"{self._name} broke: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._end(failure)
            raise  # threading prints the traceback: where it broke is not lost

    def _execute_commands(self) -> None:
        """All that are in the queue; where there is nothing to step, wait for the first."""
        if self._engine is None or not self._engine.has_work():
            self.clock.enter(Phase.WAITING)
            self._execute(self._commands.get())
        while not self._closing and not self._commands.empty():  # only this thread takes from the queue
            self._execute(self._commands.get())

    def _execute(self, command: _Command[Any]) -> None:
        self.clock.enter(command.phase)
        command.execute()

    def _end(self, failure: GeneratorFailed) -> None:
        with self._guard:
            self._failure = failure
        self.clock.enter(Phase.WAITING)
        if self._engine is not None:
            self._engine.fail(failure)
            self._engine = None  # a large model, which an error's traceback may keep from being freed otherwise
        while not self._commands.empty():
            self._commands.get().future.set_exception(failure)


def _answering(command: Callable[[], T]) -> Callable[[Future[T]], None]:
    def begin(future: Future[T]) -> None:
        future.set_result(command())

    return begin
