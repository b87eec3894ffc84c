"""Named, timed stages of a step: where the driver's time goes, and where it stands now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stages:
    """Adds up seconds by stage over one step; one stage follows the other. `current` is the one the run is in."""

    def __init__(self, on_change: Callable[[str], None] = lambda name: None) -> None:
        self._on_change = on_change
        self._seconds: dict[str, float] = {}
        self._began = time.perf_counter()
        self._since: float | None = None  # of the running stage, from where its seconds are not yet added
        self.current = "start"
        self.changes = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Run the block as stage `name`."""
        self.current, self.changes = name, self.changes + 1
        self._on_change(name)
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._add(time.perf_counter())
            self._since = None

    def _add(self, now: float) -> None:
        """The running stage's seconds up to now."""
        if self._since is not None:
            self._seconds[self.current] = self._seconds.get(self.current, 0.0) + now - self._since
            self._since = now

    def finish_step(self) -> tuple[dict[str, float], float]:
        """Seconds by stage and of the whole step, since the last call. A stage that runs goes on in the next step."""
        now = time.perf_counter()
        self._add(now)
        seconds, whole = self._seconds, now - self._began
        self._seconds, self._began = {}, now
        return seconds, whole
