"""Named, timed stages of a step: where the driver's time goes, and where it stands now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stages:
    """Adds up seconds by stage over one step. `current` is the stage the run is in."""

    def __init__(self, on_change: Callable[[str], None] = lambda name: None) -> None:
        self._on_change = on_change
        self._seconds: dict[str, float] = {}
        self._began = time.perf_counter()
        self.current = "start"
        self.changes = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Run the block as stage `name`."""
        self.current, self.changes = name, self.changes + 1
        self._on_change(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def finish_step(self) -> tuple[dict[str, float], float]:
        """Seconds by stage and of the whole step, since the last call."""
        now = time.perf_counter()
        seconds, whole = self._seconds, now - self._began
        self._seconds, self._began = {}, now
        return seconds, whole
