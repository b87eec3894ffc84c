"""A pool of warm processes that can be killed, for functions that may hang, crash or eat memory.

    with WorkerPool(size=4, preload=("sympy",)) as pool:
        value = await pool.run(function, argument, deadline_s=1.0)      # on any event loop
        value = pool.run_blocking(function, argument, deadline_s=1.0)   # in any thread

Workers are forked from a clean process that has the preloaded modules imported (`rlvr.workers.mother`), so a
fresh one costs milliseconds. There is no thread and no background task on this side: a caller takes a slot,
speaks with its worker over a non-blocking socket, and gives the slot back; an idle pool costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from rlvr.workers.link import (
    Call,
    Exchange,
    FunctionPickles,
    Mother,
    Worker,
    WorkerCrashed,
    WorkerFailed,
    WorkerStartError,
    WorkerTimeout,
    converse_async,
    converse_blocking,
    read_reply,
)
from rlvr.workers.mother import Setup

__all__ = ["WorkerCrashed", "WorkerFailed", "WorkerPool", "WorkerStartError", "WorkerTimeout"]

T = TypeVar("T")


class WorkerPool:
    """Runs functions in at most `size` processes, each under its own deadline.

    `preload` names modules to import once, beforehand. A function that is imported by name (not defined in a
    notebook or a script) is imported by the worker on its first call, within that call's deadline: name its
    module here if that is slow. `memory_limit_bytes` caps the address space of a worker (RLIMIT_AS), shared
    libraries and preloaded modules included. A call whose process dies is given to another, `tries` times in all and
    within its deadline: for functions that may run twice.

    Functions and arguments travel by cloudpickle. A function object is pickled once: what it closed over then
    is what workers see. No process is started before the first call, and none outlives this one.
    """

    def __init__(
        self, *, size: int, preload: tuple[str, ...] = (), memory_limit_bytes: int | None = None, tries: int = 1
    ) -> None:
        if size < 1:
            raise ValueError(f"size: a pool needs at least one worker, got {size}")
        if tries < 1:
            raise ValueError(f"tries: a call is tried at least once, got {tries}")
        self.size = size
        self._setup = Setup(preload, memory_limit_bytes)
        self._tries = tries
        self._owner_pid = os.getpid()
        self._mother: Mother | None = None
        self._mother_lock = threading.Lock()
        self._pickles = FunctionPickles()
        self._lock = threading.Lock()
        self._idle = [_Slot() for _ in range(size)]
        self._waiting: deque[Future[_Slot]] = deque()
        self._closed = False

    async def run(self, function: Callable[..., T], /, *args: Any, deadline_s: float, **kwargs: Any) -> T:
        """Call `function(*args, **kwargs)` in a worker.

        The deadline counts from when a worker takes the call, not from when it was queued. A call that is
        cancelled takes its worker with it. Raises WorkerTimeout, WorkerCrashed, WorkerFailed or
        WorkerStartError, and what pickling the arguments raises.
        """
        call = self._pickles.call(function, args, kwargs)
        with self._lease(await self._take_async()) as slot:
            tries = _Tries(self._tries, deadline_s)
            while True:
                if not slot.ready():
                    # In a thread, because the first start takes as long as the preloaded modules take to import.
                    slot.worker = await asyncio.to_thread(self._start_worker)
                with tries.next() as remaining_s:
                    return read_reply(await converse_async(slot.begin(call), remaining_s))

    def run_blocking(self, function: Callable[..., T], /, *args: Any, deadline_s: float, **kwargs: Any) -> T:
        """The same as `run`, for a caller without an event loop. Safe to call from many threads at once."""
        call = self._pickles.call(function, args, kwargs)
        with self._lease(self._take_blocking()) as slot:
            tries = _Tries(self._tries, deadline_s)
            while True:
                if not slot.ready():
                    slot.worker = self._start_worker()
                with tries.next() as remaining_s:
                    return read_reply(converse_blocking(slot.begin(call), remaining_s))

    def close(self) -> None:
        """End all processes. Calls in hand raise WorkerCrashed, queued and later ones RuntimeError."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            waiting, self._waiting = self._waiting, deque()
        for slot in idle:
            slot.discard()
        for claim in waiting:
            if claim.set_running_or_notify_cancel():
                claim.set_exception(_closed_error())
        with self._mother_lock:
            if self._mother is not None:
                self._mother.end()
                self._mother = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self) -> Future[_Slot]:
        """A slot, now if one is free, else when it is this claim's turn."""
        claim: Future[_Slot] = Future()
        with self._lock:
            if self._closed:
                raise _closed_error()
            if os.getpid() != self._owner_pid:
                raise RuntimeError("a WorkerPool cannot be used in a forked copy of its process: make a new one there")
            if self._idle:
                claim.set_result(self._idle.pop())
            else:
                self._waiting.append(claim)
        return claim

    def _take_blocking(self) -> _Slot:
        claim = self._claim()
        try:
            return claim.result()
        except BaseException:
            self._abandon(claim)
            raise

    async def _take_async(self) -> _Slot:
        claim = self._claim()
        if claim.done():
            return claim.result()
        try:
            return await asyncio.wrap_future(claim)
        except BaseException:
            self._abandon(claim)
            raise

    def _abandon(self, claim: Future[_Slot]) -> None:
        """Withdraw a claim whose caller has gone; a slot that it was given meanwhile goes back."""
        if not claim.cancel() and claim.exception() is None:
            self._give_back(claim.result())

    @contextlib.contextmanager
    def _lease(self, slot: _Slot) -> Iterator[_Slot]:
        """Give the slot back after use, without its worker unless that is known to be sound."""
        try:
            yield slot
        except WorkerFailed as failure:
            if failure.type_name == "MemoryError":  # libraries seldom survive one in good order
                slot.discard()
            raise
        except BaseException:
            slot.discard()
            raise
        finally:
            self._give_back(slot)

    def _give_back(self, slot: _Slot) -> None:
        with self._lock:
            if self._closed:
                slot.discard()
                return
            while self._waiting:
                claim = self._waiting.popleft()
                if claim.set_running_or_notify_cancel():
                    claim.set_result(slot)
                    return
            self._idle.append(slot)

    def _start_worker(self) -> Worker:
        with self._mother_lock:
            if self._closed:
                raise _closed_error()
            if self._mother is None:
                self._mother = Mother(self._setup)
            try:
                return self._mother.fork()
            except OSError:  # she was killed: by the kernel for memory, or by someone
                self._mother.end()
                self._mother = Mother(self._setup)
                return self._mother.fork()


def _closed_error() -> RuntimeError:
    return RuntimeError("the WorkerPool is closed")


class _Tries:
    """How often a call may still be given to a worker, and the seconds that are left for it over all tries."""

    def __init__(self, tries: int, deadline_s: float) -> None:
        self._left = tries
        self._remaining_s = deadline_s

    @contextlib.contextmanager
    def next(self) -> Iterator[float]:
        """One try, with the time that it has. A crash passes silently where there is another try."""
        self._left -= 1
        started = time.monotonic()
        try:
            yield self._remaining_s
        except WorkerCrashed:
            self._remaining_s -= time.monotonic() - started
            if self._left <= 0 or self._remaining_s <= 0:
                raise


class _Slot:
    """A place for one worker: empty until a call needs it, and after its worker was killed."""

    def __init__(self) -> None:
        self.worker: Worker | None = None

    def ready(self) -> bool:
        if self.worker is not None and not self.worker.usable():
            self.discard()
        return self.worker is not None

    def begin(self, call: Call) -> Exchange:
        assert self.worker is not None
        return Exchange(self.worker.connection, self.worker.frame(call))

    def discard(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker = None
