"""Places for servers: as many as programs may run at one time. Callers take one or two, first come, first served."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future

from rlvr.sandbox.effects import Claim
from rlvr.sandbox.link import Server


class Slot:
    """A place for one server: empty until a job needs it, and after its server died."""

    def __init__(self) -> None:
        self.server: Server | None = None

    def discard(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server = None


Slots = tuple[Slot, ...]


class Pool:
    def __init__(self, size: int) -> None:
        self.size = size
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._idle = [Slot() for _ in range(size)]
        self._taken: set[Slot] = set()
        self._waiting: deque[tuple[int, Future[Slots]]] = deque()
        self._closed = False

    def take(self, count: int) -> Claim[Slots]:
        """`count` slots at once: two callers that took one each of two could wait for each other for ever."""
        future: Future[Slots] = Future()
        with self._lock:
            if self._closed:
                raise _closed_error()
            if os.getpid() != self._owner_pid:
                raise RuntimeError("a Sandbox cannot be used in a forked copy of its process: make a new one there")
            self._waiting.append((count, future))
            self._serve_waiting()
        return Claim(future, self._abandon)

    def give_back(self, slots: Slots) -> None:
        with self._lock:
            self._taken.difference_update(slots)
            if self._closed:
                for slot in slots:
                    slot.discard()
                return
            self._idle.extend(slots)
            self._serve_waiting()

    def close(self) -> None:
        """End all servers. Jobs in hand fail, waiting ones raise RuntimeError."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            waiting, self._waiting = self._waiting, deque()
            for slot in self._taken:  # whose callers will notice, and discard them
                if slot.server is not None:
                    slot.server.stop()
        for slot in idle:
            slot.discard()
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(_closed_error())

    def check_open(self) -> None:
        if self._closed:
            raise _closed_error()

    def _serve_waiting(self) -> None:
        while self._waiting and len(self._idle) >= self._waiting[0][0]:
            count, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            # The last one given back is the warmest.
            slots = tuple(self._idle.pop() for _ in range(count))
            self._taken.update(slots)
            future.set_result(slots)

    def _abandon(self, future: Future[Slots]) -> None:
        """Withdraw a claim whose caller has gone; slots that it was given meanwhile go back."""
        if not future.cancel() and future.exception() is None:
            self.give_back(future.result())


def _closed_error() -> RuntimeError:
    return RuntimeError("the Sandbox is closed")
